"""One training of the command: with checkpoints, from which it resumes bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras.callbacks import LambdaCallback

from dlr_tf.app.config import RunConfig
from dlr_tf.app.results import append_text, write_text
from dlr_tf.app.run import checkpoint
from dlr_tf.app.run.agreement import by_chief
from dlr_tf.app.run.callbacks import CheckpointCallback, CutEpoch, EpochRecord
from dlr_tf.app.run.divergence import StopOnDivergence
from dlr_tf.app.run.run import TRAINING, Run
from dlr_tf.app.run.seconds import Seconds
from dlr_tf.app.run.state import History, TrainingState, log_text
from dlr_tf.app.run.tasks import Task, optimizer_argument
from dlr_tf.app.run.worker_data import own_parts
from dlr_tf.app.terminal import print_note
from dlr_tf.app.terminal.progress import Progress
from dlr_tf.training import fine_tuning
from dlr_tf.training.compiling import compile_model, make_optimizer
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.freezing import freeze_to, set_batch_norm
from dlr_tf.training.learning_rate_logger import LearningRateLogger
from dlr_tf.training.losses import choose_loss
from dlr_tf.training.named_schedules import make_schedule
from dlr_tf.training.training_data import FirstBatches


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of one training.

    Args:
        rates: The peak rate of each group.
        history: The logs of every epoch.
        score: The score of the target on the test images.
        loss: Loss on the test images.
        kept_epoch: Int from 1: the epoch after which the model is as it is kept.
        earlier_seconds: The time of the training in earlier processes.
        steps: The rates of every step: `LearningRateLogger.history`.
        head_alone: The score after the head start; `None` without one.
    """

    rates: Sequence[float]
    history: History
    score: float
    loss: float
    kept_epoch: int
    earlier_seconds: Seconds = dataclasses.field(default_factory=Seconds)
    steps: Mapping[str, list[Any]] = dataclasses.field(default_factory=dict)
    head_alone: float | None = None


def schedule_of(config: RunConfig, task: Task) -> Callable[[float], Any]:
    """Return the function from a peak rate to the schedule of the whole training.

    Raises:
        ValueError: If the options do not fit each other.
    """
    return make_schedule(
        config.schedule,
        steps_per_epoch=task.data.steps_per_epoch,
        epochs=config.epochs,
        cycle_epochs=config.cycle_epochs,
        t_mul=config.t_mul,
        warmup=config.warmup,
    )


def averaging(config: RunConfig) -> dict[str, Any]:
    """Return the arguments for the mean of the weights after every step."""
    return {"use_ema": True, "ema_momentum": None} if config.average_weights else {}


