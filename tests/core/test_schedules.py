from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.schedules import SGDR, OneCycle, Triangular, WarmUp, known_end, known_peak
from dlr_tf.core.schedules.schedule import cosine_weight, mix
from dlr_tf.core.schedules.sgdr import cycle_at, cycle_length, cycle_runs
from dlr_tf.core.schedules.stacked import _RATE_ARGUMENTS, stack_schedules
from tests import reference
from tests.core.core_helpers import with_floatx

LAST = 2**40
FIRST_DECAY_STEPS = (1, 7, 10, 100, 390, 1000)
T_MUL = (1, 1.1, 1.25, 1.5, 2, 3, 10)
PEAK = 0.1
MODES = ("eager", "graph", pytest.param("xla", marks=pytest.mark.slow))


def caller(schedule: Callable[[Any], Any], mode: str, shape: Any = ()) -> Callable[[Any], Any]:
    """The schedule as a function of Python ints, run in one of three ways and traced once."""
    run = schedule
    if mode != "eager":
        function = tf.function(schedule, jit_compile=mode == "xla")
        run = function.get_concrete_function(tf.TensorSpec(shape, tf.int64))
    return lambda step: run(tf.constant(step, tf.int64)).numpy()


@functools.cache
def restart_cases(first: int, t_mul: float) -> tuple[list[int], list[int], list[float]]:
    """Restarts up to 2**40 (for `t_mul=1` a sample), the steps with those beside, their rates."""
    if t_mul == 1:
        last = LAST // first
        powers = {2**k + d for k in range(41) for d in (-1, 0, 1)}
        chosen = sorted(
            {*range(50), *(p for p in powers if p <= last), *range(last - 50, last + 1)}
        )
        cycles = [(i * first, first) for i in chosen]
        before = {start: (start - first, first) for start, _ in cycles}
    else:
        cycles = reference.sgdr_cycles(first, t_mul, LAST)
        before = {b[0]: a for a, b in itertools.pairwise(cycles)}
    rates = {}
    for start, length in cycles:
        rates[start] = PEAK
        if start > 0:
            start_before, length_before = before[start]
            t = start - 1 - start_before
            rates[start - 1] = PEAK * (1 + np.cos(np.pi * (t / length_before))) / 2
        if length > 1:
            rates[start + 1] = PEAK * (1 + np.cos(np.pi * (1 / length))) / 2
    steps = sorted(rates)
    return [start for start, _ in cycles], steps, [float(rates[step]) for step in steps]


def missed_restarts(
    call: Callable[[int], Any], first: int, t_mul: float, tolerance: float
) -> list[int]:
    """Restarts where the rate, or that of a step beside, is off by more than `tolerance`."""
    restarts, steps, expected = restart_cases(first, t_mul)
    missed = set()
    for step, rate in zip(steps, expected):
        if not abs(float(call(step)) - rate) <= tolerance * PEAK:
            nearest = bisect.bisect_left(restarts, step)
            around = restarts[max(nearest - 1, 0) : nearest + 1]
            missed.add(min(around, key=lambda start: abs(start - step)))
    return sorted(missed)


@pytest.mark.parametrize("t_mul", T_MUL)
@pytest.mark.parametrize(
    ("first", "mode"),
    [
        *((first, "eager") for first in FIRST_DECAY_STEPS),
        # Tracing takes most of the time, and all lengths share one formula.
        (10, "graph"),
        *(pytest.param(first, "xla", marks=pytest.mark.slow) for first in (1, 7)),
    ],
)
def test_every_restart_is_met_exactly(first: int, t_mul: float, mode: str) -> None:
    call = caller(SGDR(PEAK, first, t_mul), mode)
    restarts, steps, expected = restart_cases(first, t_mul)
    rates = np.array([call(step) for step in steps])
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, expected, rtol=2e-7, atol=1e-16)
    at_restart = np.isin(steps, restarts)
    assert at_restart.sum() == len(restarts)
    np.testing.assert_array_equal(rates[at_restart], np.float32(PEAK))


