"""Plots of rates, losses, schedules and sweeps.

This is the only module that uses matplotlib, and it imports matplotlib only to draw a plot. Figures
are built with matplotlib's object interface, which needs no display, window or global state.
"""

from __future__ import annotations

import functools
import html
import io
import itertools
import os
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dlr_tf.training.plot_limits import highest_shown_loss, highest_shown_step_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path: TypeAlias = "str | os.PathLike[str] | None"

# The palette of Okabe and Ito, without its yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRID, SPINE, SHADE = "#333333", "#DDDDDD", "#999999", "#EEEEEE"
PANEL = (2.9, 4.4)  # height and width in inches: the text is easy to read on a telephone
WIDTH, HEIGHT, DPI = 8.0, 4.2, 160  # at 8 inches, text of 10 points is easy to read
MAX_LEGEND = 12
SMALLEST_SPAN = 0.02  # of an axis of losses, in relation to the highest one


def require_matplotlib() -> None:
    """Check that plots can be drawn, before a long computation that ends with a plot.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib, which is not installed. Run: pip install "dlr_tf[plot]"'
        ) from error


def _figure(height: float = HEIGHT, width: float = WIDTH) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    # Jupyter shows what has this method. It knows matplotlib's figures only after pyplot is loaded.
    setattr(figure, "_repr_png_", functools.partial(_png, figure))  # noqa: B010
    return figure


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    _save(figure, stream, format="png")
    return stream.getvalue()


def _save(figure: Figure, target: Any, **options: Any) -> None:
    """Save a figure. One warning names all characters that the font lacks, not one each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing")
        figure.savefig(target, **options)
    missing = ""
    for warning in caught:
        if found := re.match(r"Glyph (\d+) ", str(warning.message)):
            missing += chr(int(found[1]))
        else:
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing:
        warnings.warn(
            "Matplotlib's font lacks some characters, which are drawn as boxes: "
            f"{''.join(sorted({*missing}))}. Name an installed font that has them in the file "
            "matplotlibrc: `font.family: NAME`.",
            UserWarning,
            stacklevel=4,
        )


# Characters in a line as wide as the narrowest axes.
_TITLE_WIDTH = 72


def _label(axes: Axes, *, xlabel: str, ylabel: str, title: str = "") -> None:
    axes.set_xlabel(_literal(xlabel), color=INK)
    axes.set_ylabel(_literal(ylabel), color=INK)
    if title:
        axes.set_title(
            _literal(textwrap.fill(title, _TITLE_WIDTH)), loc="left", color=INK, fontsize=11
        )
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SPINE)


def _literal(text: str) -> str:
    """Return what matplotlib draws as this text: to it, `$` begins a formula."""
    return text.replace("$", r"\$")


def _shortened(names: Iterable[str], start: int, end: int) -> list[str]:
    """Return names that fit into a plot: of a long one, its start and its end."""
    longest = start + 1 + end
    return [
        _literal(name if len(name) <= longest else f"{name[:start]}…{name[-end:]}")
        for name in names
    ]


def _log(axes: Axes, which: str, low: float, high: float) -> None:
    """Set a log axis from `low` to `high`; below two decades, the minor ticks have numbers too."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    axis: Any = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(LogFormatterSciNotation())
    if high / low < 100:
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    else:
        axis.set_minor_formatter(NullFormatter())


def _colours(count: int) -> list[Any]:
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps

    # Groups have an order, so many of them get an ordered map, safe for colour-blind readers.
    # Its ends are hard to see on a dark and on a white page.
    return [colormaps["viridis"](0.15 + 0.7 * i / (count - 1)) for i in range(count)]


def _legend(axes: Axes, figure: Figure) -> None:
    """Add a legend beside the axes, where it covers no line; list at most `MAX_LEGEND` lines."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > MAX_LEGEND:
        kept = np.unique(np.linspace(0, len(handles) - 1, MAX_LEGEND).round().astype(int))
        handles, labels = [handles[i] for i in kept], [labels[i] for i in kept]
    if handles:
        figure.legend(
            handles,
            _shortened(labels, 12, 15),
            loc="outside right upper",
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )


def _write(figure: Figure, path: Path) -> Figure:
    if path is not None:
        _save(figure, path)
    return figure


