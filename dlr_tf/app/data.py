"""Labelled images to fine-tune on: folders, TensorFlow Datasets, and the embedded digits.

Everything that can be wrong with the images is found here, before a model is trained or a file is
written. scikit-learn and tensorflow_datasets are imported only when they are asked for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.training.distribution import distributed_fit

READABLE = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
# Images that TensorFlow cannot decode: passing by them in silence would train on half a folder.
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
        train: Batches `(images, labels)`, shuffled anew each epoch. Images are float32, of shape
            `(batch, height, width, channels)`, with the values the files hold (0 to 255).
        validation: Batches to watch while training. The same as `test` where the source has one
            held-out part only.
        test: Batches to report on.
        class_names: The names of the classes, in the order of the labels.
        image_shape: Height, width and channels.
        train_images: Number of images in `train`.
        test_images: Number of images in `test`.
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_images: int
    test_images: int


def load_folder(
    directory: str | os.PathLike[str],
    *,
    image_size: int,
    batch_size: int = 32,
    seed: int = 0,
    test_fraction: float = 0.2,
) -> ImageData:
    """Reads a folder with one sub-folder of images per class.

    A folder that holds `train/` and `test/` or `val/` (or all three), each with the same classes,
    keeps that split. Any other folder is split by `test_fraction`, the same way for the same
    `seed`. Every file is decoded once to find those that cannot be read. Grey images become RGB.

    Args:
        directory: The folder.
        image_size: Height and width, in pixels, that every image is resized to.
        batch_size: Images per batch. Defaults to 32.
        seed: Seed of the split and of the order of the images. Defaults to 0.
        test_fraction: Share of the images to test on where the folder has no split of its own,
            above 0 and below 1. Defaults to 0.2.

    Returns:
        The images as `ImageData`.

    Raises:
        ValueError: If the folder is missing or empty, has one class only, a class without images,
            parts with different classes, or a file that cannot be read as an image.
    """
    root = Path(directory)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"The data folder {str(root)!r} {kind}: {LAYOUT}.")
    parts = _parts(root)
    classes = _class_names(parts[TRAINING_FOLDER])
    for name, folder in parts.items():
        if name != TRAINING_FOLDER:
            _check_same_classes(classes, _class_names(folder), parts[TRAINING_FOLDER], folder)
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
                f"The data folder {str(root)!r} holds {count} images, too few to keep a share of "
                f"{test_fraction} for testing. Add images, or give `train` and `test` sub-folders."
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
        validation=sets.get("validation", test),
        test=test,
        class_names=tuple(classes),
        image_shape=(image_size, image_size, 3),
        train_images=len(sets[TRAINING_FOLDER].file_paths),
        test_images=len(test.file_paths),
    )


def _parts(root: Path) -> dict[str, Path]:
    """The folders of each part: `train` alone, or with `test`, `validation` or both."""
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
                "mean the same: keep one of them."
            )
        if found:
            parts[part] = found[0]
    if len(parts) == 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds 'train' but neither 'test' nor 'val': add one, "
            f"or give {str(train)!r} to have it split."
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


def _class_names(folder: Path) -> list[str]:
    """The classes of a folder, checked to be two or more, each with images."""
    names = _subfolders(folder)
    counts = {name: len(_files(folder / name, READABLE)) for name in names}
    for name in names:
        foreign = _files(folder / name, UNREADABLE)
        if foreign:
            raise ValueError(
                f"The image file {str(foreign[0])!r} is of a format that cannot be read: convert "
                f"it to one of {', '.join(READABLE)}."
            )
    if not any(counts.values()):
        raise ValueError(
            f"The data folder {str(folder)!r} holds no images in sub-folders: {LAYOUT}, with "
            f"files that end in {', '.join(READABLE)}."
        )
    empty = [name for name in names if not counts[name]]
    if empty:
        raise ValueError(
            f"The class folder {str(folder / empty[0])!r} holds no images: add files that end in "
            f"{', '.join(READABLE)}, or remove the folder."
        )
    if len(names) == 1:
        raise ValueError(
            f"The data folder {str(folder)!r} has one class only, {names[0]!r}: {LAYOUT}, two "
            "classes or more."
        )
    return names


def _check_same_classes(
    classes: Sequence[str], others: Sequence[str], folder: Path, other: Path
) -> None:
    if set(classes) != set(others):
        raise ValueError(
            f"The folders {str(folder)!r} and {str(other)!r} should hold the same classes. Only in "
            f"the first: {sorted(set(classes) - set(others))}; only in the second: "
            f"{sorted(set(others) - set(classes))}."
        )


def _check_images(paths: Sequence[str]) -> None:
    """Decodes every file as the pipeline will, and names the first that fails."""

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
    """Reads labelled images from TensorFlow Datasets.

    A `test` split is tested on, a `validation` split watched; where there is neither, the end of
    `train` is kept for testing.

    Args:
        name: Name in the catalogue, such as `"tf_flowers"` or `"mnist:3.*.*"`.
        image_size: Height and width, in pixels, that every image is resized to.
        batch_size: Images per batch. Defaults to 32.
        seed: Seed of the order of the images. Defaults to 0.
        test_fraction: Share of `train` to test on where there is no other split. Defaults to 0.2.

    Returns:
        The images as `ImageData`.

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        ValueError: If there is no such data set, or it is not one of images with one label each.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data {'tfds:' + name!r} need TensorFlow Datasets, which is not installed. "
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
    # Features are looked up by name only once the pair of names is known to be there.
    pair = [info.features[key] for key in supervised] if _is_pair(supervised) else [None, None]
    image, label = pair
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise ValueError(
            f"The data set {name!r} does not hold images with one label each, so it cannot be "
            f"classified. Received: supervised keys {supervised!r}. Choose one of the section "
            "'Image classification' of https://www.tensorflow.org/datasets/catalog."
        )
    builder.download_and_prepare()
    if "train" not in info.splits:
        raise ValueError(
            f"The data set {name!r} has no split 'train'. Received: splits {sorted(info.splits)}"
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

    test = batches(test_split, False)
    watched = len(held_out) == 2
    return ImageData(
        name=f"tfds:{name}",
        train=batches(train_split, True),
        validation=batches("validation", False) if watched else test,
        test=test,
        class_names=tuple(label.names),
        image_shape=(image_size, image_size, 3),
        train_images=info.splits[train_split].num_examples,
        test_images=info.splits[test_split].num_examples,
    )


def _is_pair(keys: object) -> bool:
    return isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)


