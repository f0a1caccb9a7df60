"""Do rates per group and restarts help, how much, and with which defaults? Which recipe is best?

Pretrained networks are fine-tuned on tasks with a train, a validation and a test part. Every arm,
a way to fine-tune, has its own peak rate, tuned on the validation part in the same way, or chooses
its rates in each run. Then it is run at that rate with seeds that tuning did not use. Each run is
one line of transfer_<study>.jsonl. Runs that are there are not done again, so the command can be
stopped and started again.

The study "recipe" is about length, the ratio of the rates and the start of the head; the study
"rates" about schedules, ratios and ways to choose rates.

    python -m benchmarks.transfer [--study NAME] [--task NAME] [--data FOLDER] [--hours N]
    python -m benchmarks.transfer [--study NAME] --report
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from benchmarks import common
from benchmarks.marked_pages import with_part
from benchmarks.transfer import (
    pictures,
    protocol,
    rates,
    recipe,
    recipe_report,
    report,
    runs,
    tasks,
)
from benchmarks.transfer.arms import Arm
from benchmarks.transfer.study import Study, Wave, Work
from benchmarks.transfer.training import Trainer, trainers

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[1] / "README.md"
STUDIES = {study.name: study for study in (recipe.STUDY, rates.STUDY)}


class Computation:
    """The runs of all tasks, stage by stage, and the file that they are written to.

    Args:
        study: The study.
        chosen: The tasks.
        path: The file.
        device: `"cpu"` or `"gpu"`, for the records.
        console: Where progress is shown.
        threads: How many threads an operation uses, for the records. Defaults to `None`: one per
            core.

    Raises:
        ValueError: If the file has runs of these tasks with other data or pretrained weights.
    """

    def __init__(
        self,
        study: Study,
        chosen: Sequence[tasks.Task],
        path: Path,
        device: str,
        console: Console,
        threads: int | None = None,
    ) -> None:
        self.study = study
        self.tasks = list(chosen)
        self.path = path
        self.console = console
        self.records = protocol.read_records(path)
        for task in chosen:
            self._check_source(task)
        self._trainer: Callable[[str], Trainer] = trainers(chosen)
        self._where = {
            "device": common.device_name(device) + (f", {threads} used" if threads else ""),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        }

    def _check_source(self, task: tasks.Task) -> None:
        # Runs that are older than this field have none.
        stored = {
            r["source"] for r in self.records.values() if r["task"] == task.name if "source" in r
        }
        if stored - {task.source}:
            raise ValueError(
                f"{self.path} has runs of the task {task.name!r} with other data: they had "
                f"{' and '.join(sorted(stored))}, this run would have {task.source}. Give the same "
                "--data, or another --output."
            )

    def run(self, hours: float | None) -> bool:
        """Do the runs that are not there yet; return whether all are done.

        Args:
            hours: After how many hours to stop. `None` for when all is done.
        """
        start = time.monotonic()
        done = 0
        left = self.seconds_left()
        self.console.print(self.estimate())
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        terminal = self.console.is_terminal
        with Progress(*columns, console=self.console, disable=not terminal) as progress:
            bar = progress.add_task("", total=left, left="")
            for task, arm, run in self.work():
                elapsed = time.monotonic() - start
                if hours is not None and elapsed > 3600 * hours:
                    self.console.print(f"stopped after {hours:g} hours: {self.estimate()}")
                    return False
                record = self._record(task, arm, run)
                protocol.append_record(self.path, record)
                self.records[run] = record
                done += 1
                left = self.seconds_left()
                elapsed = time.monotonic() - start
                progress.update(
                    bar,
                    completed=elapsed,
                    total=elapsed + left,
                    description=f"{run.task} {run.stage} {run.arm}",
                    left=f"{_duration(left)} left",
                )
                if not terminal:
                    self.console.print(
                        f"{run.task}, {run.stage}, {run.arm}, rate "
                        f"{(record['rates'] or [run.learning_rate])[-1]:.3g}, seed {run.seed}: "
                        f"validation {record['validation'][-1]:.4f} in "
                        f"{record['seconds']:.1f} s; {_duration(left)} left",
                        soft_wrap=True,
                    )
        self.console.print(f"all runs are there; {done} of them are new")
        return True

    def work(self) -> Iterator[tuple[tasks.Task, Arm, protocol.Run]]:
        """Give the runs that are not there, in order."""
        by_name = {task.name: task for task in self.tasks}
        for work in self.study.order_of_work([*by_name]):
            while run := self._next_run(work):
                yield by_name[work.task], work.arm, run

    def _next_run(self, work: Work) -> protocol.Run | None:
        # Which runs a stage has can depend on those before.
        runs = protocol.runs_of_stage(work.plan, work.stage, work.task, work.arm, self.records)
        assert runs is not None, "the stages before are complete"
        return next((run for run in runs if run not in self.records), None)

    def _record(self, task: tasks.Task, arm: Arm, run: protocol.Run) -> dict[str, Any]:
        trainer = self._trainer(task.name)
        start, processor_start = time.monotonic(), time.process_time()
        outcome = runs.run_arm(
            trainer,
            arm,
            run.learning_rate,
            run.seed,
            with_test=run.stage != protocol.TUNE,
            each_epoch=self.study.each_epoch and run.stage == protocol.FINAL,
        )
        return {
            "protocol": protocol.VERSION,
            **run._asdict(),
            **dataclasses.asdict(outcome),
            "seconds": round(time.monotonic() - start, 2),
            "processor_seconds": round(time.process_time() - processor_start, 2),
            "source": task.source,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **self._where,
        }

    def seconds_left(self) -> float:
        """Return the seconds that all runs that are not there will take."""
        total = 0.0
        for task in self.tasks:
            seconds = protocol.seconds_per_run(task.name, self.records.values())
            n_left = self.study.n_left(task.name, self.records)
            total += n_left * (task.seconds if seconds is None else seconds)
        return total

    def estimate(self) -> str:
        """Return a line per task: how many runs are left, and how long they will take."""
        lines = []
        for task in self.tasks:
            seconds = protocol.seconds_per_run(task.name, self.records.values())
            n_left = self.study.n_left(task.name, self.records)
            each = task.seconds if seconds is None else seconds
            source = "a guess" if seconds is None else "measured"
            lines.append(
                f"{task.name}: {n_left} runs left, {each:.1f} s each ({source}), "
                f"{_duration(n_left * each)}"
            )
        return "\n".join([*lines, f"in all: {_duration(self.seconds_left())}"])


def _duration(seconds: float) -> str:
    """Return seconds as hours and minutes.

    >>> _duration(4000)
    '1 h 07 min'
    """
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


QUICK_ARMS = {"rates": 2, "recipe": 3}


def quick(study: Study) -> Study:
    """Return a study of the first arms on the digits, with few runs."""
    arms = study.arms[: QUICK_ARMS[study.name]]
    names = tuple(arm.name for arm in arms)
    task = next(iter(study.outlines))
    return dataclasses.replace(
        study,
        arms=arms,
        outlines={task: dataclasses.replace(study.outlines[task], n_seeds=None)},
        plan=protocol.QUICK,
        waves=[Wave(names)],
    )


def make_tasks(names: Sequence[str], data: Path | None, is_quick: bool) -> list[tasks.Task]:
    """Return the tasks by name.

    Raises:
        FileNotFoundError: If a file of the data is not there.
        ModuleNotFoundError: If a package is not installed.
    """
    if is_quick:
        return [tasks.MAKERS[name](data, pretraining_epochs=1, epochs=2) for name in names]
    return [tasks.MAKERS[name](data) for name in names]


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.make_parser(
        __doc__,
        "folder for the runs and the pictures; by default benchmarks/results, and with --quick a "
        "new temporary one",
    )
    parser.add_argument(
        "--study",
        choices=[*STUDIES],
        default=recipe.STUDY.name,
        help=f"what is studied (default: {recipe.STUDY.name})",
    )
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        help="a task to run, may be given several times (default: all of the study; without "
        "--data all but objects)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="folder with fashion_mini.tar.gz, objects.tar.gz and the weights of MobileNetV2 "
        "(default: Keras downloads Fashion-MNIST and the weights)",
    )
    parser.add_argument("--hours", type=float, help="stop after this many hours (default: never)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that an operation uses (default: one per core); with another number sums "
        "are rounded differently",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="run nothing: print the tables, draw the pictures, and write the section of "
        "benchmarks/README.md if the page has its marks",
    )
    arguments = common.parse(parser, argv)
    study = STUDIES[arguments.study]
    folder = arguments.output
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="transfer-")) if arguments.quick else RESULTS
    if arguments.quick:
        study = quick(study)
    if arguments.report:
        return _report(folder, study)
    if arguments.threads is not None:
        if arguments.threads < 1:
            parser.error(f"--threads should be 1 or more. Received: {arguments.threads}")
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    names = arguments.task or [*study.outlines]
    unknown = [name for name in names if name not in study.outlines]
    if unknown:
        parser.error(
            f"the study {study.name!r} has no task {unknown[0]!r}; it has "
            f"{', '.join(study.outlines)}"
        )
    console = Console(file=sys.stderr, highlight=False)
    if not arguments.task and arguments.data is None and "objects" in names:
        names.remove("objects")
        console.print("without the task objects: its pictures are not downloaded, see --data")
    try:
        chosen = make_tasks(names, arguments.data, arguments.quick)
        computation = Computation(
            study, chosen, folder / study.file, arguments.device, console, arguments.threads
        )
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        parser.error(str(error))
    computation.run(arguments.hours)
    if arguments.quick:
        return _report(folder, study)
    print(f"The runs are in {folder / study.file}. For tables and pictures, add --report.")
    return 0


def _report(folder: Path, study: Study) -> int:
    """Print the tables, draw the pictures, and write the section of the page if it has one."""
    records = protocol.read_records(folder / study.file)
    if not records:
        print(f"{folder / study.file} holds no run yet", file=sys.stderr)
        return 2
    is_recipe = study.name == recipe.STUDY.name
    text = (recipe_report if is_recipe else report).text(records, study)
    print(text)
    draw = pictures.draw_seconds if is_recipe else pictures.draw
    for path in draw(records, study, folder):
        print(f"drawn: {path}", file=sys.stderr)
    if folder == RESULTS:
        page = PAGE.read_text()
        try:
            PAGE.write_text(with_part(page, f"transfer-{study.name}", text))
        except ValueError as error:
            print(error, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
