"""`Triangular`: cyclical rates, a linear rise and a linear fall."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from dlr_tf.core._validation import check_number
from dlr_tf.core.schedules.schedule import Schedule, as_float64, check_peak, check_steps, mix


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
    """Return the rate of `Triangular` at a step; its docstring has the formula and the arguments.

    Args:
        step: Int64 array or tensor of any shape; the result has the same shape.
        xp: `numpy` or `tensorflow`: the module that `step` belongs to.

    >>> triangular(np.arange(6), 1.0, 3.0, 2, mode="triangular2").tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0, 1.5]
    """
    t = as_float64(step % (2 * step_size), xp)
    weight = 1.0 - xp.abs(t / step_size - 1.0)
    if mode == "triangular2":
        weight = weight * 0.5 ** as_float64(step // (2 * step_size), xp)
    rate = mix(base_learning_rate, max_learning_rate, weight)
    if mode == "exp_range":
        rate = rate * gamma ** as_float64(step, xp)
    return rate


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
