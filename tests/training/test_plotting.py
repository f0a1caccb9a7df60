"""Plots: what is drawn, that nothing is covered, and the files."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from dlr_tf.training import plotting

STEPS = np.arange(140)
CYCLES = np.concatenate([0.5 * (1 + np.cos(np.pi * np.arange(n) / n)) for n in (20, 40, 80)])
RATES = {"group_0": 1e-5 * CYCLES, "group_1": 1e-4 * CYCLES, "head": 1e-3 * CYCLES}
HISTORY = {
    "loss": [2.0, 1.0, 0.7],
    "accuracy": [0.3, 0.6, 0.8],
    "val_loss": [1.8, 1.1, 0.9],
    "val_accuracy": [0.35, 0.5, 0.7],
    "learning_rate/head": [1e-3, 1e-3, 1e-3],
}


def panel(history, *others, metric: str = "loss"):
    return plotting.history_panel([("a", history), *(("b", other) for other in others)], metric)


def covers(figure, artist, axes) -> bool:
    """Whether an artist overlaps the area in which lines are drawn."""
    figure.canvas.draw()
    return bool(artist.get_window_extent().overlaps(axes.get_window_extent()))


def test_learning_rates_one_line_per_group_on_a_log_axis() -> None:
    figure = plotting.plot_learning_rates(STEPS, RATES)
    (axes,) = figure.axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == list(RATES)
    for line, rates in zip(lines, RATES.values()):
        np.testing.assert_array_equal(line.get_xdata(), STEPS)
        np.testing.assert_array_equal(line.get_ydata(), np.maximum(rates, 2e-8))
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel().startswith("step (optimizer updates)\n")
    assert axes.get_ylabel() == "learning rate"
    assert len({line.get_color() for line in lines}) == 3


def test_learning_rates_show_every_restart_and_no_endless_tail() -> None:
    figure = plotting.plot_learning_rates(STEPS, RATES)
    low, high = figure.axes[0].get_ylim()
    assert high > 1e-3  # the head's peaks
    assert low < 1e-5 / 100  # two decades of every group's fall
    assert low > 1e-5 * CYCLES[CYCLES > 0].min()  # the last step of the longest cycle is cut


def test_learning_rates_leave_a_gap_where_a_group_did_not_move() -> None:
    rates = {"body": [0.0, np.nan, 1e-4], "head": [1e-3, 1e-3, 1e-3], "unused": [0.0, 0.0, 0.0]}
    figure = plotting.plot_learning_rates([0, 1, 2], rates)
    body = figure.axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(body, [np.nan, np.nan, 1e-4])
    figure.canvas.draw()


def test_steps_and_epochs_are_integers_on_the_axis() -> None:
    figure = plotting.rates_panel([1, 2, 3], {"head": [1e-3, 5e-4, 1e-5]}, "epoch")
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_a_step_between_two_gaps_has_a_dot() -> None:
    rates = {"body": [1e-4, np.nan, 1e-4, np.nan, 1e-4, 1e-4], "head": [1e-3] * 6}
    body, head = plotting.plot_learning_rates(range(6), rates).axes[0].get_lines()
    assert (body.get_marker(), body.get_markevery()) == (".", [0, 2])
    assert head.get_marker() in ("", "None")


def test_no_steps_yet() -> None:
    figure = plotting.plot_learning_rates([], {"head": []})
    figure.canvas.draw()
    assert len(figure.axes[0].get_lines()) == 1


@pytest.mark.parametrize("n_groups", [3, 6, 50])
def test_legend_names_groups_and_covers_no_line(n_groups: int) -> None:
    rates = {f"backbone/block_{i}_expand_conv": RATES["head"] * 0.9**i for i in range(n_groups)}
    figure = plotting.plot_learning_rates(STEPS, rates)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert not covers(figure, legend, figure.axes[0])
    assert len(names) == min(n_groups, plotting.MAX_LEGEND)
    assert all(len(name) <= 28 for name in names)
    assert names[0].endswith("_0_expand_conv")
    assert names[-1].endswith(f"{n_groups - 1}_expand_conv")
    colours = {matplotlib.colors.to_hex(line.get_color()) for line in figure.axes[0].get_lines()}
    assert len(colours) == n_groups


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_files(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"rates.{ending}"
    figure = plotting.plot_learning_rates(STEPS, RATES, path)
    assert path.read_bytes().startswith(start)
    assert isinstance(figure, matplotlib.figure.Figure)
    if ending == "png":
        height, width, _ = matplotlib.image.imread(path).shape
        assert width >= 800
        assert height < width


def test_no_file_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plotting.plot_loss([1e-4, 1e-3], [2.0, 1.0])
    assert list(tmp_path.iterdir()) == []


def test_loss_over_rate() -> None:
    figure = plotting.plot_loss([1e-4, 1e-3, 1e-2], [2.0, np.inf, 1.0])
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "loss"
    np.testing.assert_array_equal(line.get_ydata(), [2.0, np.nan, 1.0])


def test_sweep_marks_every_suggestion_on_the_curve() -> None:
    rates = np.geomspace(1e-6, 1.0, 61)
    losses = (np.log10(rates) + 2) ** 2
    losses[-1] = np.inf
    suggestions = {"valley": 1e-4, "steep": 1e-5, "minimum": 1e-3, "slide": np.nan}
    figure = plotting.plot_sweep(rates, losses, suggestions)
    (axes,) = figure.axes
    points = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.get_lines()
        if line.get_marker() not in ("None", None)
    }
    assert list(points) == ["valley: 1.00e-04", "steep: 1.00e-05", "minimum: 1.00e-03"]
    for rate, loss in points.values():
        assert loss == pytest.approx((np.log10(rate) + 2) ** 2, rel=1e-6)
    assert not covers(figure, figure.legends[0], axes)


def test_sweep_keeps_the_valley_visible_when_the_loss_blows_up() -> None:
    rates = np.geomspace(1e-6, 1.0, 50)
    losses = np.concatenate([np.linspace(2.0, 1.0, 40), np.geomspace(1.0, 1e6, 10)])
    low, high = plotting.plot_sweep(rates, losses, {}).axes[0].get_ylim()
    assert low < 1.0
    assert 2.0 < high < 4.0


def shown(figure) -> str:
    """Check that every curve stays inside its axes; return the notes below them."""
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.get_lines():
            if line.get_transform() == axes.transData:  # no line across the whole plot
                values = np.asarray(line.get_ydata(), np.float64)
                assert np.all((low < values) & (values < high) | np.isnan(values))
    return "".join(axes.get_xlabel().partition("\n")[2] for axes in figure.axes)


def triangles(axes) -> list[float]:
    return [x for line in axes.get_lines() if line.get_marker() == "^" for x in line.get_xdata()]


def test_no_rate_leaves_the_plot() -> None:
    notes = shown(plotting.plot_learning_rates(STEPS, RATES))
    assert notes == "rates below 2e-08 are drawn at 2e-08"
    assert shown(plotting.plot_learning_rates([1, 2], {"head": [1e-3, 1e-4]})) == ""


def test_no_loss_leaves_the_plot() -> None:
    rates = np.geomspace(1e-6, 1.0, 50)
    losses = np.concatenate([np.linspace(2.0, 1.0, 48), [40.0, 80.0]])
    for figure in (plotting.plot_sweep(rates, losses, {}), plotting.plot_loss(rates, losses)):
        assert shown(figure) == "▲: above the view, up to 80"
        assert triangles(figure.axes[0]) == [rates[48]]
        assert figure.axes[0].get_ylim()[1] < 3
    assert shown(plotting.plot_loss(rates[:48], losses[:48])) == ""


def test_one_high_loss_does_not_rule_the_axis() -> None:
    history = {"loss": [2.0, 1.0, 0.7, 0.6], "val_loss": [1.8, 1.0, 900.0, 0.8]}
    figure = panel(history)
    assert shown(figure) == "▲: above the view, up to 900"
    assert triangles(figure.axes[0]) == [3]
    assert 2.0 < figure.axes[0].get_ylim()[1] < 2.5


def test_a_training_that_diverges_does_not_hide_the_other() -> None:
    diverged = {"loss": [1e3, 1e9, np.inf], "accuracy": [0.1] * 3, "val_loss": [1e6, *[np.nan] * 2]}
    figure = panel(HISTORY, diverged)
    assert shown(figure) == "▲: above the view, up to 1e+09\nx: not finite"
    assert figure.axes[0].get_ylim()[1] < 2.5
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[2], [3]]


def test_no_finite_loss_at_all() -> None:
    for values in ([np.nan] * 3, [np.inf] * 3):
        assert shown(panel({"loss": values})) == "x: not finite"


def test_a_loss_between_two_that_are_not_finite_has_a_cross() -> None:
    figure = panel({"loss": [3.0, np.nan, 2.0, 1.0]})
    line, _ = figure.axes[0].get_lines()
    assert (line.get_marker(), line.get_markevery()) == ("x", [0])


def test_every_plot_has_a_title_that_can_be_given() -> None:
    def titles(figure) -> list[str]:
        return [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes)]

    draw = {
        plotting.plot_learning_rates: (STEPS, RATES),
        plotting.plot_loss: ([0.1, 0.2], [1.0, 0.5]),
        plotting.plot_sweep: ([0.1, 0.2], [1.0, 0.5], {}),
        plotting.plot_schedule: ([0, 1], [0.1, 0.2]),
    }
    for function, arguments in draw.items():
        assert any(titles(function(*arguments)))
        given = titles(function(*arguments, title="VGG16 on costs_in_$"))
        assert r"VGG16 on costs_in_\$" in given  # `$` would begin a formula


def test_jupyter_shows_a_figure() -> None:
    figure = plotting.plot_loss([0.1, 0.2], [1.0, 0.5])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert type(figure) is matplotlib.figure.Figure
    assert len(pickle.loads(pickle.dumps(figure)).axes) == 1


def test_sweep_shows_the_whole_fall_when_the_first_loss_is_low() -> None:
    rates = np.geomspace(1e-6, 1.0, 50)
    losses = np.concatenate([[1.2], np.linspace(2.0, 1.0, 39), np.geomspace(1.0, 1e6, 10)])
    assert plotting.plot_sweep(rates, losses, {}).axes[0].get_ylim()[1] > 2.0


@pytest.mark.parametrize("later", [0.017, 0.0175])
def test_sweep_shows_the_rise_when_there_is_no_fall(later: float) -> None:
    rates = np.geomspace(1e-7, 10.0, 50)
    losses = np.concatenate([[0.017], np.linspace(0.03, later, 9), np.linspace(0.03, 0.068, 40)])
    low, high = plotting.plot_sweep(rates, losses, {}).axes[0].get_ylim()
    assert low < later
    assert high > 0.068


@pytest.mark.parametrize("losses", [[], [1.0], [np.nan, np.nan]])
def test_sweep_of_next_to_nothing(losses: list[float]) -> None:
    rates = np.geomspace(1e-3, 1e-2, len(losses))
    figure = plotting.plot_sweep(rates, losses, {"valley": 1e-3} if losses else {})
    figure.canvas.draw()
    assert len(figure.axes) == 1


def test_a_panel_has_a_line_per_run_and_part() -> None:
    for metric in ("loss", "accuracy"):
        figure = plotting.history_panel([("ours", HISTORY), ("other", HISTORY)], metric, 1)
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", metric)
        ours_val, ours, other_val, _ = axes.get_lines()
        np.testing.assert_array_equal(ours.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(ours.get_ydata(), HISTORY[metric])
        np.testing.assert_array_equal(ours_val.get_ydata(), HISTORY[f"val_{metric}"])
        assert ours.get_color() == ours_val.get_color() != other_val.get_color()
        assert ours.get_linestyle() != ours_val.get_linestyle()
        assert [(label, kind) for label, _, kind in plotting.legend_entries(figure)] == [
            ("ours, validation", "solid"),
            ("ours, training", "dashed"),
            ("other, validation", "solid"),
            ("other, training", "dashed"),
            ("head only", "area"),
        ]
    figure = plotting.history_panel([("ours", HISTORY)], "loss", after_epoch="test")
    assert [label for label, _, _ in plotting.legend_entries(figure)] == [
        "ours, test",
        "ours, training",
    ]


def test_one_loss_is_a_cross() -> None:
    (line,) = panel({"loss": [1.0]}).axes[0].get_lines()
    assert line.get_marker() == "x"


def test_schedule_marks_restarts() -> None:
    figure = plotting.plot_schedule(STEPS, RATES["head"], title="SGDR", restarts=[0, 20, 60])
    (axes,) = figure.axes
    *marks, line = axes.get_lines()
    assert [mark.get_xdata()[0] for mark in marks] == [0, 20, 60]
    np.testing.assert_array_equal(line.get_ydata(), RATES["head"])
    assert axes.get_title(loc="left") == "SGDR"
    assert axes.get_ylim()[0] <= 0


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "dlr_tf\[plot\]"'):
        panel(HISTORY)


def test_no_display_and_no_pyplot_needed() -> None:
    # The plots alone, since Keras may load pyplot itself.
    code = (
        "import os, sys, types\n"
        "for name, path in zip(('dlr_tf', 'dlr_tf.training'), sys.argv[1:]):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [path]\n"
        "from dlr_tf.training import plotting\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plotting.plot_loss([1.0, 0.5], [1.0, 0.5]).savefig(os.devnull)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print('drawn')"
    )
    environment = {**os.environ, "MPLBACKEND": "TkAgg"}
    environment.pop("DISPLAY", None)
    folder = Path(plotting.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(folder / "training")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stdout.strip() == "drawn", done.stderr


def test_a_long_title_stays_inside_of_the_picture() -> None:
    title = "SGDR: " + ", ".join(f"an_argument_{n}=0.001" for n in range(9))
    figure = plotting.plot_schedule(STEPS, np.linspace(0.0, 1e-3, len(STEPS)), title=title)
    figure.canvas.draw()
    box = figure.axes[0].get_tightbbox()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    "draw",
    [
        lambda name: plotting.plot_confusion_matrix(np.eye(2, dtype=int), [name, "b"], title=name),
        lambda name: plotting.plot_learning_rates([0, 1], {name: [1e-3, 1e-4]}, title=name),
        lambda name: plotting.plot_loss([1e-3, 1e-2], [1.0, 2.0], title=name),
        lambda name: plotting.plot_sweep([1e-3, 1e-2], [1.0, 2.0], {name: 1e-3}, title=name),
        lambda name: plotting.plot_schedule([0, 1], [1.0, 2.0], title=name),
    ],
)
def test_a_dollar_is_a_dollar_in_every_text(draw) -> None:
    figure = draw("$5_{ USD$")
    figure.canvas.draw()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if "USD" in text.get_text()]
    assert texts
    for text in texts:
        drawn, is_formula = text._preprocess_math(text.get_text())
        assert "$5_{ USD$" in drawn
        assert not is_formula


def test_one_warning_names_all_characters_that_the_font_lacks(tmp_path: Path) -> None:
    names = ["\u732b", "\u72ac\u732b"]
    message = "lacks some characters, which are drawn as boxes: \u72ac\u732b. Name an installed"
    with pytest.warns(UserWarning, match=message) as caught:
        plotting.plot_confusion_matrix(np.eye(2, dtype=int), names, tmp_path / "a.png")
    assert len(caught) == 1
