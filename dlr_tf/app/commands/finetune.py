"""The command `finetune`: train a pretrained model, and write the results."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import math
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import MultiGroupOptimizer
from dlr_tf._clusters import read_cluster
from dlr_tf.app.config import FinetuneConfig, RunConfig
from dlr_tf.app.meeting import LostWorkerError, meet_workers, told_to_workers
from dlr_tf.app.models import CHECKPOINTS, MODEL_FILE
from dlr_tf.app.paths import SETTINGS_FILE
from dlr_tf.app.results import (
    Target,
    WriteError,
    card_of,
    check_output_folder,
    check_writable,
    describe_groups,
    examples_at,
    locked,
    page_of,
    remove_partial_files,
    require_jinja,
    scores_name,
    versions,
    write_report,
    write_text,
)
from dlr_tf.app.run import (
    PAGE_FILE,
    TRAINING,
    CheckpointError,
    ChiefError,
    Classifier,
    Comparison,
    DivergedError,
    Result,
    Run,
    StoppedError,
    StopRequests,
    Stopwatch,
    Task,
    all_make,
    by_chief,
    check_options,
    check_same_data,
    compare,
    comparison_lines,
    evaluate_data,
    is_finished,
    load_task,
    lost_workers,
    model_arrays,
    optimizer_argument,
    read_settings,
    resumed_config,
    run_settings,
    schedule_of,
    steps_made,
    suited,
    train,
    with_recipe,
    with_usual_epochs,
    write_place_of_data,
    write_settings,
)
from dlr_tf.app.terminal import (
    UsageError,
    messages_to_stderr,
    next_line,
    one_line,
    print_note,
    print_result,
    print_stderr,
    usage_errors,
    written_line,
)
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.training import plotting
from dlr_tf.training.distribution import make_strategy, strategy_of
from dlr_tf.training.workers import Workers


def run(config: FinetuneConfig) -> int:
    """Train, test, and write the output folder, or resume that.

    Returns:
        The exit code: 0; 1 if a file could not be written or the training diverged; 130 or 143 if
        Ctrl-C or SIGTERM stopped the run.

    Raises:
        UsageError: If something is wrong with the arguments, before anything is written.
    """
    if config.strategy == "multi-worker" and Path(config.output or "", SETTINGS_FILE).is_file():
        # Whatever starts workers again repeats the command.
        config = dataclasses.replace(config, resume=config.output)
    if config.resume is not None and is_finished(Path(config.resume)):
        folder = Path(config.resume)
        options = {name: value for name, value in config.given.items() if name != "data"}
        with usage_errors():
            check_options(folder, run_settings(folder), options)
        # A kill can come between the last file and this.
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        print_stderr(f"The run {config.resume!r} is finished: nothing is left to do.")
        return 0
    with contextlib.ExitStack() as until_the_end:
        with messages_to_stderr(), usage_errors():
            run = _prepare(config, until_the_end)
        if run is None:
            print_stderr("The others have finished the run: nothing is left to do.")
            return 0
        try:
            again = functools.partial(run.how_to_resume, "To resume, start all workers again with")
            with lost_workers(run.workers, again):
                by_chief(run.workers, lambda: _begin(run, config))
                _train_and_write(run)
        except LostWorkerError:
            if is_finished(run.folder):  # it was the last thing that this worker waited for
                return 0
            raise
        except StoppedError as error:
            print_stderr(f"dlr-tf: stopped. {run.how_to_resume('To resume')}")
            return error.exit_code
        except (WriteError, ChiefError) as error:
            when = run.how_to_resume("When that is corrected, resume with")
            raise ChiefError(f"{error} {when}", error.exit_code) from error
        except DivergedError as error:
            raise DivergedError(run.keep_last_finite(error)) from error
        except CheckpointError as error:
            raise UsageError(str(error)) from error
    return 0


def _prepare(given: FinetuneConfig, until_the_end: contextlib.ExitStack) -> Run | None:
    """Check everything, and then create the folder of the run, or lock it."""
    watch, stop = Stopwatch(), StopRequests()
    folder, config = _checked(given)
    if config.strategy == "multi-worker":
        resumes = given.resume is not None
        meeting = meet_workers(
            read_cluster(os.environ),
            wait=config.wait,
            said=resumes,
            is_over=lambda: is_finished(folder),
        )
        if meeting.is_over:
            return None
        if meeting.said and not resumes and given.output:
            # The chief has begun the run since this worker looked.
            given = dataclasses.replace(given, resume=given.output)
            folder, config = _checked(given)
    strategy = _strategy(config)
    workers = Workers(strategy)
    until_the_end.enter_context(
        lost_workers(workers, lambda: "Start all workers again with the same command.")
    )
    # The default name of the folder is the time, which is not the same for all workers.
    folder = folder if given.resume or given.output else Path(workers.of_chief(str(folder)))

    def lock() -> None:
        if workers.is_chief and given.resume is not None:
            until_the_end.enter_context(locked(folder))

    all_make(workers, "settings or versions", lock, lambda _: _same_for_all(config))
    with watch.part("reading"), strategy.scope():
        has_started = workers.of_chief(Run.has_started(folder))
        task = load_task(config, workers=workers, pretrains=not has_started)
        config = with_usual_epochs(config, task.data)
        # Raise now what would be raised after the range test.
        rates = task.rates or task.ratios
        schedule = schedule_of(config, task)
        made = MultiGroupOptimizer(task.groups, [*map(schedule, rates)], optimizer_argument(config))
        if given.resume is None:
            config = with_recipe(config, task, made)
    run = Run(folder, config, task, workers, stop, watch)

    def open_folder() -> None:
        if given.resume is not None:
            check_same_data(folder, task.data)
        elif run.writes:
            folder.mkdir(parents=True, exist_ok=True)
            until_the_end.enter_context(locked(folder))
            check_output_folder(folder)  # another process may have written to it meanwhile

    all_make(workers, "a folder", open_folder)
    if given.resume is not None:
        run.check_not_diverged()
    stop.any_worker = workers.any
    until_the_end.enter_context(stop)
    return run


def _checked(given: FinetuneConfig) -> tuple[Path, RunConfig]:
    """Return the folder and the settings of a run, when what needs no TensorFlow is checked."""
    with told_to_workers(given.strategy == "multi-worker" or given.resume is not None):
        if given.resume is None:
            config = suited(given.new_run)
            folder = Path(given.output or f"{datetime.datetime.now():runs/%Y-%m-%d_%H-%M-%S}")
            if config.strategy != "multi-worker" or read_cluster(os.environ).is_chief:
                check_output_folder(folder)
        else:
            folder = Path(given.resume)
            config = resumed_config(folder, given.given)
            check_writable(folder)
        plotting.require_matplotlib()
        require_jinja()
        if config.tensorboard:
            require_tensorboard()
    return folder, config


def _same_for_all(config: RunConfig) -> dict[str, Any]:
    """Return what all workers must have in common. The images may be in another place."""
    settings = {name: v for name, v in config.as_dict().items() if name not in ("data", "wait")}
    return settings | versions()


def _begin(run: Run, given: FinetuneConfig) -> None:
    """Write the first files of a run."""
    for folder in (run.folder, run.checkpoints):
        remove_partial_files(folder)
    if given.resume is None:
        write_settings(run.folder, run.config, given.command_line, run.task.data)
    else:
        write_place_of_data(run.folder, run.config)


def _train_and_write(run: Run) -> None:
    """Train, write the model, and then everything that may fail for another reason."""
    config, task, watch = run.config, run.start(), run.watch
    start = model_arrays(task.model) if config.compare else {}
    with messages_to_stderr():
        with watch.part("range_test"):
            rates = task.rates or run.rates(TRAINING, config, task.ratios)
        shows_groups = ShowGroups(config.schedule, rates)
        with watch.part("training"):
            result = train(run, TRAINING, config, rates, [shows_groups])

        def save() -> Target:
            target = run.tuned_target()
            if not run.has_model:
                run.save_model(run.folder / MODEL_FILE, target)
            return target

        with watch.part("saving"):
            target = by_chief(run.workers, save)
    label, total = name_of_rates(config, rates), task.data.test_images
    print_result(task.target.result_line(result.score, total, label, task.data.unit))
    other = None
    if target is not None:  # of the chief
        with messages_to_stderr(), watch.part("evaluation"):
            data = task.data
            evaluation = evaluate_data(Classifier(task.model, target.kind), data, target)
            errors = [error.index for error in evaluation.worst_errors()]
            images = examples_at(data.test, errors)
        if target.kind != "class":
            print_result(evaluation.summary())
    with messages_to_stderr():
        if config.compare:
            with watch.part("comparison"):
                other = _compare(run, start, label, result)
    if other is not None:
        ours, theirs = other.our_scores, other.their_scores
        words, heads = task.target.score_words, other.head_scores
        for line in comparison_lines(label, ours, theirs, words, heads):
            print_result(line)

    def write() -> None:
        print_note("writing the report")
        report = {"label": label, **_report(run, task, result, other)}
        report["scores"] = evaluation.scores
        write_report(run.folder / "report.json", report | _seconds(run, result))
        write_text(run.folder / "README.md", card_of(report, evaluation))
        with watch.part("page"):
            now = report | _seconds(run, result)
            page = page_of(now, result.history, result.steps, evaluation, images)
            write_text(run.folder / PAGE_FILE, page)
        write_report(run.folder / "report.json", report | _seconds(run, result))
        shutil.rmtree(run.checkpoints, ignore_errors=True)

    with messages_to_stderr():
        by_chief(run.workers, write)
    if not run.writes:
        return
    names = [path.name for path in run.folder.iterdir() if not path.name.startswith(".")]
    print_result(written_line(run.folder, names))
    # The embedded network knows digits of 8 by 8 pixels: a photo of one's own is no use to it.
    example = "photo.jpg" if task.data.unit == "image" else "texts.csv"
    predict = ["predict", str(run.folder), example]
    print_result(next_line(["finetune", "PHOTOS"] if config.data is None else predict))


def _compare(
    run: Run, start: Mapping[str, np.ndarray], label: str, result: Result
) -> Comparison | None:
    """Return what the comparison found. Without one, the run goes on: its own result is there."""
    try:
        return compare(run, start, label, result)
    except (UsageError, DivergedError) as error:
        what = "One of its trainings diverged: " if isinstance(error, DivergedError) else ""
        print_stderr(f"dlr-tf: warning: there is no comparison. {what}{error}")
    return None


def _seconds(run: Run, result: Result) -> dict[str, dict[str, float]]:
    """Return the seconds of the parts until now, by the clock and of the processor."""
    earlier = result.earlier_seconds
    parts = {**run.watch.parts, "total": run.watch.total().plus(earlier)}
    parts["training"] = parts["training"].plus(earlier)
    return {
        "seconds": {name: round(part.wall, 1) for name, part in parts.items()},
        "processor_seconds": {name: round(part.processor, 1) for name, part in parts.items()},
    }


def require_tensorboard() -> None:
    """Raise an `ImportError` if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "--tensorboard needs TensorBoard, which is not installed. Run: pip install tensorboard"
        )


