"""What one step does beside the inner optimizers' own updates, on one device.

`tests/core/test_keras_expectations.py` has the numbers that Keras' own tests expect.
"""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import InverseTimeDecay

from dlr_tf.core._keras import known_variables, moving_averages
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from tests.core.core_helpers import (
    MODES,
    RATES,
    Holder,
    Update,
    apply_of,
    assert_same,
    assert_same_weights,
    each_optimizer_one_way,
    embeddings,
    lookups,
    ones_for,
    push,
    steps_of,
    three_parts,
    traced,
    two_weights,
    values,
)

ACROSS_GROUPS: dict[str, dict[str, Any]] = {
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "accumulation": {"gradient_accumulation_steps": 3},
    "clipped_accumulation": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.05},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    "loss_scale": {"loss_scale_factor": 8.0},
}


def weights_of(model: keras.Model) -> list[float]:
    return [v.numpy().item() for v in model.weights]


# Every pair of a setting, an optimizer and a mode.
@pytest.mark.parametrize(
    ("name", "template", "mode"),
    [
        (name, kind, MODES[(number + shift) % 2])
        for number, name in enumerate(ACROSS_GROUPS)
        for shift, kind in enumerate(("keras_adam", "fused_adam"))
    ],
    indirect=["template"],
)
def test_what_spans_groups_equals_plain_keras(template, name, mode):
    settings = ACROSS_GROUPS[name]
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(0.01, template.argument(), **settings)
    plain = template.plain(0.01, **settings)
    plain.build(twin.weights)
    push(apply_of(optimizer), model.weights, mode, steps=7)
    push(apply_of(plain), twin.weights, mode, steps=7)
    assert_same_weights(model, twin)
    assert int(optimizer.iterations) == int(plain.iterations)
    if "use_ema" in settings:
        averages = moving_averages(optimizer)
        assert_same(values(averages), values(moving_averages(plain)))
        for each, owner in ((optimizer, model), (plain, twin)):
            each.finalize_variable_values(owner.weights)
        assert_same_weights(model, twin)
        assert_same(values(model.weights), values(averages))


# --- Accumulation


