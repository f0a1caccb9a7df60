"""Which processes train together, as the environment says: `TF_CONFIG`, or the variables of Slurm.

This module imports no TensorFlow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple


class Cluster(NamedTuple):
    """The processes that train together.

    Args:
        workers: The address (`"host:port"`) of every worker by its name (`"worker 0"`). The first
            one is the chief, which writes the files.
        own: The name of this one.
    """

    workers: dict[str, str]
    own: str

    @property
    def chief(self) -> str:
        """The name of the chief."""
        return next(iter(self.workers))

    @property
    def is_chief(self) -> bool:
        """Whether this one is the chief."""
        return self.own == self.chief

    @property
    def others(self) -> dict[str, str]:
        """The addresses of the other workers, by their names."""
        return {name: address for name, address in self.workers.items() if name != self.own}


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """Read `TF_CONFIG`, or without it what `srun` of Slurm has set.

    Raises:
        ValueError: If neither is set, or it is wrong.
    """
    if not environment.get("TF_CONFIG") and "SLURM_STEP_NODELIST" in environment:
        return read_slurm(environment)
    return read_tf_config(environment.get("TF_CONFIG"))


def is_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether the environment says that this process is one of several."""
    try:
        return len(read_cluster(environment).workers) > 1
    except ValueError:
        return False


def read_tf_config(text: str | None) -> Cluster:
    """Read the environment variable `TF_CONFIG`.

    Args:
        text: Its value, JSON; `None` where it is not set.

    Raises:
        ValueError: If it is missing, is not JSON, or does not name this worker and all others.

    Example:

    >>> read_tf_config('{"cluster": {"worker": ["one:2222", "two:2222"]}, '
    ...                '"task": {"type": "worker", "index": 1}}')
    Cluster(workers={'worker 0': 'one:2222', 'worker 1': 'two:2222'}, own='worker 1')
    """
    example = (
        '{"cluster": {"worker": ["host-a:2222", "host-b:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise ValueError(
            "Training on several machines needs the environment variable TF_CONFIG, on each "
            f"machine with its own index, for example: {example}. Under Slurm, start the command "
            "with srun instead."
        )
    try:
        config = json.loads(text)
        workers = {
            f"{job} {index}": str(address)
            for job in ("chief", "worker")
            for index, address in enumerate(config["cluster"].get(job, []))
        }
        own = f"{config['task']['type']} {int(config['task']['index'])}"
        ports = [int(address.rpartition(":")[2]) for address in workers.values()]
        if not all(1 <= port <= 65535 for port in ports) or len({*workers.values()}) < len(workers):
            raise ValueError("a port that does not exist, or the same address twice")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            "The environment variable TF_CONFIG should be JSON with an address of its own for each "
            f"worker, such as {example}. Received: {text}"
        ) from error
    if own not in workers:
        raise ValueError(
            f"The environment variable TF_CONFIG says that this is {own!r}, which is not in its "
            f"cluster of {', '.join(workers) or 'no worker'}. Received: {text}"
        )
    return Cluster(workers, own)


# Below the ports that systems give to outgoing connections; 16 per job, so that two jobs on one
# node seldom meet.
_FIRST_PORT, _PORTS, _PER_JOB = 20000, 12000, 16


def read_slurm(environment: Mapping[str, str]) -> Cluster:
    """Read the variables that `srun` of Slurm sets for each task of a step.

    TensorFlow's `SlurmClusterResolver` sorts the hosts by their names, so `n10` comes before `n2`,
    which is not the order of the tasks; it fails without GPUs and where each task sees only its
    own; and all jobs have the same ports.

    Raises:
        ValueError: If they are not there or do not fit each other.

    Example:

    >>> cluster = read_slurm({
    ...     "SLURM_STEP_NODELIST": "n[9-10],gpu", "SLURM_STEP_TASKS_PER_NODE": "1(x2),2",
    ...     "SLURM_PROCID": "3", "SLURM_NODEID": "2", "SLURM_JOB_ID": "7",
    ... })
    >>> list(cluster.workers.values())
    ['n9:20112', 'n10:20112', 'gpu:20112', 'gpu:20113']
    """
    try:
        hosts = hosts_of(environment["SLURM_STEP_NODELIST"])
        counts = [
            int(count)
            for count, times in re.findall(
                r"(\d+)(?:\(x(\d+)\))?", environment["SLURM_STEP_TASKS_PER_NODE"]
            )
            for _ in range(int(times or 1))
        ]
        own = int(environment["SLURM_PROCID"])
        node = int(environment["SLURM_NODEID"])
        job = int(environment["SLURM_JOB_ID"])
        tasks = [(number, local) for number, count in enumerate(counts) for local in range(count)]
        if len(hosts) != len(counts) or not 0 <= own < len(tasks):
            raise ValueError("these do not fit each other")
    except (KeyError, ValueError) as error:
        names = ("STEP_NODELIST", "STEP_TASKS_PER_NODE", "PROCID", "NODEID", "JOB_ID")
        received = {f"SLURM_{name}": environment.get(f"SLURM_{name}") for name in names}
        raise ValueError(
            f"The variables of Slurm do not say which tasks there are ({error}). Start the command "
            f"with srun, or set TF_CONFIG. Received: {received}"
        ) from error
    if tasks[own][0] != node:
        raise ValueError(
            f"Task {own} of Slurm should be on node {tasks[own][0]} and is on node {node}. Start "
            "the command with srun --distribution=block, or set TF_CONFIG."
        )
    first = _FIRST_PORT + job * _PER_JOB % _PORTS
    workers = {
        f"worker {number}": f"{hosts[node]}:{first + local}"
        for number, (node, local) in enumerate(tasks)
    }
    return Cluster(workers, f"worker {own}")


def hosts_of(text: str) -> list[str]:
    """Return the hosts of a list of Slurm, in its order.

    >>> hosts_of("n[08-10,12],login,rack[1-2]-n3")
    ['n08', 'n09', 'n10', 'n12', 'login', 'rack1-n3', 'rack2-n3']
    """
    hosts = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        found = [""]
        for plain, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", part):
            found = [start + end for start in found for end in ([plain] if plain else _all(ranges))]
        hosts += found
    return hosts


def _all(ranges: str) -> list[str]:
    numbers = []
    for each in ranges.split(","):
        first, _, last = each.partition("-")
        numbers += [
            f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)
        ]
    return numbers
