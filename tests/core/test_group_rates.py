"""The rates of the groups: what they mean, how they are set, limited, saved and refused."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import InverseTimeDecay

from dlr_tf.core._keras import eager_read_fn
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR, OneCycle
from tests.core.core_helpers import assert_same, everything, ones_for, two_weights, values

GROUPS = (LayerGroup("body", ("a",)), LayerGroup("head", ("b",)))
SCHEDULES = keras.optimizers.schedules
LIMITED = "A rate was set above what the group's schedule gives at this step"


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """A user's schedule with an attribute of a common name."""

    family = "mine"

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: Any) -> Any:
        return tf.constant(self.value)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


def optimizer_with(*rates: Any, step: int = 0) -> MultiGroupOptimizer:
    optimizer = MultiGroupOptimizer(GROUPS, list(rates))
    optimizer.step_counter.assign(step)
    return optimizer


@functools.lru_cache(maxsize=4)
def traced_rates(optimizer: MultiGroupOptimizer) -> Any:
    return tf.function(optimizer._rates.current)


def rates_at(optimizer: MultiGroupOptimizer, step: int) -> list[float]:
    """The rates at a step, the same whether they are read eagerly or in a trace made before."""
    optimizer.step_counter.assign(step)
    eager = optimizer.learning_rates
    np.testing.assert_array_equal(np.float32(eager), traced_rates(optimizer)())
    return eager


# --- What rates mean, and setting them


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.1, [0.1, 0.1]),
        (slice(1e-3), [1e-4, 1e-3]),
        (slice(1e-5, 1e-3), [1e-5, 1e-3]),
        ([1, 0], [1.0, 0.0]),
    ],
    ids=str,
)
def test_what_rates_mean(rate, expected):
    optimizer = MultiGroupOptimizer(GROUPS, rate)
    np.testing.assert_allclose(optimizer.learning_rates, expected, rtol=1e-6)
    assert all(type(value) is float for value in optimizer.learning_rates)
    assert float(optimizer.learning_rate) == optimizer.learning_rates[-1]


def test_setting_the_heads_rate_keeps_the_ratios():
    optimizer = optimizer_with(1e-5, 1e-3)
    for rate, head in (
        (0.1, 0.1),
        (np.float32(0.3), 0.3),
        (1, 1.0),
        (7e-7, 7e-7),
        (tf.constant(0.25), 0.25),
        (keras.Variable(0.5), 0.5),
        (np.array(2.0), 2.0),
    ):
        optimizer.learning_rate = rate
        np.testing.assert_allclose(optimizer.learning_rates, [head / 100, head], rtol=1e-6)
    optimizer.learning_rate = 0.0
    assert optimizer.learning_rates == [0, 0]
    optimizer.learning_rate = 1e-3
    np.testing.assert_allclose(optimizer.learning_rates, [1e-5, 1e-3], rtol=1e-6)


