"""Learning-rate schedules whose place in a cycle is found with integers.

Each schedule is a formula (a plain function of the step) and a thin Keras `LearningRateSchedule`
around it. A formula is written once and takes the array module it computes with: NumPy for a step
that is known now, TensorFlow for a step inside a graph. Steps are whole numbers in int64, the
arithmetic is float64, and only the finished rate is cast to `keras.config.floatx()`.
"""

from __future__ import annotations

import bisect
import copy
import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Restarts follow the formula up to this step; afterwards the cycle then running repeats.
LAST_EXACT_STEP = 2**40
# A longer cycle would leave int64; at 2**40 steps into it, its cosine has not yet moved in float32.
_LONGEST_CYCLE = 2**62
# Float64 counts no further.
_MOST_STEPS = 2**53


def cycle_length(cycle: int, first_decay_steps: int, t_mul: float) -> int:
    """Length of one SGDR cycle in steps: `T_i = round(first_decay_steps * t_mul**i)`.

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
    """All SGDR cycles that start by step 2**40, with equal neighbours put together.

    One row for a run of cycles of one length: the step at which the run starts, the length of its
    cycles, and the index of its first cycle. So `t_mul=1` is a single row, and a `t_mul` barely
    above 1, where rounding makes many cycles of one length, stays small. The last row stands for
    all cycles after it too.

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


def cosine_weight(distance: Any, xp: Any = np) -> Any:
    """Half a cosine wave: 1 at distance 0 from the peak, 0 at distance 1.

    `w = (1 + cos(pi * distance)) / 2`

    Args:
        distance: Float64 array or tensor in [0, 1].
        xp: `numpy` or `tensorflow`, whichever `distance` belongs to.

    >>> [round(float(cosine_weight(d)), 5) for d in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.85355, 0.5, 0.0]
    """
    return 0.5 * (1.0 + xp.cos(math.pi * distance))


