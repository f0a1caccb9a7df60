"""Tables from the stored runs, whether all of them are there or not."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks import common
from benchmarks.transfer import protocol
from benchmarks.transfer.arms import Arm
from benchmarks.transfer.intervals import Interval, first_at_least, paired_interval, t_interval
from benchmarks.transfer.protocol import Protocol, Record, Run
from benchmarks.transfer.rates import COMMON, DEFAULT, OLD_DEFAULT, RIVAL
from benchmarks.transfer.study import Study

ENSEMBLE = ", ensemble"
SUMMARY = ("digits", "text", "images")
Records = Mapping[Run, Record]

_BASE = "ratio 10, one-cycle"
# What the summary compares: an arm, the arm that differs from it in one thing, and that thing.
PAIRS = (
    (_BASE, RIVAL, "ratio 10 instead of one rate, both tuned"),
    (DEFAULT, RIVAL, "`auto` with ratio 10 instead of one tuned rate"),
    (DEFAULT, "one rate, one-cycle, auto", "`auto`: ratio 10 instead of one rate"),
    (DEFAULT, _BASE, "`auto` instead of tuning"),
    (DEFAULT, OLD_DEFAULT, "`auto` instead of SGDR, ratio 100, 1 frozen epoch, tuned"),
    ("ratio 10, one-cycle, usual rates", DEFAULT, "3.2e-4 on average instead of `auto`"),
    ("ratio 10, one-cycle, sweep", DEFAULT, "the range test alone instead of `auto`"),
    ("3 groups, one-cycle, sweep per group", DEFAULT, "a range test per group instead of `auto`"),
    ("ratio 10, one-cycle, trials", DEFAULT, "six short trials instead of `auto`"),
    ("ratio 100, one-cycle", _BASE, "ratio 100 instead of 10"),
    ("decay 0.75, one-cycle", _BASE, "decay 0.75 per block instead of ratio 10"),
    ("ratio 10, SGDR 2", _BASE, "SGDR, cycles that double, instead of one-cycle"),
    ("ratio 10, SGDR 1", _BASE, "SGDR, equal cycles, instead of one-cycle"),
    ("ratio 10, cosine", _BASE, "cosine instead of one-cycle"),
    ("ratio 10, constant", _BASE, "constant instead of one-cycle"),
    (COMMON, RIVAL, "one rate: constant instead of one-cycle"),
    ("ratio 10, one-cycle, 1 frozen epoch", _BASE, "1 frozen epoch instead of none"),
    ("gradual unfreezing", RIVAL, "one rate: gradual unfreezing"),
    ("head only", _BASE, "the head alone instead of all groups"),
    ("ratio 10, one-cycle, batch norm trains", _BASE, "batch normalization trains"),
    (OLD_DEFAULT + ENSEMBLE, OLD_DEFAULT, "the snapshots of SGDR predict together"),
)


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """What is known of one arm of one task after its final runs.

    Args:
        name: The arm's name, with `ENSEMBLE` after it where its snapshots predict together.
        rates: The lowest and the highest peak rate of the head over the seeds; both are the tuned
            rate, if the arm does not choose its own.
        at_edge: Whether it is the lowest or the highest of the grid.
        tuned_validation: Accuracy on the validation part with that rate, over the tuning's seeds.
        test: Accuracy on the test part, by seed.
        curves: Accuracy on the validation part after each epoch, by seed; none for an ensemble.
    """

    name: str
    rates: tuple[float, float]
    at_edge: bool
    tuned_validation: float | None
    test: dict[int, float]
    curves: dict[int, list[float]]

    def curve(self) -> list[float]:
        """Return the mean over the seeds of the accuracy after each epoch."""
        return [statistics.mean(values) for values in zip(*self.curves.values())]


def results(records: Records, plan: Protocol, task: str, arms: Sequence[Arm]) -> list[ArmResult]:
    """Return the arms of a task whose final runs are all there, and their ensembles."""
    found = []
    for arm in arms:
        runs = protocol.runs_of_stage(plan, 2, task, arm, records)
        if runs is None or any(run not in records for run in runs):
            continue
        rate = runs[0].learning_rate
        by_seed = {run.seed: records[run] for run in runs}
        head_rates = [(record.get("rates") or [rate])[-1] for record in by_seed.values()]
        tuning = [
            record["validation"][-1]
            for run, record in records.items()
            if run[:4] == (task, arm.name, protocol.TUNE, rate)
        ]
        base = ArmResult(
            arm.name,
            (min(head_rates), max(head_rates)),
            rate in (plan.rates[0], plan.rates[-1]),
            statistics.mean(tuning) if tuning else None,
            {seed: record["test"] for seed, record in by_seed.items()},
            {seed: record["validation"] for seed, record in by_seed.items()},
        )
        found.append(base)
        if all(record.get("ensemble_test") is not None for record in by_seed.values()):
            test = {seed: record["ensemble_test"] for seed, record in by_seed.items()}
            found.append(
                dataclasses.replace(
                    base, name=arm.name + ENSEMBLE, tuned_validation=None, test=test, curves={}
                )
            )
    return found


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """Return the paired difference over the seeds that both have; `None` if there is none."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    return paired_interval([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])