def test_a_rate_that_is_set_reads_back_as_it_is():
    """To the last bit of float32, whatever the ratios: callbacks compare what they set."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        rates = 10.0 ** generator.uniform(-8, 1, 2)
        optimizer = optimizer_with(*rates)
        for rate in 10.0 ** generator.uniform(-8, 1, 4):
            optimizer.learning_rate = rate
            assert np.float32(optimizer.learning_rate) == np.float32(rate)
        optimizer.learning_rates = rates
        np.testing.assert_array_equal(np.float32(optimizer.learning_rates), np.float32(rates))


def test_rates_are_set_with_a_tensor_too():
    optimizer = optimizer_with(1e-3, 1e-2)
    optimizer.learning_rates = tf.constant([0.5, 0.25])
    assert optimizer.learning_rates == [0.5, 0.25]


def test_a_rate_of_0_can_be_set_where_it_is_0():
    optimizer = optimizer_with(0.1, SGDR(0.3, 5, warmup_steps=2))
    before = optimizer.get_config()
    optimizer.learning_rate = optimizer.learning_rate
    optimizer.group_optimizers[1].learning_rate = 0.0
    assert optimizer.get_config() == before
    optimizer.learning_rates = [0.4, 0.0]
    optimizer.iterations.assign(2)
    np.testing.assert_allclose(optimizer.learning_rates, [0.4, 0.3], rtol=1e-6)


def test_a_rate_of_one_group_cannot_be_set_where_the_scale_is_0():
    optimizer = optimizer_with(0.1, 0.2)
    optimizer.learning_rate = 0.0
    with pytest.raises(ValueError, match="scales every group by 0.*`optimizer.learning_rates`"):
        optimizer.group_optimizers[0].learning_rate = 0.1
    optimizer.learning_rates = [0.1, 0.2]
    assert optimizer.learning_rates == [np.float32(0.1), np.float32(0.2)]


def test_setting_rates_over_schedules():
    model = two_weights()
    schedule = InverseTimeDecay(1.0, 1, 1.0)
    optimizer = model.optimizer([0.5, schedule])
    step = tf.function(lambda: optimizer.apply(ones_for(model.weights), model.weights))
    step()
    np.testing.assert_allclose(optimizer.learning_rates, [0.5, 0.5])
    optimizer.learning_rate = 0.05
    np.testing.assert_allclose(optimizer.learning_rates, [0.05, 0.05], rtol=1e-6)
    step()  # traced before, and follows all the same
    np.testing.assert_allclose(optimizer.last_learning_rates, [0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(optimizer.learning_rates, [0.05, 0.1 / 3], rtol=1e-6)
    optimizer.learning_rates = [0.2, 0.1]
    np.testing.assert_allclose(optimizer.learning_rates, [0.2, 0.1], rtol=1e-6)
    step()
    np.testing.assert_allclose(optimizer.learning_rates, [0.2, 0.075], rtol=1e-6)


def test_rates_move_the_weights_they_say():
    model = two_weights()
    optimizer = model.optimizer(1.0)
    step = tf.function(lambda: optimizer.apply(ones_for(model.weights), model.weights))
    for rates in ([1.0, 0.5], [0.0, 2.0]):
        optimizer.learning_rates = rates
        before = values(model.weights)
        step()
        for rate, a, b in zip(rates, before, values(model.weights)):
            np.testing.assert_allclose(a - b, rate, rtol=1e-5, atol=1e-6)


def test_a_schedule_at_zero_cannot_be_scaled():
    model = two_weights()
    zero_at_start = keras.optimizers.schedules.PolynomialDecay(0.0, 2, 1.0)
    optimizer = model.optimizer([0.1, zero_at_start])
    before = values(optimizer.variables)
    message = "rate of group 'group_1' is 0 at step 0.*where the schedule is above 0"
    with pytest.raises(ValueError, match=message):
        optimizer.learning_rate = 0.1
    with pytest.raises(ValueError, match=message):
        optimizer.learning_rates = [0.1, 0.1]
    with pytest.raises(ValueError, match=message):
        optimizer.group_optimizers[1].learning_rate = 0.1
    assert_same(values(optimizer.variables), before)
    optimizer.apply(ones_for(model.weights), model.weights)
    optimizer.learning_rate = 0.25
    np.testing.assert_allclose(optimizer.learning_rates, [0.05, 0.25], rtol=1e-6)


def test_learning_rate_callbacks_scale_all_groups():
    """A weight of 1 in each group, and a loss that does not fall."""
    model = two_weights()
    schedule = InverseTimeDecay(0.03, 1, 1.0)
    optimizer = model.optimizer([0.003, schedule])
    model.compile(optimizer, "mse")
    scheduler = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2 if epoch else rate
    )
    scheduler.set_model(model)
    # Step k at 0.03 / (1 + k); halved at the beginning of epochs 1 and 2.
    for epoch, expected in enumerate([(0.003, 0.03), (0.0015, 0.0075), (0.00075, 0.0025)]):
        scheduler.on_epoch_begin(epoch)
        optimizer.apply(ones_for(model.weights), model.weights)
        np.testing.assert_allclose(optimizer.last_learning_rates, expected, rtol=1e-5)
    before = np.array(optimizer.learning_rates)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1)
    plateau.set_model(model)
    plateau.on_train_begin()
    for epoch in range(2):
        optimizer.apply(ones_for(model.weights), model.weights)
        plateau.on_epoch_end(epoch, {"loss": 1.0})
    steps = np.array([1, (1 + 3) / (1 + 5)])
    np.testing.assert_allclose(optimizer.learning_rates, before * steps / 2, rtol=1e-5)


# --- Rates set over a schedule are limited


def test_a_rate_set_near_the_bottom_does_not_lift_the_next_restart():
    """Without a limit the factor would make 4.05 of it."""
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(schedule, schedule, step=99)
    with pytest.warns(UserWarning, match=LIMITED + ".*'body at most 0.001', 'head at most 0.001'"):
        optimizer.learning_rate = 1e-3
    assert rates_at(optimizer, 99) == [np.float32(1e-3)] * 2
    for step in range(100, 300):
        own = float(schedule(step))
        for rate in rates_at(optimizer, step) if step % 25 == 0 else []:
            assert rate <= max(own, np.float32(1e-3))
    assert rates_at(optimizer, 100) == [np.float32(1e-2)] * 2
    assert rates_at(optimizer, 199) == [np.float32(1e-3)] * 2


@pytest.mark.parametrize("step", [0, 40, 99])
@pytest.mark.parametrize("rate", [1e-4, 5e-3, 2e-2, 1.0])
def test_no_later_rate_is_above_the_schedules_own_peak(step, rate):
    schedule = SGDR(1e-2, 100, t_mul=1.0, m_mul=0.9)
    optimizer = optimizer_with(1e-3, schedule, step=step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.learning_rate = rate
    assert optimizer.learning_rates[1] == np.float32(rate)
    later = np.array([rates_at(optimizer, s)[1] for s in range(step + 1, 400, 7)])
    assert later.max() <= np.float32(1e-2)


def test_a_lower_rate_scales_the_whole_schedule_without_a_warning():
    optimizer = optimizer_with(SGDR(1e-3, 10), SGDR(1e-2, 10))
    optimizer.learning_rate = 1e-3
    for step in (0, 5, 9, 10, 20):
        own = float(SGDR(1e-2, 10)(step))
        np.testing.assert_allclose(rates_at(optimizer, step), [own / 100, own / 10], rtol=1e-6)


def test_reading_and_setting_the_same_rate_changes_nothing():
    schedule = SGDR(1e-2, 10)
    optimizer = optimizer_with(schedule, schedule, step=7)
    optimizer.learning_rate = float(optimizer.learning_rate)
    np.testing.assert_allclose(rates_at(optimizer, 10), [1e-2] * 2, rtol=1e-6)


def test_one_group_set_later_does_not_lift_the_others():
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(schedule, schedule, step=99)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rate = 1e-3
    optimizer.step_counter.assign(150)
    optimizer.group_optimizers[0].learning_rate = 1e-3
    assert rates_at(optimizer, 150)[1] == np.float32(5e-3)


def test_a_schedule_whose_peak_is_not_known():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.5)
    optimizer = optimizer_with(schedule, schedule, step=20)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rate = 5e-3
    np.testing.assert_allclose(rates_at(optimizer, 30), [2.5e-3] * 2, rtol=1e-6)


def test_a_rate_set_inside_a_traced_function_is_limited_too():
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(schedule, schedule, step=99)
    tf.function(lambda rate: optimizer.learning_rate.assign(rate))(tf.constant(1e-3))
    assert rates_at(optimizer, 99) == [np.float32(1e-3)] * 2
    assert rates_at(optimizer, 100) == [np.float32(1e-2)] * 2


def test_rates_are_read_and_set_inside_a_traced_function():
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(1e-3, schedule, step=50)

    @tf.function
    def halve() -> Any:
        before = optimizer.learning_rate.value
        optimizer._rates.set_all([optimizer._rates.of_group(0) / 2, before / 2])
        return before

    np.testing.assert_allclose(halve(), 5e-3, rtol=1e-6)
    np.testing.assert_allclose(rates_at(optimizer, 50), [5e-4, 2.5e-3], rtol=1e-6)
    np.testing.assert_allclose(rates_at(optimizer, 100), [5e-4, 5e-3], rtol=1e-6)


def test_limits_are_saved():
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(schedule, 1e-3, step=99)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rates = [1e-3, 1e-2]
    restored = optimizer_with(schedule, 1e-3, step=99)
    restored._rates.restore_state(optimizer._rates.state(), optimizer._rates.scale())
    made = MultiGroupOptimizer.from_config(optimizer.get_config())
    for step in (100, 120, 199):
        assert rates_at(restored, step) == rates_at(optimizer, step) == rates_at(made, step)
    assert rates_at(restored, 99) == [np.float32(1e-3), np.float32(1e-2)]


def test_the_configuration_holds_the_rates_in_use_now():
    optimizer = optimizer_with(1e-3, 1e-2)
    optimizer.learning_rate = 5e-2
    config = optimizer.get_config()
    np.testing.assert_allclose(config["learning_rate"], [5e-3, 5e-2])
    assert MultiGroupOptimizer.from_config(config).learning_rates == optimizer.learning_rates
    config["learning_rate"] = [0.1, 0.2]
    np.testing.assert_allclose(
        MultiGroupOptimizer.from_config(config).learning_rates, [0.1, 0.2], rtol=1e-7
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_rate_reads_as_a_number_and_has_what_a_keras_variable_has(wrapped):
    optimizer = optimizer_with(1e-3, 1e-2)
    face = keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer
    face.learning_rate.assign(0.5)
    rate = face.learning_rate
    assert float(rate) == rate.numpy() == rate.value.numpy() == 0.5
    assert rate * 2 == 1.0
    assert 2 * rate == 1.0
    assert rate < 1
    assert np.float32(2) * rate == 1.0
    assert keras.ops.convert_to_numpy(rate) == 0.5
    assert float(keras.ops.convert_to_tensor(rate)) == 0.5
    assert f"{rate:.2e}" == "5.00e-01"
    assert round(rate, 1) == 0.5
    np.testing.assert_allclose(optimizer.learning_rates, [0.05, 0.5], rtol=1e-7)
    face.learning_rate.assign(keras.Variable(0.25))
    assert float(face.learning_rate) == 0.25


def test_a_rate_that_is_kept_stays_a_number():
    """As with Keras' rate, where a callback keeps the rate, changes it and puts it back."""
    model = two_weights()
    optimizer = model.optimizer([0.1, 0.5])
    for rate in (optimizer.learning_rate, optimizer.group_optimizers[1].learning_rate):
        assert tf.is_tensor(rate)
        assert keras.ops.is_tensor(rate)
        ways = (tf.keras.backend.get_value, keras.ops.convert_to_numpy, copy.copy, copy.deepcopy)
        for way in ways:
            before = way(rate)
            optimizer.learning_rate = 0.25
            assert before == 0.5
            optimizer.learning_rate = before
            assert float(rate) == 0.5
            np.testing.assert_allclose(optimizer.learning_rates, [0.1, 0.5])
    assert tf.keras.backend.get_value(optimizer.group_optimizers[0].iterations) == 0


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf")])
def test_a_bad_rate_of_a_schedule_is_refused_before_anything_is_written(bad):
    model = two_weights()
    optimizer = model.optimizer([1e-3, Constant(bad)], None)
    optimizer.build(model.weights)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="schedule of group 'group_1' gives the rate .* at step 0"):
        optimizer.apply(ones_for(model.weights), model.weights)
    assert_same(everything(model, optimizer), before)