def train(
    run: Run,
    name: str,
    config: RunConfig,
    rates: Sequence[float],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Result:
    """Train the model of a run, or resume its training, and test it.

    Args:
        run: The run, whose model has the weights that the training begins with.
        name: The name of the training. If it has a checkpoint, the training resumes there.
        config: What to do.
        rates: The peak rate of each group.
        callbacks: More callbacks for `fit`, which see the model as it was resumed.

    Returns:
        The result. The model is the last one, or with `--keep best` the one of the best epoch.

    Raises:
        StoppedError: If the process has to end; the checkpoint is written.
        DivergedError: If the loss or the weights are not finite; the checkpoint is an earlier one.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """
    task, model, data = run.task, run.task.model, run.task.data
    strategy = model.distribute_strategy
    keras.utils.set_random_seed(config.seed)
    shown = name == TRAINING
    stored = run.stored(name)
    arrays, reached = stored or ({}, {})
    state = TrainingState.of(reached)
    earlier_seconds, steps = state.seconds, data.steps_per_epoch

    def write_log(write: Callable[[Path, str], None], text: str) -> None:
        if shown:
            by_chief(run.workers, lambda: write(run.folder / "log.csv", text))

    write_log(write_text, log_text(state.history))
    logger = LearningRateLogger()
    best = checkpoint.arrays_under("best", arrays)
    record = EpochRecord(
        state, config, task.target.score, best, functools.partial(write_log, append_text)
    )
    writer = CheckpointCallback(
        functools.partial(run.store, name),
        state,
        arrays,
        config=config,
        logger=logger,
        epochs=record,
        stop=run.stop,
        data=data,
    )
    del stored, arrays, best  # they would stay in memory for the whole training
    if state.is_finished:
        _compile(config, task, rates)
        for callback in (logger, writer):
            callback.set_model(model)
            callback.on_train_begin()
        if config.average_weights:  # as at the end of `fit`
            model.optimizer.finalize_variable_values(model.trainable_variables)
    else:
        if state.epoch or state.step:
            within = f", step {state.step + 1} of {steps}" if state.step else ""
            print_note(f"resuming at epoch {state.epoch + 1} of {config.epochs}{within}")
        if shown and data.validation is data.test:
            what = "val_loss and val_acc are those"
            if task.target.score == "loss":
                what = "val_loss is that"
            print_note(f"{what} of the test {data.unit}s")
        if shown and config.average_weights:
            print_note("the model at the end has the mean of the weights after every step")
        progress = Progress(config.epochs, first_step=state.step, lines=shown)
        # Those that add to the logs come first, then those that end the training, then those that
        # keep something; the progress shows an epoch also if the training ends there.
        own = [logger, StopOnDivergence(), *run.tensorboard(name), progress]
        own += [CutEpoch(state, steps), record]
        starts = bool(config.head_start) and not (state.epoch or state.step)
        if starts:
            own.append(LambdaCallback(on_train_begin=lambda _: _score_head_alone(task, state)))
        step = state.epoch * steps + state.step
        weights = data.class_weights(config.class_weights)
        parts = own_parts(strategy, data, step=step, seed=config.seed, class_weight=weights)
        with progress, run.stop.deferred(), warnings.catch_warnings(), parts:
            if state.epoch:
                # `fine_tune` takes the epochs that are left for the whole training.
                warnings.filterwarnings("ignore", message="The training ends at step")
            fine_tuning.fine_tune(
                model,
                task.groups,
                data.train_from(step, config.seed),
                learning_rate=list(rates),
                schedule=schedule_of(config, task),
                epochs=config.epochs,
                initial_epoch=state.epoch,
                steps_per_epoch=steps,
                frozen_epochs=config.frozen_epochs,
                head_start=starts,
                validation_data=data.validation,
                optimizer=optimizer_argument(config),
                **averaging(config),
                batch_norm=config.batch_norm,
                class_weight=weights,
                callbacks=[*own, writer, *callbacks],
                verbose=0,
            )
        run.stop.agree()
        run.stop.check()
    if state.epoch < config.epochs:
        print_note(f"stopped after epoch {state.epoch}: the best one was epoch {state.best_epoch}")
    kept_epoch = state.epoch
    if config.keep == "best":
        checkpoint.load_trained_arrays(model, record.best)
        kept_epoch = state.best_epoch
        if kept_epoch < state.epoch:
            print_note(f"the model of epoch {kept_epoch} is kept")
    names = (task.target.score, "loss")
    scores = {name: state.history[f"val_{name}"][kept_epoch - 1] for name in names}
    if data.validation is not data.test or config.average_weights:
        with distributed_fit(model, data.test.element_spec), own_parts(strategy, data):
            scores = model.evaluate(data.test, verbose=0, return_dict=True)
    return Result(
        list(rates),
        state.history,
        scores[task.target.score],
        scores["loss"],
        kept_epoch,
        earlier_seconds,
        logger.history,
        state.head_alone,
    )


def _score_head_alone(task: Task, state: TrainingState) -> None:
    """Score the model after the head start, before its other layers are trained."""
    scores = task.model.evaluate(task.data.test, verbose=0, return_dict=True)
    state.head_alone = float(scores[task.target.score])
    print_note(f"the head alone: test {task.target.score_words} {state.head_alone:.4f}")


def _compile(config: RunConfig, task: Task, rates: Sequence[float]) -> None:
    """Leave the model as `fine_tune` does, without a training."""
    schedule = schedule_of(config, task)
    scheduled = [schedule(rate) for rate in rates]
    template = optimizer_argument(config)
    made = make_optimizer(task.model, task.groups, scheduled, template, **averaging(config))
    first = FirstBatches(task.data.train)
    compile_model(task.model, made, choose_loss(task.model, first), first)
    set_batch_norm(task.model, config.batch_norm)
    freeze_to(task.model, task.groups, 0)
