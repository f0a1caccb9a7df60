"""Tables of the recipe's study, from as many runs as there are."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

from benchmarks import common
from benchmarks.transfer import protocol, report
from benchmarks.transfer.arms import Arm
from benchmarks.transfer.intervals import average_interval, t_interval
from benchmarks.transfer.recipe import (
    AUTO_AVERAGED,
    AVERAGED,
    AVERAGED_DECAY,
    AVERAGED_FASTER,
    BY_RATIO,
    DEFAULT,
    FACTORS,
    FEATURES,
    HARD,
    HARD_SENSITIVITY,
    LENGTH,
    LENGTHS,
    RATIOS,
    SENSITIVITY,
    SHORT,
    SHORTEST,
    SOFT,
    SOLVED,
    TUNED_RIVALS,
)
from benchmarks.transfer.study import Study


def _short(arm: Arm) -> str:
    """Return the name of an arm without its length."""
    return arm.name.rpartition(", ")[0]


def _pairs() -> list[tuple[str, str, str]]:
    """Return an arm, the arm it is compared with, and what differs."""
    by_length = dict(zip(LENGTHS, BY_RATIO[10]))
    standard = by_length[LENGTH].name
    solved = dict(zip(RATIOS, SOLVED))  # at the length `LENGTH`
    at_length = {ratio: BY_RATIO[ratio][LENGTHS.index(LENGTH)].name for ratio in RATIOS}
    return [
        (SHORTEST.name, SHORT.name, f"length 1 instead of {SHORT.length:g}"),
        *(
            (
                by_length[longer].name,
                by_length[shorter].name,
                f"length {longer} instead of {shorter}",
            )
            for shorter, longer in itertools.pairwise(LENGTHS)
        ),
        (at_length[1], standard, f"length {LENGTH}: ratio 1 instead of 10"),
        (at_length[100], standard, f"length {LENGTH}: ratio 100 instead of 10"),
        *(
            (solved[ratio].name, at_length[ratio], f"length {LENGTH}, ratio {ratio}: solved head")
            for ratio in RATIOS
        ),
        *(
            (one.name, at_length[10], f"length {LENGTH}: {_short(one)} instead of `auto`, ratio 10")
            for one in (DEFAULT, HARD, *AVERAGED[:-1], *AVERAGED_FASTER, AVERAGED_DECAY)
        ),
        (DEFAULT.name, HARD.name, f"{_short(DEFAULT)} instead of {_short(HARD)}"),
        *((one.name, DEFAULT.name, f"{one.name} instead of {DEFAULT.name}") for one in SOFT),
        *(
            (one.name, base.name, f"{_short(base)}: {factor} its rate")
            for base, arms in ((DEFAULT, SENSITIVITY), (HARD, HARD_SENSITIVITY))
            for one, factor in zip(arms, FACTORS)
        ),
        (AUTO_AVERAGED.name, at_length[10], f"length {LENGTH}, ratio 10: averaged weights alone"),
        *(
            (one.name, rival.name, f"{_short(one)} instead of {rival.name}")
            for one in (DEFAULT, HARD, AVERAGED_DECAY)
            for rival in (FEATURES, *TUNED_RIVALS)
        ),
        (FEATURES.name, SHORTEST.name, "features alone instead of ratio 10, x1"),
        (FEATURES.name, standard, f"features alone instead of length {LENGTH}"),
        *(
            (standard, rival.name, f"`auto`, ratio 10, length {LENGTH} instead of {rival.name}")
            for rival in TUNED_RIVALS
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The final runs of an arm that are there.

    Args:
        name: The arm's name.
        steps: Number of training steps.
        rates: The lowest and the highest peak rate of the head over the seeds.
        test: Accuracy on the test part, by seed.
        seconds: Median seconds of head start, choice of rates, and training.
        processor_seconds: The same on the clock of the processor.
        last: As `test`, with the last weights instead of averaged ones.
    """

    name: str
    steps: int
    rates: tuple[float, float]
    test: dict[int, float]
    seconds: float
    processor_seconds: float
    last: dict[int, float] = dataclasses.field(default_factory=dict)


def measured(records: report.Records, study: Study, task: str) -> list[Measured]:
    """Return the arms of a task that have final runs."""
    found = []
    for arm in study.arms_of(task):
        of_arm = _final_records(records, task, arm)
        if not of_arm:
            continue
        heads = [(one["rates"] or [one["learning_rate"]])[-1] for one in of_arm]
        found.append(
            Measured(
                arm.name,
                of_arm[0]["steps"],
                (min(heads), max(heads)),
                {one["seed"]: one["test"] for one in of_arm},
                statistics.median(one["training_seconds"] for one in of_arm),
                statistics.median(one["training_processor_seconds"] for one in of_arm),
                {one["seed"]: one["last_test"] for one in of_arm if one.get("last_test")},
            )
        )
    return found


def _final_records(records: report.Records, task: str, arm: Arm) -> list[protocol.Record]:
    key = (task, arm.name, protocol.FINAL)
    return [record for run, record in sorted(records.items()) if run[:3] == key]


