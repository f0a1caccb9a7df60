"""Plots of losses over rates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlr_tf.training.plotting.figures import (
    COLOURS,
    Path,
    add_legend,
    label_axes,
    log_axis,
    new_figure,
    positive,
    write_figure,
)
from dlr_tf.training.plotting.limits import highest_shown_step_loss
from dlr_tf.training.plotting.views import SMALLEST_SPAN, draw_in_view, note_of, set_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_loss(
    learning_rates: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    path: Path = None,
    *,
    title: str = "Loss against learning rate",
) -> Figure:
    """Draw the loss of each step against its rate, on a log axis of rates.

    Args:
        learning_rates: Positive rates. Others, and NaN, leave a gap.
        losses: The loss at each rate. NaN and infinities leave a gap.

    Example:

    >>> figure = plot_loss([1e-4, 1e-3, 1e-2], [2.3, 1.9, 4.0])
    >>> figure.axes[0].get_xscale()
    'log'
    """
    rates, values = _loss_curve(learning_rates, losses)
    top = highest_shown_step_loss(values)
    view = (values[np.isfinite(values)].min(initial=top), top)
    return write_figure(_loss_figure(rates, values, view, title), path)


def _loss_curve(
    learning_rates: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(losses, dtype=np.float64)
    return positive(learning_rates), np.where(np.isfinite(values), values, np.nan)


def _loss_figure(
    rates: np.ndarray, values: np.ndarray, view: tuple[float, float], title: str
) -> Figure:
    figure = new_figure()
    axes = figure.add_subplot()
    edge = set_view(axes, *view)
    draw_in_view(axes, rates, values, edge, color=COLOURS[0])
    xlabel = f"learning rate of the head{note_of(values[np.isfinite(values)], edge)}"
    label_axes(axes, xlabel=xlabel, ylabel="loss", title=title)
    known = rates[np.isfinite(rates)]
    if known.size:
        log_axis(axes, "x", float(known.min()) / 1.3, float(known.max()) * 1.3)
    return figure


def plot_sweep(
    learning_rates: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    suggestions: Mapping[str, float],
    path: Path = None,
    *,
    title: str = "Learning-rate range test",
) -> Figure:
    """Draw a range test, with every suggested rate marked on its curve.

    Args:
        learning_rates: The rates of the sweep, rising.
        losses: The smoothed loss at each rate.
        suggestions: For every method's name, the rate that it suggests. Rates that are not finite
            are left out.

    Example:

    >>> figure = plot_sweep([1e-4, 1e-3, 1e-2], [2.3, 1.9, 4.0], {"valley": 1e-3})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['valley: 1.00e-03']
    """
    rates, values = _loss_curve(learning_rates, losses)
    finite = np.isfinite(values) & np.isfinite(rates)
    shown = {name: float(rate) for name, rate in suggestions.items() if np.isfinite(rate)}
    view = (np.nan, np.nan)
    if finite.any():
        lowest = int(values[finite].argmin())
        # The fall starts at the highest loss before the lowest one: the first loss may be noisy.
        floor, start = float(values[finite][lowest]), float(values[finite][: lowest + 1].max())
        # The plot is about the fall, so the axis does not follow the loss when it diverges. Where
        # there is none to see, it shows the rise.
        fall = start - floor
        is_seen = fall > SMALLEST_SPAN * abs(start)
        top = start + 0.5 * fall if is_seen else highest_shown_step_loss(values)
        view = (floor, min(float(values[finite].max()), top))
    figure = _loss_figure(rates, values, view, title)
    axes = figure.axes[0]
    if finite.any():
        places = np.interp(
            np.log(np.array(list(shown.values()))), np.log(rates[finite]), values[finite]
        )
        styles = itertools.cycle(zip(COLOURS[1:], "osD^v", strict=True))
        for (name, rate), place, (colour, marker) in zip(shown.items(), places, styles):
            axes.axvline(rate, color=colour, linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.8)
            axes.plot(
                [rate], [place], marker, color=colour, markersize=8, markeredgecolor="white",
                linestyle="none", label=f"{name}: {rate:.2e}", zorder=3,
            )  # fmt: skip
    add_legend(axes, figure)
    return write_figure(figure, path)
