"""Do workers that are killed at random moments end as workers that were never stopped?

They train once without a stop. Then a loop per worker repeats the same command until it ends with
0, as a cluster manager does. Meanwhile one of the workers, the chief too, gets SIGKILL or SIGTERM:
while it starts, some time after a checkpoint, or while one is written. At the end weights,
optimizer state, `log.csv` and `report.json` (apart from times) should be those of the first run,
bit for bit.

    python -m tests.scripts.kill_workers [--workers N] [--kills N] [-- ARGUMENTS OF finetune]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.scripts.kill_and_resume import differences, partial_files, results, state_of

QUICK = ("--epochs", "4", "--batch-size", "20", "--checkpoint-every", "1", "--keep", "best")
QUICK += ("--learning-rate", "1e-3:1e-2")
LIMIT = 1800.0  # seconds without an end
ALLOWED = {0, 75, 143, -signal.SIGKILL, -signal.SIGTERM}  # before the command handles SIGTERM


def free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


class Cluster:
    """The workers of one run, each of which is started again until it ends with 0.

    Args:
        run: The folder of the run.
        arguments: The arguments of `finetune`.
        workers: How many there are.
    """

    def __init__(self, run: Path, arguments: Sequence[str], workers: int = 2) -> None:
        self.run = run
        self.arguments = [*arguments, "--strategy", "multi-worker", "--output", str(run)]
        self.addresses = free_addresses(workers)
        self.begun = [0.0] * workers
        self.processes = [self.start(number) for number in range(workers)]

    def start(self, number: int) -> subprocess.Popen[bytes]:
        task = {"type": "worker", "index": number}
        config = json.dumps({"cluster": {"worker": self.addresses}, "task": task})
        self.begun[number] = time.perf_counter()
        with open(self.output_of(number), "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "dlr_tf", "finetune", *self.arguments],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CONFIG": config},
                stdout=output,
                stderr=output,
            )

    def output_of(self, number: int) -> Path:
        return Path(f"{self.run}_{number}.txt")

    def repeat(self) -> bool:
        """Start those again that have ended too early. Return whether all have ended with 0."""
        codes = [process.poll() for process in self.processes]
        for number, code in enumerate(codes):
            if code is not None and code != 0:
                if code not in ALLOWED:
                    text = self.output_of(number).read_text()
                    raise SystemExit(f"worker {number} ended with {code}: {text[-2000:]}")
                self.processes[number] = self.start(number)
        return all(code == 0 for code in codes)

    def until_end(self) -> float:
        begun = time.perf_counter()
        while not self.repeat():
            if time.perf_counter() - begun > LIMIT:
                raise SystemExit(f"no end after {LIMIT:g} s")
            time.sleep(0.1)
        return time.perf_counter() - begun

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Kill and repeat. Return 0 if every run ended as the uninterrupted one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("arguments", nargs="*", default=QUICK, help="arguments of finetune")
    options = parser.parse_args(argv)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder, "whole"), options.arguments, options.workers)
        try:
            whole = cluster.until_end()
        finally:
            cluster.end()
        expected = results(cluster.run)
        print(f"without a stop: {whole:.1f} s, {len(expected)} values to compare", flush=True)
        done, number, different = 0, 0, 0
        while done < options.kills:
            number += 1
            run = Path(folder, f"killed_{number}")
            cluster = Cluster(run, options.arguments, options.workers)
            try:
                done = kill_at_random(cluster, done, options.kills)
            finally:
                cluster.end()
            wrong = differences(expected, cluster.run)
            different += bool(wrong)
            print(f"run {number}: {len(wrong)} of {len(expected)} differ {wrong[:5]}", flush=True)
    print(
        f"{done} kills of {options.workers} workers in {number} runs: {different} runs differ from "
        "the uninterrupted one"
    )
    return int(different > 0)


def kill_at_random(cluster: Cluster, done: int, kills: int) -> int:
    """Kill workers of a run until it ends. Return how many kills were made in all."""
    while done < kills:
        # Every fourth kill comes while the workers start; of the others, every second one while
        # a file is written.
        checkpoints = 0 if done % 4 == 0 else random.randint(1, 4)
        is_writing = checkpoints > 0 and random.random() < 0.5
        later = 0.0 if is_writing else random.uniform(0.0, 1.0 if checkpoints else 20.0)
        if not wait_for(cluster, checkpoints, is_writing):
            return done
        time.sleep(later)
        victim = 0 if is_writing else random.randrange(len(cluster.processes))
        process = cluster.processes[victim]
        if process.poll() is not None:
            continue
        which = random.choice([signal.SIGKILL, signal.SIGTERM])
        process.send_signal(which)
        sent = time.perf_counter()
        others = [each for each in cluster.processes if each is not process]
        done += 1
        when = f"{sent - cluster.begun[victim]:.1f} s old, after {checkpoints} checkpoints"
        if is_writing:
            when += ", while it writes"
        state = state_of(cluster.run)
        print(f"kill {done} of worker {victim}, {when}, {which.name}: {state}", flush=True)
        process.wait(LIMIT)
        while any(each.poll() is None for each in others) and time.perf_counter() - sent < 60:
            if checkpoints == 0:
                break  # they wait for this one
            time.sleep(0.1)
        seconds = time.perf_counter() - sent
        codes = [each.poll() for each in (process, *others)]
        print(f"  exit codes {codes} after {seconds:.1f} s", flush=True)
    cluster.until_end()
    return done


def wait_for(cluster: Cluster, checkpoints: int, is_writing: bool) -> bool:
    """Wait until so many more checkpoints are there, and perhaps until the next one is begun.

    Return `False` if the workers end before.
    """
    path = cluster.run / "checkpoint" / "training.npz"

    def written_at() -> int:
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    left_over, seen, last = partial_files(cluster.run), 0, written_at()
    while True:
        if cluster.repeat():
            return False
        if seen >= checkpoints and not (is_writing and partial_files(cluster.run) <= left_over):
            return True
        now = written_at()
        seen += now != last
        last = now
        time.sleep(0.005)


if __name__ == "__main__":
    raise SystemExit(main())
