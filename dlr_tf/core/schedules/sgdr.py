"""`SGDR`: cosine annealing with warm restarts, whose cycles are found with integers."""

from __future__ import annotations

import bisect
import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import check_number
from dlr_tf.core.schedules.schedule import (
    Schedule,
    as_float64,
    check_peak,
    check_steps,
    cosine_weight,
)

# Restarts follow the formula up to this step. Afterwards the last cycle repeats.
LAST_EXACT_STEP = 2**40
# A longer cycle does not fit into int64. After 2**40 steps of it, the cosine is still 1 in float32.
_LONGEST_CYCLE = 2**62


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
    """Return the rate of `SGDR` at a step; its docstring has the formula and the arguments.

    Args:
        step: Int64 array or tensor of any shape; the result has the same shape.
        runs: The result of `cycle_runs`.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    >>> sgdr(np.array([0, 5, 9, 10, 30]), cycle_runs(10, 2.0), 0.1).round(5).tolist()
    [0.1, 0.05, 0.00245, 0.1, 0.1]
    """
    warmup = None
    if warmup_steps:
        warmup = xp.minimum(as_float64(step, xp) / warmup_steps, 1.0)
        step = xp.maximum(step - warmup_steps, 0)

    start, length, first_cycle = _find_run(step, runs, xp)
    since_start = step if start is None else step - start
    t = since_start % length
    weight = cosine_weight(as_float64(t, xp) / as_float64(length, xp), xp)

    peak: Any = initial_learning_rate
    if m_mul != 1.0:
        peak = peak * m_mul ** as_float64(first_cycle + since_start // length, xp)
    # Equal to floor + (peak - floor) * weight, but exactly the peak at weight 1.
    rate = peak * (weight if alpha == 0.0 else alpha + (1.0 - alpha) * weight)
    return rate if warmup is None else rate * warmup


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


@keras.saving.register_keras_serializable(package="dlr_tf")
class SGDR(Schedule):
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
        self.initial_learning_rate = check_peak("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = check_steps("first_decay_steps", first_decay_steps)
        self.t_mul = check_number("t_mul", t_mul, minimum=1.0, hint="Cycles cannot get shorter.")
        self.m_mul = check_number("m_mul", m_mul)
        self.alpha = check_number(
            "alpha",
            alpha,
            maximum=1.0,
            hint="It is the floor as a fraction of the peak, not a rate.",
        )
        self.warmup_steps = check_steps("warmup_steps", warmup_steps, minimum=0)
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
        until = check_steps("until", until, minimum=0)
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
        last = check_steps("until", until, minimum=0) - self.warmup_steps - 1
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
        t = check_steps("step", step, minimum=0) - self.warmup_steps
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
