"""Do rates per group and restarts help, how much, and with which defaults?

Pretrained networks are fine-tuned on tasks with a train, a validation and a test part. Every arm,
a way to fine-tune, has its own peak rate, tuned on the validation part in the same way, or chooses
its rates in each run. Then it is run at that rate with seeds that tuning did not use, and at rates
that are too low and too high. Each run is one line of transfer.jsonl. Runs that are there are not
done again, so the command can be stopped and started again.

    python -m benchmarks.transfer [--task NAME] [--data FOLDER] [--hours N] [--device cpu|gpu]
    python -m benchmarks.transfer --report
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
from benchmarks.transfer import pictures, protocol, report, tasks
from benchmarks.transfer.arms import ARMS, N_KEY, Arm
from benchmarks.transfer.training import Trainer, trainers

RESULTS = Path(__file__).parents[1] / "results"
FILE = "transfer.jsonl"
PAGE = Path(__file__).parents[1] / "README.md"


class Computation:
    """The runs of all tasks, stage by stage, and the file that they are written to.

    Args:
        chosen: The tasks.
        plan: The protocol.
        arms: The arms.
        path: The file.
        device: `"cpu"` or `"gpu"`, for the records.
        console: Where progress is shown.
    """

    def __init__(
        self,
        chosen: Sequence[tasks.Task],
        plan: protocol.Protocol,
        arms: Sequence[Arm],
        path: Path,
        device: str,
        console: Console,
    ) -> None:
        self.tasks = list(chosen)
        self.plan = plan
        self._all_arms = list(arms)
        self.arms = {task.name: tasks.arms_of(task.name, arms) for task in chosen}
        self.path = path
        self.console = console
        self.records = protocol.read_records(path)
        self._trainer: Callable[[str], Trainer] = trainers(chosen)
        self._where = {
            "device": common.device_name(device),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        }

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
        for name, stage, chosen in protocol.order_of_work([*by_name], N_KEY):
            now = {arm.name for arm in self._all_arms[chosen]}
            for arm in (arm for arm in self.arms[name] if arm.name in now):
                while run := self._next_run(stage, name, arm):
                    yield by_name[name], arm, run

    def _next_run(self, stage: int, task: str, arm: Arm) -> protocol.Run | None:
        # Which runs a stage has can depend on those before.
        runs = protocol.runs_of_stage(self.plan, stage, task, arm, self.records)
        assert runs is not None, "the stages before are complete"
        return next((run for run in runs if run not in self.records), None)

    def _record(self, task: tasks.Task, arm: Arm, run: protocol.Run) -> dict[str, Any]:
        trainer = self._trainer(task.name)
        start = time.monotonic()
        outcome = trainer.run(
            arm,
            run.learning_rate,
            run.seed,
            with_test=run.stage != protocol.TUNE,
            each_epoch=run.stage == protocol.FINAL,
        )
        return {
            "protocol": protocol.VERSION,
            **run._asdict(),
            **dataclasses.asdict(outcome),
            "seconds": round(time.monotonic() - start, 2),
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **self._where,
        }

    def seconds_left(self) -> float:
        """Return the seconds that all runs that are not there will take."""
        total = 0.0
        for task in self.tasks:
            seconds = protocol.seconds_per_run(task.name, self.records.values())
            n_left = protocol.n_left(self.plan, task.name, self.arms[task.name], self.records)
            total += n_left * (task.seconds if seconds is None else seconds)
        return total

    def estimate(self) -> str:
        """Return a line per task: how many runs are left, and how long they will take."""
        lines = []
        for task in self.tasks:
            seconds = protocol.seconds_per_run(task.name, self.records.values())
            n_left = protocol.n_left(self.plan, task.name, self.arms[task.name], self.records)
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


def make_tasks(names: Sequence[str], folders: tasks.Folders, quick: bool) -> list[tasks.Task]:
    """Return the tasks by name.

    Raises:
        FileNotFoundError: If a file of the data is not there.
        ModuleNotFoundError: If a package is not installed.
    """
    if quick:
        return [tasks.digits_task(folders, pretraining_epochs=1, epochs=2)]
    return [tasks.TASKS[name](folders) for name in names]


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.make_parser(
        __doc__,
        "folder for transfer.jsonl and the pictures; by default benchmarks/results, and with "
        "--quick a new temporary one",
    )
    parser.add_argument(
        "--task",
        action="append",
        choices=[*tasks.TASKS],
        help="a task to run, may be given several times (default: "
        f"{', '.join(tasks.DEFAULT_TASKS)})",
    )
    parser.add_argument(
        "--data", type=Path, default=tasks.DATA, help=f"folder of the data (default: {tasks.DATA})"
    )
    parser.add_argument(
        "--fashion-mnist",
        type=Path,
        metavar="FOLDER",
        default=tasks.FASHION_MNIST,
        help="folder of Fashion-MNIST, for the task images-60; Debian's package "
        f"dataset-fashion-mnist has it (default: {tasks.FASHION_MNIST})",
    )
    parser.add_argument("--hours", type=float, help="stop after this many hours (default: never)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="run nothing: print the tables, draw the pictures, and write the section of "
        "benchmarks/README.md if the page has its marks",
    )
    arguments = common.parse(parser, argv)
    folder = arguments.output
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="transfer-")) if arguments.quick else RESULTS
    plan, arms = protocol.FULL, ARMS
    if arguments.quick:
        plan, arms = protocol.QUICK, ARMS[: protocol.QUICK_ARMS]
    if arguments.report:
        return _report(folder, plan, arms)
    folders = tasks.Folders(arguments.data, arguments.fashion_mnist)
    try:
        chosen = make_tasks(arguments.task or tasks.DEFAULT_TASKS, folders, arguments.quick)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        parser.error(str(error))
    console = Console(file=sys.stderr, highlight=False)
    computation = Computation(chosen, plan, arms, folder / FILE, arguments.device, console)
    computation.run(arguments.hours)
    if arguments.quick:
        return _report(folder, plan, arms)
    print(f"The runs are in {folder / FILE}. For tables and pictures, add --report.")
    return 0


def _report(folder: Path, plan: protocol.Protocol, arms: Sequence[Arm]) -> int:
    """Print the tables, draw the pictures, and write the section of the page if it has one."""
    records = protocol.read_records(folder / FILE)
    if not records:
        print(f"{folder / FILE} holds no run yet", file=sys.stderr)
        return 2
    text = report.text(records, plan, arms)
    print(text)
    for path in pictures.draw(records, plan, arms, folder):
        print(f"drawn: {path}", file=sys.stderr)
    if folder == RESULTS:
        page = PAGE.read_text()
        try:
            PAGE.write_text(with_part(page, report.MARK, text))
        except ValueError as error:
            print(error, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
