"""What fine-tuning must know about the training data before `fit` reads them."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
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
    elif isinstance(train_data, keras.utils.PyDataset):
        steps = -1 if train_data.num_batches is None else int(train_data.num_batches)
        hint += ", or let the `PyDataset` define `__len__` or the property `num_batches`"
    elif are_arrays(train_data):
        inputs = train_data[0] if isinstance(train_data, tuple) else train_data
        count = n_samples(inputs)
        share = 1.0 - check_number("validation_split", validation_split, maximum=1.0)
        size = (
            ARRAY_BATCH_SIZE
            if batch_size is None
            else check_integer("batch_size", batch_size, minimum=1)
        )
        steps = math.ceil(_count_trained(count, share) / size)
    else:
        raise TypeError(
            "Argument `train_data` should be a `tf.data.Dataset`, a `keras.utils.PyDataset` or "
            f"arrays. Received: an object of type {type(train_data).__name__}. "
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
        ValueError: If a tuple has not 1 to 3 entries, or sample weights are given twice.

    Example:

    >>> fit_arguments(("x", "y"), {"batch_size": 8})
    {'x': 'x', 'y': 'y', 'batch_size': 8}
    """
    arguments: dict[str, Any] = {"x": train_data}
    if isinstance(train_data, tuple):
        if not 1 <= len(train_data) <= 3:
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
    elif isinstance(train_data, (tf.data.Dataset, types.GeneratorType)):
        # Otherwise Keras warns that it cannot shuffle them.
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
    present = [array for array in keras.tree.flatten(arrays) if array is not None]
    count = _count_trained(n_samples(present[0]), 1.0 - validation_split)
    return keras.tree.map_structure(
        lambda array: None if array is None else _first_samples(array, count), arrays
    )


def _first_samples(array: Any, count: int) -> Any:
    if isinstance(array, tf.SparseTensor):
        return tf.sparse.slice(array, [0] * array.shape.rank, [count, *array.shape[1:]])
    return array[:count]


def n_samples(arrays: Any) -> int:
    """Return the number of samples in arrays: dense, sparse or ragged ones, lists of samples.

    >>> n_samples({"x": np.zeros((3, 2))}), n_samples(["a", "b"])
    (3, 2)
    """
    while isinstance(arrays, (dict, tuple)):
        arrays = next(iter(arrays.values() if isinstance(arrays, dict) else arrays))
    first = arrays[0] if isinstance(arrays, list) else arrays
    return int(first.shape[0]) if getattr(first, "shape", ()) else len(arrays)


def are_arrays(train_data: Any) -> bool:
    """Return whether data are `(inputs, labels)`, or inputs without labels, in memory."""
    if isinstance(train_data, tuple):
        return bool(train_data)
    return all(getattr(array, "shape", ()) for array in keras.tree.flatten(train_data))


def _count_trained(count: int, share: float) -> int:
    # Keras rounds the number of training samples down.
    return math.floor(count * share)


def is_in_batches(data: Any) -> bool:
    """Return whether `fit` takes its batches from the data, as from a data set, not from arrays."""
    kinds = (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset)
    return isinstance(data, (*kinds, types.GeneratorType))


@dataclasses.dataclass(frozen=True)
class LabelValues:
    """What the labels that were read look like.

    Args:
        lowest: The smallest label.
        highest: The largest label.
        are_binary: Whether each is 0 or 1.
        sum_to_one: Whether each row along the last axis has the sum 1.
    """

    lowest: float
    highest: float
    are_binary: bool
    sum_to_one: bool


