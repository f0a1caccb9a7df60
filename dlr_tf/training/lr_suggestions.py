"""Which learning rate the curve of a range test suggests."""

from __future__ import annotations

import bisect
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def valley(learning_rates: Any, losses: Any) -> float:
    """The rate in the middle of the longest valley of a sweep.

    The longest strictly falling subsequence of the losses has `k` points and ends at point `e`.
    With `s = k / 3`, the suggestion is the rate at point `e - k + int(s) + int(s / 2)`.

    Args:
        learning_rates: Rates, rising, above 0.
        losses: The smoothed loss at each rate; points that are not finite are left out.

    Raises:
        ValueError: If fewer than 2 losses are finite, or they never fall.

    Example:

    >>> import numpy as np
    >>> rates = np.logspace(-6, 0, 7)
    >>> valley(rates, [2.2, 2.1, 1.9, 1.4, 1.0, 0.9, 5.0])
    0.0001

    Source: fastai's `valley`, https://docs.fast.ai/callback.schedule.html.
    """
    rates, values = _falling_curve(learning_rates, losses)
    # Place `n` holds, negated, the highest loss that ends a falling subsequence of `n + 1` points.
    ends: list[float] = []
    longest = last = 0
    for point, value in enumerate(values):
        place = bisect.bisect_left(ends, -value)
        ends[place : place + 1] = [-value]
        if place + 1 > longest:
            longest, last = place + 1, point
    section = longest / 3
    return float(rates[max(last - longest + int(section) + int(section / 2), 0)])


def slide(learning_rates: Any, losses: Any) -> float:
    """The rate before the last slope of a sweep, the one on which it diverges.

    A window of 15 points moves left from the end of the curve, while the loss's gradient at its two
    ends differs by more than 0.005. The suggestion is the rate at the left end of its last place.

    Args:
        learning_rates: Rates, rising, above 0.
        losses: The smoothed loss at each rate; points that are not finite are left out.

    Raises:
        ValueError: If fewer than 16 losses are finite, or they never fall.

    Example:

    >>> import numpy as np
    >>> x = np.linspace(-1.0, 1.0, 41)
    >>> f"{slide(10**x, x**4):.4f}"
    '0.1000'

    Source: fastai's `slide`, https://docs.fast.ai/callback.schedule.html.
    """
    width = 15
    rates, values = _falling_curve(learning_rates, losses, least=width + 1)
    gradient = np.gradient(values)
    left = len(values) - 1 - width
    suggestion = rates[left]
    while left >= 0 and abs(gradient[left + width] - gradient[left]) > 0.005:
        suggestion = rates[left]
        left -= 1
    return float(suggestion)


def steep(learning_rates: Any, losses: Any) -> float:
    """The rate at which the loss falls fastest against the logarithm of the rate.

    Args:
        learning_rates: Rates, rising, above 0.
        losses: The smoothed loss at each rate; points that are not finite are left out.

    Raises:
        ValueError: If fewer than 2 losses are finite, or they never fall.

    Example:

    >>> steep([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.2, 1.0, 5.0])
    0.001

    Source: fastai's `steep`, https://docs.fast.ai/callback.schedule.html.
    """
    rates, values = _falling_curve(learning_rates, losses)
    return float(rates[np.argmin(np.diff(values) / np.diff(np.log(rates)))])


def minimum(learning_rates: Any, losses: Any) -> float:
    """A tenth of the rate with the lowest loss.

    Args:
        learning_rates: Rates, rising, above 0.
        losses: The smoothed loss at each rate; points that are not finite are left out.

    Raises:
        ValueError: If fewer than 2 losses are finite.

    Example:

    >>> minimum([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.2, 1.0, 5.0])
    0.01

    Source: fastai's `minimum`, https://docs.fast.ai/callback.schedule.html.
    """
    rates, values = _finite_curve(learning_rates, losses)
    return float(rates[np.argmin(values)] / 10)


SUGGESTIONS: Mapping[str, Callable[[Any, Any], float]] = types.MappingProxyType(
    {"valley": valley, "slide": slide, "steep": steep, "minimum": minimum}
)


def _finite_curve(
    learning_rates: Any, losses: Any, least: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    rates, values = np.asarray(learning_rates, np.float64), np.asarray(losses, np.float64)
    if rates.ndim != 1 or rates.shape != values.shape:
        raise ValueError(
            "A curve should have one loss per learning rate. Received: learning rates of shape "
            f"{rates.shape} and losses of shape {values.shape}."
        )
    if not np.all(rates > 0) or not np.all(np.diff(rates) > 0):
        raise ValueError(
            "The learning rates of a curve should rise and be above 0. "
            f"Received: learning_rates={rates}"
        )
    finite = np.isfinite(values)
    if finite.sum() < least:
        raise ValueError(
            f"The curve should have at least {least} points with a finite loss. "
            f"Received: {finite.sum()} of {finite.size} points."
        )
    return rates[finite], values[finite]


def _falling_curve(
    learning_rates: Any, losses: Any, least: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    rates, values = _finite_curve(learning_rates, losses, least)
    if not np.any(np.diff(values) < 0):
        raise ValueError(
            "The loss falls nowhere on the curve, so no rate can be told from it. "
            f"Received: losses from {values[0]:.5g} to {values[-1]:.5g} at rates from "
            f"{rates[0]:.3g} to {rates[-1]:.3g}."
        )
    return rates, values