def _resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    image = tf.image.resize(image, (image_size, image_size))
    if image.shape[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    return image[..., :3]


def load_digits(
    *, batch_size: int = 32, seed: int = 0, images_per_class: int = 20
) -> tuple[ImageData, ImageData]:
    """scikit-learn's handwritten digits, in two tasks: one to pretrain on, one to fine-tune on.

    The images are 8 by 8 pixels with values from 0 to 16. They come with scikit-learn, so no
    network is needed.

    Args:
        batch_size: Images per batch. Defaults to 32.
        seed: Seed of the choice and the order of the images. Defaults to 0.
        images_per_class: Number of images of each digit to fine-tune on; the rest is tested on.
            Defaults to 20.

    Returns:
        The digits 0 to 4 (four fifths to pretrain on, the rest to test on), and the digits 5 to 9.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:

    >>> pretraining, fine_tuning = load_digits()
    >>> pretraining.train_images, fine_tuning.train_images, fine_tuning.test_images
    (720, 100, 796)
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "The embedded data set needs scikit-learn, which is not installed. "
            'Run: pip install "dlr_tf[demo]", or give a folder of images'
        ) from error
    bunch = load()
    images = bunch.images[..., np.newaxis].astype("float32")
    order = np.random.default_rng(seed).permutation(len(images))
    images, digits = images[order], bunch.target[order]
    first = np.flatnonzero(digits < 5)
    cut = len(first) * 4 // 5
    pretraining = _from_arrays(
        "digits 0-4", images, digits, first[:cut], first[cut:], range(5), batch_size, seed
    )
    chosen = np.concatenate(
        [np.flatnonzero(digits == digit)[:images_per_class] for digit in range(5, 10)]
    )
    rest = np.setdiff1d(np.flatnonzero(digits >= 5), chosen)
    fine_tuning = _from_arrays(
        "digits 5-9", images, digits, chosen, rest, range(5, 10), batch_size, seed
    )
    return pretraining, fine_tuning


def _from_arrays(
    name: str,
    images: np.ndarray,
    digits: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    classes: range,
    batch_size: int,
    seed: int,
) -> ImageData:
    def dataset(indices: np.ndarray) -> tf.data.Dataset:
        labels = (digits[indices] - classes[0]).astype("int32")
        return tf.data.Dataset.from_tensor_slices((images[indices], labels))

    training = dataset(train).shuffle(len(train), seed=seed).batch(batch_size)
    testing = dataset(test).batch(256)
    return ImageData(
        name=name,
        train=training.prefetch(tf.data.AUTOTUNE),
        validation=testing,
        test=testing,
        class_names=tuple(str(digit) for digit in classes),
        image_shape=images.shape[1:],
        train_images=len(train),
        test_images=len(test),
    )


def pretrain_on_digits(
    data: ImageData, *, epochs: int = 12, verbose: int | str = "auto"
) -> tuple[keras.Model, float]:
    """Trains a small convolutional network with batch normalisation, to fine-tune from.

    Args:
        data: The task to pretrain on, from `load_digits`.
        epochs: Number of epochs. Defaults to 12.
        verbose: As in `keras.Model.fit`.

    Returns:
        The network without its classifier (images in, one vector an image out), and the accuracy
        it reached with its classifier on the test images.
    """
    inputs = keras.Input(data.image_shape)
    x = keras.layers.Rescaling(1 / 16, name="rescaling")(inputs)
    for number, filters in enumerate((32, 32, 64, 64), 1):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv_{number}")(
            x
        )
        # The default momentum of 0.99 needs more steps than this training has.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
        if number == 2:
            x = keras.layers.MaxPooling2D(name="pool")(x)
    backbone = keras.Model(inputs, keras.layers.Flatten(name="features")(x), name="digits_backbone")
    model = keras.Sequential(
        [backbone, keras.layers.Dense(len(data.class_names), activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with distributed_fit(model, data.train.element_spec):
        model.fit(data.train, epochs=epochs, shuffle=False, verbose=verbose)
        accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    return backbone, float(accuracy)
