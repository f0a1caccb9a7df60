from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.learning_rates import check_rate, layerwise_rates, resolve_learning_rates

DECAY = keras.optimizers.schedules.CosineDecay(0.1, 10)


@pytest.mark.parametrize("rate", [0.5, 1, 0, 0.0, np.float32(0.5), np.int64(2), np.array(0.25)])
def test_one_rate_is_every_groups(rate):
    rates = resolve_learning_rates(rate, 3)
    assert rates == [float(rate)] * 3
    assert all(type(value) is float for value in rates)


def test_one_schedule_is_every_groups():
    rates = resolve_learning_rates(DECAY, 2)
    assert rates[0] is DECAY
    assert rates[1] is DECAY


def test_slices_as_fastai_resolves_them():
    assert resolve_learning_rates(slice(1e-3), 3) == [1e-4, 1e-4, 1e-3]
    np.testing.assert_allclose(
        resolve_learning_rates(slice(1e-5, 1e-3), 3), [1e-5, 1e-4, 1e-3], rtol=1e-14
    )
    np.testing.assert_allclose(
        resolve_learning_rates(slice(2e-4, 1e-1), 6),
        [2e-4 * (0.1 / 2e-4) ** (i / 5) for i in range(6)],
        rtol=1e-13,
    )


def test_the_ends_of_a_slice_are_exact():
    for n_groups in range(2, 40):
        rates = resolve_learning_rates(slice(3e-7, 0.1), n_groups)
        assert (rates[0], rates[-1]) == (3e-7, 0.1)
        ratios = np.diff(np.log(rates))
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)


def test_slices_of_one_group_and_slices_that_fall():
    assert resolve_learning_rates(slice(1e-5, 1e-3), 1) == [1e-3]
    assert resolve_learning_rates(slice(1e-3), 1) == [1e-3]
    np.testing.assert_allclose(resolve_learning_rates(slice(1.0, 0.01), 3), [1, 0.1, 0.01])


def test_layer_decay_as_timm_gives_it():
    rates = resolve_learning_rates([0.75**i for i in reversed(range(13))], 13)
    assert rates[-3:] == [0.5625, 0.75, 1.0]
    assert math.isclose(rates[0], 0.031676, abs_tol=5e-7)


@pytest.mark.parametrize("sequence", [list, tuple, np.array])
def test_a_sequence_has_one_rate_per_group(sequence):
    rates = resolve_learning_rates(sequence([1.0, 0.5]), 2)
    assert rates == [1.0, 0.5]
    assert all(type(value) is float for value in rates)


def test_a_sequence_may_mix_floats_and_schedules():
    rates = resolve_learning_rates([0.5, DECAY, 2], 3)
    assert rates[0] == 0.5
    assert rates[1] is DECAY
    assert rates[2] == 2.0


