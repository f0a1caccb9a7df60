"""What several tests of the command need: small networks, images, and a look at a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.models import KnownTarget, classifier, write_target

NAMES = ["dark", "middle", "bright"]
FILES = [
    "README.md",
    "classes.json",
    "log.csv",
    "model.keras",
    "report.html",
    "report.json",
    "settings.json",
]


def tiny_backbone() -> keras.Model:
    """Stands for `models.digits_backbone`."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 256, name="rescaling"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(16, activation="relu", name="early"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(16, activation="relu", name="late"),
        ],
        name="backbone",
    )


def pretrain_nothing(*_: Any, **__: Any) -> tuple[keras.Model, float]:
    """Stands for `pretrain_on_digits`: a small network that is not trained."""
    return tiny_backbone(), 0.5


def tiny_application(**arguments: Any) -> keras.Model:
    """Stands for `keras.applications.MobileNetV2`, with its preprocessing."""
    if arguments["weights"] == "imagenet":
        raise Exception("URL fetch failure on imagenet")  # as Keras does without a network
    if arguments["input_shape"][0] < 16:
        raise ValueError("Input size must be at least 16x16")
    inputs = keras.Input(arguments["input_shape"])
    x = keras.layers.Conv2D(4, 3, 2, name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(6, 3, 2, activation="relu", name="top")(x)
    return keras.Model(inputs, x, name="tiny")


tiny_application.__module__ = "keras.src.applications.mobilenet_v2"


def write_images(
    folder: Path, count: int, *, size: int = 6, channels: int = 3, value: int = 0
) -> list[Path]:
    """Write `count` PNGs of one colour, each a little brighter than the one before."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        pixels = np.full((size, size, channels), value + number, np.uint8)
        path = folder / f"{number:03d}.png"
        path.write_bytes(tf.io.encode_png(pixels).numpy())
        paths.append(path)
    return paths


def write_garments(folder: Path, count: int = 24) -> Path:
    """Write images that are red or not, and bright or not, and a table of them."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = ["file,tags,price,size,is_red"]
    for number in range(count):
        red, bright = number % 2, number // 2 % 2
        pixels = random.integers(0, 30, (16, 16, 3)).astype(np.uint8)
        pixels[..., 0] += np.uint8(150 * red)
        pixels[8:] += np.uint8(70 * bright)
        (folder / f"{number:03d}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        tags = "|".join(name for name, has in (("red", red), ("bright", bright)) if has)
        rows.append(f"{number:03d}.png,{tags},{1000 + 500 * red},{0.5 * bright + 0.01},{red}")
    table = folder / "garments.csv"
    table.write_text("\n".join(rows))
    return table


def write_class_names(path: Path, names: Sequence[str]) -> None:
    write_target(path, KnownTarget(tuple(names)))


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def brightness_model(channels: int = 3) -> keras.Model:
    """A model whose classes are the brightness of an image."""
    inputs = keras.Input((4, 4, channels))
    features = keras.layers.GlobalAveragePooling2D()(inputs / 255.0)
    model = classifier(keras.Model(inputs, features, name="mean"), 3)
    kernel = np.ones((channels, 1), "float32") @ [[-30.0, 0.0, 30.0]] / channels
    model.get_layer("probabilities").set_weights([kernel, np.array([10.0, 0.0, -20.0])])
    return model


def network(*end: Any) -> keras.Model:
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    for layer in end:
        x = layer(x)
    return keras.Model(inputs, x)
