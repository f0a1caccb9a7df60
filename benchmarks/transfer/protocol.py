"""Which runs there are, in which order, and what is stored of each."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.transfer.arms import Arm

VERSION = 1  # raised when runs are no longer comparable with stored ones
TUNE, FINAL, SENSITIVITY = "tune", "final", "sensitivity"
CHOSEN_IN_RUN = 0.0  # the rate of runs that choose their rates themselves


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What every arm of every task goes through.

    1. Tuning, first: the rates of the grid from the lowest on, with `first_seeds`, up to the first
       one with less than half of the best accuracy before it, where the training has diverged.
    2. Tuning, second: the `n_best` rates again, with `more_seeds`. The chosen rate is the one with
       the best mean accuracy on the validation part after the last epoch, over all these seeds.
       The test part is not computed.
    3. Final: the chosen rate with `seeds`, which tuning did not use.
    4. Sensitivity: the chosen rate times each of `multipliers`, with `sensitivity_seeds`.

    Args:
        rates: The grid of peak rates, the same for all arms.
        first_seeds: Seeds of the first tuning.
        n_best: How many rates are tried again.
        more_seeds: Seeds of the second tuning.
        seeds: Seeds of the final runs.
        multipliers: Factors of the rate, too low and too high.
        sensitivity_seeds: Seeds of these runs, which are among `seeds`.
    """

    rates: tuple[float, ...] = (3.16e-5, 1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1)
    first_seeds: tuple[int, ...] = (1000,)
    n_best: int = 3
    more_seeds: tuple[int, ...] = (1001, 1002)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    multipliers: tuple[float, ...] = (0.1, 1 / 3, 3.0, 10.0)
    sensitivity_seeds: tuple[int, ...] = (0, 1, 2)


FULL = Protocol()
QUICK = Protocol(
    rates=(1e-3, 1e-2),
    n_best=1,
    more_seeds=(1001,),
    seeds=(0, 1),
    multipliers=(0.1, 10.0),
    sensitivity_seeds=(0, 1),
)
QUICK_ARMS = 2


class Run(NamedTuple):
    """One training. Its fields, with the version of the protocol, are the key of its record."""

    task: str
    arm: str
    stage: str
    learning_rate: float
    seed: int


Record = Mapping[str, Any]


def run_of(record: Record) -> Run:
    """Return the run that a record is of."""
    return Run(
        record["task"], record["arm"], record["stage"], record["learning_rate"], record["seed"]
    )


def rounded(rate: float) -> float:
    """Return a rate with six digits, so that it is the same number wherever it is computed.

    >>> rounded(1e-3 / 3)
    0.000333333
    """
    return float(f"{rate:.6g}")


# --- What there is to do


def first_tuning(
    protocol: Protocol, task: str, arm: str, records: Mapping[Run, Record]
) -> list[Run]:
    """Return the runs over the grid, without the rates above one at which the training diverged."""
    runs: list[Run] = []
    best = 0.0
    for rate in protocol.rates:
        of_rate = [Run(task, arm, TUNE, rate, seed) for seed in protocol.first_seeds]
        runs += of_rate
        if all(run in records for run in of_rate):
            score = _mean_validation(of_rate, rate, records)
            if score < best / 2:
                break
            best = max(best, score)
    return runs


def second_tuning(
    protocol: Protocol, task: str, arm: str, records: Mapping[Run, Record]
) -> list[Run] | None:
    """Return the runs of the best rates; `None` before the first tuning is complete."""
    firsts = first_tuning(protocol, task, arm, records)
    if any(run not in records for run in firsts):
        return None
    rates = sorted({run.learning_rate for run in firsts})
    scores = {rate: _mean_validation(firsts, rate, records) for rate in rates}
    # Of equal rates the lower one: `sorted` keeps the order of the grid.
    best = sorted(rates, key=lambda rate: -scores[rate])[: protocol.n_best]
    return [Run(task, arm, TUNE, rate, seed) for rate in best for seed in protocol.more_seeds]


def chosen_rate(
    protocol: Protocol, task: str, arm: str, records: Mapping[Run, Record]
) -> float | None:
    """Return the tuned rate; `None` before tuning is complete."""
    seconds = second_tuning(protocol, task, arm, records)
    if seconds is None or any(run not in records for run in seconds):
        return None
    runs = [*first_tuning(protocol, task, arm, records), *seconds]
    candidates = sorted({run.learning_rate for run in seconds})
    return max(candidates, key=lambda rate: _mean_validation(runs, rate, records))


