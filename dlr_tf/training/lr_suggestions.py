"""Learning rates that the curve of a range test suggests: pure functions.

Each takes the rates, above 0 and rising, and the smoothed loss at each. Points whose loss is not
finite are left out. Each raises `ValueError` if the loss never falls, or fewer than 2 losses are
finite; `slide` needs 16.
"""

from __future__ import annotations

import bisect
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def valley(learning_rates: Any, losses: Any) -> float:
    """Return the rate in the middle of the longest fall of the loss.

    The longest strictly falling subsequence of the losses has `k` points and ends at point `e`.
    With `s = k / 3`, the result is the rate at point `e - k + int(s) + int(s / 2)`.

    >>> import numpy as np
    >>> rates = np.logspace(-6, 0, 7)
    >>> round(valley(rates, [2.2, 2.1, 1.9, 1.4, 1.0, 0.9, 5.0]), 9)
    0.0001

    Source: fastai's `valley`, https://docs.fast.ai/callback.schedule.html.
    """
    rates, values = _falling_curve(learning_rates, losses)
    # Entry `n` is the highest loss, negated, that ends a falling subsequence of `n + 1` points.
    ends: list[float] = []
    longest = last = 0
    for point, value in enumerate(values):
        entry = bisect.bisect_left(ends, -value)
        ends[entry : entry + 1] = [-value]
        if entry + 1 > longest:
            longest, last = entry + 1, point
    section = longest / 3
    return float(rates[max(last - longest + int(section) + int(section / 2), 0)])


def slide(learning_rates: Any, losses: Any) -> float:
    """Return the rate before the last rise of the loss, on which it diverges.

    A window of 15 points moves left from the end of the curve while the gradients of the loss at
    its two ends differ by more than 0.005. The result is the rate at the left end of the window's
    last position.

    >>> import numpy as np
    >>> x = np.linspace(-1.0, 1.0, 41)
    >>> f"{slide(10**x, x**4):.4f}"
    '0.1000'

    Source: fastai's `slide`, https://docs.fast.ai/callback.schedule.html.
    """
    width = 15
    rates, values = _falling_curve(learning_rates, losses, minimum_points=width + 1)
    gradient = np.gradient(values)
    left = len(values) - 1 - width
    result = rates[left]
    while left >= 0 and abs(gradient[left + width] - gradient[left]) > 0.005:
        result = rates[left]
        left -= 1
    return float(result)


def steep(learning_rates: Any, losses: Any) -> float:
    """Return the rate at which the loss falls fastest against the logarithm of the rate.

    >>> steep([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.2, 1.0, 5.0])
    0.001

    Source: fastai's `steep`, https://docs.fast.ai/callback.schedule.html.
    """
    rates, values = _falling_curve(learning_rates, losses)
    return float(rates[np.argmin(np.diff(values) / np.diff(np.log(rates)))])


def minimum(learning_rates: Any, losses: Any) -> float:
    """Return a tenth of the rate with the lowest loss.

    >>> minimum([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.2, 1.0, 5.0])
    0.01

    Source: fastai's `minimum`, https://docs.fast.ai/callback.schedule.html.
    """
    rates, values = _falling_curve(learning_rates, losses)
    return float(rates[np.argmin(values)] / 10)


SUGGESTIONS: Mapping[str, Callable[[Any, Any], float]] = types.MappingProxyType(
    {"valley": valley, "slide": slide, "steep": steep, "minimum": minimum}
)

MEANINGS: Mapping[str, str] = types.MappingProxyType(
    {
        "valley": "the middle of the longest fall of the loss",
        "slide": "before the loss diverges",
        "steep": "where the loss falls fastest",
        "minimum": "a tenth of the rate with the lowest loss",
    }
)


def _falling_curve(
    learning_rates: Any, losses: Any, minimum_points: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points with a finite loss, of a curve that falls below its first point."""
    rates, values = np.asarray(learning_rates, np.float64), np.asarray(losses, np.float64)
    if not np.all(rates > 0) or not np.all(np.diff(rates) > 0):
        raise ValueError(
            "The learning rates of a curve should rise and be above 0. "
            f"Received: learning_rates={rates}"
        )
    finite = np.isfinite(values)
    if finite.sum() < minimum_points:
        raise ValueError(
            f"The curve should have at least {minimum_points} points with a finite loss. "
            f"Received: {finite.sum()} of {finite.size} points."
        )
    rates, values = rates[finite], values[finite]
    if not np.any(values < values[0]):
        raise ValueError(
            "The loss never falls below that of the lowest rate, so the curve suggests no rate. "
            f"Received: losses from {values[0]:.5g} to {values[-1]:.5g} at rates from "
            f"{rates[0]:.3g} to {rates[-1]:.3g}."
        )
    return rates, values