def task_table(found: Sequence[Measured]) -> str:
    """Return the table of one task, in the order of the arms."""
    base = next((one for one in found if one.name == SHORTEST.name), None)
    lines = []
    for one in found:
        gain = None if base in (None, one) else report.difference(one.test, base.test)
        lines.append(
            [
                one.name,
                str(one.steps),
                " to ".join(f"{rate:.2g}" for rate in sorted({*one.rates})) if one.steps else "-",
                report.as_text(t_interval(list(one.test.values())), digits=3),
                "-" if gain is None else report.points(gain),
                str(len(one.test)),
                f"{one.seconds:.0f}",
                f"{one.processor_seconds:.1f}",
            ]
        )
    columns = [
        "arm",
        "steps",
        "rate",
        "test accuracy",
        f"points to {SHORTEST.name}",
        "seeds",
        "seconds",
    ]
    return common.markdown_table([*columns, "processor seconds"], lines)


def pair_table(found_by_task: Mapping[str, Sequence[Measured]]) -> str:
    """Return what each change does to the test accuracy, in points; empty if none has two seeds."""
    lines = []
    for one, other, change in _pairs():
        cells = []
        for found in found_by_task.values():
            tests = {arm.name: arm.test for arm in found}
            ours, theirs = tests.get(one, {}), tests.get(other, {})
            gain = report.difference(ours, theirs)
            n_seeds = len(ours.keys() & theirs.keys())
            enough = gain is not None and n_seeds > 1
            cells.append(f"{report.points(gain)}, {n_seeds}" if gain and enough else "-")
        if any(cell != "-" for cell in cells):
            lines.append([change, *cells])
    for arm in (DEFAULT, *SOFT, HARD, *AVERAGED, *AVERAGED_FASTER, AVERAGED_DECAY):
        cells = []
        for found in found_by_task.values():
            one = next((one for one in found if one.name == arm.name and len(one.last) > 1), None)
            gain = report.difference(one.test, one.last) if one else None
            cells.append(f"{report.points(gain)}, {len(one.last)}" if one and gain else "-")
        if any(cell != "-" for cell in cells):
            lines.append([f"{arm.name}: averaged weights instead of the last ones", *cells])
    return common.markdown_table(["change", *found_by_task], lines) if lines else ""


def rival_tables(found_by_task: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Return the default beside the best rival of each task, and beside each rival on all tasks.

    The best rival is the one with the smallest distance to the default. Empty if no task has two
    seeds of both.
    """
    gains: dict[str, dict[str, list[float]]] = {}
    for task, found in found_by_task.items():
        tests = {arm.name: arm.test for arm in found}
        ours = tests.get(DEFAULT.name, {})
        for rival in (FEATURES, *TUNED_RIVALS):
            theirs = tests.get(rival.name, {})
            sample = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
            if len(sample) > 1:
                gains.setdefault(task, {})[rival.name] = sample
    if not gains:
        return []
    lines, best = [], []
    for task, of_task in gains.items():
        name, sample = min(of_task.items(), key=lambda item: statistics.mean(item[1]))
        best.append(sample)
        lines.append([task, name, report.points(t_interval(sample)), str(len(sample))])
    lines.append(["on average", "", report.points(average_interval(best)), ""])
    averages = []
    for rival in (FEATURES, *TUNED_RIVALS):
        samples = [of_task[rival.name] for of_task in gains.values() if rival.name in of_task]
        if samples:
            average = report.points(average_interval(samples))
            averages.append([rival.name, average, str(len(samples))])
    return [
        common.markdown_table(["task", "best rival", "points to it", "seeds"], lines),
        common.markdown_table(
            ["rival", "points to it on average over the tasks", "tasks"], averages
        ),
    ]


def text(records: report.Records, study: Study) -> str:
    """Return the section of the page: the changes, a table per task, and what is missing."""
    by_task = {task: measured(records, study, task) for task in study.outlines}
    by_task = {task: found for task, found in by_task.items() if found}
    parts = [report.where(records.values())]
    table = pair_table(by_task)
    if table:
        parts += [
            "### What each change of the recipe does",
            "Points of test accuracy, mean over the seeds of the difference seed by seed, its 95 % "
            "interval, and the number of seeds:",
            table,
        ]
    rivals = rival_tables(by_task)
    if rivals:
        parts += [
            "### The default and its rivals",
            f"The default is *{DEFAULT.name}*. The best rival of each task:",
            rivals[0],
            "Who chooses one rival for all tasks:",
            rivals[1],
        ]
    for task in study.outlines:
        left = study.n_left(task, records)
        if task in by_task:
            parts += [report.heading(study.outlines[task].title), task_table(by_task[task])]
            parts.append(f"Not complete: {left} runs are left." if left else "")
    absent = [task for task in study.outlines if task not in by_task]
    parts.append(f"Not run: {', '.join(absent)}." if absent else "")
    return "\n\n".join(part for part in parts if part)
