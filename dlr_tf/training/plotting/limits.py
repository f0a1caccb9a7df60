"""Which losses a plot shows: pure functions.

One very high loss, or a training that diverges, would press all other losses against the axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

# An early loss above this many times the typical early loss is not shown.
_EARLY = 4.0
# A later loss above this many times the highest early loss that is shown is not shown.
_LATER = 3.0


def highest_shown_loss(curves: Sequence[Sequence[float]]) -> float:
    """Return the highest loss to show, for losses per epoch of one or more trainings.

    With the median `m` of the losses of the first two epochs, a loss of these epochs is shown up to
    `4 m`. With the highest shown loss `h` of these epochs, a later loss is shown up to `3 h`.

    Args:
        curves: Losses per epoch. Values that are not finite are left out.

    Returns:
        The loss. NaN if no loss is finite.

    Example:

    >>> highest_shown_loss([[2.3, 0.9, 0.5, 0.6]])
    2.3
    >>> highest_shown_loss([[2.3, 0.9, 1e6, 0.6]])
    2.3
    """
    everything = _sorted(value for curve in curves for value in curve)
    early = _sorted(value for curve in curves for value in curve[:2])
    if not early:
        return everything[-1] if everything else math.nan
    typical = early[(len(early) - 1) // 2]
    if typical <= 0:  # no cross-entropy or squared error: factors mean nothing here
        return everything[-1]
    # Nothing is typical of two losses.
    start = max(value for value in early if value <= _EARLY * typical or len(early) < 3)
    return max(value for value in everything if value <= _LATER * start)


def highest_shown_step_loss(losses: Sequence[float] | np.ndarray) -> float:
    """Return the highest loss to show, for the losses of many steps.

    The highest twentieth of at least ten losses is not shown if the others take less than a third
    of the whole range.

    Args:
        losses: One loss per step. Values that are not finite are left out.

    Returns:
        The loss. NaN if no loss is finite.

    Example:

    >>> highest_shown_step_loss([*range(20), 500.0])
    18.0
    """
    values = _sorted(losses)
    if len(values) < 10:
        return values[-1] if values else math.nan
    others = values[: -math.ceil(len(values) / 20)]
    low, high = values[0], values[-1]
    return others[-1] if high - low > 3 * (others[-1] - low) else high


def _sorted(values: Iterable[float]) -> list[float]:
    array = np.array([*values], np.float64)
    return np.sort(array[np.isfinite(array)]).tolist()
