"""Batches of examples with their labels, to train and to test on, whatever they were read from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf._names import MAX_NAMES
from dlr_tf.app.data.augmentation import MIXUP, augment, mixup
from dlr_tf.app.data.order import Parts, batches_in_order, index_batches, parts_of, steps_per_epoch
from dlr_tf.app.data.targets import CLASS, LABELS, NUMBER, target_words
from dlr_tf.app.terminal import table
from dlr_tf.training.training_data import without_autotuning

_PREFETCHED = 2  # batches that are read ahead
_TIMES_LARGER = 4  # batches of an evaluation, which keeps nothing for a gradient


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Batches of images with their targets, to train and to test on.

    Args:
        name: Where the images come from.
        train_from: A function from a step to the batches of the training from this step on,
            without end, each epoch in another order. It gives the same batches each time. A second
            argument is the seed of the order and of the random changes. It defaults to that of the
            data. Batches are `(images, labels)`. Images are float32 of shape
            `(batch, height, width, channels)`, with the values of the files (0 to 255). If
            `in_parts`, a third argument is `Parts`: the parts of the batches that one worker reads.
        steps_per_epoch: Number of batches in an epoch of the training.
        validation: Batches for the scores after each epoch. The same as `test` if the source has
            only one split beside `train` and no training images are held out.
        test: Batches for the scores at the end.
        class_names: The names of the classes, in the order of the labels; or of the labels or the
            columns, if `kind` is not "class".
        image_shape: Height, width and channels.
        test_names: What each image of `test` is called, in its order: the path of its file, or a
            number.
        class_counts: The number of images of each class or label, in the order of `class_names`: of
            "train", of "test", and of "validation" if it is not the same as `test`. None of
            numbers.
        fingerprint: A hash of what tells other data apart from these: the paths, the sizes and the
            classes of the files of each split. Defaults to empty: the source does not change.
        kind: What is to be learnt of an image: one "class", an integer; "labels", 0 or 1 for each;
            or "number", one or more. Defaults to "class".
        found: What the data hold, in words. Defaults to empty: that follows from `class_names`.
        sizes: The number of images of each split. Defaults to none: the sums of `class_counts`.
        scaling: The mean and the standard deviation of each number over the training images.
        unit: What an example is called. Defaults to "image". Of a "text", batches are strings, of
            shape `(batch,)`, or `(batch, 2)` for pairs, and `image_shape` is empty.
        in_parts: Whether each worker can read its parts alone. Defaults to `False`.
        evaluation_part: A function from "validation" or "test" and `Parts` to these parts.
    """

    name: str
    train_from: Callable[..., tf.data.Dataset]
    steps_per_epoch: int
    validation: tf.data.Dataset
    test: tf.data.Dataset
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    test_names: Sequence[str]
    class_counts: Mapping[str, Sequence[int]]
    fingerprint: str = ""
    kind: str = CLASS
    found: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    scaling: tuple[Sequence[float], Sequence[float]] = ((), ())
    unit: str = "image"
    in_parts: bool = False
    evaluation_part: Callable[[str, Parts], tf.data.Dataset] | None = None

    @functools.cached_property
    def train(self) -> tf.data.Dataset:
        """The first epoch: to look at, and not to train on for several epochs."""
        return self.train_from(0).take(self.steps_per_epoch)

    @property
    def train_images(self) -> int:
        """The number of images to train on."""
        return self.size("train")

    @property
    def test_images(self) -> int:
        """The number of images to test on."""
        return self.size("test")

    def size(self, split: str) -> int:
        """Return the number of images of a split, 0 if there is none."""
        return self.sizes.get(split) or sum(self.class_counts.get(split, ()))

    def class_weights(self, kind: str = "balanced") -> dict[int, float] | None:
        """Return the argument `class_weight` of `fit`, `None` for the kind `"none"`.

        With `"balanced"`, the weight of a class is `n / (k * c)`, for `c` of `n` images and `k`
        classes. Then every class counts the same. The mean weight of the images is 1, so the
        learning rate need not change.
        """
        if kind == "none":
            return None
        counts = self.class_counts["train"]
        total, classes = sum(counts), len(counts)
        return {label: total / (classes * count) for label, count in enumerate(counts) if count}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a source becomes batches.

    Args:
        image_size: Height and width, in pixels, that every image is resized to. Defaults to 0: the
            examples are no images.
        batch_size: Images per batch. Defaults to 32.
        evaluation_batch_size: Images per batch of `validation` and `test`. Defaults to `None`: 4
            times as many, which is faster, and takes less memory than training does.
        seed: Seed of the split, of the order of the images and of their changes. Defaults to 0.
        validation_fraction: Fraction of each class that is not trained on and becomes `validation`
            if the source has no third split, at least 0 and below 1. Defaults to 0: `validation`
            is `test`.
        augmentations: Random changes of the training images, names from
            `augmentation.AUGMENTATIONS`. Defaults to none.
        limit: The most examples of each class in each split. Defaults to `None`: all.
    """

    image_size: int = 0
    batch_size: int = 32
    evaluation_batch_size: int | None = None
    seed: int = 0
    validation_fraction: float = 0.0
    augmentations: Collection[str] = ()
    limit: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_size, self.image_size

    @property
    def images_per_evaluation_batch(self) -> int:
        """Images per batch of `validation` and `test`."""
        return self.evaluation_batch_size or _TIMES_LARGER * self.batch_size


def indexed_data(
    read: Callable[[tf.data.Dataset, int], tf.data.Dataset],
    labels: np.ndarray,
    splits: Mapping[str, np.ndarray],
    settings: Settings,
    kind: str = CLASS,
    **described: Any,
) -> ImageData:
    """Return the batches of examples that can be read in any order.

    Args:
        read: A function from batches of indices, and the size of the largest one, to batches of
            images.
        labels: The class of each image, its labels or its numbers.
        splits: The indices of "train", "test" and perhaps "validation".
        settings: How they become batches.
        kind: The kind of target. Defaults to "class".
        **described: `name`, `class_names` and what else describes `ImageData`.
    """

    def batches(
        split: str, positions: tf.data.Dataset, size: int, parts: Parts | None
    ) -> tuple[tf.data.Dataset, tf.data.Dataset | None]:
        """Return images and labels for batches of positions in a split, at most `size` in each.

        Or for parts of them, with the rows of the batch that each part is.
        """
        rows = None
        if parts is not None:
            cut = parts_of(positions, parts)
            positions, rows = cut.map(lambda own, _: own), cut.map(lambda _, rows: rows)
            size = parts.largest(size)
        indices = positions.map(lambda batch: tf.gather(splits[split], batch))
        some_labels = indices.map(lambda batch: tf.gather(labels, batch))
        return tf.data.Dataset.zip((read(indices, size), some_labels)), rows

    def train_from(
        step: int, seed: int = settings.seed, parts: Parts | None = None
    ) -> tf.data.Dataset:
        order = index_batches(len(splits["train"]), settings.batch_size, seed, start=step)
        train, rows = batches("train", order, settings.batch_size, parts)
        n_classes = len(described["class_names"]) if kind == CLASS else None
        n_parts = 1 if parts is None else len(parts.own)
        changes = settings.augmentations
        return training_batches(train, changes, seed, step, n_classes, rows, n_parts)

    def evaluation(split: str, parts: Parts | None = None) -> tf.data.Dataset:
        count, size = len(splits[split]), settings.images_per_evaluation_batch
        total, own = (1, 1) if parts is None else (parts.total, len(parts.own))
        some, _ = batches(split, batches_in_order(count, size, total), size, parts)
        return ready(some, steps_per_epoch(count, size) * own)

    def counts(some_labels: np.ndarray) -> list[int]:
        if kind != CLASS:
            return some_labels.sum(axis=0).astype(int).tolist() if kind == LABELS else []
        return np.bincount(some_labels, minlength=len(described["class_names"])).tolist()

    test = evaluation("test")
    # In float64, where the mean of many equal numbers is that number.
    has_scaling = kind == NUMBER and len(splits["train"])  # none to train on: a model is scored
    trained_on = np.asarray(labels[splits["train"]] if has_scaling else np.zeros((1, 0)), float)
    return ImageData(
        train_from=train_from,
        steps_per_epoch=steps_per_epoch(len(splits["train"]), settings.batch_size),
        validation=evaluation("validation") if "validation" in splits else test,
        test=test,
        class_counts={split: counts(labels[indices]) for split, indices in splits.items()},
        kind=kind,
        found=target_words(kind, described["class_names"], labels),
        sizes={split: len(indices) for split, indices in splits.items()},
        scaling=(trained_on.mean(0).tolist(), trained_on.std(0).tolist()),
        # An image can be mixed with one of another part.
        in_parts=MIXUP not in settings.augmentations,
        evaluation_part=evaluation,
        **described,
    )


def training_batches(
    batches: tf.data.Dataset,
    augmentations: Collection[str],
    seed: int,
    step: int,
    n_classes: int | None = None,
    rows: tf.data.Dataset | None = None,
    parts: int = 1,
) -> tf.data.Dataset:
    """Return batches of a training from a step on, without end, with their random changes.

    Args:
        batches: The batches, or so many parts of each, one after the other.
        augmentations: Names of random changes.
        seed: Their seed.
        step: The step of the first batch.
        n_classes: For class numbers: their number.
        rows: Which rows of the batch each part is. Of parts, none are mixed.
        parts: How many of a batch there are.
    """

    def changed(
        step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor], rows: tf.Tensor | None = None
    ) -> tuple[Any, Any]:
        images, labels = augment(batch[0], augmentations, [seed, step], rows), batch[1]
        return (
            mixup(images, labels, [seed, step], n_classes)
            if MIXUP in augmentations
            else (images, labels)
        )

    if augmentations:
        steps = tf.data.Dataset.counter(step * parts).map(lambda number: number // parts)
        sources = (steps, batches) if rows is None else (steps, batches, rows)
        batches = tf.data.Dataset.zip(sources).map(
            changed,
            num_parallel_calls=_PREFETCHED,
            deterministic=True,
        )
    return ready(batches, tf.data.experimental.INFINITE_CARDINALITY)


def ready(batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Return batches that are read ahead, and whose number Keras can ask for."""
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return without_autotuning(batches.prefetch(_PREFETCHED))


def class_table(
    class_names: Sequence[str], counts: Mapping[str, Sequence[int]], kind: str = CLASS
) -> str:
    """Return the number of images of each class in each split, for at most ten classes.

    >>> print(class_table(["cat", "dog"], {"train": [120, 80], "test": [30, 20]}))
    class  train  test
    cat      120    30
    dog       80    20
    """
    rows = [(name, *row) for name, row in zip(class_names, zip(*counts.values(), strict=True))]
    text = table(
        ("label" if kind == LABELS else "class", *counts), rows[:MAX_NAMES], numbers=len(counts)
    )
    if len(rows) > MAX_NAMES:
        rest = {split: numbers[MAX_NAMES:] for split, numbers in counts.items()}
        ranges = ", ".join(f"{min(n)} to {max(n)} in {split}" for split, n in rest.items())
        more = "labels" if kind == LABELS else "classes"
        text += f"\nand {len(rows) - MAX_NAMES} more {more}: {ranges}"
    return text
