"""On several devices, each worker reads only its part of the examples."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from dlr_tf.app.data import ImageData, Parts
from dlr_tf.core._keras import attribute_set


@contextlib.contextmanager
def own_parts(
    strategy: tf.distribute.Strategy,
    data: ImageData,
    *,
    step: int = 0,
    seed: int = 0,
    class_weight: Mapping[int, float] | None = None,
) -> Iterator[None]:
    """Let `fit` and `evaluate` of a model read parts of these data in this block.

    TensorFlow lets each worker read everything, and drop what is for others.

    Args:
        strategy: The strategy of the model. On one device nothing changes.
        data: The data. `fit` gets `data.train_from(step, seed)` and `data.validation`.
        step: The first step of the training.
        seed: The seed of its order.
        class_weight: As in `fit`.
    """
    if strategy.num_replicas_in_sync == 1 or not data.in_parts:
        yield
        return
    distribute = strategy.experimental_distribute_dataset
    evaluation_part = data.evaluation_part

    def train(parts: Parts) -> tf.data.Dataset:
        return _weighted(data.train_from(step, seed, parts), class_weight)

    def distributed(dataset: tf.data.Dataset, options: Any = None) -> Any:
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            return _in_parts(strategy, train)
        for split in ("test", "validation"):  # often the same
            if dataset is getattr(data, split) and evaluation_part is not None:
                return _in_parts(strategy, functools.partial(evaluation_part, split))
        return distribute(dataset, options)

    with attribute_set(strategy, "experimental_distribute_dataset", distributed):
        yield


def _in_parts(
    strategy: tf.distribute.Strategy, make: Callable[[Parts], tf.data.Dataset]
) -> tf.distribute.DistributedDataset:
    def make_for(context: tf.distribute.InputContext) -> tf.data.Dataset:
        total = context.num_replicas_in_sync
        devices = total // context.num_input_pipelines
        first = context.input_pipeline_id * devices
        return make(Parts(range(first, first + devices), total))

    return strategy.distribute_datasets_from_function(make_for)


def _weighted(
    batches: tf.data.Dataset, class_weight: Mapping[int, float] | None
) -> tf.data.Dataset:
    """Return batches with the weight of each example, as `fit` makes them of `class_weight`."""
    if class_weight is None:
        return batches
    weights = tf.constant(
        [class_weight.get(label, 1.0) for label in range(max(class_weight) + 1)], tf.float32
    )
    return batches.map(lambda x, y: (x, y, tf.gather(weights, y)))
