"""The smoothed loss of a range test, and when the test ends."""

from __future__ import annotations

import math


class LossCurve:
    """The smoothed losses of a range test.

    With the loss `l_i` of step `i`, the smoothed loss is `a_i / (1 - smoothing**(i + 1))`, where
    `a_i = smoothing * a_(i - 1) + (1 - smoothing) * l_i`.

    Args:
        smoothing: Float in [0, 1): weight of the past.
        stop_factor: Float above 1: the test ends when the smoothed loss exceeds `stop_factor` times
            its lowest value (if the lowest value `b` is negative: `b + (stop_factor - 1) * abs(b)`)
            or the loss is not finite.

    Example:

    >>> curve = LossCurve(smoothing=0.5, stop_factor=4.0)
    >>> [curve.add(loss) for loss in (1.0, 0.7, 9.0)]
    [True, True, False]
    >>> [round(loss, 6) for loss in curve.losses]
    [1.0, 0.8, 5.485714]
    """

    def __init__(self, smoothing: float, stop_factor: float) -> None:
        self.losses: list[float] = []
        self._smoothing = smoothing
        self._stop_factor = stop_factor
        self._average = 0.0

    def add(self, loss: float) -> bool:
        """Add the loss of a step, and return whether the test goes on."""
        self._average = self._smoothing * self._average + (1 - self._smoothing) * loss
        smoothed = self._average / (1 - self._smoothing ** (len(self.losses) + 1))
        self.losses.append(smoothed)
        lowest = min(self.losses)
        limit = lowest + (self._stop_factor - 1) * abs(lowest)
        return math.isfinite(loss) and not smoothed > limit
