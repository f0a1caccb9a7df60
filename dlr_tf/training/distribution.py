"""Training on several devices and on several machines.

`MultiWorkerMirroredStrategy` waits for its workers without a limit, and the `fit` of Keras 3.15
fails under it, whatever the optimizer. Under `MirroredStrategy`, `fit` fails where the first batch
does not divide evenly by the devices, and images on a device with fewer of them count more. This
module works around all four.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from dlr_tf._clusters import Cluster, read_cluster
from dlr_tf._names import STRATEGIES, WAIT
from dlr_tf._rendezvous import meet, missing_line
from dlr_tf.core._keras import attribute_set, build_metrics, skip_symbolic_build


def make_strategy(name: str, *, wait: float = WAIT) -> tf.distribute.Strategy:
    """Make the strategy for all devices of this machine, or for several machines.

    On several machines it returns when all workers are there. Before it waits, it logs which
    workers it expects, as a warning.

    Args:
        name: `"mirrored"` for every GPU of this machine (or its CPU, where there is none), or
            `"multi-worker"` for the machines that the environment variable `TF_CONFIG` names, or
            for the tasks that `srun` of Slurm has started. Each of them runs the same program,
            before anything else has used TensorFlow.
        wait: Float, seconds that a worker waits for the others, above 0. Defaults to 300.

    Returns:
        The strategy. Build the model in its `scope()`.

    Raises:
        ValueError: If there is no such strategy, or the environment does not name the workers.
        TimeoutError: If the others do not come.

    Source: the form of `TF_CONFIG`,
    https://www.tensorflow.org/tutorials/distribute/multi_worker_with_keras.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Argument `name` should be one of {STRATEGIES}. Received: name={name!r}")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    cluster = read_cluster(os.environ)
    meeting = meet(cluster, wait=wait)
    if meeting.missing:
        raise TimeoutError(missing_line(cluster, meeting, wait))
    return strategy_of(cluster, wait=wait)


def strategy_of(cluster: Cluster, *, wait: float = WAIT) -> tf.distribute.Strategy:
    """Make the strategy of workers that have met.

    A worker that TensorFlow lets wait for longer than `wait` seconds, because another one has ended
    since they met, ends its process with exit status 1.
    """
    jobs: dict[str, list[str]] = {}
    for name, address in cluster.workers.items():
        jobs.setdefault(name.split()[0], []).append(address)
    job, index = cluster.own.split()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type=job, task_id=int(index), rpc_layer="grpc"
    )
    with open(os.devnull, "w") as nowhere:
        # TensorFlow waits in C++ and keeps Python's lock, so no Python thread, Ctrl-C or SIGTERM
        # can end it. Its own limit, `cluster_register_timeout_in_ms`, does not apply to the first
        # worker. The timer of `faulthandler` is a thread in C. Its traceback is of no use.
        faulthandler.dump_traceback_later(wait, exit=True, file=nowhere)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        finally:
            faulthandler.cancel_dump_traceback_later()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process writes the files: the only one, or the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == first and resolver.task_id == 0


@contextlib.contextmanager
def distributed_fit(model: keras.Model, batch: Any) -> Iterator[None]:
    """Let `fit` and `evaluate` of a compiled model work on several devices and machines.

    Keras 3.15 fails in two places, with any optimizer:

    - To build the metrics, it reduces a batch of inputs over the devices. That fails under
      `MultiWorkerMirroredStrategy`, and under `MirroredStrategy` where the first batch does not
      divide evenly. Here the metrics are built first, from what a batch looks like.
    - It reduces the logs, which are scalars, over their first axis. That fails on several machines.
      There the logs are the metrics of all workers instead.

    And it gives all devices the same weight, also where a batch does not divide evenly. Here each
    example has the same weight.

    After the block nothing of this stays on the model. On one device it does nothing. `fine_tune`
    uses it.

    Args:
        model: A compiled model, built in the strategy's scope.
        batch: `(inputs, labels)`, or their `tf.TensorSpec`s: what a batch looks like.

    Example:

    >>> import keras, numpy as np
    >>> from dlr_tf import distributed_fit
    >>> with tf.distribute.get_strategy().scope():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> data = np.ones((4, 2)), np.ones((4, 1))
    >>> with distributed_fit(model, data):
    ...     history = model.fit(*data, verbose=0)
    """
    strategy = model.distribute_strategy
    several_machines = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not several_machines and not isinstance(strategy, tf.distribute.MirroredStrategy):
        yield
        return
    with strategy.scope():
        build_metrics(model, keras.tree.map_structure(_example, batch))
    with contextlib.ExitStack() as stack:
        stack.enter_context(skip_symbolic_build(model))
        stack.enter_context(_equal_weight_of_examples(model))
        for kind in ("train", "test") if several_machines else ():
            # Earlier functions of Keras are not used in this block, nor its own functions after it.
            setattr(model, f"{kind}_function", None)
            stack.callback(setattr, model, f"{kind}_function", None)
            maker = _function_maker(model, kind)
            stack.enter_context(attribute_set(model, f"make_{kind}_function", maker))
        yield


def _example(spec: Any) -> Any:
    return None if spec is None else keras.KerasTensor(spec.shape, tf.as_dtype(spec.dtype).name)


@contextlib.contextmanager
def _equal_weight_of_examples(model: keras.Model) -> Iterator[None]:
    """Weigh the loss of each device by its examples, where `fit` weighs all devices alike.

    The loss that is scaled is that of the gradients, so the metrics stay as they are. For a batch
    that divides evenly, the weights are 1.
    """
    if model.optimizer is None:
        yield
        return
    step, scale = model.train_step, model.optimizer.scale_loss
    this_device = threading.local()  # a strategy traces the step of each device in a thread

    def train_step(data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        first = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
        count = tf.cast(tf.shape(first)[0], tf.float32)
        context = tf.distribute.get_replica_context()
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, count)
        this_device.weight = count / mean
        try:
            return step(data)
        finally:
            del this_device.weight

    def scale_loss(loss: Any) -> Any:
        weight = getattr(this_device, "weight", None)
        return scale(loss if weight is None else loss * tf.cast(weight, loss.dtype))

    with (
        attribute_set(model, "train_step", train_step),
        attribute_set(model.optimizer, "scale_loss", scale_loss),
    ):
        # Keras keeps the function that it made of the step.
        model.train_function = None
        try:
            yield
        finally:
            model.train_function = None


def _function_maker(model: keras.Model, kind: str) -> Callable[..., Any]:
    """Return a `make_train_function` or `make_test_function` with logs that can be reduced."""
    strategy = model.distribute_strategy
    attribute = f"{kind}_function"

    def step(data: Any) -> Any:
        return getattr(model, f"{kind}_step")(data)

    def make(force: bool = False) -> Any:
        if getattr(model, attribute) is not None and not force:
            return getattr(model, attribute)
        if model.run_eagerly or model.steps_per_execution != 1:
            raise ValueError(
                "On several machines `run_eagerly` and `steps_per_execution` are not supported, as "
                "each step is a `tf.function` of its own there: compile the model without them."
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