def final_table(found: Sequence[ArmResult]) -> str:
    """Return the table of one task: accuracies at the tuned rates, the best arm first."""
    by_name = {result.name: result for result in found}
    rival, common_arm = by_name.get(RIVAL), by_name.get(COMMON)
    goal = rival.curve()[-1] if rival is not None else None
    lines = []
    for result in sorted(found, key=lambda one: -statistics.mean(one.test.values())):
        curve = result.curve()
        epoch = first_at_least(curve, goal) if curve and goal is not None else None
        lines.append(
            [
                result.name,
                " to ".join(f"{rate:.2g}" for rate in sorted({*result.rates}))
                + (" (edge)" if result.at_edge else ""),
                common.number(result.tuned_validation, 3),
                as_text(t_interval(list(result.test.values())), digits=3),
                *(_difference_text(result, other) for other in (rival, common_arm)),
                "-" if epoch is None else str(epoch),
            ]
        )
    columns = [
        "arm",
        "rate",
        "validation",
        "test accuracy",
        "points to the rival",
        "points to the constant rate",
        "epochs",
    ]
    return common.markdown_table(columns, lines)


def pair_table(found_by_task: Mapping[str, Sequence[ArmResult]]) -> str:
    """Return the table of what each change does to the test accuracy, in points, for each task."""
    lines = []
    for one, other, change in PAIRS:
        cells = []
        for found in found_by_task.values():
            tests = {result.name: result.test for result in found}
            interval = difference(tests.get(one, {}), tests.get(other, {}))
            cells.append("-" if interval is None else points(interval))
        if any(cell != "-" for cell in cells):
            lines.append([change, *cells])
    return common.markdown_table(["change", *found_by_task], lines)


def points(interval: Interval) -> str:
    """Return a difference in points, for a table."""
    return as_text(interval, digits=1, scale=100, sign="+")


def _difference_text(result: ArmResult, other: ArmResult | None) -> str:
    if other is None or result.name == other.name:
        return "-"
    interval = difference(result.test, other.test)
    return "-" if interval is None else points(interval)


def as_text(interval: Interval, *, digits: int, scale: float = 1.0, sign: str = "") -> str:
    """Return an interval for a table.

    >>> as_text(Interval(0.011, -0.004, 0.026), digits=1, scale=100, sign="+")
    '+1.1 (-0.4 to +2.6)'
    >>> as_text(t_interval([0.5]), digits=2)
    '0.50 (one seed)'
    """
    mean, low, high = (f"{scale * end:{sign}.{digits}f}" for end in interval)
    return f"{mean} (one seed)" if "inf" in low else f"{mean} ({low} to {high})"


def sensitivity(
    records: Records, plan: Protocol, task: str, arms: Sequence[Arm]
) -> dict[str, dict[float, dict[int, float]]]:
    """Return the test accuracy by arm, multiplier of the tuned rate, and seed.

    Arms with a run missing are left out. Multiplier 1 is the final runs with the same seeds.
    """
    found = {}
    for arm in arms:
        runs = protocol.sensitivity_runs(plan, task, arm.name, records)
        finals = protocol.final_runs(plan, task, arm.name, records)
        if not arm.in_sensitivity or runs is None or finals is None:
            continue
        finals = [run for run in finals if run.seed in plan.sensitivity_seeds]
        if any(run not in records for run in (*runs, *finals)):
            continue
        rate = finals[0].learning_rate
        of_rate = {rate: 1.0, **{protocol.rounded(rate * m): m for m in plan.multipliers}}
        by_multiplier: dict[float, dict[int, float]] = {m: {} for m in sorted(of_rate.values())}
        for run in (*runs, *finals):
            by_multiplier[of_rate[run.learning_rate]][run.seed] = records[run]["test"]
        found[arm.name] = by_multiplier
    return found


