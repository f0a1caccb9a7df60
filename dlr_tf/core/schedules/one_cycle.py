"""`OneCycle`: one rise and one fall, and the momentum that belongs to it."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from dlr_tf.core._validation import check_number
from dlr_tf.core.schedules.schedule import (
    Schedule,
    as_float64,
    check_peak,
    check_steps,
    cosine_weight,
    mix,
)


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
    """Return the rate of `OneCycle` at a step; its docstring has the formula and the arguments.

    Args:
        step: Int64 array or tensor of any shape; the result has the same shape.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    >>> one_cycle(np.arange(5), 1.0, 4, pct_start=0.5, div=10.0, div_final=100.0).round(5).tolist()
    [0.1, 0.55, 1.0, 0.505, 0.01]
    """
    past_peak = as_float64(step, xp) / total_steps - pct_start
    weight = one_cycle_weight(past_peak, pct_start=pct_start, xp=xp)
    low = xp.where(
        past_peak < 0.0,
        np.float64(max_learning_rate) / div,
        np.float64(max_learning_rate) / div_final,
    )
    return mix(low, max_learning_rate, weight)


def one_cycle_momentum(
    step: Any, high: float, low: float, total_steps: int, *, pct_start: float, xp: Any = np
) -> Any:
    """Return the momentum of `OneCycleMomentum` at a step, as `one_cycle` returns the rate.

    >>> one_cycle_momentum(np.arange(5), 0.9, 0.5, 4, pct_start=0.5).round(3).tolist()
    [0.9, 0.7, 0.5, 0.7, 0.9]
    """
    past_peak = as_float64(step, xp) / total_steps - pct_start
    return mix(high, low, one_cycle_weight(past_peak, pct_start=pct_start, xp=xp))


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

        It falls from `high` to `low` while the rate rises, and goes back while the rate falls. In
        `MultiGroupOptimizer`, Keras' Adam and its relatives take it too, and SGD as its attribute
        `momentum`, set after it is made.

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
