"""Small networks, and sources that are opened from a file."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlr_tf.app import models

NAMES = ["cat", "dog", "eel"]


SIZE = 12


def body(size: int | None = SIZE, channels: int = 3) -> list[Any]:
    return [
        keras.Input((size, size, channels), name="pixels"),
        keras.layers.Rescaling(1 / 255, name="scaled"),
        keras.layers.Conv2D(4, 3, strides=2, name="stem"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Conv2D(6, 3, activation="relu", name="top"),
    ]


POOL = keras.layers.GlobalAveragePooling2D


def dense(activation: str | None = "softmax", units: int = 5) -> keras.layers.Layer:
    return keras.layers.Dense(units, activation=activation, name="old_head")


def functional(layers: list[Any], name: str = "net") -> keras.Model:
    inputs, *layers = layers
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def nested(end: list[Any]) -> keras.Model:
    """The head is the last layer of a model inside the model."""
    inner = functional([*body(), POOL(name="pool"), *end], name="inner")
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, inner(inputs / 2.0), name="outer")


def two_branches(activation: str = "linear") -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten()(inputs)
    branches = [keras.layers.Dense(4, name=name)(x) for name in ("left", "right")]
    x = keras.layers.Add(name="sum")(branches)
    return keras.Model(inputs, keras.layers.Activation(activation, name="last")(x))


def opened(model: keras.Model, **arguments: Any) -> models.Source:
    model.save("net.keras")
    return models.open_source("net.keras", **arguments)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