def over_multipliers(by_multiplier: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Return the mean accuracy over the multipliers, by seed.

    >>> over_multipliers({0.1: {0: 0.5, 1: 0.6}, 1.0: {0: 0.7, 1: 0.6}})
    {0: 0.6, 1: 0.6}
    """
    seeds = next(iter(by_multiplier.values())).keys()
    return {
        seed: statistics.mean(values[seed] for values in by_multiplier.values()) for seed in seeds
    }


def sensitivity_table(found: Mapping[str, Mapping[float, Mapping[int, float]]]) -> str:
    """Return the table of one task: mean accuracies at rates too low and too high."""
    multipliers = sorted({m for by_multiplier in found.values() for m in by_multiplier})
    means = {name: over_multipliers(by_multiplier) for name, by_multiplier in found.items()}
    lines = []
    for name in sorted(found, key=lambda name: -statistics.mean(means[name].values())):
        gain = difference(means[name], means[RIVAL]) if RIVAL in means and name != RIVAL else None
        lines.append(
            [
                name,
                *(common.number(statistics.mean(found[name][m].values()), 3) for m in multipliers),
                common.number(statistics.mean(means[name].values()), 3),
                "-" if gain is None else points(gain),
            ]
        )
    headings = [f"x{m:.2g}" for m in multipliers]
    return common.markdown_table(["arm", *headings, "mean", "points to the rival"], lines)


def missing(records: Records, plan: Protocol, task: str, arms: Sequence[Arm]) -> str:
    """Return what a task lacks, as one sentence; empty if it lacks nothing."""
    names = ("first tuning", "second tuning", "final runs", "sensitivity")
    counts = []
    for stage, name in enumerate(names):
        lacking = 0
        for arm in arms:
            runs = protocol.runs_of_stage(plan, stage, task, arm, records)
            lacking += runs is None or any(run not in records for run in runs)
        if lacking:
            counts.append(f"{name} of {lacking} of {len(arms)} arms")
    return f"Not complete: {', '.join(counts)}." if counts else ""


def text(records: Records, study: Study) -> str:
    """Return the section of the page: a summary, two tables per task, and what is missing."""
    parts = [where(records.values())]
    plan, outlines = study.plan, study.outlines
    tasks_with_runs = [task for task in outlines if any(run.task == task for run in records)]
    by_task = {task: results(records, plan, task, study.arms_of(task)) for task in tasks_with_runs}
    summary = {task: by_task[task] for task in SUMMARY if by_task.get(task)}
    if summary:
        parts.append("### What each change does")
        parts.append(
            "Points of test accuracy, mean over the seeds of the difference seed by seed, and its "
            "95 % interval:"
        )
        parts.append(pair_table(summary))
    for task in tasks_with_runs:
        chosen = study.arms_of(task)
        parts.append(heading(outlines[task].title))
        parts.append(missing(records, plan, task, chosen))
        found = by_task[task]
        if found:
            parts.append(final_table(found))
        by_arm = sensitivity(records, plan, task, chosen)
        if by_arm:
            parts.append("Test accuracy at the tuned rate times a factor:")
            parts.append(sensitivity_table(by_arm))
    absent = [task for task in outlines if task not in tasks_with_runs]
    if absent:
        parts.append(f"Not run: {', '.join(absent)}.")
    return "\n\n".join(part for part in parts if part)


def heading(title: str) -> str:
    """Return the heading of a task."""
    return f"### {title[0].upper()}{title[1:]}"


def where(records: Iterable[Record]) -> str:
    """Return devices, versions and dates of the runs."""
    records = list(records)
    lines = []
    key = ("device", "tensorflow", "keras", "python")
    ordered = sorted(records, key=lambda record: [record[name] for name in key])
    for values, group in itertools.groupby(ordered, lambda record: [record[k] for k in key]):
        of_group = list(group)
        device, tensorflow, keras_version, python = values
        days = sorted({record["time"][:10] for record in of_group})
        hours = sum(record["seconds"] for record in of_group) / 3600
        lines.append(
            f"{device}; TensorFlow {tensorflow}, Keras {keras_version}, Python {python}; "
            f"{days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'}; {len(of_group)} runs, "
            f"{hours:.1f} hours"
        )
    return "\n\n".join(lines)