def test_schedules_and_steps_do_not_run_ahead_under_accumulation(template):
    model = three_parts()
    schedule = InverseTimeDecay(1.0, 1, 1.0)
    rates = [schedule, 0.5, schedule]
    optimizer = model.optimizer(rates, template.argument(), gradient_accumulation_steps=3)
    seen = []
    step = traced(apply_of(optimizer), model.weights)
    gradients = ones_for(model.weights)
    for _ in range(7):
        before = model.weights[0].numpy()
        step(gradients)
        moved = not np.array_equal(before, model.weights[0].numpy())
        seen.append((moved, int(optimizer.iterations), steps_of(optimizer)[0]))
    assert seen == [
        (False, 0, 0),
        (False, 0, 0),
        (True, 1, 1),
        (False, 1, 1),
        (False, 1, 1),
        (True, 2, 2),
        (False, 2, 2),
    ]
    np.testing.assert_allclose(optimizer.last_learning_rates, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(optimizer.learning_rates, [1 / 3, 0.5, 1 / 3], rtol=1e-6)


def test_averages_run_per_step_under_accumulation():
    model = two_weights()
    optimizer = model.optimizer(1.0, use_ema=True, ema_momentum=0.75, gradient_accumulation_steps=2)
    weight, expected = 1.0, None
    for call in range(6):
        optimizer.apply([tf.constant([[0.25]]), tf.constant([[0.5]])], model.weights)
        if call % 2:
            weight -= 0.5
            expected = weight if expected is None else 0.75 * expected + 0.25 * weight
    np.testing.assert_allclose(weights_of(model)[1], weight)
    averages = values(moving_averages(optimizer))
    np.testing.assert_allclose(averages[1].item(), expected, rtol=1e-6)


def test_gradients_of_a_micro_batch_may_be_missing_under_accumulation(keras_adam):
    """As in plain Keras, bit for bit; nothing is carried over into a later step."""
    results = []
    for grouped in (True, False):
        model = two_weights()
        settings = {"gradient_accumulation_steps": 2}
        if grouped:
            # In one group, whose count of steps is then the plain optimizer's.
            groups = (LayerGroup("all", ("parts/0", "parts/1")),)
            optimizer = MultiGroupOptimizer(groups, 0.1, keras_adam.argument(), **settings)
            optimizer.bind(model)
        else:
            optimizer = keras_adam.plain(0.1, **settings)
        first, second = model.weights
        optimizer.build([first, second])
        one = tf.ones((1, 1))
        for pairs in (
            [(one, first), (one, second)],
            [(one, second)],
            [(-one, first), (one, second)],
            [(-one, first), (one, second)],
        ):
            optimizer.apply_gradients(pairs)
        results.append(values([first, second]))
    assert_same(*results)


# --- Averages


def test_the_average_of_a_late_variable_starts_at_its_value():
    model = two_weights()
    first, second = model.weights
    optimizer = model.optimizer(1.0, use_ema=True, ema_momentum=0.5)
    for _ in range(3):
        optimizer.apply([tf.constant([[0.5]])], [second])
    optimizer.apply([tf.constant([[1.0]])] * 2, [first, second])
    averages = dict(zip(map(id, known_variables(optimizer)), values(moving_averages(optimizer))))
    # From 1, its value when it joined, to the mean of that and where it went: 0.
    assert averages[id(first)].item() == 0.5
    optimizer.finalize_variable_values([first])
    assert first.numpy().item() == 0.5
    assert second.numpy().item() == 1 - 3 * 0.5 - 1


def test_finalizing_goes_by_variable_not_by_position():
    model = two_weights()
    first, second = model.weights
    optimizer = model.optimizer(1.0, use_ema=True, ema_momentum=0.5)
    for _ in range(2):
        optimizer.apply([tf.constant([[1.0]]), tf.constant([[2.0]])], [first, second])
    optimizer.finalize_variable_values([second])  # as with the first layer frozen
    assert weights_of(model) == [-1, -2]  # the mean of -1 and -3


def test_without_averages_the_end_of_fit_changes_nothing():
    model = two_weights()
    model.optimizer().finalize_variable_values(model.weights)
    assert weights_of(model) == [1, 1]


def test_swapping_averages_in_and_out(samples):
    sample = samples["sequential"]
    model = sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), RATES, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, "mse", run_eagerly=True)
    x, y = sample.data()
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert_same(values(model.trainable_variables), values(moving_averages(optimizer)))


# --- Constraints


def test_constraints_are_applied_after_the_update(template):
    model = two_weights()
    for variable in model.weights:
        variable.constraint = keras.constraints.NonNeg()
    optimizer = model.optimizer([2.0, 0.5], template.argument())
    optimizer.apply(ones_for(model.weights), model.weights)
    np.testing.assert_allclose(weights_of(model), [0.0, 0.5], atol=1e-5)


# --- Weight decay


@pytest.mark.parametrize("mode", MODES)
def test_weight_decay_and_its_exclusions_equal_plain_keras(mode):
    model, twin = three_parts(), three_parts()

    def make(owner: keras.Model, rate: float) -> Any:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.3)
        optimizer.exclude_from_weight_decay(var_list=[owner.weights[0]], var_names=["value_1"])
        return optimizer

    optimizer = model.optimizer(0.01, make(model, 1.0))
    plain = make(twin, 0.01)
    plain.build(twin.weights)
    push(apply_of(optimizer), model.weights, mode)
    push(apply_of(plain), twin.weights, mode)
    assert_same_weights(model, twin)


