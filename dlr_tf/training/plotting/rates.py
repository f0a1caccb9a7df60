"""Plots of rates over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlr_tf.training.plotting.figures import (
    COLOURS,
    SPINE,
    Path,
    add_legend,
    curve_colours,
    label_axes,
    log_axis,
    new_figure,
    positive,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_learning_rates(
    iterations: Sequence[int] | np.ndarray,
    learning_rates: Mapping[str, Sequence[float] | np.ndarray],
    path: Path = None,
    *,
    title: str = "Learning rate of each group",
) -> Figure:
    """Draw the rate of every group over the steps, on a log axis.

    Args:
        iterations: The steps, one for each recorded update.
        learning_rates: For every group's name, the rate at each of `iterations`. NaN (a group that
            did not move) and 0 leave a gap.

    Example:

    >>> figure = plot_learning_rates([0, 1, 2], {"body": [1e-4] * 3, "head": [1e-3, 5e-4, 1e-5]})
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['body', 'head']
    """
    steps = np.asarray(iterations)
    rows = {name: positive(rates) for name, rates in learning_rates.items()}
    figure = new_figure()
    axes = figure.add_subplot()
    draw_rates(axes, steps, rows, title)
    add_legend(axes, figure)
    return write_figure(figure, path)


def draw_rates(
    axes: Axes,
    steps: np.ndarray,
    rows: Mapping[str, np.ndarray],
    title: str,
    xlabel: str = "step (optimizer updates)",
) -> None:
    values = np.concatenate([rates[np.isfinite(rates)] for rates in rows.values()])
    floor = 0.0
    if values.size:
        # Annealing ends near 0. Without this limit, a few steps would take half of the axis.
        peaks = [np.nanmax(rates) for rates in rows.values() if np.isfinite(rates).any()]
        floor = max(float(values.min()), 2e-3 * min(peaks))
        log_axis(axes, "y", floor / 1.6, float(values.max()) * 1.6)
        if values.min() < floor:
            xlabel += f"\nrates below {floor:.0e} are drawn at {floor:.0e}"
    for (name, rates), colour in zip(rows.items(), curve_colours(len(rows)), strict=True):
        alone = alone_points(np.isfinite(rates))
        style: dict[str, Any] = {"marker": ".", "markevery": alone} if alone else {}
        drawn = np.maximum(rates, floor)  # NaN stays NaN
        axes.plot(steps, drawn, color=colour, linewidth=1.8, label=name, **style)
    axes.margins(x=0.02)
    axes.locator_params("x", integer=True)
    label_axes(axes, xlabel=xlabel, ylabel="learning rate", title=title)


def alone_points(known: np.ndarray) -> list[int]:
    """Return the points between two gaps. They need a mark, because a line needs two points."""
    known = np.pad(known, 1)
    return np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]).tolist()


def plot_schedule(
    steps: Sequence[int] | np.ndarray,
    learning_rates: Sequence[float] | np.ndarray,
    path: Path = None,
    *,
    title: str = "Learning rate of the schedule",
    restarts: Sequence[int] = (),
) -> Figure:
    """Draw the rates of a schedule.

    Args:
        steps: The steps, rising.
        learning_rates: The rate at each step.
        restarts: Steps at which a cycle starts, each marked by a line.

    Example:

    >>> figure = plot_schedule([0, 1, 2], [0.1, 0.05, 0.0])
    >>> figure.axes[0].get_xlabel()
    'step (optimizer updates)'
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    figure = new_figure()
    axes = figure.add_subplot()
    for restart in restarts:
        axes.axvline(restart, color=SPINE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.plot(steps, rates, color=COLOURS[0], linewidth=1.8)
    label_axes(axes, xlabel="step (optimizer updates)", ylabel="learning rate", title=title)
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(rates, initial=0.0))))
    axes.margins(x=0.02)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return write_figure(figure, path)
