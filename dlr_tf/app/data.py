"""Labelled images to fine-tune on: folders and TensorFlow Datasets.

This module checks the images before a model is trained or a file is written. It imports
tensorflow_datasets only to read one of its data sets.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from dlr_tf.core._validation import some_of

READABLE = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
# Images that TensorFlow cannot decode. They give an error, so that none is left out unnoticed.
UNREADABLE = (".avif", ".heic", ".jp2", ".tif", ".tiff", ".webp")
TRAINING_FOLDER = "train"
TEST_FOLDERS = ("test",)
VALIDATION_FOLDERS = ("val", "validation", "valid")
LAYOUT = "expected one sub-folder of images per class"


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Batches of images with integer labels, to train and to test on.

    Args:
        name: Where the images come from.
        train: Batches `(images, labels)` of one epoch. Images are float32 of shape
            `(batch, height, width, channels)`, with the values of the files (0 to 255).
        train_from: A function from a step to the batches of the training from this step on,
            without end, each epoch in another order. It gives the same batches each time.
        validation: Batches for the scores after each epoch. The same as `test` if the source has
            only one part beside `train`.
        test: Batches for the scores at the end.
        class_names: The names of the classes, in the order of the labels.
        image_shape: Height, width and channels.
        train_images: Number of images in `train`.
        test_images: Number of images in `test`.
        test_names: What each image of `test` is called, in its order: the path of its file, or a
            number.
    """

    name: str
    train: tf.data.Dataset
    train_from: Callable[[int], tf.data.Dataset]
    validation: tf.data.Dataset
    test: tf.data.Dataset
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_images: int
    test_images: int
    test_names: Sequence[str]


def class_names(source: str) -> tuple[str, ...]:
    """Return the names of the classes without reading the images.

    Args:
        source: A folder, or `"tfds:NAME"`.

    Raises:
        ImportError: If the source needs tensorflow_datasets, which is not installed.
        ValueError: If there is no such source, or it has fewer than two classes.
    """
    dataset = _dataset_name(source)
    if dataset is not None:
        builder, label = _tfds_builder(dataset)
        if label.num_classes is None:
            builder.download_and_prepare()  # the names of the classes are in the data
        return tuple(label.names)
    return tuple(_parts_and_classes(Path(source))[1])


def load(source: str, **settings: Any) -> ImageData:
    """Read the images of a folder, or of TensorFlow Datasets.

    Args:
        source: A folder, or `"tfds:NAME"`.
        **settings: As in `load_folder` and `load_tfds`.

    Raises:
        ImportError: If the source needs tensorflow_datasets, which is not installed.
        ValueError: If the images cannot be used.
    """
    dataset = _dataset_name(source)
    return load_folder(source, **settings) if dataset is None else load_tfds(dataset, **settings)


def _dataset_name(source: str) -> str | None:
    kind, separator, name = source.partition(":")
    return name if separator and kind == "tfds" else None


