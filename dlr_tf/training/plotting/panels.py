"""Small figures for a page of HTML, which gives them its colours."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlr_tf.training.plotting.figures import (
    COLOURS,
    GRID,
    INK,
    SHADE,
    SPINE,
    label_axes,
    new_figure,
    positive,
    save_figure,
    thinned,
)
from dlr_tf.training.plotting.limits import highest_shown_loss
from dlr_tf.training.plotting.rates import alone_points, draw_rates
from dlr_tf.training.plotting.views import draw_in_view, mark, note_of, set_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = (2.9, 4.4)  # height and width in inches: the text is easy to read on a telephone


def history_panel(
    runs: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    metric: str,
    frozen_epochs: int = 0,
    after_epoch: str = "validation",
) -> Figure:
    """Draw one metric over the epochs, for a page: a small figure without title and legend.

    A loss that is much higher than the others, or not finite, is marked at the edge of the plot.

    Args:
        runs: One or two labels, each with the `history` of a `History`.
        metric: `"loss"` or another key of the histories.
        frozen_epochs: Number of epochs in which only the head was trained. Defaults to 0.
        after_epoch: What `val_loss` and `val_accuracy` were computed on. Defaults to
            `"validation"`.

    Example:

    >>> figure = history_panel([("a", {"loss": [2.0, 1.0]})], "loss")
    >>> [label for label, _, _ in legend_entries(figure)]
    ['a, training']
    """
    figure = new_figure(*PANEL)
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    curves = {
        (label, part): (np.asarray(run[key], np.float64), colour)
        for (label, run), colour in zip(runs, COLOURS)
        for part, key in ((after_epoch, f"val_{metric}"), ("training", metric))
        if key in run
    }
    everything = [values for values, _ in curves.values()]
    edge, note = np.inf, ""
    if metric == "loss":
        top = highest_shown_loss([values.tolist() for values in everything])
        finite = np.concatenate([values[np.isfinite(values)] for values in everything])
        edge = set_view(axes, finite.min(initial=top), top)
        note = note_of(finite, edge)
        if not finite.size:
            axes.set_yticks([])
    for (label, part), (values, colour) in curves.items():
        epochs = np.arange(1, len(values) + 1)
        lost = ~np.isfinite(values)
        style: dict[str, Any] = {"linestyle": "-" if part == after_epoch else (0, (4, 2))}
        if part == after_epoch and len(values) <= 15:
            style["marker"] = "o"
        elif alone := alone_points(~lost):
            style |= {"marker": "x", "markevery": alone}
        values = np.where(lost, np.nan, values)
        label = f"{label}, {part}"
        draw_in_view(axes, epochs, values, edge, color=colour, label=label, markersize=4, **style)
        if metric == "loss" and lost.any():
            # Without a finite loss there is no view: any place does.
            mark(axes, epochs, lost, edge if np.isfinite(edge) else 0.0, "x", colour)
            note += "" if "not finite" in note else "\nx: not finite"
    label_axes(axes, xlabel=f"epoch{note}", ylabel=metric)
    axes.set_xlim(0.5, max(map(len, everything)) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if frozen_epochs > 0:
        axes.axvspan(0.5, frozen_epochs + 0.5, color=SHADE, zorder=0, label="head only")
    return figure


def rates_panel(
    steps: Sequence[float] | np.ndarray,
    learning_rates: Mapping[str, Sequence[float] | np.ndarray],
    xlabel: str = "step (optimizer updates)",
) -> Figure:
    """Draw what `plot_learning_rates` draws, for a page: a small figure without title and legend.

    Example:

    >>> figure = rates_panel([1, 2], {"head": [1e-3, 1e-4]})
    >>> [label for label, _, _ in legend_entries(figure)]
    ['head']
    """
    figure = new_figure(*PANEL)
    rows = {name: positive(rates) for name, rates in learning_rates.items()}
    draw_rates(figure.add_subplot(), np.asarray(steps), rows, "", xlabel)
    return figure


def legend_entries(figure: Figure) -> list[tuple[str, str, str]]:
    """Return label, colour and kind (`"solid"`, `"dashed"` or `"area"`) of what a figure shows.

    These are at most `MAX_LEGEND`. Colours are written as `svg_for_page` writes them.
    """
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D

    entries = []
    handle: Any
    for handle, label in zip(*figure.axes[0].get_legend_handles_labels(), strict=True):
        if isinstance(handle, Line2D):
            colour, kind = handle.get_color(), "dashed" if handle.is_dashed() else "solid"
        else:
            colour, kind = handle.get_facecolor(), "area"
        entries.append((label, _with_variables(to_hex(colour)), kind))
    return thinned(entries)


# Colours of the plots, and the CSS variable that replaces each in a page.
_VARIABLES = {
    INK: "--ink",
    GRID: "--grid",
    SPINE: "--spine",
    SHADE: "--shade",
    **{colour: f"--curve-{number}" for number, colour in enumerate(COLOURS)},
}


def _with_variables(text: str) -> str:
    for colour, variable in _VARIABLES.items():
        text = re.sub(colour, f"var({variable})", text, flags=re.IGNORECASE)
    return text


def svg_for_page(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an `svg` element for a page of HTML.

    The page gives the colours, as CSS variables (`--ink`, `--grid`, `--spine`, `--shade`,
    `--curve-0`, ...), so the figure fits a light and a dark page. The width is that of the box
    around it.

    Args:
        figure: The figure.
        name: A word that no other figure of the page has. It begins the names inside the figure.
        description: What the figure shows, for readers who do not see it.
    """
    from matplotlib import rc_context

    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # Text as text takes the font and the colour of the page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        save_figure(figure, stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # The size in points, and rules of style that would hold for the whole page.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<style.*?</style>|<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", text)
    label = f'<svg role="img" aria-label="{html.escape(description)}"'
    return _with_variables(text.replace("<svg", label, 1))