@pytest.mark.parametrize("chosen", ["var_list", "var_names"])
def test_exclusions_told_to_the_wrapper_act_on_every_group(chosen):
    """At a gradient of zero, a weight of 1 decays to 0.95, or stays."""
    model = Holder(2, [1.0], [1.0])
    optimizer = model.optimizer(0.1, keras.optimizers.AdamW(weight_decay=0.5))
    excluded = {"var_list": [model.weights[1], model.weights[3]], "var_names": ["value_1"]}
    optimizer.exclude_from_weight_decay(**{chosen: excluded[chosen]})
    optimizer.apply([tf.zeros(1)] * 4, model.weights)
    np.testing.assert_allclose(weights_of(model), [0.95, 1.0, 0.95, 1.0], rtol=1e-6)
    with pytest.raises(ValueError, match="should be called before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["value_0"])


@pytest.mark.parametrize("chosen", ["var_list", "var_names"])
def test_exclusions_are_part_of_the_configuration(chosen):
    model = Holder(2, [1.0], [1.0])
    optimizer = model.optimizer(0.1, keras.optimizers.AdamW(weight_decay=0.5))
    excluded = {"var_list": [model.weights[1], model.weights[3]], "var_names": ["value_1"]}
    optimizer.exclude_from_weight_decay(**{chosen: excluded[chosen]})
    config = optimizer.get_config()
    revived = MultiGroupOptimizer.from_config(config)
    assert revived.get_config() == config  # before it knows its model
    twin = Holder(2, [1.0], [1.0])
    revived.bind(twin)
    assert revived.get_config() == config
    revived.apply([tf.zeros(1)] * 4, twin.weights)
    np.testing.assert_allclose(weights_of(twin), [0.95, 1.0, 0.95, 1.0], rtol=1e-6)


def test_a_copy_excludes_the_same_variables():
    model = Holder(2, [1.0], [1.0])
    optimizer = model.optimizer(0.1, keras.optimizers.AdamW(weight_decay=0.5))
    optimizer.exclude_from_weight_decay(var_list=[model.weights[1], model.weights[3]])
    copied = copy.deepcopy(optimizer)
    copied.apply([tf.zeros(1)] * 4, model.weights)
    np.testing.assert_allclose(weights_of(model), [0.95, 1.0, 0.95, 1.0], rtol=1e-6)


def test_exclusions_of_unknown_variables_cannot_be_stored():
    adam = keras.optimizers.AdamW(weight_decay=0.5)
    adam.exclude_from_weight_decay(var_list=[keras.Variable(1.0)])
    message = "excludes 1 variables from weight decay that belong to no model"
    with pytest.raises(ValueError, match=message):
        two_weights().optimizer(0.1, adam).get_config()


def test_weight_decay_acts_at_the_groups_own_rate_and_strength():
    model = two_weights()
    inner = [keras.optimizers.AdamW(weight_decay=0.1), FusedAdam(weight_decay=0.2)]
    optimizer = model.optimizer([0.5, 1.0], inner)
    for _ in range(2):
        optimizer.apply([tf.zeros((1, 1))] * 2, model.weights)
    np.testing.assert_allclose(weights_of(model), [0.95**2, 0.8**2], rtol=1e-6)


def test_weight_decay_follows_the_schedule_of_the_step():
    model = two_weights()
    adam = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer = model.optimizer(InverseTimeDecay(1.0, 1, 1.0), adam)
    step = tf.function(lambda: optimizer.apply([tf.zeros((1, 1))] * 2, model.weights))
    for _ in range(3):
        step()
    expected = (1 - 0.1) * (1 - 0.1 / 2) * (1 - 0.1 / 3)
    np.testing.assert_allclose(weights_of(model), [expected] * 2, rtol=1e-6)


def test_only_variables_with_a_gradient_decay():
    model = two_weights()
    optimizer = model.optimizer(1.0, keras.optimizers.AdamW(weight_decay=0.5))
    optimizer.apply([tf.zeros((1, 1))], model.weights[1:])
    assert weights_of(model) == [1.0, 0.5]


# --- Sparse gradients


def repeat(update: Update, model: keras.Model, gradients: list[Any], mode: str) -> None:
    """Make four steps on the same gradients."""
    step = traced(update, model.weights) if mode == "graph" else lambda g: update(g, model.weights)
    for _ in range(4):
        step(gradients)


@each_optimizer_one_way
@pytest.mark.parametrize("scale", [None, 4.0], ids=["plain", "loss_scale"])
def test_sparse_gradients(template, scale, mode):
    model, twin = embeddings(), embeddings()
    optimizer = model.optimizer(0.01, template.argument(), loss_scale_factor=scale)
    plain = template.plain(0.01)
    plain.build(twin.weights)
    untouched = model.weights[0].numpy()[2]
    for each, owner, factor in ((optimizer, model, scale or 1.0), (plain, twin, 1.0)):
        repeat(apply_of(each), owner, lookups(factor), mode)
    assert_same_weights(model, twin)
    np.testing.assert_array_equal(model.weights[0].numpy()[2], untouched)


SPARSE = ["clipnorm", "clipvalue", "global_clipnorm", "accumulation", "ema_overwrite"]


# Every pair of a setting and an optimizer, and of a setting and a mode.
@pytest.mark.parametrize(
    ("name", "template", "mode"),
    [
        *((name, "keras_adam", MODES[number % 2]) for number, name in enumerate(SPARSE)),
        *((name, "fused_adam", MODES[1 - number % 2]) for number, name in enumerate(SPARSE)),
    ],
    indirect=["template"],
)
def test_what_spans_groups_takes_sparse_gradients(template, name, mode):
    """Each row counts once however often it was looked up: as with the dense gradient."""
    results = []
    for dense in (False, True):
        model = embeddings()
        optimizer = model.optimizer(0.01, template.argument(), **ACROSS_GROUPS[name])
        # Keras' own Adam squares the parts of a row that is met twice one by one.
        gradients = lookups(rows=(4, 0, 1)) if name == "ema_overwrite" else lookups()
        if dense:
            gradients[0] = tf.math.unsorted_segment_sum(
                gradients[0].values, gradients[0].indices, 6
            )
        repeat(apply_of(optimizer), model, gradients, mode)
        results.append(values(model.weights))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


# --- Under a strategy


STRATEGIES = {
    "one_device": lambda: tf.distribute.OneDeviceStrategy("/cpu:0"),
    "mirrored": lambda: tf.distribute.MirroredStrategy(["/cpu:0"]),
}
EVENTFUL = {
    "global_clipnorm": 0.05,
    "gradient_accumulation_steps": 2,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 2,
}


# `tests/training/test_distribution.py` has two devices.
@pytest.mark.parametrize(
    ("name", "template", "settings"),
    [("one_device", "keras_adam", {}), ("mirrored", "fused_adam", EVENTFUL)],
    indirect=["template"],
)
def test_one_device_under_a_strategy_trains_as_without(name, template, settings):
    plain = three_parts()
    push(apply_of(plain.optimizer(RATES, template.argument(), **settings)), plain.weights)
    strategy = STRATEGIES[name]()
    with strategy.scope():
        model = three_parts()
        optimizer = model.optimizer(RATES, template.argument(), **settings)

    def update(gradients: list[Any], variables: list[Any]) -> None:
        def on_replica() -> None:
            # Strategies look at the device of a gradient, which an argument has not.
            optimizer.apply_gradients(zip(map(tf.identity, gradients), variables))

        strategy.run(on_replica)

    push(update, model.weights, "graph")
    for a, b in zip(values(model.weights), values(plain.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert steps_of(optimizer) == [2 if settings else 5] * 3


def test_a_variable_that_takes_its_gradient_has_no_average():
    model = Holder(2, [1.0], [1.0])
    for part in model.parts:
        part.weights[0].overwrite_with_gradient = True
    optimizer = model.optimizer(0.5, use_ema=True)
    optimizer.apply([tf.constant([3.0])] * 4, model.weights)
    assert weights_of(model) == [3.0, -0.5] * 2
    averages = moving_averages(optimizer)
    assert [average is None for average in averages] == [True, False] * 2
    optimizer.finalize_variable_values(model.weights)
    assert weights_of(model) == [3.0, -0.5] * 2
