"""Pictures of the stored runs: accuracy over epochs, over factors of the rate, over seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.transfer import recipe, recipe_report, report
from benchmarks.transfer.arms import Arm
from benchmarks.transfer.intervals import t_interval
from benchmarks.transfer.rates import COMMON, DEFAULT, OLD_DEFAULT, RIVAL
from benchmarks.transfer.study import Study

# A picture shows few arms, or none can be told apart.
SHOWN = (RIVAL, COMMON, "ratio 10, one-cycle", OLD_DEFAULT, "head only", DEFAULT)
CURVES, SENSITIVITY = "transfer_curves.png", "transfer_sensitivity.png"
SECONDS = "transfer_seconds.png"


def draw(records: report.Records, study: Study, folder: Path) -> list[Path]:
    """Draw the pictures that the runs suffice for.

    Args:
        records: The stored runs.
        study: The study.
        folder: Where the pictures go.

    Returns:
        The files that were written.
    """
    curves, sensitivities = {}, {}
    for task in (task for task in report.SUMMARY if task in study.outlines):
        chosen = [arm for arm in study.arms_of(task) if arm.name in SHOWN]
        found = [one for one in report.results(records, study.plan, task, chosen) if one.curves]
        if found:
            curves[task] = {one.name: list(one.curves.values()) for one in found}
        by_arm = report.sensitivity(records, study.plan, task, chosen)
        if by_arm:
            sensitivities[task] = by_arm
    written = []
    if curves:
        written.append(_draw_curves(curves, folder / CURVES))
    if sensitivities:
        written.append(_draw_sensitivity(sensitivities, folder / SENSITIVITY))
    return written


def _draw_curves(curves: dict[str, dict[str, list[list[float]]]], path: Path) -> Path:
    figure, panels = _panels(curves)
    for axes, (task, by_arm) in zip(panels, curves.items()):
        lowest_ends = []
        for name, by_seed in by_arm.items():
            intervals = [t_interval(values) for values in zip(*by_seed)]
            epochs = range(1, len(intervals) + 1)
            color = f"C{SHOWN.index(name)}"
            axes.plot(epochs, [one.mean for one in intervals], color=color, label=name)
            axes.fill_between(
                epochs,
                [one.low for one in intervals],
                [one.high for one in intervals],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
            lowest_ends.append(intervals[-1].mean)
        # The first epochs are far below the last ones, which are what is compared.
        axes.set_ylim(bottom=max(0.0, min(lowest_ends) - 0.25), top=1.0)
        axes.set_xlabel("epoch")
        axes.set_title(task)
    panels[0].set_ylabel("accuracy on the validation part")
    return _save(figure, panels, path, "Mean over the seeds, and its 95 % interval")


def _draw_sensitivity(
    sensitivities: dict[str, dict[str, dict[float, dict[int, float]]]], path: Path
) -> Path:
    figure, panels = _panels(sensitivities)
    for axes, (task, by_arm) in zip(panels, sensitivities.items()):
        for name, by_multiplier in by_arm.items():
            multipliers = sorted(by_multiplier)
            means = [statistics.mean(by_multiplier[m].values()) for m in multipliers]
            axes.plot(multipliers, means, "o-", color=f"C{SHOWN.index(name)}", label=name)
        axes.set_xscale("log")
        axes.set_xlabel("factor of the tuned rate")
        axes.set_title(task)
    panels[0].set_ylabel("accuracy on the test part")
    return _save(figure, panels, path, "Mean over the seeds")


def _panels(tasks: Sequence[str] | dict[str, Any]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tasks) + 1.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, len(tasks), squeeze=False)[0])


def _save(figure: Any, panels: Sequence[Any], path: Path, title: str) -> Path:
    for axes in panels:
        axes.grid(alpha=0.3)
    # A task may have fewer arms than another.
    handles = {}
    for axes in panels:
        handles.update(dict(zip(*reversed(axes.get_legend_handles_labels()))))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(panels),
        frameon=False,
    )
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return path


def draw_seconds(records: report.Records, study: Study, folder: Path) -> list[Path]:
    """Draw the test accuracy of the recipe's arms over the seconds of their training.

    Args:
        records: The stored runs.
        study: The recipe's study.
        folder: Where the picture goes.

    Returns:
        The file that was written; none without runs.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    shown_tasks = [task for task in study.outlines if task in recipe.TWENTY]
    by_task = {task: recipe_report.measured(records, study, task) for task in shown_tasks}
    by_task = {task: found for task, found in by_task.items() if found}
    if not by_task:
        return []
    figure, panels = _panels(by_task)
    for axes, (task, found) in zip(panels, by_task.items()):
        by_name = {one.name: one for one in found}
        for number, (label, arms) in enumerate(_families().items()):
            shown = [by_name[arm.name] for arm in arms if arm.name in by_name]
            if not shown:
                continue
            intervals = [t_interval(list(one.test.values())) for one in shown]
            axes.errorbar(
                [one.processor_seconds for one in shown],
                [one.mean for one in intervals],
                # The interval of one seed is infinite.
                [one.high - one.mean if one.high < 2 else 0.0 for one in intervals],
                fmt="o-" if number < 10 else "s-",  # there are ten colours
                elinewidth=0.6,
                color=f"C{number}",
                label=label,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("processor seconds of the training")
        axes.set_title(task)
    panels[0].set_ylabel("accuracy on the test part")
    return [_save(figure, panels, folder / SECONDS, "Mean over the seeds, and its 95 % interval")]


def _families() -> dict[str, Sequence[Arm]]:
    """Return the arms that one line connects, by its label."""
    return {
        "features alone": [recipe.FEATURES],
        **{f"ratio {ratio}": arms for ratio, arms in recipe.BY_RATIO.items()},
        **{
            f"solved head, ratio {ratio}": [
                arm for arm in recipe.SOLVED[::-1] if arm.value == ratio
            ]
            for ratio in recipe.RATIOS
        },
        "solved head, averaged, ratio 1": [recipe.HARD],
        "the default: at temperature 3": [recipe.SOFT[-1], recipe.DEFAULT],
        **{arm.name: [arm] for arm in recipe.TUNED_RIVALS},
    }