def test_a_users_schedule_with_any_attribute():
    optimizer = optimizer_with(Constant(1e-3), Constant(1e-2))
    assert optimizer.learning_rates == [np.float32(1e-3), np.float32(1e-2)]


def test_the_last_rates_are_those_of_the_last_update():
    """NaN for a group that did not move in it."""
    model = two_weights()
    optimizer = model.optimizer(InverseTimeDecay(1.0, 1, 1.0))
    assert np.isnan(optimizer.last_learning_rates).all()
    assert optimizer.last_learning_rates.dtype == np.float32
    step = tf.function(lambda: optimizer.apply(ones_for(model.weights), model.weights))
    for k in range(3):
        step()
        np.testing.assert_allclose(optimizer.last_learning_rates, 1 / (1 + k), rtol=1e-6)
    optimizer.apply(ones_for(model.weights[1:]), model.weights[1:])
    np.testing.assert_array_equal(optimizer.last_learning_rates, np.float32([np.nan, 0.25]))


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_the_last_rates_of_constant_rates(traced):
    """They are recorded only when they change, and the logger reads the same."""
    model = two_weights()
    optimizer = model.optimizer([0.1, 1.0])
    read = eager_read_fn(optimizer.rate_record)
    wrap = tf.function if traced else (lambda function: function)

    @wrap
    def step():
        optimizer.apply(ones_for(model.weights), model.weights)

    @wrap
    def step_of_one():
        optimizer.apply(ones_for(model.weights[1:]), model.weights[1:])

    @wrap
    def halve():
        optimizer.learning_rate = optimizer.learning_rate * 0.5

    def last():
        found = optimizer.last_learning_rates
        (at_this_time,) = optimizer.recorded_rates([read()], [int(optimizer.iterations)])
        np.testing.assert_array_equal(at_this_time, found)
        assert found.dtype == np.float32
        return found.tolist()

    def near(*rates):
        return pytest.approx([*rates], nan_ok=True)

    assert last() == near(math.nan, math.nan)
    optimizer.learning_rate = 2.0  # before the first update
    assert last() == near(math.nan, math.nan)
    step()
    assert last() == near(0.2, 2.0)
    halve()
    halve()
    assert last() == near(0.2, 2.0)  # until the next update
    assert optimizer.learning_rates == near(0.05, 0.5)
    step()
    assert last() == near(0.05, 0.5)
    step_of_one()
    assert last() == near(math.nan, 0.5)
    optimizer.learning_rates = [1.0, 3.0]
    assert last() == near(math.nan, 0.5)
    step()
    assert last() == near(1.0, 3.0)


