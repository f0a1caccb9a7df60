"""Curves of losses that stay inside their axes; marks show where one goes above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST_SPAN = 0.02  # of an axis of losses, in relation to the highest one


def set_view(axes: Axes, low: float, top: float) -> float:
    """Show the values from `low` to `top`; return the place for what is above."""
    if not np.isfinite(low + top):
        return np.inf
    span = max(top - low, SMALLEST_SPAN * abs(top), 1e-12)
    axes.set_ylim(low - 0.08 * span, top + 0.12 * span)
    return top + 0.06 * span


def draw_in_view(axes: Axes, x: np.ndarray, y: np.ndarray, edge: float, **style: Any) -> None:
    """Draw a curve that stays inside its axes: a triangle marks where it goes above the edge."""
    above = y > edge
    axes.plot(x, np.minimum(y, edge), linewidth=1.8, **style)  # NaN stays NaN
    mark(axes, x, above, edge, "^", style["color"])


def mark(
    axes: Axes, x: np.ndarray, where: np.ndarray, edge: float, marker: str, colour: str
) -> None:
    first = where & ~np.pad(where, (1, 0))[:-1]
    if first.any():
        axes.plot(
            x[first], np.full(first.sum(), edge), marker, color=colour, markersize=6,
            linestyle="none",
        )  # fmt: skip


def note_of(values: np.ndarray, edge: float) -> str:
    highest = values.max(initial=-np.inf)
    return f"\n▲: above the view, up to {highest:.3g}" if highest > edge else ""
