"""Models whose variables are first made inside the traced step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from tests.conftest import newer_optimizer

GROUPS = (LayerGroup("body", ("a",)), LayerGroup("head", ("b",)))
X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = X @ np.ones((3, 2), "float32")


def deferred() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])


TEMPLATES: dict[str, Any] = {
    "Adam": lambda: keras.optimizers.Adam(0.05),
    "ScheduleFreeAdamW": lambda: newer_optimizer("ScheduleFreeAdamW", 0.05),
}


@pytest.mark.parametrize(
    ("kind", "use_ema", "way"),
    [
        ("Adam", True, "train_on_batch"),
        pytest.param("Adam", True, "fit", marks=pytest.mark.slow),
        pytest.param("ScheduleFreeAdamW", False, "train_on_batch", marks=pytest.mark.slow),
        ("ScheduleFreeAdamW", True, "fit"),
    ],
)
def test_variables_made_in_the_first_step(kind, use_ema, way):
    """Trained as by one Keras optimizer whose variables are made beforehand."""
    template = TEMPLATES[kind]
    model, twin = deferred(), deferred()
    optimizer = MultiGroupOptimizer(GROUPS, 0.05, template(), use_ema=use_ema)
    model.compile(optimizer, "mse", jit_compile=False)
    twin.build(X.shape)
    plain = template()
    plain.use_ema, plain.ema_momentum, plain.ema_overwrite_frequency = use_ema, 0.99, None
    twin.compile(plain, "mse", jit_compile=False)
    for each in (model, twin):
        if way == "fit":
            each.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        else:
            each.train_on_batch(X, Y)
            each.train_on_batch(X, Y)
    for one, other in zip(model.weights, twin.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-6, atol=1e-7)
    if use_ema and way == "train_on_batch":
        averages = [v for n, v in optimizer._state.variables().items() if n.endswith("average")]
        expected = plain.variables  # Keras makes the averages first
        for average in averages:
            assert any(
                v.shape == average.shape and np.allclose(v.numpy(), average.numpy(), atol=1e-6)
                for v in expected
            )


@pytest.mark.slow
def test_a_function_that_makes_the_model_and_its_state():
    model = deferred()
    optimizer = MultiGroupOptimizer(GROUPS, 0.05, use_ema=True, gradient_accumulation_steps=2)
    model.compile(optimizer, "mse")

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        optimizer.bind(model)  # which is built now
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step(X, Y)) for _ in range(6)]
    assert losses[0] == losses[1] > losses[2] == losses[3] > losses[4]
    assert int(optimizer.iterations) == 3
