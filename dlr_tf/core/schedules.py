"""Learning-rate schedules that find their position in a cycle with integers.

Each schedule is a formula (a plain function of the step) and a thin Keras `LearningRateSchedule`
around it. A formula is written once and takes the array module it computes with: NumPy for a step
that is known now, TensorFlow for a step inside a graph. Steps are int64, the arithmetic is float64,
and only the final rate is cast to `keras.config.floatx()`.
"""

from __future__ import annotations

import bisect
import copy
import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import check_integer, check_number

# Rates are float32 in the end.
LARGEST_RATE = float(np.finfo(np.float32).max)
# Restarts follow the formula up to this step. Afterwards the last cycle repeats.
LAST_EXACT_STEP = 2**40
# A longer cycle does not fit into int64. After 2**40 steps of it, the cosine is still 1 in float32.
_LONGEST_CYCLE = 2**62
# Float64 holds every integer up to this one.
_MOST_STEPS = 2**53


def cycle_length(cycle: int, first_decay_steps: int, t_mul: float) -> int:
    """Return the length of one SGDR cycle in steps: `T_i = round(first_decay_steps * t_mul**i)`.

    Args:
        cycle: Index `i` of the cycle, from 0.
        first_decay_steps: Length of cycle 0 in steps.
        t_mul: Factor between the lengths of two cycles.

    >>> [cycle_length(i, 10, 1.5) for i in range(4)]
    [10, 15, 22, 34]
    """
    try:
        length = first_decay_steps * float(t_mul) ** cycle
    except OverflowError:
        return _LONGEST_CYCLE
    return round(min(length, float(_LONGEST_CYCLE)))