def _mean_validation(runs: Iterable[Run], rate: float, records: Mapping[Run, Record]) -> float:
    return statistics.mean(
        records[run]["validation"][-1] for run in runs if run.learning_rate == rate
    )


def final_runs(
    protocol: Protocol, task: str, arm: str, records: Mapping[Run, Record]
) -> list[Run] | None:
    """Return the runs at the tuned rate; `None` before it is known."""
    rate = chosen_rate(protocol, task, arm, records)
    if rate is None:
        return None
    return [Run(task, arm, FINAL, rate, seed) for seed in protocol.seeds]


def sensitivity_runs(
    protocol: Protocol, task: str, arm: str, records: Mapping[Run, Record]
) -> list[Run] | None:
    """Return the runs at rates too low and too high; `None` before the tuned rate is known."""
    rate = chosen_rate(protocol, task, arm, records)
    if rate is None:
        return None
    return [
        Run(task, arm, SENSITIVITY, rounded(rate * factor), seed)
        for factor in protocol.multipliers
        for seed in protocol.sensitivity_seeds
    ]


def runs_of_stage(
    protocol: Protocol, stage: int, task: str, arm: Arm, records: Mapping[Run, Record]
) -> list[Run] | None:
    """Return the runs of one arm in one of the four stages; `None` if they are not known yet."""
    if arm.chosen_by:
        runs = [Run(task, arm.name, FINAL, CHOSEN_IN_RUN, seed) for seed in protocol.seeds]
        return runs if stage == 2 else []
    if stage == 0:
        return first_tuning(protocol, task, arm.name, records)
    if stage == 1:
        return second_tuning(protocol, task, arm.name, records)
    if stage == 2:
        return final_runs(protocol, task, arm.name, records)
    if not arm.in_sensitivity:
        return []
    return sensitivity_runs(protocol, task, arm.name, records)


TUNED, SENSITIVE = (0, 1, 2), (3,)
ALL_STAGES = (*TUNED, *SENSITIVE)


def unknown_runs(protocol: Protocol, stage: int, task: str, arm: Arm) -> list[Run]:
    """Return as many runs as a tuned arm has in a stage at most, with made-up rates below 0.

    >>> arm = Arm("", "one", "cosine", in_sensitivity=True)
    >>> [len(unknown_runs(FULL, stage, "digits", arm)) for stage in (1, 2, 3)]
    [6, 5, 12]
    """
    n_rates, seeds = {
        1: (protocol.n_best, protocol.more_seeds),
        2: (1, protocol.seeds),
        3: (len(protocol.multipliers) * arm.in_sensitivity, protocol.sensitivity_seeds),
    }[stage]
    name = (TUNE, TUNE, FINAL, SENSITIVITY)[stage]
    return [
        Run(task, arm.name, name, -rate, seed) for rate in range(1, n_rates + 1) for seed in seeds
    ]


def seconds_per_run(task: str, records: Iterable[Record]) -> float | None:
    """Return the median seconds of a task's runs; `None` if there is none."""
    measured = [record["seconds"] for record in records if record["task"] == task]
    return statistics.median(measured) if measured else None


# --- The file


def read_records(path: Path) -> dict[Run, Record]:
    """Return the stored runs of this version of the protocol.

    The last line may be torn, by a process that was stopped while it wrote.

    Raises:
        ValueError: If another line is not a record.
    """
    if not path.exists():
        return {}
    records = {}
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline after it
                continue
            raise ValueError(
                f"Line {number} of {path} is not JSON: {error}. Delete the line, and that run is "
                f"done again. Received: {line[:80]!r}"
            ) from error
        if record["protocol"] == VERSION:
            records[run_of(record)] = record
    return records


def append_record(path: Path, record: Record) -> None:
    """Write a record as one line at the end of the file, and wait until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _drop_torn_line(file)
        file.write(json.dumps(_finite(record), allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_torn_line(file: Any) -> None:
    file.seek(0)
    contents = file.read()
    if contents and not contents.endswith(b"\n"):
        file.truncate(contents.rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: a loss that diverged becomes `null`."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
