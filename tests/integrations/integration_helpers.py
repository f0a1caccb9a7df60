"""A small model with two groups, and its data, for the tests with other packages."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR

NAMES = ("body", "head")
RATES = (0.0625, 0.25)
STEPS, EPOCHS, BATCH, WIDTH = 3, 2, 4, 3


def make_data() -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(0).random((2, STEPS * BATCH, WIDTH), "float32"))


def make_model(learning_rate: Any = None) -> keras.Model:
    """Return a compiled model; by default each group follows an SGDR of one cycle per epoch."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", name="body"), keras.layers.Dense(WIDTH, name="head")]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers])
    groups = split_layers(model, ["head"], NAMES)
    model.compile(
        MultiGroupOptimizer(groups, learning_rate or schedules(), "sgd"), "mse", jit_compile=False
    )
    return model


def schedules() -> list[SGDR]:
    return [SGDR(rate, STEPS, t_mul=1.0) for rate in RATES]


def rates_at(step: int) -> list[float]:
    """The rates of the groups at a step."""
    return [float(schedule(step)) for schedule in schedules()]


def rates_at_ends() -> list[list[float]]:
    """The rates with which the last step of every epoch was made."""
    return [rates_at((epoch + 1) * STEPS - 1) for epoch in range(EPOCHS)]