def mix(low: Any, high: Any, weight: Any) -> Any:
    """From `low` at weight 0 to `high` at weight 1.

    Both ends are met exactly, as they would not be by `low + weight * (high - low)`.

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
    """The rate of `SGDR` at a step; see there for the formula.

    Args:
        step: Int64 array or tensor of any shape.
        runs: What `cycle_runs` returns.
        initial_learning_rate: Peak of cycle 0.
        m_mul: Factor between the peaks of two cycles.
        alpha: Floor of a cycle as a fraction of its peak.
        warmup_steps: Steps before step 0 of cycle 0.
        xp: `numpy` or `tensorflow`, whichever `step` belongs to.

    Returns:
        Float64, in the shape of `step`.

    >>> sgdr(np.array([0, 5, 9, 10, 30]), cycle_runs(10, 2.0), 0.1).round(5).tolist()
    [0.1, 0.05, 0.00245, 0.1, 0.1]
    """
    warmth = None
    if warmup_steps:
        warmth = xp.minimum(_float64(step, xp) / warmup_steps, 1.0)
        step = xp.maximum(step - warmup_steps, 0)

    start, length, first_cycle = _find_run(step, runs, xp)
    since_start = step if start is None else step - start
    t = since_start % length
    weight = cosine_weight(_float64(t, xp) / _float64(length, xp), xp)

    peak: Any = initial_learning_rate
    if m_mul != 1.0:
        peak = peak * m_mul ** _float64(first_cycle + since_start // length, xp)
    # The same as floor + (peak - floor) * weight, and in float64 exactly the peak at weight 1.
    rate = peak * (weight if alpha == 0.0 else alpha + (1.0 - alpha) * weight)
    return rate if warmth is None else rate * warmth


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
    """The rate of `OneCycle` at a step; see there for the formula and the arguments.

    Args:
        step: Int64 array or tensor of any shape.
        max_learning_rate: Peak.
        total_steps: Steps until the final rate is reached.
        pct_start: Fraction of the steps that the rise takes.
        div: Peak over the rate at step 0.
        div_final: Peak over the final rate.
        xp: `numpy` or `tensorflow`, whichever `step` belongs to.

    Returns:
        Float64, in the shape of `step`.

    >>> one_cycle(np.arange(5), 1.0, 4, pct_start=0.5, div=10.0, div_final=100.0).round(5).tolist()
    [0.1, 0.55, 1.0, 0.505, 0.01]
    """
    past_peak = _float64(step, xp) / total_steps - pct_start
    # One of the two is negative: the other is the distance from the peak in its own phase.
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
    """The rate of `Triangular` at a step; see there for the formula and the arguments.

    Args:
        step: Int64 array or tensor of any shape.
        base_learning_rate: Lower boundary.
        max_learning_rate: Upper boundary.
        step_size: Steps in half a cycle.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`.
        gamma: Factor per step of `"exp_range"`.
        xp: `numpy` or `tensorflow`, whichever `step` belongs to.

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
    """A `LearningRateSchedule` around a formula of the whole-numbered step.

    A step known now is computed on the host, which is many times quicker than one small kernel
    after another; a step inside a graph is computed by the graph.
    """

    name: str
    _rates: tuple[str, ...]  # the arguments that are rates, in which a formula is linear

    def family(self) -> tuple[Any, ...] | None:
        """Equal for schedules that differ in their rates and names alone; `None` for a subclass."""
        if type(self).__module__ != __name__:
            return None
        config = self.get_config()
        shared = ((key, config[key]) for key in config if key not in (*self._rates, "name"))
        return (type(self), *shared)

    def together(self, others: Sequence[_Schedule]) -> _Schedule:
        """One schedule that gives the rates of several of one family as a vector.

        What they have in common is computed once: their place in the cycle.

        Args:
            others: Schedules of this one's family, itself among them if it is to be.

        Returns:
            A schedule of a scalar step, with values of shape `(len(others),)`: each has the same
            bits as the schedule it stands for.
        """
        joint = copy.copy(self)
        for name in self._rates:
            setattr(joint, name, np.array([getattr(other, name) for other in others], np.float64))
        return joint

    def _rate(self, step: Any, xp: Any) -> Any:
        raise NotImplementedError

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

    with Python's `round` in float64. Every restart up to step 2**40 is exact: the cycle is looked
    up among whole numbers, never computed by a logarithm, and the rate there is `peak_i` itself.
    After that the last cycle's length repeats.

    It holds no state, so training resumed at any step goes on exactly. Do not use it where the
    number of steps is not a sum of cycle lengths and the last rate matters: training would end in
    mid-cycle at a high rate. `restart_steps` lists good places to stop.

    The arguments are those of `keras.optimizers.schedules.CosineDecayRestarts`. The rates differ
    where `m_mul` is not 1 and `alpha` not 0 (there the floor does not follow the peak), and where
    `T_i` needs rounding.

    Args:
        initial_learning_rate: Float, 0 or more. Peak of cycle 0.
        first_decay_steps: Int, 1 or more, in optimizer steps. Length of cycle 0; a whole number of
            epochs is usual.
        t_mul: Float, 1 or more. Each cycle is this many times longer than the one before. Defaults
            to 2.0, the paper's choice. Values between 1 and 1.0001 need a table of up to millions
            of rows; use 1.0 there.
        m_mul: Float, 0 or more. Each peak is this many times the one before. Defaults to 1.0,
            restarts at full rate.
        alpha: Float in [0, 1]. Floor of each cycle as a fraction of its peak. Defaults to 0.0.
        warmup_steps: Int, 0 or more. Steps of linear rise from 0 to the peak before step 0 of cycle
            0, which therefore is step `warmup_steps`. Defaults to 0.
        name: String. Name scope of the schedule's operations.

    Raises:
        ValueError: A rate is negative or not finite, a length is below one step, `t_mul` is below
            1, or `alpha` is outside [0, 1].
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

    _rates = ("initial_learning_rate",)

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
        self.initial_learning_rate = _number("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = _steps("first_decay_steps", first_decay_steps)
        self.t_mul = _number("t_mul", t_mul, minimum=1.0, mend="Cycles cannot get shorter.")
        self.m_mul = _number("m_mul", m_mul)
        self.alpha = _number(
            "alpha",
            alpha,
            maximum=1.0,
            mend="It is the floor as a fraction of the peak, not a rate.",
        )
        self.warmup_steps = _steps("warmup_steps", warmup_steps, minimum=0)
        self.name = name

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
        """The steps in `range(until)` at which a cycle starts, cycle 0 included.

        A cycle that starts at step `s` makes update number `s + 1` its first, so the cycle before
        it is complete after `s` updates: `restart_steps(n + 1)[1:]` are the ends of the cycles that
        `n` updates complete.

        Args:
            until: Int, 0 or more. The first step that is not looked at.

        Returns:
            Rising list of Python ints, counted from the optimizer's step 0: warm-up included.

        >>> SGDR(0.1, 10, t_mul=2.0, warmup_steps=5).restart_steps(76)
        [5, 15, 35, 75]
        """
        until = _steps("until", until, minimum=0)
        runs = cycle_runs(self.first_decay_steps, self.t_mul).tolist()
        ends = [start + self.warmup_steps for start, _, _ in runs[1:]] + [until]
        steps: list[int] = []
        for (start, length, _), end in zip(runs, ends):
            steps.extend(range(start + self.warmup_steps, min(end, until), length))
        return steps

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

    From step `total_steps` on the rate stays at `end`. The phases meet at the fraction `pct_start`,
    as fastai has it, and not at a whole step: the peak itself is met where
    `pct_start * total_steps` is whole.

    Do not use it where the number of steps is not known beforehand, or training may go on: the rate
    is spent at the end.

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
        ValueError: The rate is negative or not finite, `total_steps` is below 2, `pct_start` is not
            between 0 and 1, or a divisor is below 1.
        TypeError: An argument is not a number.

    Example:

    >>> rate = OneCycle(1.0, total_steps=100)
    >>> [round(float(rate(step)), 5) for step in (0, 25, 100, 200)]
    [0.04, 1.0, 1e-05, 1e-05]

    Source: Smith, "A disciplined approach to neural network hyper-parameters: Part 1", 2018,
    https://arxiv.org/abs/1803.09820; in the cosine form of fastai's `fit_one_cycle`.
    """

    _rates = ("max_learning_rate",)

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
        self.max_learning_rate = _number("max_learning_rate", max_learning_rate)
        self.total_steps = _steps("total_steps", total_steps, minimum=2)
        self.pct_start = _number("pct_start", pct_start)
        if not 0.0 < self.pct_start < 1.0:
            raise ValueError(
                "`pct_start` must be above 0 and below 1: the fraction of the steps for the rise. "
                f"Received: pct_start={pct_start!r}. Pass 0.25 for a quarter."
            )
        self.div = _number("div", div, minimum=1.0, mend="The start is `max_learning_rate / div`.")
        self.div_final = _number(
            "div_final", div_final, minimum=1.0, mend="The end is `max_learning_rate / div_final`."
        )
        self.name = name

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
    """Cyclical learning rates: straight up in `step_size` steps and down again, over and over.

    With `base = base_learning_rate`, `max = max_learning_rate`,
    `cycle = floor(step / (2 * step_size))` and `w = 1 - |step / step_size - 2 * cycle - 1|`:

        triangular:   lr = base + (max - base) * w
        triangular2:  lr = base + (max - base) * w / 2**cycle
        exp_range:    lr = (base + (max - base) * w) * gamma**step

    In `exp_range` both boundaries decline, as the paper defines it; some libraries let only their
    difference decline. The two agree for `base_learning_rate=0`.

    It gives no low rate to end on: for a final model prefer `OneCycle` or `SGDR`.

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
        ValueError: A rate is negative or not finite, the boundaries are in the wrong order,
            `step_size` is below 1, `mode` is unknown, or `gamma` is outside (0, 1].
        TypeError: An argument is not a number.

    Example:

    >>> rate = Triangular(1.0, 3.0, step_size=2, mode="triangular2")
    >>> [float(rate(step)) for step in range(8)]
    [1.0, 2.0, 3.0, 2.0, 1.0, 1.5, 2.0, 1.5]

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3,
    https://arxiv.org/abs/1506.01186.
    """

    _rates = ("base_learning_rate", "max_learning_rate")

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
        self.base_learning_rate = _number("base_learning_rate", base_learning_rate)
        self.max_learning_rate = _number("max_learning_rate", max_learning_rate)
        if self.max_learning_rate < self.base_learning_rate:
            raise ValueError(
                "`max_learning_rate` must not be below `base_learning_rate`. Received: "
                f"base_learning_rate={base_learning_rate!r}, "
                f"max_learning_rate={max_learning_rate!r}. Swap the two."
            )
        self.step_size = _steps("step_size", step_size)
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(
                "`mode` must be 'triangular', 'triangular2' or 'exp_range'. "
                f"Received: mode={mode!r}."
            )
        self.mode = mode
        self.gamma = _number(
            "gamma", gamma, maximum=1.0, mend="It is a factor per step, such as 0.9999."
        )
        if self.gamma == 0.0:
            raise ValueError(
                f"`gamma` must be above 0. Received: gamma={gamma!r}. "
                "It is a factor per step, such as 0.9999."
            )
        self.name = name

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
    """Start (`None` for a constant 0), cycle length and first cycle of the run around each step."""
    if len(runs) == 1:
        return None, runs[0, 1], runs[0, 2]
    later_starts = runs[1:, 0]
    if xp is np:
        rows = runs[np.searchsorted(later_starts, step, side="right")]
        return rows[..., 0], rows[..., 1], rows[..., 2]
    # The kernel behind `tf.searchsorted`, which itself adds a dozen operations of reshaping.
    index = tf.raw_ops.UpperBound(
        sorted_inputs=later_starts[None], values=tf.reshape(step, [1, -1])
    )
    shape = step.shape if step.shape.is_fully_defined() else tf.shape(step)
    start, length, first_cycle = tf.unstack(
        tf.gather(runs, tf.reshape(index, shape)), num=3, axis=-1
    )
    return start, length, first_cycle


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _number(
    name: str, value: Any, *, minimum: float = 0.0, maximum: float = math.inf, mend: str = ""
) -> float:
    if not _is_number(value):
        raise TypeError(
            f"`{name}` must be a number. Received: {name}={value!r} of type {type(value).__name__}."
        )
    if not (math.isfinite(value) and minimum <= value <= maximum):
        expected = f"at least {minimum:g}"
        if maximum < math.inf:
            expected = f"in [{minimum:g}, {maximum:g}]"
        raise ValueError(
            f"`{name}` must be a finite number {expected}. "
            f"Received: {name}={value!r}. {mend}".rstrip()
        )
    return float(value)


def _steps(name: str, value: Any, *, minimum: int = 1) -> int:
    if not _is_number(value):
        raise TypeError(
            f"`{name}` must be a whole number of steps. "
            f"Received: {name}={value!r} of type {type(value).__name__}."
        )
    if not (math.isfinite(value) and value == int(value) and minimum <= value <= _MOST_STEPS):
        raise ValueError(
            f"`{name}` must be a whole number of steps, at least {minimum} and at most 2**53. "
            f"Received: {name}={value!r}. Round it to the optimizer steps you mean."
        )
    return int(value)


def known_peak(schedule: Any) -> float | None:
    """The highest rate of a schedule of this module; `None` for any other."""
    return float("inf") if isinstance(schedule, _Schedule) else None


def stack_schedules(schedules):
    from dlr_tf.core.learning_rates import joint_schedules

    return joint_schedules(schedules)
