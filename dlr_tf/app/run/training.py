"""One training of the command: with checkpoints, from which it goes on bit for bit."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.results import append_text, write_text
from dlr_tf.app.run import checkpoint
from dlr_tf.app.run.interrupts import StopRequests
from dlr_tf.app.run.tasks import OPTIMIZERS, Task
from dlr_tf.app.terminal import print_stderr
from dlr_tf.app.terminal.progress import Progress
from dlr_tf.app.terminal.stopwatch import FitTimes
from dlr_tf.core._keras import build_metrics
from dlr_tf.core.groups import LayerGroup
from dlr_tf.training import fine_tuning
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.freezing import freeze_to, set_batch_norm
from dlr_tf.training.learning_rate_logger import LearningRateLogger
from dlr_tf.training.restoring import state_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one training does.

    Args:
        groups: The groups of the model.
        rates: The peak rate of each group; before a range test has chosen it, its ratio to that of
            the head.
        schedule: A function from a peak rate to a schedule of the whole training.
        frozen_epochs: Int: first epochs in which only the head is trained.
        seed: Int: seed of the order of the images, of their changes, and of all random numbers.
    """

    groups: Sequence[LayerGroup]
    rates: Sequence[Any]
    schedule: Callable[[float], Any]
    frozen_epochs: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Files:
    """Where one training writes.

    Args:
        checkpoint: The file of its last checkpoint. Defaults to `None`: no checkpoints.
        log: The CSV file with one row per epoch. Defaults to `None`: none.
        tensorboard: The folder for TensorBoard. Defaults to `None`: none.
    """

    checkpoint: Path | None = None
    log: Path | None = None
    tensorboard: Path | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of one training, whose model is the one that is kept.

    Args:
        history: The logs of every epoch.
        accuracy: Accuracy on the test images.
        loss: Loss on the test images.
        kept_epoch: Int from 1: the epoch after which the model is as it is kept.
        seconds: Duration of the training, over all its processes.
        earlier_seconds: The part of it that belongs to earlier processes.
        parts: The seconds of this process that went into parts of it, by name: see `FitTimes`.
        logger: The rates of every step.
    """

    history: dict[str, list[float]]
    accuracy: float
    loss: float
    kept_epoch: int
    seconds: float
    earlier_seconds: float
    parts: dict[str, float]
    logger: LearningRateLogger


@dataclasses.dataclass
class Position:
    """How far a training is.

    Args:
        epoch: Int from 0: the epoch that the next step belongs to.
        step: Int from 0: the number of the next step within that epoch.
        is_finished: Whether nothing is left to train.
        history: The logs of the epochs before.
        best_epoch: Int from 1: the best epoch so far; 0 before the first ends.
        seconds: How long the training took up to the last start of the process.
    """

    epoch: int = 0
    step: int = 0
    is_finished: bool = False
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    best_epoch: int = 0
    seconds: float = 0.0


def train(
    plan: Plan,
    task: Task,
    args: argparse.Namespace,
    files: Files,
    stop: StopRequests,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    show_epochs: bool = True,
) -> Result:
    """Train a model, or go on with its training, and test it.

    Args:
        plan: What to do.
        task: The data and the model, with the weights that the training begins with.
        args: The arguments of `finetune`.
        files: Where to write. If the checkpoint exists, the training goes on from there.
        stop: Tells when the process has to end.
        callbacks: More callbacks for `fit`, which see the model as it goes on. Defaults to none.
        show_epochs: Whether to print a line for each epoch. Defaults to `True`.

    Returns:
        The result. The model is the last one, or with `--keep best` the one of the best epoch.

    Raises:
        StoppedError: If the process has to end; the checkpoint is written.
        CheckpointError: If the checkpoint cannot be read or does not fit.
        WriteError: If a file cannot be written.
    """
    keras.utils.set_random_seed(plan.seed)
    stored = None if files.checkpoint is None else checkpoint.read_checkpoint(files.checkpoint)
    arrays, record = stored or ({}, {})
    position = Position(**record)
    if files.log is not None:
        write_text(files.log, log_text(position.history))
    logger = LearningRateLogger()
    steps = fine_tuning.steps_in_epoch(task.data.train)
    keeper = _Keeper(
        args, files, steps, task.data.train.element_spec, position, arrays, logger, stop
    )
    earlier_seconds = position.seconds
    times = FitTimes()
    if not position.is_finished and (position.epoch or position.step):
        within = f", step {position.step + 1} of {steps}" if position.step else ""
        print_stderr(f"going on at epoch {position.epoch + 1} of {args.epochs}{within}")
    del stored, arrays  # they would stay in memory for the whole training
    if position.is_finished:
        _compile(plan, task, args)
        keeper.set_model(task.model)
        logger.set_model(task.model)
        logger.on_train_begin()
        keeper.on_train_begin()
    else:
        if show_epochs and task.data.validation is task.data.test:
            print_stderr("val_loss and val_acc are those of the test images")
        progress = Progress(args.epochs, first_step=position.step, lines=show_epochs)
        with progress, stop.deferred(), warnings.catch_warnings():
            if position.epoch:
                # `fine_tune` takes the epochs that are left for the whole training.
                warnings.filterwarnings("ignore", message="The training ends at step")
            fine_tuning.fine_tune(
                task.model,
                plan.groups,
                task.data.train_from(position.epoch * steps + position.step, plan.seed),
                learning_rate=list(plan.rates),
                schedule=plan.schedule,
                epochs=args.epochs,
                initial_epoch=position.epoch,
                steps_per_epoch=steps,
                frozen_epochs=plan.frozen_epochs,
                validation_data=task.data.validation,
                optimizer=OPTIMIZERS[args.optimizer],
                batch_norm=args.batch_norm,
                class_weight=task.data.class_weights(args.class_weights),
                callbacks=[
                    # The keeper may end the training, so the line of the epoch is printed before.
                    *(logger, *_tensorboard(files.tensorboard), progress, times, keeper),
                    *callbacks,
                ],
                verbose=0,
            )
        stop.check()
    if position.epoch < args.epochs:
        print_stderr(
            f"stopped after epoch {position.epoch}: the best one was epoch {position.best_epoch}"
        )
    kept_epoch = keeper.load_kept()
    if kept_epoch < position.epoch:
        print_stderr(f"the model of epoch {kept_epoch} is kept")
    seconds = keeper.seconds()
    accuracy, loss = _test_scores(task, position.history, kept_epoch)
    return Result(
        position.history,
        accuracy,
        loss,
        kept_epoch,
        seconds,
        earlier_seconds,
        times.parts(),
        logger,
    )


def _test_scores(
    task: Task, history: Mapping[str, Sequence[float]], epoch: int
) -> tuple[float, float]:
    """Return accuracy and loss on the test images of the model after an epoch, from 1."""
    names = ("accuracy", "loss")
    if task.data.validation is task.data.test:
        accuracy, loss = (history[f"val_{name}"][epoch - 1] for name in names)
        return accuracy, loss
    with distributed_fit(task.model, task.data.test.element_spec):
        scores = task.model.evaluate(task.data.test, verbose=0, return_dict=True)
    return scores["accuracy"], scores["loss"]


def model_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the state of a model: weights, statistics, and the states of its random generators."""
    return checkpoint.variable_arrays(state_of(model), "model")