def test_a_record_that_was_read_stays():
    model = two_weights()
    optimizer = model.optimizer([0.1, 1.0])
    optimizer.apply(ones_for(model.weights), model.weights)
    read = eager_read_fn(optimizer.rate_record)
    before = read()
    optimizer.learning_rate = 5.0
    optimizer.apply(ones_for(model.weights), model.weights)
    rates = optimizer.recorded_rates([before, read()], [1, 2])
    np.testing.assert_array_equal(rates, np.float32([[0.1, 1.0], [0.5, 5.0]]))
    np.testing.assert_array_equal(optimizer.last_learning_rates, rates[1])


def test_a_step_of_constant_rates_does_not_write_them():
    """Each operation and each variable of a step costs a small network a percent."""

    def writes_rates(rate, moved=slice(None)):
        model = two_weights()
        optimizer = model.optimizer(rate)
        weights = model.weights[moved]
        step = tf.function(lambda: optimizer.apply(ones_for(weights), weights))
        graph = step.get_concrete_function().graph
        handle = optimizer.rate_record.value.handle
        (inside,) = [inner for outer, inner in graph.captures if outer is handle]
        writes = [op for op in graph.get_operations() if op.type == "AssignVariableOp"]
        return any(op.inputs[0] is inside for op in writes)

    assert not writes_rates([0.1, 1.0])
    assert writes_rates([0.1, 1.0], moved=slice(1, None))
    assert writes_rates(SGDR(0.1, 5))