def _positive(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the values as float64, with NaN for those that a log axis cannot show."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)


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
        path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
        title: Heading of the plot.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no group, or a group has not one rate per step.

    Example:

    >>> figure = plot_learning_rates([0, 1, 2], {"body": [1e-4] * 3, "head": [1e-3, 5e-4, 1e-5]})
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['body', 'head']
    """
    steps = np.asarray(iterations)
    rows = {name: _positive(rates) for name, rates in learning_rates.items()}
    if not rows:
        raise ValueError(
            "There are no rates to plot: expected at least one group of rates. "
            f"Received: learning_rates={learning_rates!r}"
        )
    for name, rates in rows.items():
        if rates.shape != steps.shape:
            raise ValueError(
                "Every group needs one rate per step. "
                f"Received: {rates.size} rates for {name!r} and {steps.size} steps"
            )
    figure = _figure()
    axes = figure.add_subplot()
    _draw_rates(axes, steps, rows, title)
    _legend(axes, figure)
    return _write(figure, path)


def _draw_rates(
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
        _log(axes, "y", floor / 1.6, float(values.max()) * 1.6)
        if values.min() < floor:
            xlabel += f"\nrates below {floor:.0e} are drawn at {floor:.0e}"
    for (name, rates), colour in zip(rows.items(), _colours(len(rows)), strict=True):
        alone = _alone(np.isfinite(rates))
        style: dict[str, Any] = {"marker": ".", "markevery": alone} if alone else {}
        drawn = np.maximum(rates, floor)  # NaN stays NaN
        axes.plot(steps, drawn, color=colour, linewidth=1.8, label=name, **style)
    axes.margins(x=0.02)
    axes.locator_params("x", integer=True)
    _label(axes, xlabel=xlabel, ylabel="learning rate", title=title)


def _alone(known: np.ndarray) -> list[int]:
    """Return the points between two gaps. They need a mark, because a line needs two points."""
    known = np.pad(known, 1)
    return np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]).tolist()


def plot_loss(
    learning_rates: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    path: Path = None,
    *,
    title: str = "Loss against learning rate",
    xlabel: str = "learning rate of the head",
) -> Figure:
    """Draw the loss of each step against its rate, on a log axis of rates.

    Args:
        learning_rates: Positive rates. Others, and NaN, leave a gap.
        losses: The loss at each rate. NaN and infinities leave a gap.
        path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
        title: Heading of the plot.
        xlabel: Label of the axis of rates.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are not as many losses as rates.

    Example:

    >>> figure = plot_loss([1e-4, 1e-3, 1e-2], [2.3, 1.9, 4.0])
    >>> figure.axes[0].get_xscale()
    'log'
    """
    rates, values = _loss_curve(learning_rates, losses)
    top = highest_shown_step_loss(values)
    view = (values[np.isfinite(values)].min(initial=top), top)
    figure = _loss_figure(rates, values, view, title, xlabel)
    return _write(figure, path)


def _loss_curve(
    learning_rates: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rates, values = _positive(learning_rates), np.asarray(losses, dtype=np.float64)
    if rates.shape != values.shape:
        raise ValueError(
            "Expected one loss per learning rate. "
            f"Received: {rates.size} learning rates and {values.size} losses"
        )
    return rates, np.where(np.isfinite(values), values, np.nan)


def _loss_figure(
    rates: np.ndarray, values: np.ndarray, view: tuple[float, float], title: str, xlabel: str
) -> Figure:
    figure = _figure()
    axes = figure.add_subplot()
    edge = _set_view(axes, *view)
    _draw_in_view(axes, rates, values, edge, color=COLOURS[0])
    xlabel += _note(values[np.isfinite(values)], edge)
    _label(axes, xlabel=xlabel, ylabel="loss", title=title)
    known = rates[np.isfinite(rates)]
    if known.size:
        _log(axes, "x", float(known.min()) / 1.3, float(known.max()) * 1.3)
    return figure


def _set_view(axes: Axes, low: float, top: float) -> float:
    """Show the values from `low` to `top`; return the place for what is above."""
    if not np.isfinite(low + top):
        return np.inf
    span = max(top - low, SMALLEST_SPAN * abs(top), 1e-12)
    axes.set_ylim(low - 0.08 * span, top + 0.12 * span)
    return top + 0.06 * span


def _draw_in_view(axes: Axes, x: np.ndarray, y: np.ndarray, edge: float, **style: Any) -> None:
    """Draw a curve that stays inside its axes: a triangle marks where it goes above the edge."""
    above = y > edge
    axes.plot(x, np.minimum(y, edge), linewidth=1.8, **style)  # NaN stays NaN
    _mark(axes, x, above, edge, "^", style["color"])


def _mark(
    axes: Axes, x: np.ndarray, where: np.ndarray, edge: float, marker: str, colour: str
) -> None:
    first = where & ~np.pad(where, (1, 0))[:-1]
    if first.any():
        axes.plot(
            x[first], np.full(first.sum(), edge), marker, color=colour, markersize=6,
            linestyle="none",
        )  # fmt: skip


def _note(values: np.ndarray, edge: float) -> str:
    highest = values.max(initial=-np.inf)
    return f"\n▲: above the view, up to {highest:.3g}" if highest > edge else ""


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
        path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
        title: Heading of the plot.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are not as many losses as rates.

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
    figure = _loss_figure(rates, values, view, title, "learning rate of the head")
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
    _legend(axes, figure)
    return _write(figure, path)


def history_panel(
    runs: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    metric: str,
    frozen_epochs: int = 0,
    after_epoch: str = "validation",
) -> Figure:
    """Draw one metric over the epochs in a small figure, for a page.

    A loss that is much higher than the others, or not finite, is marked at the edge of the plot.

    Args:
        runs: One or two labels, each with the `history` of a `History`.
        metric: `"loss"` or another key of the histories.
        frozen_epochs: Number of epochs in which only the head was trained. Defaults to 0.
        after_epoch: What `val_loss` and `val_accuracy` were computed on. Defaults to
            `"validation"`.

    Returns:
        The `matplotlib.figure.Figure`, without title and legend.

    Example:

    >>> figure = history_panel([("a", {"loss": [2.0, 1.0]})], "loss")
    >>> [label for label, _, _ in legend_entries(figure)]
    ['a, training']
    """
    figure = _figure(*PANEL)
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
        edge = _set_view(axes, finite.min(initial=top), top)
        note = _note(finite, edge)
        if not finite.size:
            axes.set_yticks([])
    for (label, part), (values, colour) in curves.items():
        epochs = np.arange(1, len(values) + 1)
        lost = ~np.isfinite(values)
        style: dict[str, Any] = {"linestyle": "-" if part == after_epoch else (0, (4, 2))}
        if part == after_epoch and len(values) <= 15:
            style["marker"] = "o"
        elif alone := _alone(~lost):
            style |= {"marker": "x", "markevery": alone}
        values = np.where(lost, np.nan, values)
        label = f"{label}, {part}"
        _draw_in_view(axes, epochs, values, edge, color=colour, label=label, markersize=4, **style)
        if metric == "loss" and lost.any():
            # Without a finite loss there is no view: any place does.
            _mark(axes, epochs, lost, edge if np.isfinite(edge) else 0.0, "x", colour)
            note += "" if "not finite" in note else "\nx: not finite"
    _label(axes, xlabel=f"epoch{note}", ylabel=metric)
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
    """Draw the rate of every group in a small figure, for a page.

    Args:
        steps: As in `plot_learning_rates`.
        learning_rates: As in `plot_learning_rates`.
        xlabel: Label of the axis of steps.

    Returns:
        The `matplotlib.figure.Figure`, without title and legend.

    Example:

    >>> figure = rates_panel([1, 2], {"head": [1e-3, 1e-4]})
    >>> [label for label, _, _ in legend_entries(figure)]
    ['head']
    """
    figure = _figure(*PANEL)
    rows = {name: _positive(rates) for name, rates in learning_rates.items()}
    _draw_rates(figure.add_subplot(), np.asarray(steps), rows, "", xlabel)
    return figure


def legend_entries(figure: Figure) -> list[tuple[str, str, str]]:
    """Return label, colour and kind (`"solid"`, `"dashed"` or `"area"`) of what a figure shows.

    Args:
        figure: A figure with one panel.

    Returns:
        At most `MAX_LEGEND` entries. Colours are written as `svg_for_page` writes them.
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
    kept = np.unique(np.linspace(0, len(entries) - 1, MAX_LEGEND).round().astype(int))
    return [entries[i] for i in kept] if len(entries) > MAX_LEGEND else entries


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
        _save(figure, stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # The size in points, and rules of style that would hold for the whole page.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<style.*?</style>|<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", text)
    label = f'<svg role="img" aria-label="{html.escape(description)}"'
    return _with_variables(text.replace("<svg", label, 1))


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
        path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
        title: Heading of the plot.
        restarts: Steps at which a cycle starts, each marked by a line.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are not as many rates as steps.

    Example:

    >>> figure = plot_schedule([0, 1, 2], [0.1, 0.05, 0.0])
    >>> figure.axes[0].get_xlabel()
    'step (optimizer updates)'
    """
    places, rates = np.asarray(steps), np.asarray(learning_rates, dtype=np.float64)
    if places.shape != rates.shape:
        raise ValueError(
            "Expected one learning rate per step. "
            f"Received: {places.size} steps and {rates.size} learning rates"
        )
    figure = _figure()
    axes = figure.add_subplot()
    for restart in restarts:
        axes.axvline(restart, color=SPINE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.plot(places, rates, color=COLOURS[0], linewidth=1.8)
    _label(axes, xlabel="step (optimizer updates)", ylabel="learning rate", title=title)
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(rates, initial=0.0))))
    axes.margins(x=0.02)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return _write(figure, path)


def ascii_plot(
    learning_rates: Sequence[float] | np.ndarray, *, width: int = 72, height: int = 16
) -> str:
    """Draw a curve with characters, for a terminal.

    Args:
        learning_rates: The rates, one per step. NaN and infinity leave a gap.
        width: Columns of the curve. Defaults to 72.
        height: Rows of the curve. Defaults to 16.

    Returns:
        Lines of text, the highest rate first, with an axis of rates and an axis of steps.

    Raises:
        ValueError: If no rate is finite.

    Example:

    >>> print(ascii_plot([0.0, 0.5, 1.0], width=3, height=3))
         1 |  *
           | *
         0 |*
           +---
            0 2  step (optimizer updates)
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    finite = rates[np.isfinite(rates)]
    if finite.size == 0:
        raise ValueError(
            "There is nothing to draw: expected at least one finite learning rate. "
            f"Received: {rates.size} rates"
        )
    low, high = float(finite.min()), float(finite.max())
    span = high - low if high > low else 1.0
    columns = min(width, rates.size)
    edges = np.linspace(0, rates.size, columns + 1).round().astype(int)
    canvas = np.full((height, columns), " ")
    for column in range(columns):
        part = rates[edges[column] : edges[column + 1]]
        part = part[np.isfinite(part)]
        if part.size == 0:
            continue
        # A column of many steps shows the range of their rates, so every restart is visible.
        top, bottom = (
            round(float(high - value) / span * (height - 1)) for value in (part.max(), part.min())
        )
        canvas[top : bottom + 1, column] = "*"
    numbers = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    margin = max(6, *(len(text) for text in numbers.values()))
    rows = [
        f"{numbers.get(row, ''):>{margin}} |{''.join(canvas[row])}".rstrip()
        for row in range(height)
    ]
    last = str(rates.size - 1)
    rows.append(f"{'':>{margin}} +{'-' * columns}")
    last = last.rjust(max(columns - 1, len(last) + 1))
    rows.append(f"{'':>{margin}}  0{last}  step (optimizer updates)")
    return "\n".join(rows)


def plot_confusion_matrix(
    matrix: np.ndarray, class_names: Sequence[str], path: Path = None, *, title: str = ""
) -> Figure:
    """Draw a confusion matrix: one row per true class, one column per predicted class.

    The colour of a field is its fraction of the row. Up to 20 classes, the fields show the numbers;
    up to 40, the axes show the names.

    Args:
        matrix: Int array `[true class, predicted class]`.
        class_names: The classes.
        path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
        title: Heading of the plot.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = plot_confusion_matrix(np.eye(2, dtype=int), ["cat", "dog"])
    >>> figure.axes[0].get_xlabel()
    'predicted class'
    """
    count = len(class_names)
    figure = _figure(min(max(HEIGHT, 1.6 + 0.36 * count), 12.0))
    axes = figure.add_subplot()
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0.0, vmax=1.0)
    _label(axes, xlabel="predicted class", ylabel="true class", title=title)
    axes.grid(False)
    if count <= 40:
        names = _shortened(class_names, 10, 13)
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    if count <= 20:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                colour = "white" if fractions[row, column] > 0.5 else INK
                axes.text(
                    column, row, f"{number}", ha="center", va="center", color=colour, fontsize=8
                )
    return _write(figure, path)