def load_model_arrays(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a model the state that `model_arrays` returned.

    Raises:
        CheckpointError: If it does not fit.
    """
    checkpoint.assign_arrays(state_of(model), "model", arrays)


def trained_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the state of a model and of its optimizer."""
    return model_arrays(model) | checkpoint.optimizer_arrays(model)


def load_trained(
    plan: Plan, task: Task, args: argparse.Namespace, arrays: Mapping[str, np.ndarray]
) -> None:
    """Make the model as it was after a training, though another one followed.

    Args:
        plan: What that training did.
        task: The data and the model.
        args: The arguments of `finetune`.
        arrays: What `trained_arrays` returned.
    """
    _compile(plan, task, args)
    load_model_arrays(task.model, arrays)
    checkpoint.load_optimizer(task.model, arrays)


def _compile(plan: Plan, task: Task, args: argparse.Namespace) -> None:
    """Leave the model as `fine_tune` does, without a training."""
    fine_tuning.compile_groups(
        task.model,
        plan.groups,
        [plan.schedule(rate) for rate in plan.rates],
        task.data.train,
        optimizer=OPTIMIZERS[args.optimizer],
    )
    set_batch_norm(task.model, args.batch_norm)
    freeze_to(task.model, plan.groups, 0)


def _tensorboard(folder: Path | None) -> list[keras.callbacks.Callback]:
    if folder is None:
        return []
    return [keras.callbacks.TensorBoard(str(folder), write_graph=False)]


class _Keeper(keras.callbacks.Callback):
    """Keep what must survive the process: write checkpoints and the log, and go on from them.

    Args:
        args: The arguments of `finetune`.
        files: Where to write.
        steps: Int: steps in an epoch.
        batch: `tf.TensorSpec`s: what a batch looks like.
        position: How far the training is.
        arrays: The arrays of the checkpoint; empty at the beginning.
        logger: The callback that records the rates, before this one in the list.
        stop: Tells when the process has to end.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        files: Files,
        steps: int,
        batch: Any,
        position: Position,
        arrays: Mapping[str, np.ndarray],
        logger: LearningRateLogger,
        stop: StopRequests,
    ) -> None:
        super().__init__()
        self._args = args
        self._files = files
        self._steps = steps
        self._batch = batch
        self._position = position
        self._arrays = arrays
        self._logger = logger
        self._stop = stop
        self._first_step = 0  # of this epoch: not 0 after a stop within it
        self._is_cut = False
        self._best = _under("best", arrays)
        self._started = time.perf_counter() - position.seconds

    def seconds(self) -> float:
        """Return how long the training took, over all processes."""
        return time.perf_counter() - self._started

    def load_kept(self) -> int:
        """Make the model the one that is kept, and return the number of its epoch, from 1."""
        if self._args.keep == "last":
            return self._position.epoch
        load_model_arrays(self.model, self._best)
        checkpoint.load_optimizer(self.model, self._best)
        return self._position.best_epoch

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if not self._arrays:
            return
        if self._position.step:
            # Keras creates their variables in the first step, which is too late.
            with self.model.distribute_strategy.scope():
                build_metrics(self.model, keras.tree.map_structure(_example, self._batch))
        load_model_arrays(self.model, self._arrays)
        checkpoint.load_optimizer(self.model, self._arrays)
        steps = _under("steps", self._arrays)
        self._logger.load_history({name: column.tolist() for name, column in steps.items()})
        self._first_step = self._position.step

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._first_step:
            # Keras has just reset them.
            checkpoint.assign_arrays(self.model.metrics_variables, "metrics", self._arrays)
        self._arrays = {}  # from here on only memory

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        done = self._first_step + batch + 1
        if done >= self._steps:
            # Keras counts the steps of an epoch from 0, also after a stop within it. This ends the
            # loop over them; `on_epoch_end` takes it back.
            if self._first_step:
                self.model.stop_training = self._is_cut = True
            return
        self._position.step = done
        every = self._args.checkpoint_every
        is_due = every and (self._position.epoch * self._steps + done) % every == 0
        if is_due or self._stop.is_requested:
            self._save()
        self._stop.check()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._is_cut:
            self.model.stop_training, self._is_cut = False, False
        self._first_step = 0
        position = self._position
        position.epoch, position.step = epoch + 1, 0
        for name, value in (logs or {}).items():
            position.history.setdefault(name, []).append(float(value))
        if best_epoch(position.history) == position.epoch:
            position.best_epoch = position.epoch
            if self._args.keep == "best":
                self._best = trained_arrays(self.model)
        patience = self._args.patience
        if patience is not None and position.epoch - position.best_epoch >= patience:
            self.model.stop_training = True
        position.is_finished = self.model.stop_training or position.epoch == self._args.epochs
        if self._files.log is not None:
            append_text(self._files.log, log_text(position.history, first=epoch))
        self._save()
        self._stop.check()

    def _save(self) -> None:
        if self._files.checkpoint is None:
            return
        self._position.seconds = self.seconds()
        arrays = trained_arrays(self.model)
        arrays |= checkpoint.variable_arrays(self.model.metrics_variables, "metrics")
        arrays |= {f"steps/{name}": np.array(v) for name, v in self._logger.history.items()}
        arrays |= {f"best/{name}": array for name, array in self._best.items()}
        record = dataclasses.asdict(self._position)
        checkpoint.write_checkpoint(self._files.checkpoint, arrays, record)


def _example(spec: tf.TensorSpec) -> keras.KerasTensor:
    return keras.KerasTensor(spec.shape, spec.dtype.name)


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, under the rest of their names."""
    start = f"{prefix}/"
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def best_epoch(history: Mapping[str, Sequence[float]]) -> int:
    """Return the number of the best epoch, from 1.

    The best epoch has the highest validation accuracy; among several, the lowest validation loss;
    among several again, it is the first.

    Args:
        history: The logs of every epoch, with `"val_accuracy"` and `"val_loss"`.

    >>> best_epoch({"val_accuracy": [0.8, 0.9, 0.9, 0.7], "val_loss": [0.1, 0.4, 0.3, 0.2]})
    3
    """

    def score(epoch: int) -> tuple[float, float]:
        accuracy, loss = (history[name][epoch] for name in ("val_accuracy", "val_loss"))
        return accuracy, -math.inf if math.isnan(loss) else -loss

    return 1 + max(range(len(history["val_loss"])), key=score)


def log_text(history: Mapping[str, Sequence[float]], *, first: int = 0) -> str:
    r"""Return the rows of `log.csv`. NaN, as the rate of a frozen group, becomes an empty cell.

    Args:
        history: The logs of every epoch.
        first: Int from 0: the first epoch to return. Before epoch 0 comes the row of the names.

    >>> log_text({"loss": [2.0, 0.5], "learning_rate/body": [math.nan, 0.1]})
    'epoch,loss,learning_rate/body\n1,2.0,\n2,0.5,0.1\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if first == 0 and history:
        writer.writerow(["epoch", *history])
    for epoch, row in enumerate(zip(*history.values(), strict=True), 1):
        if epoch > first:
            writer.writerow([epoch, *("" if math.isnan(value) else value for value in row)])
    return text.getvalue()