def test_a_dict_has_the_rate_of_each_group_by_its_name():
    names = ["early", "late", "head"]
    by_name = {"head": 1e-2, "early": 1e-4, "late": DECAY}
    assert resolve_learning_rates(by_name, 3, names) == [1e-4, DECAY, 1e-2]
    with pytest.raises(
        ValueError,
        match=r"one value for each of the groups \['early', 'late', 'head'\]. Missing: \['late'\]. "
        r"Not a group: \['lat'\]. Did you mean 'late'\?",
    ):
        resolve_learning_rates({"head": 1e-2, "early": 1e-4, "lat": 1e-3}, 3, names)
    with pytest.raises(ValueError, match="finite and not negative. Received: learning_rate=-1.0"):
        resolve_learning_rates({"head": -1.0, "early": 1e-4, "late": 1e-3}, 3, names)


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (-1e-3, ValueError, "finite and not negative. Received: learning_rate=-0.001"),
        (math.nan, ValueError, "finite and not negative. Received: learning_rate=nan"),
        (math.inf, ValueError, "finite and not negative. Received: learning_rate=inf"),
        ([1e-3, -1.0, 1e-3], ValueError, "finite and not negative. Received: learning_rate=-1.0"),
        (np.array([1e-3, math.nan, 1.0]), ValueError, "finite and not negative"),
        (slice(-1.0), ValueError, "finite and not negative. Received: learning_rate=-1.0"),
        (slice(math.inf), ValueError, "finite and not negative. Received: learning_rate=inf"),
        ([1e-3, 1e-2], ValueError, r"3 groups, 3 rates. Received 2 rates: .*\[0.001, 0.01\]"),
        ([], ValueError, "3 groups, 3 rates. Received 0 rates"),
        ([1e-3] * 4, ValueError, "Received 4 rates"),
        (slice(None), ValueError, r"`slice\(lo, hi\)` or `slice\(hi\)`. Received: .*slice\(None"),
        (slice(1e-5, 1e-3, 2), ValueError, r"should be `slice\(lo, hi\)` or `slice\(hi\)`"),
        (slice(1e-5, None), ValueError, r"should be `slice\(lo, hi\)` or `slice\(hi\)`"),
        (slice(0.0, 1e-3), ValueError, r"geometric, so both should be above 0. .*slice\(0.0, 0.0"),
        (slice(1e-3, 0.0), ValueError, "geometric, so both should be above 0"),
        (slice(DECAY), TypeError, "ends of a slice .* should be floats; give schedules as a list"),
        (slice(1e-3, DECAY), TypeError, "ends of a slice of learning rates should be floats"),
        (slice(DECAY, 1e-3), TypeError, "ends of a slice of learning rates should be floats"),
        (slice("a"), TypeError, "should be a float or a `LearningRateSchedule`. .*'a' of type str"),
        ("0.1", TypeError, "`learning_rate` should be a float.*Received: learning_rate='0.1'"),
        (None, TypeError, "`learning_rate` should be a float.*Received: learning_rate=None"),
        ({0.1}, TypeError, r"`learning_rate` should be a float.*Received: learning_rate=\{0.1\}"),
        (lambda: 0.1, TypeError, "`learning_rate` should be a float, a `LearningRateSchedule`"),
        (
            True,
            TypeError,
            "should be a float or a `LearningRateSchedule`. Received: True of type b",
        ),
        (np.bool_(True), TypeError, "`learning_rate` should be a float"),
        (np.complex64(1), TypeError, "`learning_rate` should be a float"),
        (["0.1", 0.1, 0.1], TypeError, "Received: '0.1' of type str"),
        ([np.str_("a"), 0.1, 0.1], TypeError, "of type str_"),
        ([None, 0.1, 0.1], TypeError, "Received: None of type NoneType"),
        ([[0.1], 0.1, 0.1], TypeError, r"Received: \[0.1\] of type list"),
    ],
)
def test_wrong_rates(rate, error, message):
    with pytest.raises(error, match=message):
        resolve_learning_rates(rate, 3)


def test_check_rate_passes_schedules_and_turns_numbers_into_floats():
    assert check_rate(DECAY) is DECAY
    assert check_rate(np.float64(0.5)) == 0.5
    assert check_rate(-0.0) == 0.0


def test_a_rate_that_float32_does_not_hold():
    assert check_rate(3.4e38) == 3.4e38
    with pytest.raises(ValueError, match=r"finite and not negative\. .*=1e\+39"):
        check_rate(1e39)


GROUPS = [LayerGroup(name, (name,)) for name in "abc"]


def test_layerwise_rates_fall_by_one_factor_from_the_head_to_the_first_group():
    rates = layerwise_rates(GROUPS, head=1e-3, decay=0.8)
    assert rates == [1e-3 * 0.8**2, 1e-3 * 0.8, 1e-3]
    assert all(type(rate) is float for rate in rates)
    assert layerwise_rates(GROUPS, np.float32(0.5), 1) == [0.5] * 3
    assert layerwise_rates(GROUPS[:1], 0.5, 0.1) == [0.5]


@pytest.mark.parametrize(
    ("groups", "head", "decay", "error", "message"),
    [
        (GROUPS, 0, 0.8, ValueError, r"`head` should be above 0\. Received: head=0"),
        (GROUPS, -1.0, 0.8, ValueError, r"`head` should be a finite number, in \[0, .*head=-1"),
        (GROUPS, math.inf, 0.8, ValueError, "`head` should be a finite number.*head=inf"),
        (GROUPS, math.nan, 0.8, ValueError, "`head` should be a finite number.*head=nan"),
        (GROUPS, "1", 0.8, TypeError, "`head` should be a number"),
        (
            GROUPS,
            1.0,
            0.0,
            ValueError,
            r"`decay` should be above 0 and at most 1\..*decay=0",
        ),
        (
            GROUPS,
            1.0,
            1.1,
            ValueError,
            r"`decay` should be above 0 and at most 1\..*decay=1\.1",
        ),
        (GROUPS, 1.0, math.nan, ValueError, "`decay` should be a finite number"),
        (GROUPS, 1.0, True, TypeError, "`decay` should be a number"),
        (3, 1.0, 0.8, TypeError, "`groups` should be a sequence of `LayerGroup`"),
        ([], 1.0, 0.8, ValueError, "should hold at least one group"),
    ],
)
def test_wrong_arguments_of_layerwise_rates(groups, head, decay, error, message):
    with pytest.raises(error, match=message):
        layerwise_rates(groups, head, decay)
