"""Learning-rate schedules: a thin Keras `LearningRateSchedule` around each formula.

The formulas are in `schedule_formulas.py`. Only the final rate is cast to `keras.config.floatx()`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import check_integer, check_number
from dlr_tf.core.schedule_formulas import (
    cycle_at,
    cycle_runs,
    one_cycle,
    one_cycle_momentum,
    sgdr,
    triangular,
)

# Rates are float32 in the end.
LARGEST_RATE = float(np.finfo(np.float32).max)
# Float64 holds every integer up to this one.
_MOST_STEPS = 2**53


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
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


@keras.saving.register_keras_serializable(package="dlr_tf")
class OneCycle(Schedule):
    """One cosine rise and one cosine fall over the whole training.

    With `peak = max_learning_rate`, `start = peak / div`, `end = peak / div_final` and
    `x = step / total_steps`:

        rise, x < pct_start:  lr = start + (peak - start) * (1 + cos(pi * d)) / 2
                              d = (pct_start - x) / pct_start
        fall, otherwise:      lr = end + (peak - end) * (1 + cos(pi * d)) / 2
                              d = (x - pct_start) / (1 - pct_start)

    From step `total_steps` on the rate stays at `end`. As in fastai, the phases meet at the
    fraction `pct_start`, which need not be a step: the rate reaches the peak itself only where
    `pct_start * total_steps` is an integer. fastai and PyTorch also lower the momentum while the
    rate rises; here that is asked for, with `FusedAdam(beta_1=schedule.momentum())`.

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
        self.max_learning_rate = check_peak("max_learning_rate", max_learning_rate)
        self.total_steps = check_steps("total_steps", total_steps, minimum=2)
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

    def momentum(self, high: float = 0.95, low: float = 0.85) -> OneCycleMomentum:
        """Return the momentum that belongs to this schedule, for `beta_1` of `FusedAdam`.

        It falls from `high` to `low` while the rate rises, and goes back while the rate falls.

        Args:
            high: Float in [0, 1): the value at the start and at the end. Defaults to `0.95`.
            low: Float in [0, 1), at most `high`. Defaults to `0.85`.

        Example:

        >>> rate = OneCycle(1e-2, total_steps=100)
        >>> rate.momentum()
        OneCycleMomentum(high=0.95, low=0.85, total_steps=100, pct_start=0.25)
        """
        return OneCycleMomentum(high, low, self.total_steps, self.pct_start)

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
class OneCycleMomentum(Schedule):
    """The momentum that belongs to a one-cycle: it falls while the rate rises, and rises again.

    With `d` of `OneCycle` and `w = (1 + cos(pi * d)) / 2`, which is 1 where the rate is highest:

        momentum = high + (low - high) * w

    `OneCycle.momentum` makes it.

    Args:
        high: Float in [0, 1): the value at the start and at the end.
        low: Float in [0, 1), at most `high`: the value where the rate is highest.
        total_steps: As in `OneCycle`.
        pct_start: As in `OneCycle`.
        name: String. Name scope of the schedule's operations.

    Raises:
        ValueError: A value is out of range.
        TypeError: An argument is not a number.

    Example:

    >>> momentum = OneCycleMomentum(0.95, 0.85, total_steps=100)
    >>> [round(float(momentum(step)), 3) for step in (0, 25, 100)]
    [0.95, 0.85, 0.95]

    Source: Smith, 2018, https://arxiv.org/abs/1803.09820, section 4.2.
    """

    def __init__(
        self,
        high: float,
        low: float,
        total_steps: int,
        pct_start: float = 0.25,
        name: str = "OneCycleMomentum",
    ) -> None:
        super().__init__()
        self.high, self.low = check_number("high", high), check_number("low", low)
        if not self.low <= self.high < 1.0:
            raise ValueError(
                "Arguments `low` and `high` should be in [0, 1), and `low` at most `high`. "
                f"Received: high={high!r}, low={low!r}"
            )
        shape = OneCycle(1.0, total_steps, pct_start)
        self.total_steps, self.pct_start = shape.total_steps, shape.pct_start
        self.name = name

    def _rate(self, step: Any, xp: Any) -> Any:
        return one_cycle_momentum(
            step, self.high, self.low, self.total_steps, pct_start=self.pct_start, xp=xp
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "high": self.high,
            "low": self.low,
            "total_steps": self.total_steps,
            "pct_start": self.pct_start,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="dlr_tf")
class Triangular(Schedule):
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
        self.base_learning_rate = check_peak("base_learning_rate", base_learning_rate)
        self.max_learning_rate = check_peak("max_learning_rate", max_learning_rate)
        if self.max_learning_rate < self.base_learning_rate:
            raise ValueError(
                "Argument `max_learning_rate` should not be below `base_learning_rate`. Received: "
                f"base_learning_rate={base_learning_rate!r}, "
                f"max_learning_rate={max_learning_rate!r}. Swap the two."
            )
        self.step_size = check_steps("step_size", step_size)
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


def check_peak(name: str, value: Any) -> float:
    """Return a rate as a float; not negative, and at most the largest float32."""
    return check_number(name, value, maximum=LARGEST_RATE)


def check_steps(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return a number of steps as an int. Floats are accepted where they are integers."""
    if isinstance(value, (float, np.floating)):
        if not float(value).is_integer():
            raise ValueError(
                f"Argument `{name}` should be an integer number of steps. "
                f"Received: {name}={value!r}. Round it to the number of optimizer steps you want."
            )
        value = int(value)
    return check_integer(name, value, minimum=minimum, maximum=_MOST_STEPS)
