"""Learning-rate schedules as formulas that find their position in a cycle with integers.

A formula is a plain function of the step. It is written once and takes the array module it computes
with: NumPy for a step that is known now, TensorFlow for a step inside a graph. Steps are int64, the
arithmetic is float64.
"""

from __future__ import annotations

import bisect
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

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


def one_cycle_weight(past_peak: Any, *, pct_start: float = 0.25, xp: Any = np) -> Any:
    """Return how near a one-cycle is to its peak: 1 at the peak, 0 at both ends.

    Args:
        past_peak: Float64 array or tensor: the fraction of the steps since the peak, negative
            before it.
        pct_start: Fraction of the steps that the rise takes.
        xp: `numpy` or `tensorflow`: the module that `past_peak` belongs to.

    >>> one_cycle_weight(np.array([-0.5, 0.0, 0.25, 0.5, 2.0]), pct_start=0.5).round(3).tolist()
    [0.0, 1.0, 0.5, 0.0, 0.0]
    """
    # One of the two is negative. The other one is the distance from the peak in its phase.
    distance = xp.maximum(past_peak / -pct_start, past_peak / (1.0 - pct_start))
    return cosine_weight(xp.minimum(distance, 1.0), xp)


def one_cycle_momentum(
    step: Any, high: float, low: float, total_steps: int, *, pct_start: float, xp: Any = np
) -> Any:
    """Return the momentum of `OneCycleMomentum` at a step; the formula is in its docstring.

    Args:
        step: Int64 array or tensor of any shape.
        high: The value at both ends.
        low: The value at the peak of the rate.
        total_steps: Steps until the end.
        pct_start: Fraction of the steps that the rise of the rate takes.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    Returns:
        Float64, in the shape of `step`.

    >>> one_cycle_momentum(np.arange(5), 0.9, 0.5, 4, pct_start=0.5).round(3).tolist()
    [0.9, 0.7, 0.5, 0.7, 0.9]
    """
    past_peak = _float64(step, xp) / total_steps - pct_start
    return mix(high, low, one_cycle_weight(past_peak, pct_start=pct_start, xp=xp))


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
    weight = one_cycle_weight(past_peak, pct_start=pct_start, xp=xp)
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
