"""The base of the schedules, and the parts that their formulas share.

A formula is a plain function of the step. It is written once and takes the array module it computes
with: NumPy for a step that is known now, TensorFlow for a step inside a graph. Steps are int64, the
arithmetic is float64. Only the final rate is cast to `keras.config.floatx()`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import check_integer, check_number

# Rates are float32 in the end.
LARGEST_RATE = float(np.finfo(np.float32).max)
# Float64 holds every integer up to this one.
_MOST_STEPS = 2**53


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


def as_float64(value: Any, xp: Any) -> Any:
    return tf.cast(value, tf.float64) if xp is tf else np.asarray(value, np.float64)


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