# --- Wrong rates


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (-1.0, ValueError, "finite and not negative. Received: learning_rate=-1.0"),
        (float("nan"), ValueError, "finite and not negative. Received: learning_rate=nan"),
        (np.inf, ValueError, "finite and not negative"),
        (np.float64(-1), ValueError, "finite and not negative"),
        (np.array(-1.0), ValueError, "finite and not negative"),
        (tf.constant(-1.0), ValueError, "finite and not negative. Received: learning_rate=-1.0"),
        ("0.1", TypeError, "should be set with a number. Received: '0.1'"),
        (None, TypeError, "should be set with a number. Received: None"),
        (True, TypeError, "should be set with a number. Received: True"),
        (SGDR(0.1, 10), TypeError, "A schedule cannot be assigned.*Build a new `MultiGroupOpt"),
        (lambda: 0.1, TypeError, "A schedule cannot be assigned"),
    ],
)
def test_wrong_rates_are_refused_and_change_nothing(rate, error, message):
    optimizer = optimizer_with(1e-3, 1e-2)
    before = values(optimizer.variables)
    with pytest.raises(error, match=message):
        optimizer.learning_rate = rate
    with pytest.raises(error, match=message):
        optimizer.learning_rates = [0.1, rate]
    with pytest.raises(error, match=message):
        optimizer.learning_rate.assign(rate)
    assert_same(values(optimizer.variables), before)


