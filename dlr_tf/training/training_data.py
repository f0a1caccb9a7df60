"""What fine-tuning must know about the training data before `fit` reads them."""

from __future__ import annotations

import itertools
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import check_integer, check_number

ARRAY_BATCH_SIZE = 32  # what `fit` uses for arrays
LABEL_BATCHES = 3  # batches of a data set whose labels are read


def steps_in_epoch(
    train_data: Any,
    *,
    batch_size: int | None = None,
    validation_split: float = 0.0,
    steps_per_epoch: int | None = None,
) -> int:
    """Return the number of batches in an epoch.

    Args:
        train_data: As in `fine_tune`.
        batch_size: As in `fit`: for arrays. Defaults to 32.
        validation_split: As in `fit`: the share of the arrays that is not trained on, from 0 to 1.
            Defaults to 0.
        steps_per_epoch: As in `fit`: the number itself. Defaults to `None`: taken from the data.

    Raises:
        ValueError: If the number is unknown, infinite or 0.
        TypeError: If the data are of a kind whose batches cannot be counted.

    Example:

    >>> steps_in_epoch((np.zeros((65, 2)), np.zeros(65)))
    3
    >>> steps_in_epoch((np.zeros((65, 2)), np.zeros(65)), batch_size=13, validation_split=0.4)
    3
    """
    if steps_per_epoch is not None:
        return check_integer("steps_per_epoch", steps_per_epoch, minimum=1)
    hint = "Pass `steps_per_epoch=`"
    if isinstance(train_data, tf.data.Dataset):
        steps = int(train_data.cardinality())
        hint += (
            ", or tell it with `train_data.take(n)` or "
            "`train_data.apply(tf.data.experimental.assert_cardinality(n))`"
        )
    elif isinstance(train_data, tuple) and train_data:
        count = len(keras.tree.flatten(train_data[0])[0])
        share = 1.0 - check_number("validation_split", validation_split, maximum=1.0)
        size = (
            ARRAY_BATCH_SIZE
            if batch_size is None
            else check_integer("batch_size", batch_size, minimum=1)
        )
        steps = math.ceil(_count_trained(count, share) / size)
    elif isinstance(train_data, keras.utils.PyDataset):
        steps = -1 if train_data.num_batches is None else int(train_data.num_batches)
        hint += ", or let the `PyDataset` define `__len__` or the property `num_batches`"
    else:
        raise TypeError(
            "Argument `train_data` should be a `tf.data.Dataset`, a `keras.utils.PyDataset` or a "
            f"tuple of arrays. Received: an object of type {type(train_data).__name__}. "
            "Pass `steps_per_epoch=` and `loss=` with data of another kind"
        )
    if steps == 0:
        raise ValueError("Argument `train_data` holds no batches. Give it some data.")
    if steps < 0:
        raise ValueError(
            "The number of batches in `train_data` is not known or not finite, and the schedule "
            f"needs it. {hint}, or use a schedule without a length: `schedule='constant'`, or a "
            "function from a rate to a schedule."
        )
    return steps