def load_folder(
    directory: str | os.PathLike[str],
    *,
    image_size: int,
    batch_size: int = 32,
    seed: int = 0,
    test_fraction: float = 0.2,
) -> ImageData:
    """Read a folder with one sub-folder of images per class.

    A folder that holds `train/` and `test/` or `val/` (or all three), each with the same classes,
    keeps that split. Any other folder is split by `test_fraction`, in the same way for the same
    `seed`. Every file is decoded once, to find those that cannot be read. Grey images become RGB.

    Args:
        directory: The folder.
        image_size: Height and width, in pixels, that every image is resized to.
        batch_size: Images per batch. Defaults to 32.
        seed: Seed of the split and of the order of the images. Defaults to 0.
        test_fraction: Fraction of the images to test on if the folder has no split of its own,
            above 0 and below 1. Defaults to 0.2.

    Returns:
        The images as `ImageData`.

    Raises:
        ValueError: If the folder is missing or empty, has only one class, a class without images,
            parts with different classes, or a file that cannot be read as an image.
    """
    root = Path(directory)
    parts, classes = _parts_and_classes(root)
    common = {
        "image_size": (image_size, image_size),
        "batch_size": batch_size,
        "seed": seed,
        "class_names": classes,
        "verbose": False,
    }
    if len(parts) > 1:
        sets = {
            name: keras.utils.image_dataset_from_directory(
                str(folder), shuffle=name == TRAINING_FOLDER, **common
            )
            for name, folder in parts.items()
        }
    else:
        count = sum(len(_files(root / name, READABLE)) for name in classes)
        if not 0 < int(test_fraction * count) < count:
            raise ValueError(
                f"The data folder {str(root)!r} holds {count} images, too few to keep a "
                f"fraction of {test_fraction} for testing. Add images, or give `train` and `test` "
                "sub-folders."
            )
        train, test = keras.utils.image_dataset_from_directory(
            str(root), validation_split=test_fraction, subset="both", **common
        )
        sets = {TRAINING_FOLDER: train, "test": test}
    _check_images([path for dataset in sets.values() for path in dataset.file_paths])
    test = sets["test"] if "test" in sets else sets["validation"]
    return ImageData(
        name=str(root),
        train=sets[TRAINING_FOLDER],
        train_from=lambda step: sets[TRAINING_FOLDER].repeat().skip(step),
        validation=sets.get("validation", test),
        test=test,
        class_names=tuple(classes),
        image_shape=(image_size, image_size, 3),
        train_images=len(sets[TRAINING_FOLDER].file_paths),
        test_images=len(test.file_paths),
        test_names=test.file_paths,
    )


