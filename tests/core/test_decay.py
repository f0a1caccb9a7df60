"""Weight decay and decay toward the start, as arguments of the wrapper."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from tests.core.core_helpers import (
    BareModel,
    apply_of,
    assert_same,
    assert_same_weights,
    push,
    three_parts,
    two_weights,
    values,
)

RATES = [0.1, 0.2, 0.4]
DECAY = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])


def trained(mode: str = "eager", template: Any = None, **arguments: Any) -> BareModel:
    model = three_parts()
    optimizer = model.optimizer(RATES, template, **arguments)
    push(apply_of(optimizer), model.trainable_variables, mode)
    return model


# --- Weight decay --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_one_decay_equals_that_of_the_inner_optimizer(mode):
    ours = trained(mode, weight_decay=0.03)
    assert_same_weights(ours, trained(mode, FusedAdam(weight_decay=0.03)))


def test_each_group_has_its_own_decay_at_its_own_rate():
    for decays in ([0.5, 0.0, 0.25], {"group_2": 0.25, "group_0": 0.5, "group_1": 0}):
        model = three_parts()
        before = values(model.weights)
        optimizer = model.optimizer(RATES, keras.optimizers.SGD, weight_decay=decays)
        optimizer.apply([tf.zeros(v.shape) for v in model.weights], model.weights)
        shrink = np.repeat([1 - 0.1 * 0.5, 1.0, 1 - 0.4 * 0.25], 2)
        for weight, start, factor in zip(model.weights, before, shrink, strict=True):
            np.testing.assert_allclose(weight.numpy(), factor * start, rtol=1e-6)
    assert [one.weight_decay for one in optimizer.group_optimizers] == [0.5, None, 0.25]


@pytest.mark.parametrize("template", [None, keras.optimizers.SGD, keras.optimizers.AdamW])
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_a_decay_follows_a_schedule(template, mode):
    model = two_weights()
    if template is keras.optimizers.AdamW:
        template = keras.optimizers.AdamW(weight_decay=0.0)
    optimizer = model.optimizer([0.1, 0.4], template, weight_decay=DECAY)
    step = lambda: optimizer.apply([tf.zeros((1, 1))] * 2, model.weights)  # noqa: E731
    if mode != "eager":
        step = tf.function(step, autograph=False, jit_compile=mode == "xla")
    for _ in range(3):
        step()
    for weight, rate in zip(model.weights, (0.1, 0.4), strict=True):
        expected = (1 - rate * 0.5) ** 2 * (1 - rate * 0.25)
        np.testing.assert_allclose(weight.numpy(), [[expected]], rtol=1e-6)


def test_the_decay_of_a_name_is_replaced_and_that_of_an_optimizer_is_not():
    model = two_weights()
    optimizer = model.optimizer(0.1, "adamw", weight_decay=0.05)
    assert [one.weight_decay for one in optimizer.group_optimizers] == [0.05, 0.05]
    assert model.optimizer(0.1, "adamw").group_optimizers[0].weight_decay == 0.004
    assert model.optimizer(0.1, "adam").group_optimizers[0].weight_decay is None
    with pytest.raises(ValueError, match="has weight_decay=0.01, and `MultiGroupOptimizer` was gi"):
        model.optimizer(0.1, keras.optimizers.AdamW(weight_decay=0.01), weight_decay=0.05)


def test_excluded_variables_do_not_decay():
    model = three_parts()
    before = values(model.weights)
    optimizer = model.optimizer(
        RATES, keras.optimizers.SGD, weight_decay=0.5, decay_to_start=[0.5, 0.5, 0.5]
    )
    optimizer.exclude_from_weight_decay(var_list=[model.weights[0]])
    optimizer.build(model.weights)
    for weight in model.weights:
        weight.assign(weight + 1)
    optimizer.apply([tf.zeros(v.shape) for v in model.weights], model.weights)
    np.testing.assert_array_equal(model.weights[0].numpy(), before[0] + 1)
    assert not np.array_equal(model.weights[1].numpy(), before[1] + 1)


# --- Decay toward the start ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_decay_to_the_start_equals_the_formula(mode):
    """L2-SP, decoupled: the head, which starts random, is left out."""
    model = three_parts()
    start = values(model.weights)
    optimizer = model.optimizer(RATES, keras.optimizers.SGD, decay_to_start=0.5)
    gradients = [tf.ones(v.shape) for v in model.weights]
    step = lambda: optimizer.apply(gradients, model.weights)  # noqa: E731
    if mode != "eager":
        step = tf.function(step, autograph=False, jit_compile=mode == "xla")
    for _ in range(4):
        step()
    for number, (weight, first) in enumerate(zip(model.weights, start, strict=True)):
        rate, decay = RATES[number // 2], 0.5 if number < 4 else 0.0
        expected = np.asarray(first, np.float64)
        for _ in range(4):
            expected = expected - rate * decay * (expected - first) - rate
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_group_without_decay_to_the_start_keeps_no_copy():
    model = three_parts()
    optimizer = model.optimizer(RATES, decay_to_start={"group_0": 0, "group_1": 1, "group_2": 0})
    optimizer.build(model.weights)
    starts = [name for name in optimizer._state.variables() if name.endswith(".start")]
    assert len(starts) == 2
    unused = three_parts()
    optimizer = unused.optimizer(RATES, decay_to_start=0.0)
    optimizer.build(unused.weights)
    assert not any(name.endswith("start") for name in optimizer._state.variables())


# --- Both, saved and refused ---------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {"weight_decay": [0.1, SGDR(0.1, 3), 0.0], "decay_to_start": 0.3}


def through_file(model: BareModel, optimizer: Any, path: Any) -> tuple[BareModel, Any]:
    model.compile(optimizer, "mse")
    model.save(path / "model.keras")
    loaded = keras.models.load_model(path / "model.keras")
    return loaded, loaded.optimizer


def through_weights(model: BareModel, optimizer: Any, path: Any) -> tuple[BareModel, Any]:
    model.compile(optimizer, "mse")
    model.save_weights(path / "model.weights.h5")
    other = three_parts()
    other.compile(other.optimizer(RATES, None, **ARGUMENTS), "mse")
    other.load_weights(path / "model.weights.h5")
    return other, other.optimizer


def through_checkpoint(model: BareModel, optimizer: Any, path: Any) -> tuple[BareModel, Any]:
    saved = tf.train.Checkpoint(model=model, optimizer=optimizer).save(path / "c")
    other = three_parts()
    for weight in other.weights:
        weight.assign(0 * weight)
    theirs = other.optimizer(RATES, None, **ARGUMENTS)
    theirs.build(other.trainable_variables)
    tf.train.Checkpoint(model=other, optimizer=theirs).restore(saved).assert_consumed()
    return other, theirs


def through_copy(model: BareModel, optimizer: Any, path: Any) -> tuple[BareModel, Any]:
    other = three_parts()
    other.set_weights(model.get_weights())
    theirs = copy.deepcopy(MultiGroupOptimizer.from_config(optimizer.get_config()))
    theirs.bind(other)
    theirs.build(other.trainable_variables)
    theirs.set_weights([v.numpy() for v in optimizer.variables])
    return other, theirs


@pytest.mark.parametrize(
    "through", [through_file, through_weights, through_checkpoint, through_copy]
)
def test_training_goes_on_bit_for_bit(tmp_path, through):
    model = three_parts()
    optimizer = model.optimizer(RATES, None, **ARGUMENTS)
    push(apply_of(optimizer), model.trainable_variables)
    other, theirs = through(model, optimizer, tmp_path)
    assert_same(
        values(theirs._state.variables().values()), values(optimizer._state.variables().values())
    )
    for one, with_it in ((model, optimizer), (other, theirs)):
        push(apply_of(with_it), one.trainable_variables, seed=1)
    assert_same_weights(model, other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight_decay": -0.1}, ValueError, "`weight_decay` should be a finite number.*-0.1"),
        ({"weight_decay": [0.1]}, ValueError, "one value for each of the 2 groups. Received 1"),
        ({"weight_decay": {"group_0": 0.1}}, ValueError, r"Missing: \['group_1'\]"),
        ({"weight_decay": "0.1"}, TypeError, "`weight_decay` should be a float, a `LearningRate"),
        ({"decay_to_start": float("nan")}, ValueError, "`decay_to_start` should be a finite numb"),
        ({"decay_to_start": DECAY}, TypeError, "`decay_to_start` should be a float, or one per gr"),
        ({"decay_to_start": [DECAY, 0.1]}, TypeError, "`decay_to_start` should be a number"),
        ({"decay_to_start": {"head": 1.0}}, ValueError, r"Not a group: \['head'\]"),
    ],
)
def test_wrong_decays_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        two_weights().optimizer(0.1, **arguments)


def test_a_float_for_the_only_group_is_refused():
    with pytest.raises(ValueError, match="leaves out the head, and there is no other group"):
        BareModel([[1.0]]).optimizer(0.1, decay_to_start=0.1)


def test_a_file_with_starts_is_refused_without_them(tmp_path):
    model = two_weights()
    optimizer = model.optimizer(0.1, decay_to_start=0.1)
    push(apply_of(optimizer), model.trainable_variables)
    model.compile(optimizer, "mse")
    model.save_weights(tmp_path / "model.weights.h5")
    other = two_weights()
    other.compile(other.optimizer(0.1), "mse")
    with pytest.raises(ValueError, match=r"kept .*start .*`decay_to_start` that it was saved with"):
        other.load_weights(tmp_path / "model.weights.h5")