@pytest.mark.parametrize("rates", [[0.1], [0.1] * 4, []])
def test_a_wrong_number_of_rates_is_refused(rates):
    with pytest.raises(ValueError, match=f"one rate per group: 2 rates. Received {len(rates)}"):
        optimizer_with(1e-3, 1e-2).learning_rates = rates


@pytest.mark.parametrize("rates", [0.1, "ab"])
def test_rates_that_are_no_sequence_are_refused(rates):
    with pytest.raises(TypeError, match=rf"`learning_rates` should be .*Received: {rates!r}"):
        optimizer_with(1e-3, 1e-2).learning_rates = rates


# `tests/core/test_learning_rates.py` has the others.
@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        ([0.1], ValueError, "2 groups, 2 rates. Received 1 rates"),
        ("0.1", TypeError, "`learning_rate` should be a float, a `LearningRateSchedule`, a `sl"),
        (None, ValueError, "can be `None` only with one optimizer per group.*Give a rate"),
    ],
)
@pytest.mark.parametrize("template", [None, keras.optimizers.Adam()], ids=["default", "template"])
def test_wrong_rates_of_a_new_optimizer(rate, error, message, template):
    with pytest.raises(error, match=message):
        MultiGroupOptimizer(GROUPS, rate, template)


def test_groups_at_a_constant_rate_are_not_lifted_by_the_schedule_of_the_head():
    optimizer = optimizer_with(1e-4, SGDR(1e-2, 10, t_mul=1.0), step=9)
    with pytest.warns(UserWarning, match="'body at most 0.0001', 'head at most 0.01'"):
        optimizer.learning_rate = 1e-2
    body, head = optimizer.learning_rates
    assert head == np.float32(1e-2)
    np.testing.assert_allclose(body / head, 1e-4 / float(SGDR(1e-2, 10)(9)), rtol=1e-6)
    for step in (10, 15, 19, 20):
        assert rates_at(optimizer, step)[0] == np.float32(1e-4)
    optimizer.step_counter.assign(20)
    optimizer.learning_rate = 1e-3  # lower: all groups follow, for good
    np.testing.assert_allclose(rates_at(optimizer, 20), [1e-5, 1e-3], rtol=1e-6)
    np.testing.assert_allclose(rates_at(optimizer, 25), [1e-5, 5e-4], rtol=1e-6)
    optimizer.group_optimizers[0].learning_rate = 3e-3  # set itself: no limit
    assert rates_at(optimizer, 29)[0] == np.float32(3e-3)


