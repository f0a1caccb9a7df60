from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.group_rates import check_assigned_rate
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR, OneCycle

GROUPS = (LayerGroup("body", ("a",)), LayerGroup("head", ("b",)))
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


def rates_at(optimizer: MultiGroupOptimizer, step: int) -> list[float]:
    optimizer.step_counter.assign(step)
    eager = optimizer.learning_rates
    traced = tf.function(optimizer.rates.current)()
    np.testing.assert_array_equal(np.float32(eager), traced)
    return eager


def test_the_head_rate_scales_all_groups():
    optimizer = optimizer_with(1e-3, 1e-2)
    optimizer.learning_rate = 1e-1
    np.testing.assert_allclose(optimizer.learning_rates, [1e-2, 1e-1], rtol=1e-7)


def test_a_rate_set_near_the_bottom_does_not_lift_the_next_restart():
    """Without a limit the factor would make 4.05 of it."""
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(schedule, schedule, step=99)
    with pytest.warns(UserWarning, match=LIMITED + ".*'body' at 0.001, 'head' at 0.001"):
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


def test_limits_are_saved():
    schedule = SGDR(1e-2, 100, t_mul=1.0)
    optimizer = optimizer_with(schedule, 1e-3, step=99)
    with pytest.warns(UserWarning, match=LIMITED):
        optimizer.learning_rates = [1e-3, 1e-2]
    restored = optimizer_with(schedule, 1e-3, step=99)
    restored.rates.restore_state(optimizer.rates.state(), float(optimizer.rates.scale.numpy()))
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


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf")])
def test_a_bad_rate_of_a_schedule_is_refused_before_anything_is_written(bad):
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
    )
    optimizer = MultiGroupOptimizer(GROUPS, [1e-3, Constant(bad)])
    optimizer.bind(model)
    optimizer.build(model.trainable_variables)
    before = [v.numpy() for v in (*model.weights, *optimizer.variables)]
    with pytest.raises(ValueError, match="schedule of group 'head' gives the rate .* at step 0"):
        optimizer.apply([tf.ones(v.shape) for v in model.weights], model.weights)
    for old, variable in zip(before, (*model.weights, *optimizer.variables)):
        np.testing.assert_array_equal(old, variable.numpy())


def test_a_users_schedule_with_any_attribute():
    optimizer = optimizer_with(Constant(1e-3), Constant(1e-2))
    assert optimizer.learning_rates == [np.float32(1e-3), np.float32(1e-2)]


def test_the_last_rates_are_nan_for_groups_that_did_not_move():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
    )
    optimizer = MultiGroupOptimizer(GROUPS, [1e-3, OneCycle(1e-2, 10)])
    optimizer.bind(model)
    assert np.isnan(optimizer.last_learning_rates).all()
    head = model.layers[-1].trainable_variables
    optimizer.apply([tf.ones(v.shape) for v in head], head)
    np.testing.assert_array_equal(optimizer.last_learning_rates, np.float32([np.nan, 4e-4]))


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (-1.0, ValueError, "finite and not negative. Received: learning_rate=-1.0"),
        (float("nan"), ValueError, "finite and not negative"),
        (np.float64(-1), ValueError, "finite and not negative"),
        (np.array(-1.0), ValueError, "finite and not negative"),
        (tf.constant(-1.0), ValueError, "finite and not negative"),
        ("0.1", TypeError, "should be a float"),
        (True, TypeError, "should be a float"),
        (SGDR(0.1, 10), TypeError, "A schedule cannot be assigned.*Build a new"),
        (lambda: 0.1, TypeError, "A schedule cannot be assigned"),
    ],
)
def test_wrong_rates(rate, error, message):
    with pytest.raises(error, match=message):
        check_assigned_rate(rate)
