"""Labelled images to fine-tune on: folders, CSV files and TensorFlow Datasets.

This module checks the images before a model is trained or a file is written. It imports
tensorflow_datasets only to read one of its data sets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf._names import MAX_NAMES, some_of
from dlr_tf.app.data.augmentation import augment
from dlr_tf.app.data.folders import Found, find_images
from dlr_tf.app.data.image_files import WORKERS, ImageFiles
from dlr_tf.app.data.images import require_pillow, resize
from dlr_tf.app.data.order import index_batches, steps_per_epoch
from dlr_tf.app.data.splits import held_out
from dlr_tf.app.terminal import print_stderr, printable_name
from dlr_tf.core._validation import warn_user
from dlr_tf.training.training_data import without_autotuning

_SHUFFLED = 1024  # images of a data set of TensorFlow Datasets that are shuffled at a time


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Batches of images with integer labels, to train and to test on.

    Args:
        name: Where the images come from.
        train: Batches `(images, labels)` of one epoch, in the same order each time: to look at, and
            not to train on for several epochs. Images are float32 of shape
            `(batch, height, width, channels)`, with the values of the files (0 to 255).
        train_from: A function from a step to the batches of the training from this step on,
            without end, each epoch in another order. It gives the same batches each time. A second
            argument is the seed of the order and of the random changes. It defaults to that of the
            data.
        validation: Batches for the scores after each epoch. The same as `test` if the source has
            only one part beside `train` and no training images are held out.
        test: Batches for the scores at the end.
        class_names: The names of the classes, in the order of the labels.
        image_shape: Height, width and channels.
        train_images: Number of images in `train`.
        test_images: Number of images in `test`.
        test_names: What each image of `test` is called, in its order: the path of its file, or a
            number.
        class_counts: The number of images of each class, in the order of the labels: of "train", of
            "test", and of "validation" if it is not the same as `test`. Defaults to none: not
            known.
        fingerprint: A hash of what tells other data apart from these: the paths, the sizes and the
            classes of the files of each part. Defaults to empty: the source does not change.
    """

    name: str
    train: tf.data.Dataset
    train_from: Callable[..., tf.data.Dataset]
    validation: tf.data.Dataset
    test: tf.data.Dataset
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_images: int
    test_images: int
    test_names: Sequence[str]
    class_counts: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""

    def class_weights(self, kind: str = "balanced") -> dict[int, float] | None:
        """Return the argument `class_weight` of `fit`.

        Args:
            kind: `"balanced"`, or `"none"` for no weights. Defaults to `"balanced"`.
        """
        return None if kind == "none" else balanced_weights(self.class_counts["train"])


def balanced_weights(counts: Sequence[int]) -> dict[int, float]:
    """Return weights with which every class counts the same.

    The weight of a class is `n / (k * c)`, for `c` of `n` images and `k` classes. The mean weight
    of the images is 1, so the learning rate need not change.

    Args:
        counts: The number of training images of each class.

    >>> balanced_weights([30, 10])
    {0: 0.6666666666666666, 1: 2.0}
    """
    total, classes = sum(counts), len(counts)
    return {label: total / (classes * count) for label, count in enumerate(counts) if count}


