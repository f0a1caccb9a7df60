"""What is known of a schedule without calling it: its highest rate, and where it ends."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlr_tf.core.schedules.one_cycle import OneCycle
from dlr_tf.core.schedules.stacked import is_own
from dlr_tf.core.schedules.warm_up import WarmUp

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

    >>> from dlr_tf.core.schedules import SGDR
    >>> known_peak(SGDR(0.1, 5)), known_peak(keras.optimizers.schedules.CosineDecay(0.2, 5))
    (0.1, 0.2)
    """
    if type(schedule) is WarmUp:
        inner = schedule.schedule
        return known_peak(inner) if callable(inner) else inner
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

    >>> from dlr_tf.core.schedules import SGDR
    >>> known_end(OneCycle(0.1, 50)), known_end(SGDR(0.1, 5))
    (50, None)
    """
    if type(schedule) is WarmUp:
        end = known_end(schedule.schedule)
        return None if end is None else end + schedule.warmup_steps
    if type(schedule) is OneCycle:
        return schedule.total_steps
    decays = keras.optimizers.schedules
    if type(schedule) is decays.CosineDecay:
        return schedule.decay_steps + (schedule.warmup_steps if schedule.warmup_target else 0)
    if type(schedule) is decays.PolynomialDecay and not schedule.cycle:
        return schedule.decay_steps
    return None
