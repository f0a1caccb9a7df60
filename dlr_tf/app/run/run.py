"""A run: its folder, what it does, and its parts that several trainings share."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf.app.config import RunConfig
from dlr_tf.app.models import (
    CHECKPOINTS,
    CLASSES_FILE,
    MODEL_FILE,
    KnownTarget,
    write_target,
)
from dlr_tf.app.paths import SETTINGS_FILE
from dlr_tf.app.results import SeveralLabels, Target, atomic_write, make_folder, write_text
from dlr_tf.app.run import checkpoint
from dlr_tf.app.run.agreement import all_make, by_chief
from dlr_tf.app.run.checkpoint import CheckpointError
from dlr_tf.app.run.divergence import DivergedError
from dlr_tf.app.run.interrupts import StopRequests
from dlr_tf.app.run.predictions import Classifier, outputs_on
from dlr_tf.app.run.seconds import Stopwatch
from dlr_tf.app.run.tasks import Task, range_test
from dlr_tf.app.terminal import CommandError, UsageError, one_line, print_note, print_stderr
from dlr_tf.training.auto_rates import SWEEP
from dlr_tf.training.rate_choice import HEAD_START_RATE, RateChoice, rates_from_sweep
from dlr_tf.training.workers import Workers, number_of_workers

TRAINING, COMPARISON = "training", "comparison"
PAGE_FILE = "report.html"  # the last file that a run writes
LAST_FINITE_FILE = "last_finite.keras"
_START = "start"
_DIVERGED_FILE = "diverged.txt"

Checkpoint = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays, and a record


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known before the training begins.

    Args:
        folder: The folder that is written.
        config: What the run does.
        task: The data and the model.
        workers: The processes that train it. One of them, the chief, writes files.
        stop: Tells when the process has to end.
        watch: The time of the parts.
    """

    folder: Path
    config: RunConfig
    task: Task
    workers: Workers
    stop: StopRequests
    watch: Stopwatch

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.workers.is_chief

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, which all workers read."""
        return self.folder / CHECKPOINTS

    def stored(self, name: str) -> Checkpoint | None:
        """Return this worker's part of the checkpoint of this name, `None` without one.

        All workers call it.

        Raises:
            CheckpointError: If the checkpoint cannot be read, or is not the same for all workers.
        """
        path = self._path(name)

        def described(found: Checkpoint | None) -> dict[str, Any]:
            place = None if found is None else [found[1].get(key) for key in ("epoch", "step")]
            return {f"epoch and step in {path.name}": place}

        try:
            found = all_make(
                self.workers, "a checkpoint", lambda: checkpoint.read_checkpoint(path), described
            )
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if found is None:
            return None
        arrays, record = found
        written_by, there_are = number_of_workers(arrays), len(self.workers.names)
        if written_by != there_are and name == TRAINING:
            print_stderr(
                f"written by {written_by} workers, and there are {there_are}: the results are the "
                "same only up to rounding"
            )
        return self.workers.own_part(arrays), record

    def store(self, name: str, arrays: checkpoint.Arrays, record: Mapping[str, Any]) -> None:
        """Write the checkpoint of this name, with the part of each worker. All workers call it."""
        collected = self.workers.collected(arrays)
        by_chief(
            self.workers, lambda: checkpoint.write_checkpoint(self._path(name), collected, record)
        )

    def remove_checkpoint(self, name: str) -> None:
        """Remove the checkpoint of this name."""
        if self.writes:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.checkpoints / f"{name}.npz"

    def tensorboard(self, name: str) -> list[keras.callbacks.Callback]:
        """Return the callbacks that write the curves of a training for TensorBoard."""
        if not (self.writes and self.config.tensorboard):
            return []
        folder = self.folder / "tensorboard" / name
        return [keras.callbacks.TensorBoard(str(folder), write_graph=False)]

    @staticmethod
    def has_started(folder: Path) -> bool:
        """Return whether the run in a folder has stored the weights that it begins with."""
        return (folder / CHECKPOINTS / f"{_START}.npz").exists()

    def start(self) -> Task:
        """Return the task with the weights that every training of the run begins with.

        The weights of the head are random, and a pretraining on a GPU gives others each time, so
        they are stored.
        """
        by_chief(self.workers, lambda: make_folder(self.checkpoints))
        stored = self.stored(_START)
        if stored is None:
            record = {"pretraining_accuracy": self.task.pretraining_accuracy}
            self.store(_START, checkpoint.model_arrays(self.task.model), record)
            return self.task
        arrays, record = stored
        checkpoint.load_model_arrays(self.task.model, arrays)
        return dataclasses.replace(self.task, pretraining_accuracy=record["pretraining_accuracy"])

    def rates(self, name: str, config: RunConfig, ratios: list[float]) -> list[float]:
        """Return the peak rates that a range test chooses for the training of this name.

        They keep their ratios to that of the head. They are stored, since on a GPU the choice may
        differ from one process to the next. After a head start, there is one rate for all groups.

        Raises:
            UsageError: If the loss is not finite.
        """
        stored = self.stored(f"{name}-rates")
        if stored is None:
            print_note(f"choosing the learning rate by a range test of {SWEEP.steps} steps")
            choice = self._choice(config, ratios)
            stored = {}, {"rates": choice.rates, "line": choice.line()}
            self.store(f"{name}-rates", *stored)
        _, record = stored
        print_note(record["line"])
        return list(record["rates"])

    def _choice(self, config: RunConfig, ratios: list[float]) -> RateChoice:
        typical = self.task.typical_rate
        if config.head_start:
            ratios, typical = [1.0] * len(ratios), HEAD_START_RATE
        try:
            sweep = range_test(self.task, config, ratios, head_only=config.trains_head_only)
            return rates_from_sweep(sweep, ratios, typical, may_raise=not config.head_start)
        except ValueError as error:
            raise UsageError(
                "No learning rate can be chosen for this model and these data. Give it with "
                f"--learning-rate. {one_line(error.__cause__ or error)}"
            ) from error

    @property
    def has_model(self) -> bool:
        """Whether the model of the run and the names of its classes are written."""
        return all((self.folder / name).exists() for name in (MODEL_FILE, CLASSES_FILE))

    def tuned_target(self) -> Target:
        """Return the target, with thresholds that are chosen on the validation images."""
        target = self.task.target
        if not isinstance(target, SeveralLabels):
            return target
        classify = Classifier(self.task.model, target.kind)
        return target.tuned(*outputs_on(classify, self.task.data.validation))

    def save_model(self, path: Path, target: Target | None = None) -> None:
        """Write the model, and beside it what its outputs are: by default without thresholds."""
        target = target or self.task.target
        with atomic_write(path) as file:
            self.task.model.save(file)
        with atomic_write(path.with_name(CLASSES_FILE)) as file:
            write_target(
                file,
                KnownTarget(
                    target.class_names,
                    target.kind,
                    getattr(target, "thresholds", ()),
                    getattr(target, "means", ()),
                ),
            )

    def keep_last_finite(self, error: DivergedError) -> str:
        """Write the last model of a training that diverged, and return what to tell the user.

        It is the model of the last checkpoint, or with `--keep best` the best one in it.
        """
        lines = [f"The training diverged: {error}. {self._what_to_try()}"]
        stored = checkpoint.read_checkpoint(self._path(TRAINING))
        if stored is not None and self.writes:
            arrays, record = stored
            best = checkpoint.arrays_under("best", arrays)
            epoch, step = record["epoch"], record["step"]
            when = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
            if best:
                arrays, when = best, f"epoch {record['best_epoch']}"
            checkpoint.load_trained_arrays(self.task.model, arrays)
            self.save_model(self.folder / LAST_FINITE_FILE)
            lines.append(f"The model after {when} is kept: {self.folder / LAST_FINITE_FILE}.")
        message = " ".join(lines)
        if self.writes:
            write_text(self.checkpoints / _DIVERGED_FILE, message)
        return message

    def _what_to_try(self) -> str:
        rates = self.config.learning_rate
        if rates == "auto":
            return "Give lower rates with --learning-rate, or see --batch-size and --optimizer."
        return (
            f"Give lower rates than --learning-rate {rates}, for example a tenth, or let dlr-tf "
            "choose them: --learning-rate auto."
        )

    def check_not_diverged(self) -> None:
        """Raise a `CommandError` if a run that is resumed has diverged before."""
        path = self.checkpoints / _DIVERGED_FILE
        if path.exists():
            raise CommandError(
                f"{path.read_text(encoding='utf-8')} This run cannot be resumed, since it would "
                "diverge again. Start another one."
            )

    def how_to_resume(self, when: str) -> str:
        """Say how a run that has ended early is resumed."""
        if not (self.folder / SETTINGS_FILE).exists():
            return "Start the run again."
        return f"{when}: dlr-tf finetune --resume {shlex.quote(str(self.folder))}"


def is_finished(folder: Path) -> bool:
    """Return whether a run has written its last file.

    The model is its first one. The checkpoints are removed at the end.
    """
    has_model = (folder / MODEL_FILE).exists() and (folder / SETTINGS_FILE).exists()
    is_complete = (folder / PAGE_FILE).exists() or not (folder / CHECKPOINTS).exists()
    return has_model and is_complete
