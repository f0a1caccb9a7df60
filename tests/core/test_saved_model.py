"""`tf.saved_model.save` of a module that trains."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = X[:, :2]


class Trainer(tf.Module):
    def __init__(self, model: keras.Model, optimizer: Any) -> None:
        super().__init__()
        self.model, self.optimizer = model, optimizer

    @tf.function(input_signature=[tf.TensorSpec((8, 4)), tf.TensorSpec((8, 2))])
    def train(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.model(x) - y) ** 2)
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss


@pytest.mark.parametrize(
    ("rates", "arguments"),
    [
        pytest.param([1e-2, 1e-1], {"optimizer": keras.optimizers.Adam()}, marks=pytest.mark.slow),
        ([1e-2, SGDR(1e-1, 3)], {"use_ema": True, "ema_overwrite_frequency": 2}),
        ([1e-2, 1e-1], {"gradient_accumulation_steps": 2, "global_clipnorm": 1.0}),
        pytest.param([1e-2, 1e-1], {"optimizer": keras.optimizers.Nadam()}, marks=pytest.mark.slow),
    ],
    ids=["plain", "schedule and averages", "accumulation", "Nadam"],
)
def test_a_saved_trainer_loads_and_trains_on(rates, arguments, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, name="body"), keras.layers.Dense(2, name="top")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = MultiGroupOptimizer(split_layers(model, ["top"]), rates, **arguments)
    trainer = Trainer(model, optimizer)
    trainer.train(X, Y)
    tf.saved_model.save(trainer, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    expected = [float(trainer.train(X, Y)) for _ in range(5)]
    assert [float(loaded.train(X, Y)) for _ in range(5)] == expected
    assert expected[-1] < expected[0]