def class_table(class_names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[str]:
    """Return lines that name the classes and count their images, for at most ten classes.

    Args:
        class_names: The names.
        counts: The number of images of each class, for each part.

    >>> print("\\n".join(class_table(["cat", "dog"], {"train": [120, 80], "test": [30, 20]})))
    class  train  test
    cat      120    30
    dog       80    20
    """
    shown = class_names[:MAX_NAMES]
    rows = [["class", *counts]]
    rows += [[name, *(str(part[i]) for part in counts.values())] for i, name in enumerate(shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    if len(class_names) > len(shown):
        rest = {part: numbers[len(shown) :] for part, numbers in counts.items()}
        ranges = ", ".join(f"{min(n)} to {max(n)} in {part}" for part, n in rest.items())
        lines.append(f"and {len(class_names) - len(shown)} more classes: {ranges}")
    return lines


@dataclasses.dataclass(frozen=True)
class _FoundTfds:
    """A data set of TensorFlow Datasets: its name, its builder and its labels."""

    name: str
    builder: Any
    class_names: tuple[str, ...]

    @property
    def image(self) -> Any:
        """The feature that decodes the images."""
        return self.builder.info.features[self.builder.info.supervised_keys[0]]


def find(source: str | os.PathLike[str], *, skip_broken: bool = False) -> Found | _FoundTfds:
    """Find the classes of a source without reading the images.

    Args:
        source: A folder, a CSV file, or `"tfds:NAME"`.
        skip_broken: As in `find_images`. Defaults to `False`.

    Returns:
        An object for `load`. Its `class_names` are the names of the classes.

    Raises:
        ImportError: If a package that the source needs is not installed.
        ValueError: If there is no such source, or its classes cannot be used.
    """
    kind, separator, name = os.fspath(source).partition(":")
    if separator and kind == "tfds":
        if skip_broken:
            raise ValueError(
                "--skip-broken is for a folder or a CSV file. Received: --skip-broken with "
                f"{os.fspath(source)!r}"
            )
        return _find_tfds(name)
    require_pillow()
    return find_images(source, skip_broken=skip_broken)


def load(source: Any, *, skip_broken: bool = False, **settings: Any) -> ImageData:
    """Read the images of a folder, of a CSV file, or of TensorFlow Datasets.

    Args:
        source: A folder, a CSV file, `"tfds:NAME"`, or what `find` returns.
        skip_broken: As in `load_folder`. Defaults to `False`.
        **settings: As in `load_folder` and `load_tfds`.

    Raises:
        ImportError: If a package that the source needs is not installed.
        ValueError: If the images cannot be used.
    """
    found = source
    if not isinstance(source, (Found, _FoundTfds)):
        found = find(source, skip_broken=skip_broken)
    if isinstance(found, _FoundTfds):
        return load_tfds(found, **settings)
    return load_folder(found, skip_broken=skip_broken, **settings)


def load_folder(
    source: str | os.PathLike[str] | Found,
    *,
    image_size: int,
    batch_size: int = 32,
    evaluation_batch_size: int | None = None,
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    skip_broken: bool = False,
    augmentations: Collection[str] = (),
) -> ImageData:
    """Read a folder with one sub-folder of images per class, or the images of a CSV file.

    What is split already keeps its split. Otherwise a part of every class is kept for testing, the
    same for the same `seed`. Every file is checked before this function returns. What is left aside
    and what cannot be read is printed on stderr.

    Images that fit in 200 MiB are decoded once and stay in memory. More are decoded again in each
    epoch, a few at a time.

    Args:
        source: The folder or the CSV file (see `find_images`), or what `find` returns.
        image_size: Height and width, in pixels, that every image is resized to.
        batch_size: Images per batch. Defaults to 32.
        evaluation_batch_size: Images per batch of `validation` and `test`. Defaults to `None`: 4
            times as many, which is faster, and takes less memory than training does.
        seed: Seed of the split, of the order of the images and of their changes. Defaults to 0.
        test_fraction: Fraction of each class to test on if the source is not split, above 0 and
            below 1. Defaults to 0.2.
        validation_fraction: Fraction of each class that is not trained on and becomes `validation`
            if the source has no third part, at least 0 and below 1. Defaults to 0: `validation` is
            `test`.
        skip_broken: Whether to go on without the files that cannot be read. Defaults to `False`.
        augmentations: Random changes of the training images, names from
            `augmentation.AUGMENTATIONS`. Defaults to none.

    Returns:
        The images as `ImageData`.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If the classes cannot be used, a file cannot be read, or a class has no image to
            train on.

    Warns:
        UserWarning: If something may be a mistake, such as a class that is not in `test`.
    """
    require_pillow()
    found = source if isinstance(source, Found) else find_images(source, skip_broken=skip_broken)
    name = found.name
    for warning in found.warnings:
        warn_user(warning)
    if found.left_aside:
        print_stderr(f"{name}: left aside: {found.left_aside}")
    files = ImageFiles(found.root, found.files, image_size)
    readable = _readable(found, files, skip_broken)
    parts = {part: places[readable[places]] for part, places in found.parts.items()}
    parts = _split(found, parts, test_fraction, validation_fraction, seed)
    counts = {
        part: np.bincount(found.labels[places], minlength=len(found.class_names)).tolist()
        for part, places in parts.items()
    }
    untrained = [
        n for n, count in zip(found.class_names, counts["train"], strict=True) if not count
    ]
    if untrained:
        raise ValueError(
            f"The data {name!r} have classes without an image to train on: {some_of(untrained)}. "
            "Add images, or remove these classes."
        )

    def batches(places: np.ndarray, indices: tf.data.Dataset, size: int) -> tf.data.Dataset:
        """Return images and labels for batches of positions in a part, at most `size` in each."""
        indices = indices.map(lambda batch: tf.gather(places, batch))
        labels = indices.map(lambda batch: tf.gather(found.labels, batch))
        return tf.data.Dataset.zip((files.batches(indices, size), labels))

    def train_from(step: int, order_seed: int = seed) -> tf.data.Dataset:
        order = index_batches(len(parts["train"]), batch_size, order_seed, start=step)
        train = batches(parts["train"], order, batch_size)
        return _training(train, augmentations, order_seed, step)

    def evaluation(part: str) -> tf.data.Dataset:
        places, size = parts[part], _evaluation_size(batch_size, evaluation_batch_size)
        in_order = tf.data.Dataset.range(len(places)).batch(size)
        steps = steps_per_epoch(len(places), size)
        return _ready(batches(places, in_order, size), steps)

    test = evaluation("test")
    return ImageData(
        name=name,
        train=train_from(0).take(steps_per_epoch(len(parts["train"]), batch_size)),
        train_from=train_from,
        validation=evaluation("validation") if "validation" in parts else test,
        test=test,
        class_names=found.class_names,
        image_shape=(image_size, image_size, 3),
        train_images=len(parts["train"]),
        test_images=len(parts["test"]),
        test_names=[printable_name(files.path(index)) for index in parts["test"]],
        class_counts=counts,
        fingerprint=_fingerprint(found, parts),
    )


def _fingerprint(found: Found, parts: Mapping[str, np.ndarray]) -> str:
    """Return a hash of the paths, sizes and classes of the files of each part."""
    digest = hashlib.sha256()
    for part, places in sorted(parts.items()):
        for place in places:
            path = found.files[place]
            size = os.path.getsize(os.path.join(found.root, path))
            label = found.class_names[found.labels[place]]
            digest.update(f"{part}\0{path}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


_PREFETCHED = 2  # batches that are read ahead
_TIMES_LARGER = 4  # batches of an evaluation, which keeps nothing for a gradient


def _evaluation_size(batch_size: int, evaluation_batch_size: int | None) -> int:
    return evaluation_batch_size or _TIMES_LARGER * batch_size


def _training(
    batches: tf.data.Dataset, augmentations: Collection[str], seed: int, step: int
) -> tf.data.Dataset:
    """Return batches of a training from a step on, without end, with their random changes."""
    if augmentations:
        steps = tf.data.Dataset.counter(step)
        batches = tf.data.Dataset.zip((steps, batches)).map(
            lambda step, batch: (augment(batch[0], augmentations, [seed, step]), batch[1]),
            num_parallel_calls=_PREFETCHED,
            deterministic=True,
        )
    endless = tf.data.experimental.INFINITE_CARDINALITY
    return _ready(batches, endless)


def _ready(batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Return batches that are read ahead, and whose number Keras can ask for."""
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return without_autotuning(batches.prefetch(_PREFETCHED))


def _readable(found: Found, files: ImageFiles, skip_broken: bool) -> np.ndarray:
    """Check all files, print those that cannot be read, and return which can be read."""
    if not files.are_few:
        print_stderr(f"{found.name}: checking {len(files)} files")
    unreadable = files.check()
    reasons = {files.path(index): reason for index, reason in unreadable.items()}
    reasons.update(found.broken)
    readable = np.array([files.path(index) not in reasons for index in range(len(files))])
    if not reasons:
        return readable
    for path in sorted(reasons):
        print_stderr(f"{path}: {reasons[path]}")
    count = "1 file" if len(reasons) == 1 else f"{len(reasons)} files"
    if not skip_broken:
        raise ValueError(
            f"{count} of the data {found.name!r} cannot be read, for the reasons above: "
            f"{some_of(sorted(reasons), 3)}. Repair or remove what is broken, or give "
            "--skip-broken to go on without."
        )
    print_stderr(f"{found.name}: {count} left out (--skip-broken)")
    return readable


def _split(
    found: Found,
    parts: Mapping[str, np.ndarray],
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return "train", "test" and perhaps "validation", after holding out what is asked for."""
    parts = dict(parts)
    if len(parts) == 1:
        parts["train"], parts["test"] = _hold_out(
            found, parts["train"], test_fraction, seed, "test"
        )
    elif "test" not in parts:
        parts["test"] = parts.pop("validation")
    if "validation" not in parts and validation_fraction > 0:
        parts["train"], parts["validation"] = _hold_out(
            found, parts["train"], validation_fraction, seed, "validation"
        )
    for part in ("test", "validation"):
        if part in parts and not len(parts[part]):
            readable = sum(map(len, parts.values()))
            needed = "two" if validation_fraction == 0 else "three"
            raise ValueError(
                f"The data {found.name!r} hold {readable} images that can be read, too few to keep "
                f"some for the {part}. Add images: every class needs {needed} or more."
            )
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _hold_out(
    found: Found, places: np.ndarray, fraction: float, seed: int, part: str
) -> tuple[np.ndarray, np.ndarray]:
    labels = found.labels[places]
    chosen = held_out(labels, fraction, seed, stream=0 if part == "test" else 1)
    missing = np.setdiff1d(labels, labels[chosen])
    if len(missing) and chosen.any():
        names = [found.class_names[label] for label in missing]
        warn_user(
            f"There are classes with one image, which is trained on, so that none is left for the "
            f"{part}: {some_of(names)}."
        )
    return places[~chosen], places[chosen]


def _find_tfds(name: str) -> _FoundTfds:
    builder, label = _tfds_builder(name)
    if label.num_classes is None:
        builder.download_and_prepare()  # the names of the classes are in the data
    return _FoundTfds(name, builder, tuple(label.names))


def load_tfds(
    source: Any,
    *,
    image_size: int,
    batch_size: int = 32,
    evaluation_batch_size: int | None = None,
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    augmentations: Collection[str] = (),
) -> ImageData:
    """Read labelled images from TensorFlow Datasets.

    A `test` split is for the scores at the end, a `validation` split for those after each epoch. If
    there is neither, the end of `train` is kept for testing. The files of `train` are read in
    another order in each epoch, and 1024 images at a time are shuffled.

    Args:
        source: Name in the catalogue, such as `"tf_flowers"` or `"mnist:3.*.*"`, or what `find`
            returns.
        image_size: Height and width, in pixels, that every image is resized to.
        batch_size: Images per batch. Defaults to 32.
        evaluation_batch_size: As in `load_folder`. Defaults to `None`.
        seed: Seed of the order of the images and of their changes. Defaults to 0.
        test_fraction: Fraction of `train` to test on if there is no other split. Defaults to 0.2.
        validation_fraction: Fraction of `train`, at its end, that is not trained on and becomes
            `validation` if there are less than three splits. Defaults to 0: `validation` is `test`.
        augmentations: As in `load_folder`. Defaults to none.

    Returns:
        The images as `ImageData`.

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        ValueError: If there is no such data set, or it does not hold images with one label each.
    """
    found = source if isinstance(source, _FoundTfds) else _find_tfds(source)
    found.builder.download_and_prepare()
    splits = _tfds_splits(found, test_fraction, validation_fraction)
    counts = {part: _tfds_counts(found, split) for part, split in splits.items()}
    n_train, n_test = sum(counts["train"]), sum(counts["test"])
    steps = steps_per_epoch(n_train, batch_size)

    def decode(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = (image_size, image_size, 3)
        images = tf.map_fn(
            lambda image: resize(found.image.decode_example(image), shape[:2]),
            images,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )
        return tf.ensure_shape(images, (None, *shape)), labels

    def decoded(batches: tf.data.Dataset) -> tf.data.Dataset:
        return batches.map(decode, num_parallel_calls=WORKERS, deterministic=True)

    def epoch(number: int, order_seed: int) -> tf.data.Dataset:
        state = np.random.SeedSequence([order_seed, number]).generate_state(1)
        epoch_seed = int(state[0]) >> 1
        encoded = _encoded(found, splits["train"], shuffle_seed=epoch_seed)
        encoded = encoded.shuffle(_SHUFFLED, seed=epoch_seed, reshuffle_each_iteration=False)
        return encoded.batch(batch_size)

    def train_from(step: int, order_seed: int = seed) -> tf.data.Dataset:
        def batches() -> Iterator[Any]:
            first, done = divmod(step, steps)
            # It reads what it skips, but does not decode it.
            yield from epoch(first, order_seed).skip(done)
            for number in itertools.count(first + 1):
                yield from epoch(number, order_seed)

        spec = epoch(0, order_seed).element_spec
        endless = tf.data.Dataset.from_generator(batches, output_signature=spec)
        return _training(decoded(endless), augmentations, order_seed, step)

    def evaluation(part: str) -> tf.data.Dataset:
        size = _evaluation_size(batch_size, evaluation_batch_size)
        batches = decoded(_encoded(found, splits[part]).batch(size))
        count = steps_per_epoch(sum(counts[part]), size)
        return _ready(batches, count)

    test = evaluation("test")
    return ImageData(
        name=f"tfds:{found.name}",
        train=train_from(0).take(steps),
        train_from=train_from,
        validation=evaluation("validation") if "validation" in splits else test,
        test=test,
        class_names=found.class_names,
        image_shape=(image_size, image_size, 3),
        train_images=n_train,
        test_images=n_test,
        test_names=[f"{splits['test']} {number}" for number in range(n_test)],
        class_counts=counts,
    )


def _tfds_splits(
    found: _FoundTfds, test_fraction: float, validation_fraction: float
) -> dict[str, str]:
    """Return the split or the slice of a split that each part is read from."""
    known = found.builder.info.splits
    if "train" not in known:
        raise ValueError(
            f"The data set {found.name!r} has no split 'train'. "
            f"Received: splits {some_of(sorted(known))}"
        )
    given = [split for split in ("test", "validation") if split in known]
    cuts = [100]  # percent of `train`, from its end
    if not given:
        cuts.append(cuts[-1] - round(100 * test_fraction))
    if len(given) < 2 and validation_fraction > 0:
        cuts.append(cuts[-1] - round(cuts[-1] * validation_fraction))
    slices = [
        f"train[{low}%:{'' if high == 100 else f'{high}%'}]"
        for high, low in itertools.pairwise(cuts)
    ]
    splits = {"train": "train" if len(cuts) == 1 else f"train[:{cuts[-1]}%]"}
    if len(given) == 2:
        splits["validation"] = "validation"
    elif validation_fraction > 0:
        splits["validation"] = slices.pop()
    splits["test"] = given[0] if given else slices.pop()
    return splits


def _encoded(found: _FoundTfds, split: str, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """Return encoded images and their labels. With a seed, the files are in another order."""
    import tensorflow_datasets as tfds

    encoded = found.builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=shuffle_seed is not None,
        read_config=tfds.ReadConfig(shuffle_seed=shuffle_seed),
        decoders={found.builder.info.supervised_keys[0]: tfds.decode.SkipDecoding()},
    )
    return without_autotuning(encoded)


def _tfds_counts(found: _FoundTfds, split: str) -> list[int]:
    """Count the images of each class. That reads all of them, but decodes none."""
    counts = np.zeros(len(found.class_names), np.int64)
    for labels in _encoded(found, split).map(lambda _, label: label).batch(4096):
        counts += np.bincount(labels, minlength=len(counts))
    return counts.tolist()


def _tfds_builder(name: str) -> tuple[Any, Any]:
    """Return the builder of a data set and the feature that holds its labels."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data {'tfds:' + name!r} needs TensorFlow Datasets, which is not installed. "
            'Run: pip install "dlr_tf[data]"'
        ) from error
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"TensorFlow Datasets has no data set {name!r}. The names are listed at "
            "https://www.tensorflow.org/datasets/catalog."
        ) from error
    info = builder.info
    supervised = info.supervised_keys
    # A feature can be looked up only after the pair of names is known to exist.
    pair = [info.features[key] for key in supervised] if _is_pair(supervised) else [None, None]
    image, label = pair
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise ValueError(
            f"The data set {name!r} does not hold images with one label each, so it cannot be "
            f"classified. Received: supervised keys {supervised!r}. Choose one of the section "
            "'Image classification' of https://www.tensorflow.org/datasets/catalog."
        )
    return builder, label


def _is_pair(keys: object) -> bool:
    return isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)
