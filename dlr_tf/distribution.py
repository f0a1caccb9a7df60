"""Training on several devices and on several machines.

`MirroredStrategy` needs nothing but its scope. `MultiWorkerMirroredStrategy` waits for its workers
without an end and fails in the `fit` of Keras 3.15, whatever the optimizer; both are mended here.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

STRATEGIES = ("mirrored", "multi-worker")
WAIT = 300.0  # seconds that workers wait for each other
_PAUSE = 0.2  # seconds between two looks


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
    return tf.distribute.MultiWorkerMirroredStrategy()


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
        for address in workers.values():
            _host_and_port(address)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"The environment variable TF_CONFIG should be JSON such as {example}. Received: {text}"
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
    """Returns when every worker has been seen at its address.

    TensorFlow itself waits for the others in C++, for an hour, and neither a thread nor Ctrl-C can
    end it. So each listens at its own address until it has seen all others; from then on
    TensorFlow's server listens there.
    """
    port = _host_and_port(workers[own])[1]
    missing = {name: address for name, address in workers.items() if name != own}
    if missing:
        print(
            f"{own} of {len(workers)}: waiting up to {wait:g} s for {', '.join(missing)}",
            file=sys.stderr,
        )
    end = time.monotonic() + wait
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise ValueError(
            f"This is {own}, but its port {port} in TF_CONFIG cannot be listened at: {error}. "
            "Give another port, or end what uses it."
        ) from error
    with listener:
        while missing:
            missing = {n: a for n, a in missing.items() if not _answers(a)}
            if missing and time.monotonic() > end:
                absent = ", ".join(f"{name} at {address}" for name, address in missing.items())
                raise TimeoutError(
                    f"After {wait:g} seconds nothing answered from {absent}. Start every worker "
                    "with the same TF_CONFIG but its own index, and check that the ports can be "
                    "reached."
                )
            time.sleep(_PAUSE if missing else 0.0)


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(_host_and_port(address), timeout=1.0):
            return True
    except OSError:
        return False


def mend_fit(model: keras.Model, batch: Any) -> None:
    """Makes `fit` and `evaluate` of a compiled model work under `MultiWorkerMirroredStrategy`.

    Keras 3.15 fails there in two places, with any optimizer: to build the metrics it reduces a
    batch of inputs over the workers, and it reduces the logs, which are scalars, over their first
    axis. Here the metrics are built first, and logs are the metrics of all workers. Under any other
    strategy nothing is done.

    Args:
        model: A compiled model, built in the strategy's scope. Call this again after `compile`.
        batch: `(inputs, labels)`, or their `tf.TensorSpec`s: what a batch looks like.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    with strategy.scope():
        # Private, as is the method replaced below: there is no public way past it.
        # `tests/test_distribution.py` fails when `fit` works without them.
        model._symbolic_build(data_batch=keras.tree.map_structure(_example, batch))
    model._maybe_symbolic_build = lambda *args, **kwargs: None
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