def name_of_rates(config: RunConfig, rates: Sequence[float]) -> str:
    """Return what the peak rates of a training are called."""
    if config.trains_head_only:
        return f"only the head trained, at {rates[-1]:g}"
    if config.head_start:
        return "a head start"
    return f"one rate, {rates[0]:g}" if len(set(rates)) == 1 else "differential rates"


def _strategy(config: RunConfig) -> tf.distribute.Strategy:
    if config.strategy is None:
        return tf.distribute.get_strategy()
    try:
        if config.strategy == "multi-worker":
            strategy = strategy_of(read_cluster(os.environ), wait=config.wait)
        else:
            strategy = make_strategy(config.strategy)
    except tf.errors.OpError as error:  # the others are still in the run that this worker left
        raise LostWorkerError(
            "The workers cannot be reached, or this address is still in use. Start all of them "
            f"again with the same command. Received: {one_line(error.message)[:200]}"
        ) from error
    if config.strategy == "multi-worker":
        with contextlib.suppress(ValueError):  # not in the main thread
            # TensorFlow has put a handler of its own there, which only takes note.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    devices = strategy.num_replicas_in_sync
    print_note(f"training on {devices} device{'s' if devices > 1 else ''}")
    if config.batch_size % devices:
        multiple = math.ceil(config.batch_size / devices) * devices
        raise ValueError(
            f"--batch-size {config.batch_size} cannot be split evenly over {devices} devices. "
            f"Give a multiple of {devices}, such as {multiple}."
        )
    return strategy