def test_the_checker_finds_the_restarts_that_keras_misses() -> None:
    misses = {}
    for first, t_mul in ((1, 2), (10, 2), (100, 2), (10, 3), (10, 10)):
        schedule = keras.optimizers.schedules.CosineDecayRestarts(PEAK, first, t_mul=t_mul)
        misses[first, t_mul] = missed_restarts(caller(schedule, "graph"), first, t_mul, 1e-3)
        ours = caller(SGDR(PEAK, first, t_mul), "graph")
        assert missed_restarts(ours, first, t_mul, 1e-3) == []
    assert all(misses.values())
    assert 81910 in misses[10, 2]
    assert {8191, 32767} <= set(misses[1, 2])
    assert 819100 in misses[100, 2]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("t_mul", "m_mul"), [(1.0, 0.99), (1.0, 1.03), (1.3, 0.7), (2.0, 1.5)])
def test_peaks_follow_m_mul_exactly(t_mul: float, m_mul: float, mode: str) -> None:
    call = caller(SGDR(PEAK, 7, t_mul, m_mul, alpha=0.3), mode)
    cycles = reference.sgdr_cycles(7, t_mul, LAST if t_mul > 1 else 7 * 200)
    peaks = np.array([call(start) for start, _ in cycles])
    exact = np.array([PEAK * m_mul**i for i in range(len(cycles))]).astype(np.float32)
    np.testing.assert_array_equal(peaks, exact)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "arguments",
    [
        (0.3, 10, 1.0, 0.9, 0.1, 0),
        (0.3, 1, 1.1, 1.0, 0.0, 3),
        (0.3, 7, 1.5, 0.5, 0.25, 11),
        (0.3, 5, 3.0, 1.2, 1.0, 4),
        (0.3, 1, 1.001, 0.999, 0.0, 2),
        (0.0, 5, 2.0, 1.0, 0.0, 0),
    ],
)
def test_sgdr_equals_the_formula_everywhere(arguments: tuple[Any, ...], mode: str) -> None:
    call = caller(SGDR(*arguments), mode)
    steps = [*range(60), *np.random.default_rng(0).integers(60, 100_000, 20).tolist(), 2**31 + 5]
    rates = np.array([call(step) for step in steps])
    expected = [reference.sgdr_rate(step, *arguments) for step in steps]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("cycle_mult", [1, 2, 3])