@pytest.mark.parametrize(
    ("schedule", "peak"),
    [
        (
            keras.optimizers.schedules.CosineDecay(
                1e-4, 1000, warmup_target=1e-2, warmup_steps=100
            ),
            1e-2,
        ),
        (SCHEDULES.PiecewiseConstantDecay([10, 20], [1e-4, 1e-2, 1e-3]), 1e-2),
    ],
)
def test_the_peak_of_a_schedule_of_keras_is_known(schedule, peak):
    optimizer = optimizer_with(schedule, schedule, step=5)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rate = 5e-3
    assert rates_at(optimizer, 6)[1] <= np.float32(5e-3)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rate = 1.0
    assert max(rates_at(optimizer, step)[1] for step in range(7, 30)) <= np.float32(peak)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_a_bad_rate_set_inside_a_traced_function_is_refused_by_the_next_eager_step(bad):
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
    )
    optimizer = optimizer_with(1e-3, 1e-2)
    optimizer.bind(model)
    tf.function(lambda rate: optimizer.learning_rate.assign(rate))(tf.constant(bad))
    before = model.get_weights()
    with pytest.raises(ValueError, match="The rate of group 'body' is .* Nothing was updated"):
        optimizer.apply([tf.ones(v.shape) for v in model.weights], model.weights)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_all_rates_can_be_set_inside_a_traced_function():
    optimizer = optimizer_with(1e-3, 1e-2)

    @tf.function
    def set_rates(rate: Any) -> None:
        optimizer.learning_rates = [rate, 2 * rate]

    set_rates(tf.constant(0.25))
    assert optimizer.learning_rates == [0.25, 0.5]


def test_a_constant_rate_of_0_says_how_to_go_on():
    optimizer = optimizer_with(1e-3, 0.0)
    assert not optimizer.learning_rate
    with pytest.raises(ValueError, match=r"'head' is 0 at step 0.*Set `optimizer.learning_rates`"):
        optimizer.learning_rate = 1e-2


def halved(optimizer: MultiGroupOptimizer) -> None:
    """What `ReduceLROnPlateau` does; the ratios between the groups stay."""
    before = np.array(optimizer.learning_rates)
    optimizer.learning_rate = float(optimizer.learning_rate) / 2
    np.testing.assert_allclose(optimizer.learning_rates, before / 2, rtol=1e-6)


@pytest.mark.parametrize("step", [99, 100, 120, 199])
@pytest.mark.parametrize("rates", [(1e-4, "SGDR"), ("SGDR", "SGDR"), (1e-4, 1e-3)])
@pytest.mark.parametrize("way", ["head", "all", "one by one"])
def test_the_ratios_stay_whatever_was_set_before(rates, way, step):
    made = [SGDR(1e-2 / 10**n, 100, t_mul=1.0) if r == "SGDR" else r for n, r in enumerate(rates)]
    optimizer = optimizer_with(*made[::-1], step=99)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "head":
            optimizer.learning_rate = 1e-3
        elif way == "all":
            optimizer.learning_rates = [1e-4, 1e-3]
        else:
            optimizer.learning_rate = 1e-3
            optimizer.group_optimizers[0].learning_rate = 1e-4
        optimizer.step_counter.assign(step)
        halved(optimizer)
        halved(optimizer)
        now = optimizer.learning_rates
        optimizer.learning_rate = float(optimizer.learning_rate)
    np.testing.assert_allclose(optimizer.learning_rates, now, rtol=1e-6)


def test_a_scheduler_may_lower_and_raise_the_rate_again():
    optimizer = optimizer_with(1e-4, SGDR(1e-2, 10, t_mul=1.0))
    for step, rate in ((0, 5e-3), (10, 1e-3), (20, 5e-3), (30, 1e-2)):
        optimizer.step_counter.assign(step)
        optimizer.learning_rate = rate
        np.testing.assert_allclose(rates_at(optimizer, step + 1)[0], rate / 100, rtol=1e-6)


def test_the_configuration_keeps_the_limit_of_a_constant_rate():
    optimizer = optimizer_with(1e-4, SGDR(1e-2, 100, t_mul=1.0), step=99)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rate = 1e-3
    optimizer.step_counter.assign(100)
    config = optimizer.get_config()
    assert config["learning_rate"][0] == 1e-4
    made = MultiGroupOptimizer.from_config(config)
    for step in (100, 130):
        assert rates_at(made, step) == rates_at(optimizer, step)