class ShowGroups(keras.callbacks.Callback):
    """Print the table of groups when the optimizer knows its variables."""

    def __init__(self, schedule: str, rates: Sequence[float]) -> None:
        super().__init__()
        self._schedule = schedule
        self._rates = rates

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        optimizer = unwrap_optimizer(self.model.optimizer, MultiGroupOptimizer)
        peak = self._rates[-1]
        share = f" ({optimizer.learning_rates[-1] / peak:.2g} of the peak)" if peak else ""
        print_note(
            "the groups, and their learning rates in the next step, step "
            f"{steps_made(optimizer) + 1} of the schedule {self._schedule}{share}:"
        )
        optimizer.summary(print_fn=print_note)


def _report(run: Run, task: Task, result: Result, other: Comparison | None) -> dict[str, Any]:
    config, data = run.config, task.data
    found: dict[str, Any] = {
        "data": {
            "name": data.name,
            "target": data.kind,
            "class_names": data.class_names,
            "image_shape": data.image_shape,
            "train_images": data.train_images,
            # Without any, the test images are scored after each epoch.
            "validation_images": data.size("validation"),
            "test_images": data.test_images,
        },
        "settings": {**config.as_dict(), **task.source},
        "groups": describe_groups(task.model, task.groups, result.rates),
        f"test_{task.target.score}": result.score,
        "test_loss": result.loss,
        "head_alone": result.head_alone,
        "kept_epoch": result.kept_epoch,
        "pretraining_accuracy": task.pretraining_accuracy,
        "seed": config.seed,
        "versions": versions(),
        "command": read_settings(run.folder)["command"],
    }
    if other is not None:
        found[scores_name(other.score)] = other.our_scores
        found["compare"] = other.report()
    return found