@functools.lru_cache(maxsize=256)
def cycle_runs(first_decay_steps: int, t_mul: float) -> np.ndarray:
    """Return all SGDR cycles that start by step 2**40, as runs of cycles of equal length.

    Each row is one run: the step at which it starts, the length of its cycles, and the index of its
    first cycle. So `t_mul=1` gives a single row. A `t_mul` barely above 1 gives few rows, because
    rounding makes many cycles of one length. The last row is also valid for all later cycles.

    Args:
        first_decay_steps: Length of cycle 0 in steps.
        t_mul: Factor between the lengths of two cycles, at least 1.

    Returns:
        An int64 array of shape `[runs, 3]`, read-only because it is shared by all schedules with
        these arguments.

    >>> cycle_runs(10, 2.0)[:3].tolist()
    [[0, 10, 0], [10, 20, 1], [30, 40, 2]]
    >>> cycle_runs(10, 1.0).tolist()
    [[0, 10, 0]]
    """
    runs = []
    start = cycle = 0
    while start <= LAST_EXACT_STEP:
        length = cycle_length(cycle, first_decay_steps, t_mul)
        runs.append((start, length, cycle))
        most = (LAST_EXACT_STEP - start) // length + 1
        count = 1
        while count < most and cycle_length(cycle + count, first_decay_steps, t_mul) == length:
            count *= 2
        # Lengths never fall: the run ends between the last equal length seen and the first other.
        candidates = range(cycle + count // 2 + 1, cycle + min(count, most))
        cycle = candidates.start + bisect.bisect_right(
            candidates, length, key=lambda i: cycle_length(i, first_decay_steps, t_mul)
        )
        start += (cycle - runs[-1][2]) * length
    table = np.array(runs, np.int64)
    table.flags.writeable = False
    return table


def cycle_at(step: int, runs: np.ndarray) -> tuple[int, int, int]:
    """Return the SGDR cycle around a step: its index, its first step and its length.

    Args:
        step: Int, 0 or more, without warm-up.
        runs: The result of `cycle_runs`.

    >>> cycle_at(29, cycle_runs(10, 2.0)), cycle_at(30, cycle_runs(10, 2.0))
    ((1, 10, 20), (2, 30, 40))
    """
    row = int(np.searchsorted(runs[:, 0], step, side="right")) - 1
    start, length, first_cycle = runs[row].tolist()
    cycles = (step - start) // length
    return first_cycle + cycles, start + cycles * length, length


def cosine_weight(distance: Any, xp: Any = np) -> Any:
    """Return half a cosine wave: 1 at distance 0 from the peak, 0 at distance 1.

    `w = (1 + cos(pi * distance)) / 2`

    Args:
        distance: Float64 array or tensor in [0, 1].
        xp: `numpy` or `tensorflow`: the module that `distance` belongs to.

    >>> [round(float(cosine_weight(d)), 5) for d in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.85355, 0.5, 0.0]
    """
    return 0.5 * (1.0 + xp.cos(math.pi * distance))


def mix(low: Any, high: Any, weight: Any) -> Any:
    """Return `low` at weight 0, `high` at weight 1, and values between for other weights.

    Both ends are exact. With `low + weight * (high - low)` they would not be.

    >>> mix(2.0, 4.0, 0.25)
    2.5
    """
    return low * (1.0 - weight) + high * weight


def sgdr(
    step: Any,
    runs: np.ndarray,
    initial_learning_rate: float,
    *,
    m_mul: float = 1.0,
    alpha: float = 0.0,
    warmup_steps: int = 0,
    xp: Any = np,
) -> Any:
    """Return the rate of `SGDR` at a step; the formula is in the docstring of `SGDR`.

    Args:
        step: Int64 array or tensor of any shape.
        runs: The result of `cycle_runs`.
        initial_learning_rate: Peak of cycle 0.
        m_mul: Factor between the peaks of two cycles.
        alpha: Floor of a cycle as a fraction of its peak.
        warmup_steps: Steps before step 0 of cycle 0.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    Returns:
        Float64, in the shape of `step`.

    >>> sgdr(np.array([0, 5, 9, 10, 30]), cycle_runs(10, 2.0), 0.1).round(5).tolist()
    [0.1, 0.05, 0.00245, 0.1, 0.1]
    """
    warmup = None
    if warmup_steps:
        warmup = xp.minimum(_float64(step, xp) / warmup_steps, 1.0)
        step = xp.maximum(step - warmup_steps, 0)

    start, length, first_cycle = _find_run(step, runs, xp)
    since_start = step if start is None else step - start
    t = since_start % length
    weight = cosine_weight(_float64(t, xp) / _float64(length, xp), xp)

    peak: Any = initial_learning_rate
    if m_mul != 1.0:
        peak = peak * m_mul ** _float64(first_cycle + since_start // length, xp)
    # Equal to floor + (peak - floor) * weight, but exactly the peak at weight 1.
    rate = peak * (weight if alpha == 0.0 else alpha + (1.0 - alpha) * weight)
    return rate if warmup is None else rate * warmup


def one_cycle(
    step: Any,
    max_learning_rate: float,
    total_steps: int,
    *,
    pct_start: float = 0.25,
    div: float = 25.0,
    div_final: float = 1e5,
    xp: Any = np,
) -> Any:
    """Return the rate of `OneCycle` at a step; the formula is in the docstring of `OneCycle`.

    Args:
        step: Int64 array or tensor of any shape.
        max_learning_rate: Peak.
        total_steps: Steps until the final rate is reached.
        pct_start: Fraction of the steps that the rise takes.
        div: Peak over the rate at step 0.
        div_final: Peak over the final rate.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    Returns:
        Float64, in the shape of `step`.

    >>> one_cycle(np.arange(5), 1.0, 4, pct_start=0.5, div=10.0, div_final=100.0).round(5).tolist()
    [0.1, 0.55, 1.0, 0.505, 0.01]
    """
    past_peak = _float64(step, xp) / total_steps - pct_start
    # One of the two is negative. The other one is the distance from the peak in its phase.
    distance = xp.maximum(past_peak / -pct_start, past_peak / (1.0 - pct_start))
    weight = cosine_weight(xp.minimum(distance, 1.0), xp)
    low = xp.where(
        past_peak < 0.0,
        np.float64(max_learning_rate) / div,
        np.float64(max_learning_rate) / div_final,
    )
    return mix(low, max_learning_rate, weight)


def triangular(
    step: Any,
    base_learning_rate: float,
    max_learning_rate: float,
    step_size: int,
    *,
    mode: str = "triangular",
    gamma: float = 0.99994,
    xp: Any = np,
) -> Any:
    """Return the rate of `Triangular` at a step; the formula is in the docstring of `Triangular`.

    Args:
        step: Int64 array or tensor of any shape.
        base_learning_rate: Lower boundary.
        max_learning_rate: Upper boundary.
        step_size: Steps in half a cycle.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`.
        gamma: Factor per step of `"exp_range"`.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    Returns:
        Float64, in the shape of `step`.

    >>> triangular(np.arange(6), 1.0, 3.0, 2, mode="triangular2").tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0, 1.5]
    """
    t = _float64(step % (2 * step_size), xp)
    weight = 1.0 - xp.abs(t / step_size - 1.0)
    if mode == "triangular2":
        weight = weight * 0.5 ** _float64(step // (2 * step_size), xp)
    rate = mix(base_learning_rate, max_learning_rate, weight)
    if mode == "exp_range":
        rate = rate * gamma ** _float64(step, xp)
    return rate


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A `LearningRateSchedule` around a formula of the integer step.

    A step that is known now is computed on the host. That is many times faster than a sequence of
    small kernels. A step inside a graph is computed by the graph.
    """

    name: str

    @property
    def peak_learning_rate(self) -> float:
        """The largest rate over all steps, in float64."""
        raise NotImplementedError

    def _rate(self, step: Any, xp: Any) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        arguments = (f"{n}={v!r}" for n, v in self.get_config().items() if n != "name")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __call__(self, step: Any) -> tf.Tensor:
        if not isinstance(step, (int, float, list, tuple, np.ndarray, np.generic)):
            step = tf.convert_to_tensor(step)
        dtype = keras.config.floatx()
        if tf.is_tensor(step) and tf.is_symbolic_tensor(step):
            with tf.name_scope(self.name):
                return tf.cast(self._rate(tf.cast(step, tf.int64), tf), dtype)
        return tf.constant(self._rate(np.asarray(step).astype(np.int64), np), dtype)


@keras.saving.register_keras_serializable(package="dlr_tf")
class SGDR(_Schedule):
    """Cosine annealing with warm restarts.

    Cycle `i` lasts `T_i` steps. At step `t` of it, `t = 0, ..., T_i - 1`, the rate is

        T_i     = round(first_decay_steps * t_mul**i)
        peak_i  = initial_learning_rate * m_mul**i
        floor_i = alpha * peak_i
        lr      = floor_i + (peak_i - floor_i) * (1 + cos(pi * t / T_i)) / 2

    with Python's `round` in float64. Every restart up to step 2**40 is exact: the cycle is found in
    a table of integers, never with a logarithm, and the rate there is `peak_i` itself. After step
    2**40 the last cycle's length repeats.

    The schedule has no state, so training continues exactly from any step. Do not use it where the
    number of steps is not a sum of cycle lengths and the last rate matters: training would end in
    the middle of a cycle at a high rate. `restart_steps` lists good steps to stop at.

    The arguments are those of `keras.optimizers.schedules.CosineDecayRestarts`. The rates differ
    where `m_mul` is not 1 and `alpha` is not 0 (in Keras, the floor does not follow the peak), and
    where `T_i` needs rounding.

    Args:
        initial_learning_rate: Float, 0 or more. Peak of cycle 0.
        first_decay_steps: Int, 1 or more, in optimizer steps. Length of cycle 0, usually one or
            several epochs.
        t_mul: Float, 1 or more. Each cycle is this many times longer than the one before. Defaults
            to 2.0, the paper's choice. Values between 1 and 1.0001 need a table of up to millions
            of rows; use 1.0 there.
        m_mul: Float, 0 or more. Each peak is this many times the one before. Defaults to 1.0,
            restarts at full rate.
        alpha: Float in [0, 1]. Floor of each cycle as a fraction of its peak. Defaults to 0.0.
        warmup_steps: Int, 0 or more. Steps of linear rise from 0 to the peak before step 0 of cycle
            0, which then starts at step `warmup_steps`. Defaults to 0.
        name: String. Name scope of the schedule's operations.

    Raises:
        ValueError: A rate is negative, or too large for float32; a length is below one step or not
            an integer; `t_mul` is below 1, or `alpha` is outside [0, 1].
        TypeError: An argument is not a number.

    Example:

    >>> rate = SGDR(0.1, first_decay_steps=10, t_mul=2.0)
    >>> [round(float(rate(step)), 5) for step in (0, 5, 9, 10, 20, 30)]
    [0.1, 0.05, 0.00245, 0.1, 0.05, 0.1]
    >>> rate.restart_steps(100)
    [0, 10, 30, 70]
    >>> round(float(rate(10 * (2**30 - 1))), 5)
    0.1

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR
    2017, equation 5, https://arxiv.org/abs/1608.03983.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        warmup_steps: int = 0,
        name: str = "SGDR",
    ) -> None:
        super().__init__()
        self.initial_learning_rate = _check_rate("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = _check_steps("first_decay_steps", first_decay_steps)
        self.t_mul = check_number("t_mul", t_mul, minimum=1.0, hint="Cycles cannot get shorter.")
        self.m_mul = check_number("m_mul", m_mul)
        self.alpha = check_number(
            "alpha",
            alpha,
            maximum=1.0,
            hint="It is the floor as a fraction of the peak, not a rate.",
        )
        self.warmup_steps = _check_steps("warmup_steps", warmup_steps, minimum=0)
        self.name = name

    @property
    def peak_learning_rate(self) -> float:
        """The largest rate over all steps, in float64; infinity where the peaks grow.

        >>> SGDR(0.1, 10).peak_learning_rate, SGDR(0.1, 10, m_mul=1.5).peak_learning_rate
        (0.1, inf)
        """
        grows = self.m_mul > 1.0 and self.initial_learning_rate > 0.0
        return math.inf if grows else self.initial_learning_rate

    def _rate(self, step: Any, xp: Any) -> Any:
        return sgdr(
            step,
            cycle_runs(self.first_decay_steps, self.t_mul),
            self.initial_learning_rate,
            m_mul=self.m_mul,
            alpha=self.alpha,
            warmup_steps=self.warmup_steps,
            xp=xp,
        )

    def restart_steps(self, until: int) -> list[int]:
        """Return the steps in `range(until)` at which a cycle starts, cycle 0 included.

        If a cycle starts at step `s`, its first update is number `s + 1`, so the cycle before it is
        complete after `s` updates: `restart_steps(n + 1)[1:]` are the ends of the cycles that `n`
        updates complete.

        Args:
            until: Int, 0 or more. The first step that is not listed.

        Returns:
            Rising list of Python ints, counted from the optimizer's step 0, so with the warm-up.

        >>> SGDR(0.1, 10, t_mul=2.0, warmup_steps=5).restart_steps(76)
        [5, 15, 35, 75]
        """
        until = _check_steps("until", until, minimum=0)
        runs = cycle_runs(self.first_decay_steps, self.t_mul).tolist()
        ends = [start + self.warmup_steps for start, _, _ in runs[1:]] + [until]
        steps: list[int] = []
        for (start, length, _), end in zip(runs, ends):
            steps.extend(range(start + self.warmup_steps, min(end, until), length))
        return steps

    def n_restarts(self, until: int) -> int:
        """Return `len(restart_steps(until))` without listing them.

        Args:
            until: Int, 0 or more. The first step that does not count.

        >>> SGDR(0.1, 10, t_mul=2.0, warmup_steps=5).n_restarts(76)
        4
        """
        last = _check_steps("until", until, minimum=0) - self.warmup_steps - 1
        if last < 0:
            return 0
        return cycle_at(last, cycle_runs(self.first_decay_steps, self.t_mul))[0] + 1

    def next_restart(self, step: int) -> int:
        """Return the first step after `step` at which a cycle starts.

        Args:
            step: Int, 0 or more.

        >>> schedule = SGDR(0.1, 10, t_mul=2.0, warmup_steps=5)
        >>> schedule.next_restart(0), schedule.next_restart(5), schedule.next_restart(34)
        (5, 15, 35)
        """
        t = _check_steps("step", step, minimum=0) - self.warmup_steps
        if t < 0:
            return self.warmup_steps
        _, start, length = cycle_at(t, cycle_runs(self.first_decay_steps, self.t_mul))
        return start + length + self.warmup_steps

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "warmup_steps": self.warmup_steps,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="dlr_tf")
class OneCycle(_Schedule):
    """One cosine rise and one cosine fall over the whole training.

    With `peak = max_learning_rate`, `start = peak / div`, `end = peak / div_final` and
    `x = step / total_steps`:

        rise, x < pct_start:  lr = start + (peak - start) * (1 + cos(pi * d)) / 2
                              d = (pct_start - x) / pct_start
        fall, otherwise:      lr = end + (peak - end) * (1 + cos(pi * d)) / 2
                              d = (x - pct_start) / (1 - pct_start)

    From step `total_steps` on the rate stays at `end`. As in fastai, the phases meet at the
    fraction `pct_start`, which need not be a step: the rate reaches the peak itself only where
    `pct_start * total_steps` is an integer.

    Do not use it where the number of steps is not known in advance, or where training may continue
    afterwards: the last rate is close to 0. `MultiGroupOptimizer` warns of a step beyond the end;
    a step that was compiled before notices it at the end of `fit`.

    Args:
        max_learning_rate: Float, 0 or more. Peak.
        total_steps: Int, 2 or more, in optimizer steps: steps per epoch times epochs.
        pct_start: Float, above 0 and below 1. Fraction of the steps that the rise takes. Defaults
            to 0.25.
        div: Float, 1 or more. The rate starts at the peak divided by this. Defaults to 25.0.
        div_final: Float, 1 or more. The rate ends at the peak divided by this (the peak, as in
            fastai; optax and PyTorch divide the start). Defaults to 1e5.
        name: String. Name scope of the schedule's operations.

    Raises:
        ValueError: The rate is negative, or too large for float32; `total_steps` is below 2 or not
            an integer; `pct_start` is not between 0 and 1, or a divisor is below 1.
        TypeError: An argument is not a number.

    Example:

    >>> rate = OneCycle(1.0, total_steps=100)
    >>> [round(float(rate(step)), 5) for step in (0, 25, 100, 200)]
    [0.04, 1.0, 1e-05, 1e-05]

    Source: Smith, "A disciplined approach to neural network hyper-parameters: Part 1", 2018,
    https://arxiv.org/abs/1803.09820; in the cosine form of fastai's `fit_one_cycle`.
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        pct_start: float = 0.25,
        div: float = 25.0,
        div_final: float = 1e5,
        name: str = "OneCycle",
    ) -> None:
        super().__init__()
        self.max_learning_rate = _check_rate("max_learning_rate", max_learning_rate)
        self.total_steps = _check_steps("total_steps", total_steps, minimum=2)
        self.pct_start = check_number("pct_start", pct_start)
        if not 0.0 < self.pct_start < 1.0:
            raise ValueError(
                "Argument `pct_start` should be above 0 and below 1: the fraction of the steps for "
                f"the rise. Received: pct_start={pct_start!r}. Pass 0.25 for a quarter."
            )
        self.div = check_number(
            "div", div, minimum=1.0, hint="The start is `max_learning_rate / div`."
        )
        self.div_final = check_number(
            "div_final", div_final, minimum=1.0, hint="The end is `max_learning_rate / div_final`."
        )
        self.name = name

    @property
    def peak_learning_rate(self) -> float:
        """The largest rate over all steps, in float64; `max_learning_rate` if a step meets it.

        >>> OneCycle(1.0, 100).peak_learning_rate
        1.0
        """
        before = math.floor(self.pct_start * self.total_steps)
        return float(np.max(self._rate(np.array([before, before + 1]), np)))

    def _rate(self, step: Any, xp: Any) -> Any:
        return one_cycle(
            step,
            self.max_learning_rate,
            self.total_steps,
            pct_start=self.pct_start,
            div=self.div,
            div_final=self.div_final,
            xp=xp,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "max_learning_rate": self.max_learning_rate,
            "total_steps": self.total_steps,
            "pct_start": self.pct_start,
            "div": self.div,
            "div_final": self.div_final,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="dlr_tf")
class Triangular(_Schedule):
    """Cyclical learning rates: a linear rise in `step_size` steps and a linear fall, repeated.

    With `base = base_learning_rate`, `max = max_learning_rate`,
    `cycle = floor(step / (2 * step_size))` and `w = 1 - |step / step_size - 2 * cycle - 1|`:

        triangular:   lr = base + (max - base) * w
        triangular2:  lr = base + (max - base) * w / 2**cycle
        exp_range:    lr = (base + (max - base) * w) * gamma**step

    In `exp_range` both boundaries decline, as in the paper. In some libraries only their difference
    declines, which is the same for `base_learning_rate=0`.

    Training does not end at a low rate: for a final model prefer `OneCycle` or `SGDR`.

    Args:
        base_learning_rate: Float, 0 or more. Lower boundary.
        max_learning_rate: Float, not below `base_learning_rate`. Upper boundary.
        step_size: Int, 1 or more, in optimizer steps. Half a cycle; the paper advises 2 to
            10 epochs.
        mode: String, `"triangular"`, `"triangular2"` or `"exp_range"`. Defaults to `"triangular"`.
        gamma: Float, above 0 and up to 1. Factor per step of `"exp_range"`; the other modes do not
            use it. Defaults to 0.99994, the paper's choice.
        name: String. Name scope of the schedule's operations.

    Raises:
        ValueError: A rate is negative, or too large for float32; the boundaries are in the wrong
            order; `step_size` is below 1 or not an integer; `mode` is unknown, or `gamma` is
            outside (0, 1].
        TypeError: An argument is not a number.

    Example:

    >>> rate = Triangular(1.0, 3.0, step_size=2, mode="triangular2")
    >>> [float(rate(step)) for step in range(8)]
    [1.0, 2.0, 3.0, 2.0, 1.0, 1.5, 2.0, 1.5]

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3,
    https://arxiv.org/abs/1506.01186.
    """

    def __init__(
        self,
        base_learning_rate: float,
        max_learning_rate: float,
        step_size: int,
        mode: str = "triangular",
        *,
        gamma: float = 0.99994,
        name: str = "Triangular",
    ) -> None:
        super().__init__()
        self.base_learning_rate = _check_rate("base_learning_rate", base_learning_rate)
        self.max_learning_rate = _check_rate("max_learning_rate", max_learning_rate)
        if self.max_learning_rate < self.base_learning_rate:
            raise ValueError(
                "Argument `max_learning_rate` should not be below `base_learning_rate`. Received: "
                f"base_learning_rate={base_learning_rate!r}, "
                f"max_learning_rate={max_learning_rate!r}. Swap the two."
            )
        self.step_size = _check_steps("step_size", step_size)
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(
                "Argument `mode` should be 'triangular', 'triangular2' or 'exp_range'. "
                f"Received: mode={mode!r}"
            )
        self.mode = mode
        self.gamma = check_number(
            "gamma", gamma, maximum=1.0, hint="It is a factor per step, such as 0.9999."
        )
        if self.gamma == 0.0:
            raise ValueError(
                f"Argument `gamma` should be above 0. Received: gamma={gamma!r}. "
                "It is a factor per step, such as 0.9999."
            )
        self.name = name

    @property
    def peak_learning_rate(self) -> float:
        """The largest rate over all steps, in float64.

        >>> Triangular(0.1, 0.3, step_size=4).peak_learning_rate
        0.3
        """
        steps = {0, self.step_size}
        low, high = self.base_learning_rate, self.max_learning_rate
        if self.mode == "exp_range" and self.gamma < 1.0 and low < high:
            # In the first rise the derivative of (low + (high - low) * t / step_size) * gamma**t
            # is 0 at one t; before it the rate rises, after it the rate falls.
            t = -1.0 / math.log(self.gamma) - low * self.step_size / (high - low)
            t = math.floor(min(max(t, 0.0), float(self.step_size)))
            steps |= {t, min(t + 1, self.step_size)}
        return float(np.max(self._rate(np.array(sorted(steps)), np)))

    def _rate(self, step: Any, xp: Any) -> Any:
        return triangular(
            step,
            self.base_learning_rate,
            self.max_learning_rate,
            self.step_size,
            mode=self.mode,
            gamma=self.gamma,
            xp=xp,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "base_learning_rate": self.base_learning_rate,
            "max_learning_rate": self.max_learning_rate,
            "step_size": self.step_size,
            "mode": self.mode,
            "gamma": self.gamma,
            "name": self.name,
        }


def _float64(value: Any, xp: Any) -> Any:
    return tf.cast(value, tf.float64) if xp is tf else np.asarray(value, np.float64)


def _find_run(step: Any, runs: np.ndarray, xp: Any) -> tuple[Any, Any, Any]:
    """Return the run around each step: start (`None` for a constant 0), length, first cycle."""
    if len(runs) == 1:
        return None, runs[0, 1], runs[0, 2]
    later_starts = runs[1:, 0]
    if xp is np:
        rows = runs[np.searchsorted(later_starts, step, side="right")]
        return rows[..., 0], rows[..., 1], rows[..., 2]
    # This is the kernel of `tf.searchsorted`, which adds about 12 operations of reshaping.
    index = tf.raw_ops.UpperBound(
        sorted_inputs=later_starts[None], values=tf.reshape(step, [1, -1])
    )
    shape = step.shape if step.shape.is_fully_defined() else tf.shape(step)
    start, length, first_cycle = tf.unstack(
        tf.gather(runs, tf.reshape(index, shape)), num=3, axis=-1
    )
    return start, length, first_cycle


def _check_rate(name: str, value: Any) -> float:
    return check_number(name, value, maximum=LARGEST_RATE)


def _check_steps(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return a number of steps as an int. Floats are accepted where they are integers."""
    if isinstance(value, (float, np.floating)):
        if not float(value).is_integer():
            raise ValueError(
                f"Argument `{name}` should be an integer number of steps. "
                f"Received: {name}={value!r}. Round it to the number of optimizer steps you want."
            )
        value = int(value)
    return check_integer(name, value, minimum=minimum, maximum=_MOST_STEPS)


# --- Stacked schedules ---------------------------------------------------------------------------

# The arguments that are rates. In each of them the formula is linear, so an array of rates gives an
# array of results. A subclass may have another formula, so it is not here.
_RATE_ARGUMENTS: dict[type, tuple[str, ...]] = {
    SGDR: ("initial_learning_rate",),
    OneCycle: ("max_learning_rate",),
    Triangular: ("base_learning_rate", "max_learning_rate"),
}


def stack_schedules(schedules: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Return which schedules to call in a step, so that nothing is computed twice.

    Schedules of one class of this module that differ only in their rates and names become one
    schedule, which computes the position in the cycle once.

    Args:
        schedules: One schedule, callable or `None` per group. The same one may be listed several
            times.

    Returns:
        Schedules, callables or `None`, each with the indices of its groups. The value of a schedule
        is one rate for all its groups, or, if it was stacked, a vector with one rate for each: the
        same bits as from the schedules themselves.

    >>> stacked = stack_schedules([SGDR(0.1, 5), None, SGDR(0.2, 5)])
    >>> [groups for _, groups in stacked]
    [[0, 2], [1]]
    >>> stacked[0][0](0).numpy().tolist() == [np.float32(0.1), np.float32(0.2)]
    True
    """
    by_key: dict[Any, list[int]] = {}
    for number, schedule in enumerate(schedules):
        by_key.setdefault(_stack_key(schedule), []).append(number)
    found = []
    for numbers in by_key.values():
        members = [schedules[number] for number in numbers]
        same = all(member is members[0] for member in members)
        found.append((members[0] if same else _stack(members), numbers))
    return found


# The arguments of Keras' schedules that bound their values.
_KERAS_PEAKS: dict[str, tuple[str, ...]] = {
    "CosineDecay": ("initial_learning_rate", "warmup_target"),
    "CosineDecayRestarts": ("initial_learning_rate",),
    "ExponentialDecay": ("initial_learning_rate",),
    "InverseTimeDecay": ("initial_learning_rate",),
    "PiecewiseConstantDecay": ("values",),
    "PolynomialDecay": ("initial_learning_rate", "end_learning_rate"),
}


def known_peak(schedule: Any) -> float | None:
    """Return the highest rate of one of our schedules or of Keras'; `None` for any other.

    >>> known_peak(SGDR(0.1, 5)), known_peak(keras.optimizers.schedules.CosineDecay(0.2, 5))
    (0.1, 0.2)
    """
    if is_own(schedule):
        return schedule.peak_learning_rate
    name = type(schedule).__name__
    if type(schedule) is not getattr(keras.optimizers.schedules, name, None):
        return None
    config = schedule.get_config()
    if config.get("m_mul", 1.0) > 1.0 or name not in _KERAS_PEAKS:
        return None
    values = [config[argument] for argument in _KERAS_PEAKS[name]]
    return float(max(np.max(value) for value in values if value is not None))


def known_end(schedule: Any) -> int | None:
    """Return the step from which a schedule stays at its last rate; `None` if it has no end.

    >>> known_end(OneCycle(0.1, 50)), known_end(SGDR(0.1, 5))
    (50, None)
    """
    if type(schedule) is OneCycle:
        return schedule.total_steps
    decays = keras.optimizers.schedules
    if type(schedule) is decays.CosineDecay:
        return schedule.decay_steps + (schedule.warmup_steps if schedule.warmup_target else 0)
    if type(schedule) is decays.PolynomialDecay and not schedule.cycle:
        return schedule.decay_steps
    return None


def is_own(schedule: Any) -> bool:
    """Whether a schedule is one of this module, and not of a subclass with another formula.

    >>> is_own(SGDR(0.1, 5)), is_own(keras.optimizers.schedules.CosineDecay(0.1, 5))
    (True, False)
    """
    return type(schedule) in _RATE_ARGUMENTS


def _stack_key(schedule: Any) -> Any:
    """Return a key that is equal for schedules which can be stacked."""
    if not is_own(schedule):
        return id(schedule)
    apart = (*_RATE_ARGUMENTS[type(schedule)], "name")
    shared = ((key, value) for key, value in schedule.get_config().items() if key not in apart)
    return (type(schedule), *shared)


def _stack(schedules: Sequence[_Schedule]) -> _Schedule:
    """Return one schedule of a scalar step with values of shape `(len(schedules),)`."""
    stacked = copy.copy(schedules[0])
    for name in _RATE_ARGUMENTS[type(stacked)]:
        setattr(stacked, name, np.array([getattr(s, name) for s in schedules], np.float64))
    return stacked