def test_rates_that_fall_are_warned_of_once():
    model = two_weights()
    with pytest.warns(UserWarning, match=r"fall from group 'group_0' \(0.01\) to group 'g"):
        optimizer = model.optimizer(slice(1e-2, 1e-4))
    with pytest.warns(UserWarning, match=r"fall from group 'group_0' \(0.5\) to group 'group_1'"):
        model.optimizer({"group_1": SGDR(0.1, 3), "group_0": SGDR(0.5, 3)})
    # Nobody types the rates of a copy, or of a file.
    again = MultiGroupOptimizer.from_config(optimizer.get_config())
    np.testing.assert_allclose(again.learning_rates, [1e-2, 1e-4])
    np.testing.assert_allclose(copy.deepcopy(optimizer).learning_rates, [1e-2, 1e-4])


def test_rates_may_be_given_by_the_names_of_the_groups():
    optimizer = two_weights().optimizer({"group_1": 1e-2, "group_0": 1e-4})
    np.testing.assert_allclose(optimizer.learning_rates, [1e-4, 1e-2])


def test_an_optimizer_prints_its_groups_and_rates():
    optimizer = two_weights().optimizer([1e-4, SGDR(1e-2, 5)], None)
    text = "MultiGroupOptimizer(group_0: FusedAdam at 0.0001, group_1: FusedAdam at 0.01)"
    assert str(optimizer) == repr(optimizer) == text

    @tf.function
    def traced():
        assert repr(optimizer) == "MultiGroupOptimizer(group_0: FusedAdam, group_1: FusedAdam)"

    traced()


BEYOND = r"schedule of group 'group_1' ended at step 2, .* its last rate, 1e-06. .*OneCycle"


def test_a_step_beyond_the_end_of_a_schedule_is_warned_of_once():
    model = two_weights()
    optimizer = model.optimizer([1e-3, OneCycle(0.1, 2)])
    for _ in range(2):
        model.step(optimizer, [[1.0]])
    with pytest.warns(UserWarning, match=BEYOND):
        model.step(optimizer, [[1.0]])
    model.step(optimizer, [[1.0]])


def test_a_step_that_is_traced_beyond_the_end_is_warned_of():
    model = two_weights()
    optimizer = model.optimizer([1e-3, OneCycle(0.1, 2)])
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(2)
    step = tf.function(lambda: model.step(optimizer, [[1.0]]), autograph=False)
    with pytest.warns(UserWarning, match=BEYOND):
        step()


def test_a_step_that_was_traced_before_is_warned_of_at_the_end_of_fit():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="only")])
    groups = (LayerGroup("only", ("only",)),)
    model.compile(MultiGroupOptimizer(groups, OneCycle(0.1, 4)), "mse")
    x = np.ones((4, 1))
    model.fit(x, x, batch_size=1, verbose=0)
    with pytest.warns(UserWarning, match="ended at step 4, .* at its last rate, 1e-06"):
        model.fit(x, x, batch_size=1, verbose=0)
    model.fit(x, x, batch_size=1, verbose=0)


@pytest.mark.parametrize(
    "rate",
    [
        SCHEDULES.PolynomialDecay(0.1, 2, 0.01),
        SCHEDULES.CosineDecay(0.1, 2, alpha=0.1),
        SCHEDULES.PolynomialDecay(0.1, 2, 0.0, cycle=True),
        SCHEDULES.ExponentialDecay(0.1, 2, 0.01),
    ],
)
def test_a_schedule_that_ends_high_or_never_is_not_warned_of(rate):
    model = two_weights()
    optimizer = model.optimizer([1e-3, rate])
    for _ in range(4):
        model.step(optimizer, [[1.0]])


def test_the_end_of_a_schedule_of_keras_is_known():
    model = two_weights()
    rates = [SCHEDULES.CosineDecay(0.0, 1, warmup_target=0.1, warmup_steps=1), 0.2]
    optimizer = model.optimizer(rates)
    for _ in range(2):
        model.step(optimizer, [[1.0]])
    with pytest.warns(UserWarning, match="group 'group_0' ended at step 2, .* rate, 0."):
        model.step(optimizer, [[1.0]])


def test_a_rate_set_by_hand_beyond_the_end_is_not_warned_of():
    model = two_weights()
    optimizer = model.optimizer([1e-3, OneCycle(0.1, 2)])
    optimizer.iterations.assign(5)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rates = [1e-3, 1e-2]
    model.step(optimizer, [[1.0]])
