"""A schedule that rises from 0 before another schedule, or before a constant rate, begins."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core.schedules.schedule import Schedule, check_peak, check_steps


@keras.saving.register_keras_serializable(package="dlr_tf")
class WarmUp(Schedule):
    """A linear rise from 0, and then another schedule from its own step 0, or a constant rate.

    With the other schedule `s`, or `s(k) = rate`, and `w = warmup_steps`:

        k < w:      lr = s(0) * k / w
        otherwise:  lr = s(k - w)

    A schedule that must end with the training is `w` steps shorter then. `SGDR` has a warm-up of
    its own (`warmup_steps`), which `SnapshotEnsemble` knows too; `OneCycle` begins with a rise.

    Args:
        schedule: `LearningRateSchedule`, or float, 0 or more.
        warmup_steps: Int, 1 or more, in optimizer steps.
        name: String. Name scope of the schedule's operations.

    Raises:
        TypeError: `schedule` is neither a schedule nor a number.
        ValueError: The rate is negative or too large for float32, or `warmup_steps` is below 1 or
            not an integer.

    Example:

    >>> import keras
    >>> linear = keras.optimizers.schedules.PolynomialDecay(0.1, 10, end_learning_rate=0.0)
    >>> rate = WarmUp(linear, warmup_steps=4)
    >>> [round(float(rate(step)), 4) for step in (0, 1, 4, 9, 14)]
    [0.0, 0.025, 0.1, 0.05, 0.0]

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
    https://arxiv.org/abs/1706.02677, section 2.2 (gradual warm-up).
    """

    def __init__(
        self,
        schedule: LearningRateSchedule | float,
        warmup_steps: int,
        name: str = "WarmUp",
    ) -> None:
        super().__init__()
        self.schedule: Any = schedule
        if not isinstance(schedule, LearningRateSchedule):
            self.schedule = check_peak("schedule", schedule)
        self.warmup_steps = check_steps("warmup_steps", warmup_steps)
        self.name = name

    def _rate(self, step: Any, xp: Any) -> Any:
        t = xp.maximum(step - self.warmup_steps, 0)
        if isinstance(self.schedule, Schedule):
            rate = self.schedule._rate(t, xp)
        elif isinstance(self.schedule, LearningRateSchedule):
            rate = self.schedule(t if xp is tf else tf.convert_to_tensor(t))
            rate = tf.cast(rate, tf.float64) if xp is tf else np.asarray(rate, np.float64)
        else:
            rate = self.schedule
        share = (tf.cast(step, tf.float64) if xp is tf else np.float64(step)) / self.warmup_steps
        return rate * xp.minimum(share, 1.0)

    def get_config(self) -> dict[str, Any]:
        schedule = self.schedule
        if isinstance(schedule, LearningRateSchedule):
            schedule = keras.saving.serialize_keras_object(schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        config = dict(config)
        if isinstance(config["schedule"], dict):
            config["schedule"] = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.schedule!r}, warmup_steps={self.warmup_steps})"