def test_sgdr_equals_the_articles_callback(cycle_mult: int) -> None:
    expected = reference.article_sgdr_rates(0.01, 20, cycle_mult, 1000)
    call = caller(SGDR(0.01, 20, cycle_mult), "eager")
    rates = [call(step) for step in range(1000)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


def test_sgdr_equals_pytorch() -> None:
    call = caller(SGDR(0.5, 1, t_mul=2), "eager")
    expected = [0.5, 0.5, 0.25, 0.5, 0.42677670, 0.25, 0.07322330, 0.5, 0.48096988]
    np.testing.assert_allclose([call(step) for step in range(9)], expected, atol=5e-9, rtol=6e-8)


@pytest.mark.parametrize("t_mul", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_sgdr_equals_keras_where_keras_is_right(t_mul: float, alpha: float) -> None:
    steps = np.arange(1500)
    theirs = keras.optimizers.schedules.CosineDecayRestarts(1.0, 1000, t_mul, alpha=alpha)(steps)
    rates = caller(SGDR(1.0, 1000, t_mul, alpha=alpha), "graph", (1500,))(steps)
    np.testing.assert_allclose(rates, theirs, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_warmup_is_linear_and_then_cycle_0_starts(mode: str) -> None:
    call = caller(SGDR(PEAK, 10, warmup_steps=4), mode)
    warm = [call(step) for step in range(5)]
    np.testing.assert_array_equal(warm, np.array([0, 0.025, 0.05, 0.075, 0.1], np.float32))
    plain = caller(SGDR(PEAK, 10), mode)
    assert [call(step + 4) for step in range(100)] == [plain(step) for step in range(100)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("t_mul", [1.0, 1.001, 2.0])
def test_steps_past_the_exact_range_stay_defined(t_mul: float, mode: str) -> None:
    call = caller(SGDR(PEAK, 10, t_mul), mode)
    for step in (LAST + 1, 2**41 + 3, 2**53, 2**62):
        assert 0.0 <= call(step) <= np.float32(PEAK)


def test_a_length_beyond_int64_is_one_endless_cycle() -> None:
    assert cycle_length(2, 10, 1e300) == 2**62
    call = caller(SGDR(PEAK, 10, 1e300), "eager")
    assert [call(10), call(LAST)] == [np.float32(PEAK)] * 2


def test_cycle_length_rounds_as_python_does() -> None:
    assert [cycle_length(i, 5, 1.5) for i in range(5)] == [5, 8, 11, 17, 25]
    assert [cycle_length(1, first, 1.5) for first in (1, 3, 5, 7)] == [2, 4, 8, 10]


@pytest.mark.parametrize(
    ("first", "t_mul", "until"),
    [(1, 1.1, LAST), (1, 1.001, LAST), (7, 1.01, LAST), (390, 1.25, LAST)],
)
def test_runs_hold_every_cycle(first: int, t_mul: float, until: int) -> None:
    runs = cycle_runs(first, t_mul).tolist()
    cycles = reference.sgdr_cycles(first, t_mul, until)
    found: list[tuple[int, int]] = []
    for (start, length, index), (end, _, _) in zip(runs, [*runs[1:], [until + 1, 0, 0]]):
        if start <= until:
            assert index == len(found)
            found += [(step, length) for step in range(start, min(end, until + 1), length)]
    assert found == cycles


@pytest.mark.parametrize(("first", "t_mul", "most"), [(1, 1 + 1e-9, 2000), (1000, 1 + 1e-10, 200)])
def test_runs_stay_few_where_t_mul_is_barely_above_1(first: int, t_mul: float, most: int) -> None:
    runs = cycle_runs(first, t_mul).tolist()
    assert 2 < len(runs) < most
    assert runs[0] == [0, first, 0] and runs[-1][0] <= LAST
    for (start, length, index), (end, longer, stop) in itertools.pairwise(runs):
        assert end == start + (stop - index) * length
        assert [round(first * t_mul**i) for i in (index, stop - 1, stop)] == [
            length,
            length,
            longer,
        ]


def test_a_constant_cycle_is_one_run() -> None:
    assert cycle_runs(1000, 1.0).tolist() == [[0, 1000, 0]]


def test_shared_runs_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        cycle_runs(10, 2.0)[0] = 1


def test_restart_steps() -> None:
    schedule = SGDR(PEAK, 10, t_mul=2)
    assert schedule.restart_steps(70) == [0, 10, 30]
    assert schedule.restart_steps(71) == [0, 10, 30, 70]
    assert schedule.restart_steps(0) == []
    assert SGDR(PEAK, 10, 1, warmup_steps=3).restart_steps(40) == [3, 13, 23, 33]
    assert SGDR(PEAK, 10, warmup_steps=30).restart_steps(20) == []
    steps = SGDR(PEAK, 1, 1.1, warmup_steps=5).restart_steps(LAST)
    cycles = reference.sgdr_cycles(1, 1.1, LAST - 6)
    assert steps == [start + 5 for start, _ in cycles]
    assert {type(step) for step in steps} == {int}


@pytest.mark.parametrize(
    "schedule",
    [
        SGDR(PEAK, 10),
        SGDR(PEAK, 1, 1.1, warmup_steps=5),
        SGDR(PEAK, 3, 1.0, warmup_steps=1),
        SGDR(PEAK, 1000, 1e300),
    ],
    ids=["equal cycles", "growing cycles", "a short warmup", "one cycle for ever"],
)
def test_restarts_are_counted_and_found_without_a_list(schedule: SGDR) -> None:
    for step in [*range(120), 12345]:
        assert schedule.n_restarts(step) == len(schedule.restart_steps(step))
        later = [restart for restart in schedule.restart_steps(20_000) if restart > step]
        found = schedule.next_restart(step)
        assert type(found) is int
        assert found == later[0] if later else found >= 20_000


def test_the_cycle_at_every_step() -> None:
    for first, t_mul in ((1, 1.001), (7, 1.0), (10, 2.0), (5, 1.5)):
        runs = cycle_runs(first, t_mul)
        cycles = [(0, first)] if t_mul == 1 else reference.sgdr_cycles(first, t_mul, 500)
        if t_mul == 1:
            cycles = [(start, first) for start in range(0, 500, first)]
        expected = [
            (index, start, length)
            for index, (start, length) in enumerate(cycles)
            for _ in range(length)
        ]
        assert [cycle_at(step, runs) for step in range(500)] == expected[:500]


def test_restarts_far_away_are_found_at_once() -> None:
    schedule = SGDR(PEAK, 1, 1.0, warmup_steps=2)
    assert schedule.n_restarts(LAST) == LAST - 2
    assert schedule.next_restart(LAST) == LAST + 1
    longest = SGDR(PEAK, 10, 2.0)
    assert longest.next_restart(10 * (2**30 - 1) - 1) == 10 * (2**30 - 1)


@pytest.mark.parametrize("mode", MODES)
def test_one_cycle_equals_optax(mode: str) -> None:
    # optax counts its 5 steps from 0 as we do and reaches the end at step 5. It divides the start
    # by its `final_div_factor`, we and fastai the peak: its 10 and 100 are our 10 and 10 * 100.
    call = caller(OneCycle(1000.0, 5, pct_start=0.4, div=10, div_final=10 * 100), mode)
    expected = [100, 550, 1000, 750.25, 250.75, 1, 1]
    np.testing.assert_allclose([call(step) for step in range(7)], expected, rtol=1e-6)


def test_cosine_equals_fastai() -> None:
    rise = [mix(0.0, 2.0, cosine_weight(1.0 - x)) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(rise, [0, 0.29289, 1, 1.70711, 2], atol=5e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "arguments", [(0.01, 100, 0.25, 25.0, 1e5), (3.0, 37, 0.3, 4.0, 2.0), (1.0, 2, 0.9, 1.0, 1.0)]
)
def test_one_cycle_equals_fastai(arguments: tuple[Any, ...], mode: str) -> None:
    call = caller(OneCycle(*arguments), mode)
    steps = [*range(arguments[1] + 3), LAST]
    expected = [reference.fastai_one_cycle(step, *arguments) for step in steps]
    np.testing.assert_allclose([call(step) for step in steps], expected, rtol=1e-6)


def test_one_cycle_defaults_are_fastais() -> None:
    call = caller(OneCycle(0.01, 100), "eager")
    ends = [call(0), call(25), call(100), call(1000)]
    np.testing.assert_array_equal(ends, np.array([0.01 / 25, 0.01, 1e-7, 1e-7], np.float32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(("base", "step_size"), [(0.001, 7), (0.0, 1), (0.01, 50)])
def test_triangular_equals_the_paper(base: float, step_size: int, policy: str, mode: str) -> None:
    call = caller(Triangular(base, 0.1, step_size, policy, gamma=0.99), mode)
    expected = reference.triangular_rates(base, 0.1, step_size, policy, 0.99, 130)
    rates = [call(step) for step in range(130)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_triangular_is_exact_at_large_steps(mode: str) -> None:
    call = caller(Triangular(0.1, 0.3, 7), mode)
    last = LAST // 14 * 14
    rates = np.array([call(last), call(last + 7), call(last + 14)])
    np.testing.assert_array_equal(rates, np.array([0.1, 0.3, 0.1], np.float32))


def linear(peak: float, steps: int) -> Any:
    return keras.optimizers.schedules.PolynomialDecay(peak, steps, end_learning_rate=0.0)


WARM_UPS = [0.1, SGDR(0.1, 10, 1.5, 0.9, 0.05, 3), OneCycle(0.1, 48), linear(0.1, 48)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inner", [*WARM_UPS, WarmUp(0.2, 3)], ids=lambda s: type(s).__name__)
def test_a_warm_up_is_linear_and_then_the_schedule_begins(inner: Any, mode: str) -> None:
    call = caller(WarmUp(inner, 4), mode)
    after = caller(inner, mode) if callable(inner) else lambda step: np.float32(inner)
    expected = [after(0) * np.float32(k / 4) for k in range(4)] + [after(k) for k in range(60)]
    np.testing.assert_allclose([call(k) for k in range(64)], expected, rtol=2e-7)
    np.testing.assert_array_equal(call(4 + 2**30), after(2**30))


@pytest.mark.parametrize("inner", WARM_UPS, ids=lambda s: type(s).__name__)
def test_a_warm_up_is_saved_shown_and_known(inner: Any) -> None:
    schedule = WarmUp(inner, 4, name="rise")
    saved = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    loaded = keras.optimizers.schedules.deserialize(saved)
    assert loaded.get_config() == schedule.get_config()
    np.testing.assert_array_equal(loaded(np.arange(100)), schedule(np.arange(100)))
    assert repr(schedule) == f"WarmUp({inner!r}, warmup_steps=4)"
    assert known_peak(schedule) == 0.1
    ends = {"OneCycle": 52, "PolynomialDecay": 52}
    assert known_end(schedule) == ends.get(type(inner).__name__)


@pytest.mark.parametrize("mode", MODES)
def test_warm_ups_are_stacked(mode: str) -> None:
    shared = linear(0.1, 50)
    for inner in ([0.1, 0.3], [OneCycle(0.1, 50), OneCycle(0.3, 50)], [shared, shared]):
        members = [WarmUp(one, 4) for one in inner]
        ((stacked, groups),) = stack_schedules(members)
        assert groups == [0, 1]
        together, alone = caller(stacked, mode), [caller(member, mode) for member in members]
        for step in (0, 1, 4, 5, 30, 60):
            expected = [call(step) for call in alone]
            np.testing.assert_array_equal(np.broadcast_to(together(step), 2), expected)
    apart = [WarmUp(0.1, 4), WarmUp(0.1, 5), WarmUp(SGDR(0.1, 5), 4), WarmUp(linear(0.1, 5), 4)]
    apart.append(WarmUp(linear(0.1, 5), 4))
    assert stack_schedules(apart) == [(one, [number]) for number, one in enumerate(apart)]


ALL = [
    SGDR(0.1, 10, 1.5, 0.9, 0.05, 3),
    SGDR(0.1, 10, 1.0),
    OneCycle(0.1, 50),
    Triangular(0.01, 0.1, 8, "triangular2"),
    Triangular(0.01, 0.1, 8, "exp_range"),
]
each_schedule = pytest.mark.parametrize("schedule", ALL, ids=lambda s: f"{s.name}-{ALL.index(s)}")

each_class = pytest.mark.parametrize(
    "schedule", [ALL[0], ALL[2], ALL[4]], ids=lambda s: type(s).__name__
)


@each_schedule
def test_a_vector_of_steps_equals_the_scalars(schedule: Any) -> None:
    steps = np.arange(60).reshape(4, 15)
    scalars = [[schedule(int(step)).numpy() for step in row] for row in steps]
    for rates in (
        schedule(steps),
        schedule(steps.tolist()),
        schedule(tf.constant(steps)),
        caller(schedule, "graph", (4, 15))(steps),
        caller(schedule, "graph", (None, None))(steps),
        caller(schedule, "graph", None)(steps),
        caller(schedule, "xla", (4, 15))(steps),
    ):
        assert rates.shape == (4, 15)
        np.testing.assert_allclose(rates, scalars, rtol=2e-7)


@pytest.mark.parametrize("mode", MODES)
@each_schedule
def test_stacked_schedules_give_the_same_bits(schedule: Any, mode: str) -> None:
    config = schedule.get_config()
    names = _RATE_ARGUMENTS[type(schedule)]
    members = [
        type(schedule)(**{**config, **{name: factor * config[name] for name in names}})
        for factor in (1.0, 0.3, 1 / 7, 0.0)
    ]
    ((stacked, groups),) = stack_schedules(members)
    assert groups == [0, 1, 2, 3]
    together = caller(stacked, mode)
    alone = [caller(member, mode) for member in members]
    for step in (0, 1, 2, 3, 12, 13, 27, 28, 49, 50, 51, 1000, 2**40):
        np.testing.assert_array_equal(together(step), [call(step) for call in alone])


def test_what_is_the_same_is_called_once() -> None:
    own, other = SGDR(0.1, 5, name="a"), SGDR(0.2, 5, name="b")
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 5)
    found = stack_schedules([own, None, cosine, other, None, SGDR(0.3, 6), cosine, own])
    assert [groups for _, groups in found] == [[0, 3, 7], [1, 4], [2, 6], [5]]
    stacked, none, same, alone = (schedule for schedule, _ in found)
    np.testing.assert_array_equal(stacked(0), np.array([0.1, 0.2, 0.1], "float32"))
    assert none is None
    assert same is cosine
    assert alone.first_decay_steps == 6
    assert (own.initial_learning_rate, other.initial_learning_rate) == (0.1, 0.2)


def test_other_schedules_are_not_stacked() -> None:
    class Own(SGDR):
        pass

    class Users(keras.optimizers.schedules.LearningRateSchedule):
        family = "cosine"

        def __call__(self, step: Any) -> Any:
            return tf.constant(0.1)

    others = [SGDR(0.1, 11), SGDR(0.1, 10, 1.5), SGDR(0.1, 10, alpha=0.1), OneCycle(0.1, 10)]
    schedules = [SGDR(0.1, 10), *others, Own(0.1, 10), Own(0.2, 10), Users(), Users()]
    found = stack_schedules(schedules)
    assert found == [(schedule, [number]) for number, schedule in enumerate(schedules)]


@each_schedule
def test_the_peak_is_the_largest_rate_of_all_steps(schedule: Any) -> None:
    steps = np.arange(1000)
    assert schedule.peak_learning_rate == np.max(schedule._rate(steps, np))


@pytest.mark.parametrize("seed", range(5))
def test_the_peak_between_two_steps(seed: int) -> None:
    random = np.random.default_rng(seed)
    low, high, fraction = random.uniform(size=3)
    size = int(random.integers(2, 40))
    for schedule in (
        OneCycle(high, size, fraction),
        OneCycle(high, size, fraction, div=1.0, div_final=1.0),
        Triangular(low * high, high, size, "exp_range", gamma=1 - 0.2 * fraction),
        Triangular(high, high, size, "exp_range", gamma=fraction),
        Triangular(0.0, high, size, "exp_range", gamma=fraction),
        Triangular(low * high, high, size, "exp_range", gamma=1.0),
    ):
        largest = np.max(schedule._rate(np.arange(200), np))
        assert schedule.peak_learning_rate == pytest.approx(largest, rel=1e-15)


def test_peaks_that_grow_have_no_largest() -> None:
    assert SGDR(0.1, 10, m_mul=1.001).peak_learning_rate == np.inf
    assert SGDR(0.0, 10, m_mul=2.0).peak_learning_rate == 0.0


@each_class
def test_every_kind_of_step_is_taken(schedule: Any) -> None:
    expected = schedule(17)
    assert isinstance(expected, tf.Tensor)
    assert expected.shape == () and expected.dtype == tf.float32
    steps = [
        17.0,
        np.int32(17),
        np.int64(17),
        np.float32(17),
        np.array(17),
        tf.constant(17, tf.int32),
        tf.constant(17, tf.int64),
        tf.constant(17.0, tf.float32),
        tf.Variable(17, dtype=tf.int64),
        keras.Variable(17, dtype="int64", trainable=False),
    ]
    for step in steps:
        assert schedule(step).numpy() == expected.numpy()
        in_graph = tf.function(lambda step=step: schedule(step))()
        assert in_graph.dtype == tf.float32
        np.testing.assert_allclose(in_graph, expected, rtol=2e-7)
    for dtype in (tf.int32, tf.int64, tf.float32, tf.float64):
        in_graph = tf.function(schedule)(tf.constant(17, dtype))
        np.testing.assert_allclose(in_graph, expected, rtol=2e-7)


@each_schedule
@pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float64"])
def test_the_result_has_the_dtype_of_floatx(schedule: Any, floatx: str) -> None:
    with with_floatx(floatx):
        eager, graph = schedule(5), tf.function(schedule)(tf.constant(5))
    assert eager.dtype == graph.dtype == floatx
    np.testing.assert_allclose(
        tf.cast(eager, tf.float64),
        tf.cast(graph, tf.float64),
        rtol=1e-15 if floatx == "float64" else 0,
    )


@each_schedule
def test_the_config_goes_round(schedule: Any) -> None:
    config = schedule.get_config()
    assert json.loads(json.dumps(config)) == config
    assert type(schedule).from_config(config).get_config() == config

    saved = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    assert saved["registered_name"] == f"dlr_tf>{type(schedule).__name__}"
    loaded = keras.optimizers.schedules.deserialize(saved)
    assert type(loaded) is type(schedule)
    assert loaded.get_config() == config
    np.testing.assert_array_equal(loaded(np.arange(100)), schedule(np.arange(100)))


@each_schedule
def test_it_is_shown_as_the_call_that_makes_it(schedule: Any) -> None:
    names = {"SGDR": SGDR, "OneCycle": OneCycle, "Triangular": Triangular}
    shown = eval(repr(schedule), names)
    assert {**shown.get_config(), "name": schedule.name} == schedule.get_config()


def test_the_config_holds_every_argument() -> None:
    arguments = {
        "initial_learning_rate": 0.1,
        "first_decay_steps": 10,
        "t_mul": 1.5,
        "m_mul": 0.9,
        "alpha": 0.05,
        "warmup_steps": 3,
        "name": "cosine",
    }
    assert SGDR(**arguments).get_config() == arguments
    arguments = {
        "max_learning_rate": 0.1,
        "total_steps": 10,
        "pct_start": 0.3,
        "div": 5.0,
        "div_final": 7.0,
        "name": "one",
    }
    assert OneCycle(**arguments).get_config() == arguments
    arguments = {
        "base_learning_rate": 0.01,
        "max_learning_rate": 0.1,
        "step_size": 10,
        "mode": "exp_range",
        "gamma": 0.9,
        "name": "saw",
    }
    assert Triangular(**arguments).get_config() == arguments


def test_numpy_arguments_become_plain_numbers() -> None:
    config = SGDR(np.float64(0.1), np.int64(10), np.int32(2), warmup_steps=3.0).get_config()
    kinds = [type(config[key]) for key in ("initial_learning_rate", "first_decay_steps", "t_mul")]
    assert kinds == [float, int, float]
    assert config["warmup_steps"] == 3 and type(config["warmup_steps"]) is int


@each_schedule
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_optimizer_trains_at_the_scheduled_rates(schedule: Any, jit_compile: bool) -> None:
    optimizer = keras.optimizers.SGD(schedule)
    variable = keras.Variable([0.0, 0.0])
    optimizer.build([variable])

    @tf.function(jit_compile=jit_compile)
    def step() -> None:
        optimizer.apply([tf.constant([-1.0, -2.0])])

    trained = 0.0
    for k in range(40):
        np.testing.assert_allclose(optimizer.learning_rate, schedule(k), rtol=2e-7)
        step()
        trained += float(schedule(k))
    np.testing.assert_allclose(variable.numpy(), [trained, 2 * trained], rtol=1e-5)


def test_the_graph_is_small() -> None:
    def operations(schedule: Any) -> int:
        graph = tf.function(schedule).get_concrete_function(tf.TensorSpec((), tf.int64)).graph
        kinds = [operation.type for operation in graph.get_operations()]
        return sum(kind not in ("Const", "Placeholder", "Identity") for kind in kinds)

    assert operations(SGDR(0.1, 10)) <= 16
    assert operations(SGDR(0.1, 10, 1.0)) <= 10
    assert operations(SGDR(0.1, 10, 1.5, 0.9, 0.1, 5)) <= 29
    assert operations(OneCycle(0.1, 10)) <= 18
    assert operations(Triangular(0.1, 0.2, 10, "exp_range")) <= 14


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SGDR(-0.1, 10), ValueError, r"`initial_learning_rate` .*in \[0, 3.*-0\.1"),
        (lambda: SGDR(np.nan, 10), ValueError, r"finite.*initial_learning_rate=nan"),
        (lambda: SGDR(np.inf, 10), ValueError, r"finite.*initial_learning_rate=inf"),
        (lambda: SGDR(1e300, 10), ValueError, r"in \[0, 3\.4.*initial_learning_rate=1e\+300"),
        (lambda: OneCycle(1e39, 10), ValueError, r"in \[0, 3\.4.*max_learning_rate=1e\+39"),
        (lambda: Triangular(0.1, 1e39, 5), ValueError, r"in \[0, 3\.4.*max_learning_rate=1e\+39"),
        (lambda: SGDR("0.1", 10), TypeError, r"number.*initial_learning_rate='0\.1' of type str"),
        (lambda: SGDR(True, 10), TypeError, r"number.*initial_learning_rate=True of type bool"),
        (lambda: SGDR(OneCycle(0.1, 10), 10), TypeError, r"number.*of type OneCycle"),
        (lambda: SGDR(0.1, 0), ValueError, r"at least 1\. Received: first_decay_steps=0"),
        (lambda: SGDR(0.1, -3), ValueError, r"at least 1\. Received: first_decay_steps=-3"),
        (lambda: SGDR(0.1, 0.5), ValueError, r"integer.*first_decay_steps=0\.5.* Round it"),
        (lambda: SGDR(0.1, 10.5), ValueError, r"integer.*first_decay_steps=10\.5.* Round it"),
        (lambda: SGDR(0.1, np.inf), ValueError, r"integer.*first_decay_steps=inf"),
        (lambda: SGDR(0.1, 2**53 + 1), ValueError, r"at most 9007199254740992\."),
        (lambda: SGDR(0.1, None), TypeError, r"integer.*None of type NoneType"),
        (lambda: SGDR(0.1, 10, 0.99), ValueError, r"at least 1\..*t_mul=0\.99.* get shorter"),
        (lambda: SGDR(0.1, 10, np.nan), ValueError, r"finite.*t_mul=nan"),
        (lambda: SGDR(0.1, 10, m_mul=-0.5), ValueError, r"`m_mul`.*at least 0.*m_mul=-0\.5"),
        (lambda: SGDR(0.1, 10, alpha=-0.1), ValueError, r"in \[0, 1\].*alpha=-0\.1.* not a rate"),
        (lambda: SGDR(0.1, 10, alpha=1.1), ValueError, r"in \[0, 1\].*alpha=1\.1.* not a rate"),
        (lambda: SGDR(0.1, 10, warmup_steps=-1), ValueError, r"at least 0.*warmup_steps=-1"),
        (lambda: SGDR(0.1, 10, warmup_steps=1.5), ValueError, r"integer.*warmup_steps=1\.5"),
        (lambda: SGDR(0.1, 10).restart_steps(-1), ValueError, r"`until`.*at least 0.*until=-1"),
        (lambda: OneCycle(-1.0, 10), ValueError, r"`max_learning_rate`.*in \[0, 3.*=-1\.0"),
        (lambda: OneCycle(0.1, 1), ValueError, r"`total_steps`.*at least 2.*total_steps=1"),
        (lambda: OneCycle(0.1, 10, 0.0), ValueError, r"above 0 and below 1.*pct_start=0\.0"),
        (lambda: OneCycle(0.1, 10, 1.0), ValueError, r"above 0 and below 1.*pct_start=1\.0"),
        (lambda: OneCycle(0.1, 10, np.nan), ValueError, r"finite.*pct_start=nan"),
        (lambda: OneCycle(0.1, 10, div=0.5), ValueError, r"`div`.*at least 1.*div=0\.5.* start"),
        (lambda: OneCycle(0.1, 10, div_final=0), ValueError, r"`div_final`.*at least 1.* end is"),
        (lambda: Triangular(-0.1, 1.0, 5), ValueError, r"`base_learning_rate`.*in \[0, 3"),
        (lambda: Triangular(0.1, np.inf, 5), ValueError, r"`max_learning_rate`.*finite.*inf"),
        (lambda: WarmUp("0.1", 5), TypeError, "`schedule` should be a number.*'0.1' of type str"),
        (lambda: WarmUp(-0.1, 5), ValueError, "`schedule` should be a finite number, .*=-0.1"),
        (lambda: WarmUp(0.1, 0), ValueError, "`warmup_steps` should be at least 1.*=0"),
        (lambda: WarmUp(0.1, 1.5), ValueError, "`warmup_steps` should be an integer.*=1.5"),
        (lambda: Triangular(0.2, 0.1, 5), ValueError, r"not be below.*=0\.2.*=0\.1.* Swap"),
        (lambda: Triangular(0.1, 0.2, 0), ValueError, r"`step_size`.*at least 1.*step_size=0"),
        (lambda: Triangular(0.1, 0.2, 5, "saw"), ValueError, r"'exp_range'.*mode='saw'"),
        (lambda: Triangular(0.1, 0.2, 5, gamma=1.5), ValueError, r"`gamma`.*in \[0, 1\].*1\.5"),
        (lambda: Triangular(0.1, 0.2, 5, gamma=0.0), ValueError, r"`gamma`.*above 0.*gamma=0\.0"),
    ],
)
def test_a_mistake_is_named(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()