def _parts_and_classes(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folder of each part, and the classes, which are those of every part."""
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"The data folder {str(root)!r} {kind}: {LAYOUT}.")
    parts = _parts(root)
    classes = _classes(parts[TRAINING_FOLDER])
    for name, folder in parts.items():
        if name != TRAINING_FOLDER:
            _check_same_classes(classes, _classes(folder), parts[TRAINING_FOLDER], folder)
    return parts, classes


def _parts(root: Path) -> dict[str, Path]:
    """Return the folder of each part: `train` alone, or with `test`, `validation` or both."""
    train = root / TRAINING_FOLDER
    # A class may be called "train": a part holds folders, a class holds images.
    if not (train.is_dir() and _subfolders(train)):
        return {TRAINING_FOLDER: root}
    parts = {TRAINING_FOLDER: train}
    for part, names in (("test", TEST_FOLDERS), ("validation", VALIDATION_FOLDERS)):
        found = [root / name for name in names if (root / name).is_dir()]
        if len(found) > 1:
            raise ValueError(
                f"The data folder {str(root)!r} holds {[folder.name for folder in found]}, which "
                "have the same meaning. Keep one of them."
            )
        if found:
            parts[part] = found[0]
    if len(parts) == 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds 'train' but neither 'test' nor 'val'. Add one of "
            f"them, or give {str(train)!r}, which is then split."
        )
    return parts


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[:1] != "."
    )


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    return sorted(
        Path(base, name)
        for base, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(tuple(endings))
    )


def _classes(folder: Path) -> list[str]:
    """Return the classes of a folder, and check that there are two or more, each with images."""
    names = _subfolders(folder)
    counts = {name: len(_files(folder / name, READABLE)) for name in names}
    for name in names:
        unreadable = _files(folder / name, UNREADABLE)
        if unreadable:
            raise ValueError(
                f"The image file {str(unreadable[0])!r} is of a format that cannot be read. "
                f"Convert it to one of {', '.join(READABLE)}."
            )
    if not any(counts.values()):
        raise ValueError(
            f"The data folder {str(folder)!r} holds no images in sub-folders: {LAYOUT}, with "
            f"files that end in {', '.join(READABLE)}."
        )
    empty = [name for name in names if not counts[name]]
    if empty:
        raise ValueError(
            f"The class folder {str(folder / empty[0])!r} holds no images. Add files that end in "
            f"{', '.join(READABLE)}, or remove the folder."
        )
    if len(names) == 1:
        raise ValueError(
            f"The data folder {str(folder)!r} has only one class, {names[0]!r}: {LAYOUT}, two "
            "classes or more."
        )
    return names


def _check_same_classes(
    classes: Sequence[str], others: Sequence[str], folder: Path, other: Path
) -> None:
    if set(classes) != set(others):
        raise ValueError(
            f"The folders {str(folder)!r} and {str(other)!r} should hold the same classes. Only in "
            f"the first: {some_of(sorted(set(classes) - set(others)))}. Only in the second: "
            f"{some_of(sorted(set(others) - set(classes)))}."
        )


def _check_images(paths: Sequence[str]) -> None:
    """Decode every file as the training does, and name the first that fails."""

    def problem(path: str) -> str | None:
        try:
            tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        except tf.errors.OpError as error:
            return error.message
        return None

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, paths))
    broken = sorted(path for path, found in zip(paths, problems, strict=True) if found)
    if broken:
        others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ValueError(
            f"The image file {broken[0]!r}{others} cannot be read: it is damaged or not an image. "
            "Repair or remove it."
        )


def load_tfds(
    name: str, *, image_size: int, batch_size: int = 32, seed: int = 0, test_fraction: float = 0.2
) -> ImageData:
    """Read labelled images from TensorFlow Datasets.

    A `test` split is for the scores at the end, a `validation` split for those after each epoch. If
    there is neither, the end of `train` is kept for testing.

    Args:
        name: Name in the catalogue, such as `"tf_flowers"` or `"mnist:3.*.*"`.
        image_size: Height and width, in pixels, that every image is resized to.
        batch_size: Images per batch. Defaults to 32.
        seed: Seed of the order of the images. Defaults to 0.
        test_fraction: Fraction of `train` to test on if there is no other split. Defaults to 0.2.

    Returns:
        The images as `ImageData`.

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        ValueError: If there is no such data set, or it does not hold images with one label each.
    """
    builder, label = _tfds_builder(name)
    import tensorflow_datasets as tfds

    info = builder.info
    builder.download_and_prepare()
    if "train" not in info.splits:
        raise ValueError(
            f"The data set {name!r} has no split 'train'. "
            f"Received: splits {some_of(sorted(info.splits))}"
        )
    held_out = [split for split in ("test", "validation") if split in info.splits]
    if held_out:
        train_split, test_split = "train", held_out[0]
    else:
        percent = 100 - round(100 * test_fraction)
        train_split, test_split = f"train[:{percent}%]", f"train[{percent}%:]"

    def batches(split: str, training: bool) -> tf.data.Dataset:
        config = tfds.ReadConfig(shuffle_seed=seed)
        dataset = builder.as_dataset(
            split=split, as_supervised=True, shuffle_files=training, read_config=config
        )
        if training:
            dataset = dataset.shuffle(1024, seed=seed)
        dataset = dataset.map(
            lambda image, y: (_resize(image, image_size), y), num_parallel_calls=tf.data.AUTOTUNE
        )
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    train, test = batches(train_split, True), batches(test_split, False)
    n_test = info.splits[test_split].num_examples
    return ImageData(
        name=f"tfds:{name}",
        train=train,
        train_from=lambda step: train.repeat().skip(step),
        validation=batches("validation", False) if len(held_out) == 2 else test,
        test=test,
        class_names=tuple(label.names),
        image_shape=(image_size, image_size, 3),
        train_images=info.splits[train_split].num_examples,
        test_images=n_test,
        test_names=[f"{test_split} {number}" for number in range(n_test)],
    )


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


def _resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    image = tf.image.resize(image, (image_size, image_size))
    if image.shape[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    return image[..., :3]
