"""How all plots look: figures, axes, colours, legends.

Figures are built with matplotlib's object interface, which needs no display, window or global
state. Matplotlib is imported only to draw a plot.
"""

from __future__ import annotations

import functools
import io
import os
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path: TypeAlias = "str | os.PathLike[str] | None"
# The palette of Okabe and Ito, without its yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRID, SPINE, SHADE = "#333333", "#DDDDDD", "#999999", "#EEEEEE"
WIDTH, HEIGHT, DPI = 8.0, 4.2, 160  # at 8 inches, text of 10 points is easy to read
MAX_LEGEND = 12


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


def new_figure(height: float = HEIGHT, width: float = WIDTH) -> Figure:
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
    save_figure(figure, stream, format="png")
    return stream.getvalue()


def save_figure(figure: Figure, target: Any, **options: Any) -> None:
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


def label_axes(axes: Axes, *, xlabel: str, ylabel: str, title: str = "") -> None:
    axes.set_xlabel(literal(xlabel), color=INK)
    axes.set_ylabel(literal(ylabel), color=INK)
    if title:
        axes.set_title(
            literal(textwrap.fill(title, _TITLE_WIDTH)), loc="left", color=INK, fontsize=11
        )
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SPINE)


def literal(text: str) -> str:
    """Return what matplotlib draws as this text: to it, `$` begins a formula."""
    return text.replace("$", r"\$")


def shortened(names: Iterable[str], start: int, end: int) -> list[str]:
    """Return names that fit into a plot: of a long one, its start and its end."""
    longest = start + 1 + end
    return [
        literal(name if len(name) <= longest else f"{name[:start]}…{name[-end:]}") for name in names
    ]


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
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


def curve_colours(count: int) -> list[Any]:
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps

    # Groups have an order, so many of them get an ordered map, safe for colour-blind readers.
    # Its ends are hard to see on a dark and on a white page.
    return [colormaps["viridis"](0.15 + 0.7 * i / (count - 1)) for i in range(count)]


def thinned(entries: Sequence[Any]) -> list[Any]:
    """Return at most `MAX_LEGEND` of the entries of a legend, the first and the last among them."""
    kept = np.linspace(0, len(entries) - 1, min(MAX_LEGEND, len(entries))).round().astype(int)
    return [entries[i] for i in kept]


def add_legend(axes: Axes, figure: Figure) -> None:
    """Add a legend beside the axes, where it covers no line; list at most `MAX_LEGEND` lines."""
    handles, labels = map(thinned, axes.get_legend_handles_labels())
    if handles:
        figure.legend(
            handles,
            shortened(labels, 12, 15),
            loc="outside right upper",
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )


def write_figure(figure: Figure, path: Path) -> Figure:
    if path is not None:
        save_figure(figure, path)
    return figure


def positive(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the values as float64, with NaN for those that a log axis cannot show."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)
