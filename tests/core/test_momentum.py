"""Momentum that follows a schedule."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.schedules import OneCycle, OneCycleMomentum
from tests import reference
from tests.core.core_helpers import (
    BareModel,
    apply_of,
    assert_same_weights,
    push,
    three_parts,
    two_weights,
)

STEPS, PEAK, START, DIV, DIV_FINAL = 200, 0.05, 0.3, 25.0, 1e4
# PyTorch reaches the peak and the end one step earlier, and divides the start by the last divisor.
ONE_CYCLE = OneCycle(
    PEAK,
    STEPS - 1,
    pct_start=(START * STEPS - 1) / (STEPS - 1),
    div=DIV,
    div_final=DIV * DIV_FINAL,
)
MOMENTUM = ONE_CYCLE.momentum()


def with_attribute(optimizer: Any, name: str) -> Any:
    setattr(optimizer, name, MOMENTUM)
    return optimizer


FAMILY = {
    "FusedAdam": lambda: FusedAdam(beta_1=MOMENTUM),
    "FusedAdam amsgrad": lambda: FusedAdam(beta_1=MOMENTUM, amsgrad=True),
    "Adam": lambda: keras.optimizers.Adam(beta_1=MOMENTUM),
    "AdamW": lambda: keras.optimizers.AdamW(beta_1=MOMENTUM),
    "Adamax": lambda: keras.optimizers.Adamax(beta_1=MOMENTUM),
    "Nadam": lambda: keras.optimizers.Nadam(beta_1=MOMENTUM),
    "Lamb": lambda: keras.optimizers.Lamb(beta_1=MOMENTUM),
    "Lion": lambda: with_attribute(keras.optimizers.Lion(), "beta_1"),
    "SGD": lambda: with_attribute(keras.optimizers.SGD(momentum=0.9), "momentum"),
    "SGD nesterov": lambda: with_attribute(
        keras.optimizers.SGD(momentum=0.9, nesterov=True), "momentum"
    ),
}
SLOW = pytest.mark.slow
MODES = ["eager", "graph", pytest.param("xla", marks=SLOW)]


def gradients() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(STEPS, 40)).astype("float32")


@pytest.mark.filterwarnings("ignore:The schedule of group .* ended at step 199:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["FusedAdam", "Adam", "FusedAdam alone"])
def test_it_equals_pytorchs_one_cycle_with_adam(way, mode):
    model = BareModel([np.linspace(-1, 1, 40)])
    variable = model.weights[0]
    expected = reference.torch_one_cycle_adam(
        variable.numpy(), gradients(), PEAK, STEPS, START, DIV, DIV_FINAL
    )
    if way == "FusedAdam alone":
        optimizer: Any = FusedAdam(ONE_CYCLE, beta_1=MOMENTUM)
        optimizer.build([variable])
    else:
        optimizer = model.optimizer(ONE_CYCLE, FAMILY[way]())
    step = lambda gradient: optimizer.apply([gradient], [variable])  # noqa: E731
    if mode != "eager":
        step = tf.function(step, autograph=False, jit_compile=mode == "xla")
    for gradient in gradients():
        step(tf.constant(gradient))
    # In float32, Keras rounds `beta_2` in one of the two places where it stands.
    tolerance = 1e-5 if way == "Adam" else 1e-6
    np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("FusedAdam", "Adam", "Lamb", "SGD") else pytest.param(kind, marks=SLOW)
        for kind in FAMILY
    ],
)
def test_a_compiled_step_equals_an_eager_one(kind):
    models = {}
    for mode in ("eager", "graph"):
        models[mode] = three_parts()
        optimizer = models[mode].optimizer([1e-3, 1e-2, 1e-1], FAMILY[kind]())
        push(apply_of(optimizer), models[mode].trainable_variables, mode)
    for ours, theirs in zip(models["eager"].weights, models["graph"].weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-7)


def test_a_constant_schedule_equals_a_float():
    class Constant(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return tf.constant(0.9)

        def get_config(self) -> dict[str, Any]:
            return {}

    sgd = keras.optimizers.SGD(momentum=0.9)
    sgd.momentum = Constant()
    pairs = {
        "Adam": (FusedAdam(beta_1=Constant()), FusedAdam()),
        "SGD": (sgd, keras.optimizers.SGD(momentum=0.9)),
    }
    for scheduled, plain in pairs.values():
        models = []
        for template in (scheduled, plain):
            models.append(three_parts())
            optimizer = models[-1].optimizer(1e-2, template)
            push(apply_of(optimizer), models[-1].trainable_variables)
        for ours, theirs in zip(models[0].weights, models[1].weights, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["FusedAdam", "Adam", "SGD"])
@pytest.mark.parametrize("way", ["file", "checkpoint"])
def test_training_goes_on_bit_for_bit(tmp_path, way, kind):
    model = three_parts()
    optimizer = model.optimizer(1e-2, FAMILY[kind]())
    push(apply_of(optimizer), model.trainable_variables)
    if way == "file":
        model.compile(optimizer, "mse")
        model.save(tmp_path / "model.keras")
        other = keras.models.load_model(tmp_path / "model.keras")
        theirs = other.optimizer
    else:
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(tmp_path / "c")
        other = three_parts()
        theirs = other.optimizer(1e-2, FAMILY[kind]())
        theirs.build(other.trainable_variables)
        tf.train.Checkpoint(model=other, optimizer=theirs).restore(path).assert_consumed()
    for one, with_it in ((model, optimizer), (other, theirs)):
        push(apply_of(with_it), one.trainable_variables, seed=1)
    assert_same_weights(model, other)


def test_it_sees_the_steps_of_the_wrapper():
    """A group that does not move for some steps does not lag behind."""
    model = two_weights()
    optimizer = model.optimizer(0.1, FusedAdam(beta_1=MOMENTUM))
    for _ in range(2):
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([tf.ones((1, 1)), None], model.weights)
    for one in optimizer.group_optimizers:
        np.testing.assert_allclose(float(one.beta_1), float(MOMENTUM(2)))


def test_it_is_saved_and_shown():
    optimizer = FusedAdam(beta_1=MOMENTUM)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert loaded.get_config() == optimizer.get_config()
    assert repr(loaded.beta_1) == repr(MOMENTUM)
    np.testing.assert_allclose([float(MOMENTUM(k)) for k in (0, 59, 199)], [0.95, 0.85, 0.95])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.85, 0.95), "`low` at most `high`. Received: high=0.85, low=0.95"),
        ((1.0, 0.9), r"in \[0, 1\)"),
        ((-0.1, -0.2), "`high` should be a finite number"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ONE_CYCLE.momentum(*arguments)
    with pytest.raises(ValueError, match="`total_steps`"):
        OneCycleMomentum(0.9, 0.8, 1)