class FirstBatches:
    """What fine-tuning must know of the batches before `fit` reads them. Each is read once.

    Args:
        train_data: As in `fine_tune`.
    """

    def __init__(self, train_data: Any) -> None:
        self._train_data = train_data
        self._labels: list[Any] = []  # those of the first batches that were read
        self._values: LabelValues | None = None
        # Whether the first batches can be read: not those of a generator.
        self.are_known = True
        if isinstance(train_data, tf.data.Dataset):
            self.example = train_data.element_spec
        elif isinstance(train_data, keras.utils.PyDataset):
            batch = train_data[0]
            self.example = keras.tree.map_structure(_spec, batch)
            self._labels = [_labels_in(batch)]
        else:
            self.example = train_data
            self.are_known = are_arrays(train_data)

    @property
    def inputs(self) -> Any:
        """Something with the shapes and dtypes of the inputs, batch axis included."""
        return self.example[0] if isinstance(self.example, tuple) else self.example

    @property
    def labels(self) -> Any:
        """Something with the shape and dtype of the labels, batch axis included.

        `None` if there are no labels, or more than one array of them.
        """
        return _labels_in(self.example)

    @property
    def batch_size(self) -> int | None:
        """The number of examples in the first batch; `None` for arrays, and if there is no batch.

        Reads that batch.
        """
        data = self._train_data
        if isinstance(data, tf.data.Dataset):
            batch = next(iter(without_autotuning(data.take(1))), None)
        else:
            batch = data[0] if isinstance(data, keras.utils.PyDataset) else None
        return None if batch is None else n_samples(batch)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels of any kind."""
        is_pair = isinstance(self.example, tuple) and len(self.example) > 1
        return is_pair and self.example[1] is not None

    @property
    def label_values(self) -> LabelValues | None:
        """What the labels look like; `None` if there is no number among them.

        All labels of arrays are read, and those in the first 3 batches of a data set.
        """
        if self._values is None:
            self._values = label_values(self._read_labels())
        return self._values

    def _read_labels(self) -> Iterable[Any]:
        data = self._train_data
        if isinstance(data, tf.data.Dataset):
            return map(_labels_in, without_autotuning(data.take(LABEL_BATCHES)))
        if isinstance(data, keras.utils.PyDataset):
            count = 1 if data.num_batches is None else int(data.num_batches)
            rest = range(len(self._labels), min(count, LABEL_BATCHES))
            self._labels += [_labels_in(data[i]) for i in rest]
            return self._labels
        return [_labels_in(data)]


def _spec(array: Any) -> Any:
    """Return the shape of an array, without the size of the batch, and its dtype."""
    if array is None:
        return None
    array = array if hasattr(array, "shape") else np.asarray(array)
    return types.SimpleNamespace(shape=(None, *array.shape[1:]), dtype=array.dtype)


def _labels_in(batch: Any) -> Any:
    if not isinstance(batch, tuple) or len(batch) < 2 or isinstance(batch[1], (dict, list, tuple)):
        return None
    return batch[1] if batch[1] is None or hasattr(batch[1], "dtype") else np.asarray(batch[1])


def label_values(batches: Iterable[Any]) -> LabelValues | None:
    """Return what labels look like; `None` if there is no number among them.

    Args:
        batches: Arrays of labels; `None` among them counts for nothing.

    >>> label_values([np.array([0, 2, 1]), np.array([[1.0, 0.0]])])
    LabelValues(lowest=0.0, highest=2.0, are_binary=False, sum_to_one=False)
    >>> label_values([np.array([[0.5, 0.5], [0.0, 1.0]])])
    LabelValues(lowest=0.0, highest=1.0, are_binary=False, sum_to_one=True)
    """
    found = [
        values
        for labels in batches
        if labels is not None
        for whole in [np.asarray(labels)]
        # A part at a time, so that large arrays need no copies of their size.
        for values in np.array_split(whole, math.ceil(len(whole) / 4096) or 1)
        if values.size and values.dtype.kind in "biuf"
    ]
    if not found:
        return None
    return LabelValues(
        min(float(np.min(values)) for values in found),
        max(float(np.max(values)) for values in found),
        all(bool(np.all((values == 0) | (values == 1))) for values in found),
        all(
            values.ndim > 1 and np.allclose(values.sum(axis=-1, dtype=np.float64), 1, atol=1e-3)
            for values in found
        ),
    )
