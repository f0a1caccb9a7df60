"""Training on several devices and on several machines.

`MultiWorkerMirroredStrategy` waits for its workers without an end, and fails in the `fit` of Keras
3.15, whatever the optimizer; both are mended here. So is the `fit` of `MirroredStrategy` on data
whose batches do not divide by the devices.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

STRATEGIES = ("mirrored", "multi-worker")
WAIT = 300.0  # seconds that workers wait for each other
_PAUSE = 0.2  # seconds between two looks
_PATIENCE = 2.0  # seconds that one hello may take


def make_strategy(name: str, *, wait: float = WAIT) -> tf.distribute.Strategy:
    """Makes the strategy for all devices of this machine, or for several machines.

    Args:
        name: `"mirrored"` for every GPU of this machine (or its CPU, where there is none), or
            `"multi-worker"` for the machines that the environment variable `TF_CONFIG` names.
            Each of them starts the same program, before anything else has used TensorFlow.
        wait: Float, seconds that a worker waits for the others. Defaults to 300.

    Returns:
        The strategy. Build the model in its `scope()`.

    Raises:
        ValueError: If there is no such strategy, or `TF_CONFIG` is missing or wrong.
        TimeoutError: If another worker does not come in time.

    Source: the form of `TF_CONFIG`,
    https://www.tensorflow.org/tutorials/distribute/multi_worker_with_keras.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Argument `name` should be one of {STRATEGIES}. Received: name={name!r}")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    workers, own = read_tf_config(os.environ.get("TF_CONFIG"))
    _meet(workers, own, wait)
    # Where a worker dies just now, TensorFlow waits in C++, and neither a Python thread, Ctrl-C nor
    # SIGTERM gets through; what prints the stack and exits here is a thread in C.
    faulthandler.dump_traceback_later(wait, exit=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        faulthandler.cancel_dump_traceback_later()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files: the only one, or the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == first and resolver.task_id == 0


def read_tf_config(text: str | None) -> tuple[dict[str, str], str]:
    """Reads the environment variable `TF_CONFIG`.

    Args:
        text: Its value, JSON; `None` where it is not set.

    Returns:
        The address (`"host:port"`) of every worker by its name (`"worker 0"`), and the name of this
        one.

    Raises:
        ValueError: If it is missing, no JSON, or does not name this worker and all others.

    Example:

    >>> read_tf_config('{"cluster": {"worker": ["one:2222", "two:2222"]}, '
    ...                '"task": {"type": "worker", "index": 1}}')
    ({'worker 0': 'one:2222', 'worker 1': 'two:2222'}, 'worker 1')
    """
    example = (
        '{"cluster": {"worker": ["host-a:2222", "host-b:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise ValueError(
            "Training on several machines needs the environment variable TF_CONFIG, on each "
            f"machine with its own index, for example: {example}"
        )
    try:
        config = json.loads(text)
        workers = {
            f"{job} {index}": str(address)
            for job in ("chief", "worker")
            for index, address in enumerate(config["cluster"].get(job, []))
        }
        own = f"{config['task']['type']} {int(config['task']['index'])}"
        ports = [_host_and_port(address)[1] for address in workers.values()]
        if not all(1 <= port <= 65535 for port in ports) or len({*workers.values()}) < len(workers):
            raise ValueError("a port that does not exist, or an address that stands there twice")
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
    return workers, own


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _meet(workers: dict[str, str], own: str, wait: float) -> None:
    """Returns when this worker has seen every other, and every other has seen this one.

    Each listens at its own address and says hello at the others'. A hello names the worker and the
    cluster, so that no other program is taken for one. Then TensorFlow's servers listen there.
    """
    port = _host_and_port(workers[own])[1]
    others = workers.keys() - {own}
    if not others:
        return
    names = ", ".join(sorted(others))
    print(f"{own} of {len(workers)}: waiting up to {wait:g} s for {names}", file=sys.stderr)
    try:
        listener = _listen(port)
    except OSError as error:
        raise ValueError(
            f"This is {own}, but its port {port} in TF_CONFIG cannot be listened at: {error}. "
            "Give another port, or end what uses it."
        ) from error
    seen: set[str] = set()
    seen_by: set[str] = set()
    met = threading.Event()
    answering = threading.Thread(
        target=_answer, args=(listener, workers, own, seen_by, met), daemon=True
    )
    answering.start()
    end = time.monotonic() + wait
    try:
        while absent := others - (seen & seen_by):
            if time.monotonic() > end:
                addresses = ", ".join(f"{name} at {workers[name]}" for name in sorted(absent))
                raise TimeoutError(
                    f"After {wait:g} seconds there was no answer from {addresses}. Start every "
                    "worker with the same TF_CONFIG but its own index, and check that the ports "
                    "can be reached and no other program uses them."
                )
            seen |= {name for name in others - seen if _greet(workers, own, name)}
            time.sleep(_PAUSE)
    finally:
        met.set()
        answering.join()
        listener.close()


def _listen(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    listener.settimeout(_PAUSE)
    return listener


def _hello(workers: dict[str, str], name: str) -> bytes:
    return json.dumps({"dlr_tf": workers, "worker": name}, sort_keys=True).encode() + b"\n"


def _greet(workers: dict[str, str], own: str, other: str) -> bool:
    """Whether the other worker answered a hello at its address."""
    try:
        address = _host_and_port(workers[other])
        with socket.create_connection(address, timeout=_PATIENCE) as connection:
            connection.sendall(_hello(workers, own))
            with connection.makefile("rb") as answer:
                return answer.readline(1 << 16) == _hello(workers, other)
    except OSError:
        return False


def _answer(
    listener: socket.socket,
    workers: dict[str, str],
    own: str,
    seen_by: set[str],
    met: threading.Event,
) -> None:
    """Answers every worker that says hello, and notes it in `seen_by`, until all have met."""
    while not met.is_set():
        with contextlib.suppress(OSError):  # no one there, or gone in mid-sentence
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_PATIENCE)
                with connection.makefile("rb") as words:
                    hello = words.readline(1 << 16)
                names = {name for name in workers if hello == _hello(workers, name)}
                if names:
                    connection.sendall(_hello(workers, own))
                    seen_by |= names


def mend_fit(model: keras.Model, batch: Any) -> None:
    """Makes `fit` and `evaluate` of a compiled model work on several devices and machines.

    Keras 3.15 fails in two places, with any optimizer. To build the metrics it reduces a batch of
    inputs over the devices: that fails under `MultiWorkerMirroredStrategy`, and under
    `MirroredStrategy` where the first batch does not divide evenly. And it reduces the logs, which
    are scalars, over their first axis: that fails on several machines. Here the metrics are built
    first, and on several machines logs are the metrics of all workers. On one device nothing is
    done.

    Args:
        model: A compiled model, built in the strategy's scope. Call this again after `compile`.
        batch: `(inputs, labels)`, or their `tf.TensorSpec`s: what a batch looks like.
    """
    strategy = model.distribute_strategy
    several_machines = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not several_machines and not isinstance(strategy, tf.distribute.MirroredStrategy):
        return
    with strategy.scope():
        # Private, as is the method replaced below: there is no public way past it.
        # `tests/test_distribution.py` fails when `fit` works without them.
        model._symbolic_build(data_batch=keras.tree.map_structure(_example, batch))
    model._maybe_symbolic_build = lambda *args, **kwargs: None
    if not several_machines:
        return
    model.make_train_function = _function_maker(model, "train")
    model.make_test_function = _function_maker(model, "test")


def _example(spec: Any) -> Any:
    return keras.KerasTensor(tuple(spec.shape), tf.as_dtype(spec.dtype).name)


def _function_maker(model: keras.Model, kind: str) -> Callable[..., Any]:
    """What `make_train_function` and `make_test_function` do, with logs that can be reduced."""
    strategy = model.distribute_strategy
    attribute = f"{kind}_function"

    def step(data: Any) -> Any:
        return getattr(model, f"{kind}_step")(data)

    def make(force: bool = False) -> Any:
        if getattr(model, attribute) is not None and not force:
            return getattr(model, attribute)
        if model.run_eagerly or model.steps_per_execution != 1:
            raise ValueError(
                "On several machines `run_eagerly` and `steps_per_execution` are not supported: "
                "compile the model without them."
            )

        @tf.function(reduce_retracing=True)
        def function(iterator: Any) -> Any:
            logs = strategy.run(step, args=(next(iterator),))
            # The sums behind a metric are added up over all workers when read here; means of the
            # workers' means would be wrong where their parts of a batch differ in size.
            metrics = model.get_metrics_result()
            return {
                name: metrics[name]
                if name in metrics
                else strategy.reduce("MEAN", value, axis=None)
                for name, value in logs.items()
            }

        setattr(model, attribute, function)
        return function

    return make