def fit_arguments(train_data: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training data as `fit` takes them, with the other arguments of `fit`.

    Args:
        train_data: As in `fine_tune`.
        others: Arguments for `fit`.

    Raises:
        ValueError: If a tuple has not 2 or 3 entries, or sample weights are given twice.

    Example:

    >>> fit_arguments(("x", "y"), {"batch_size": 8})
    {'x': 'x', 'y': 'y', 'batch_size': 8}
    """
    arguments: dict[str, Any] = {"x": train_data}
    if isinstance(train_data, tuple):
        if not 2 <= len(train_data) <= 3:
            raise ValueError(
                "A tuple of training data should be `(inputs, labels)` or `(inputs, labels, "
                f"sample_weights)`. Received {len(train_data)} entries"
            )
        arguments = dict(zip(("x", "y", "sample_weight"), train_data, strict=False))
        if "sample_weight" in others and len(train_data) == 3:
            raise ValueError(
                "The sample weights are given twice: in `train_data` and as `sample_weight`. "
                "Leave out one of them."
            )
    elif isinstance(train_data, tf.data.Dataset):
        # Otherwise Keras warns that it cannot shuffle a data set.
        arguments["shuffle"] = False
    return {**arguments, **others}


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a data set whose iterators are deleted at once.

    TensorFlow tunes a pipeline while an iterator of it lives, and deleting the iterator ends that.
    The end can wait for the rest of the tuning period, which grows to a minute, and Python waits
    with it: `tests/scripts/slow_iterators.py` shows it. Not for a pipeline that needs the tuning to
    be fast: `AUTOTUNE` becomes a fixed number.

    Args:
        dataset: The data set. Its own options stay, except this one.

    >>> dataset = without_autotuning(tf.data.Dataset.range(3)).batch(2)
    >>> dataset.options().autotune.enabled
    False
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def trained_on(arrays: Any, validation_split: float) -> Any:
    """Return the part of arrays that `fit` trains on.

    Args:
        arrays: Arrays of the same length, in any structure; `None` among them stays.
        validation_split: As in `fit`.

    >>> trained_on({"x": np.arange(5), "y": [np.arange(5)], "weights": None}, 0.4)
    {'x': array([0, 1, 2]), 'y': [array([0, 1, 2])], 'weights': None}
    """
    lengths = [len(array) for array in keras.tree.flatten(arrays) if array is not None]
    count = _count_trained(lengths[0], 1.0 - validation_split)
    return keras.tree.map_structure(lambda array: None if array is None else array[:count], arrays)


def _count_trained(count: int, share: float) -> int:
    # Keras rounds the number of training samples down.
    return math.floor(count * share)


def is_in_batches(data: Any) -> bool:
    """Return whether `fit` takes its batches from the data, as from a data set, not from arrays."""
    kinds = (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset)
    return isinstance(data, (*kinds, types.GeneratorType))


def batch_of(train_data: Any) -> Any:
    """Return what a batch looks like: `tf.TensorSpec`s or arrays."""
    if isinstance(train_data, tf.data.Dataset):
        return train_data.element_spec
    if isinstance(train_data, keras.utils.PyDataset):
        return train_data[0]
    return train_data


def labels_of(train_data: Any) -> Any:
    """Return something with the shape and dtype of the labels, batch axis included.

    `None` if there are no labels, or more than one array of them.
    """
    return _labels_in(batch_of(train_data))


def _labels_in(batch: Any) -> Any:
    if not isinstance(batch, tuple) or len(batch) < 2 or isinstance(batch[1], (dict, list, tuple)):
        return None
    return batch[1] if hasattr(batch[1], "dtype") else np.asarray(batch[1])


def label_range(train_data: Any) -> tuple[float, float] | None:
    """Return the smallest and the largest label; `None` if there is no number among them.

    All labels of arrays are read, and those in the first 3 batches of a data set.

    >>> label_range((np.zeros((4, 2)), np.array([0, 2, 1, 2])))
    (0.0, 2.0)
    """
    found = [
        np.asarray(labels) for labels in map(_labels_in, _batches(train_data)) if labels is not None
    ]
    found = [labels for labels in found if labels.size and labels.dtype.kind in "biuf"]
    if not found:
        return None
    return min(float(np.min(v)) for v in found), max(float(np.max(v)) for v in found)


def _batches(train_data: Any) -> Iterator[Any]:
    if isinstance(train_data, tf.data.Dataset):
        yield from without_autotuning(train_data.take(LABEL_BATCHES))
    elif isinstance(train_data, keras.utils.PyDataset):
        count = 1 if train_data.num_batches is None else train_data.num_batches
        yield from (train_data[i] for i in itertools.islice(range(int(count)), LABEL_BATCHES))
    else:
        yield train_data
