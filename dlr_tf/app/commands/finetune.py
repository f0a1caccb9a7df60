"""The command `finetune`: train a pretrained model, and write the results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import MultiGroupOptimizer
from dlr_tf.app.data import ImageData
from dlr_tf.app.models import (
    CHECKPOINTS,
    CLASSES_FILE,
    MODEL_FILE,
    Classifier,
    write_class_names,
)
from dlr_tf.app.results import (
    WriteError,
    atomic_write,
    check_output_folder,
    check_writable,
    describe_groups,
    evaluate_batches,
    images_at,
    locked,
    make_folder,
    page_of,
    remove_partial_files,
    require_jinja,
    versions,
    write_report,
    write_text,
)
from dlr_tf.app.run import checkpoint, comparison, settings
from dlr_tf.app.run.checkpoint import CheckpointError
from dlr_tf.app.run.interrupts import StoppedError, StopRequests
from dlr_tf.app.run.settings import check_same_data, write_settings
from dlr_tf.app.run.tasks import OPTIMIZERS, Task, load_task
from dlr_tf.app.run.training import (
    Files,
    Plan,
    Result,
    load_model_arrays,
    load_trained,
    model_arrays,
    train,
    trained_arrays,
)
from dlr_tf.app.terminal import (
    UsageError,
    accuracy_line,
    after_training,
    messages_to_stderr,
    next_line,
    one_line,
    print_result,
    print_stderr,
    usage_errors,
    written_line,
)
from dlr_tf.app.terminal.progress import on_terminal
from dlr_tf.app.terminal.stopwatch import Stopwatch
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.distribution import is_chief, make_strategy
from dlr_tf.training.rate_choice import SWEEP

TRAINING, COMPARISON = "training", "comparison"


def run(args: argparse.Namespace) -> int:
    """Train, test, and write the output folder, or go on with that.

    Args:
        args: What `parse_arguments` returns for `finetune`.

    Returns:
        The exit code: 0; 1 if a file could not be written; 130 or 143 if Ctrl-C or SIGTERM stopped
        the run.

    Raises:
        UsageError: If something is wrong with the arguments, before anything is written.
    """
    if args.resume is not None and is_finished(Path(args.resume)):
        with usage_errors(), locked(Path(args.resume)):
            # A kill can come between the last file and this.
            shutil.rmtree(Path(args.resume, CHECKPOINTS), ignore_errors=True)
        print_stderr(f"The run {args.resume!r} is finished: nothing is left to do.")
        return 0
    with contextlib.ExitStack() as until_the_end:
        with messages_to_stderr(), usage_errors():
            run = _prepare(args, until_the_end)
        try:
            # Several machines stop together or not at all, and write no checkpoints.
            stop = StopRequests()
            if args.strategy != "multi-worker":
                until_the_end.enter_context(stop)
            return _train_and_write(_begin(run, args), args, stop)
        except StoppedError as error:
            print_stderr(f"dlr-tf: stopped. {_next_line(run, 'To go on')}")
            return error.exit_code
        except WriteError as error:
            print_stderr(
                f"dlr-tf: error: {error} {_next_line(run, 'When that is corrected, go on with')}"
            )
            return 1
        except CheckpointError as error:
            raise UsageError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is known before the training begins."""

    folder: Path
    given: argparse.Namespace
    task: Task
    plan: Plan
    writes: bool
    checkpoints: Path | None
    watch: Stopwatch

    def files(self, name: str, args: argparse.Namespace) -> Files:
        """Where the training of this name writes."""
        return Files(
            self.checkpoints / f"{name}.npz" if self.checkpoints else None,
            self.folder / "log.csv" if self.writes and name == TRAINING else None,
            self.folder / "tensorboard" / name if self.writes and args.tensorboard else None,
        )


def _next_line(run: _Run, when: str) -> str:
    """Say how a run that has ended early goes on."""
    if run.checkpoints is None or not (run.folder / settings.FILE).exists():
        return "Start the run again."
    return f"{when}: dlr-tf finetune --resume {shlex.quote(str(run.folder))}"


def is_finished(folder: Path) -> bool:
    """Return whether a run has written its last file."""
    return (folder / MODEL_FILE).exists() and (folder / settings.FILE).exists()


def _prepare(args: argparse.Namespace, until_the_end: contextlib.ExitStack) -> _Run:
    """Check everything, and then create the folder of the run, or lock it."""
    watch = Stopwatch()
    name = args.resume or args.output or f"{datetime.datetime.now():runs/%Y-%m-%d_%H-%M-%S}"
    folder = Path(name)
    if args.resume is None:
        check_output_folder(folder)
    else:
        check_writable(folder)
        if args.strategy == "multi-worker":
            raise ValueError(
                "A run with --strategy multi-worker writes no checkpoints, so it cannot go on. "
                "Start it again without --resume."
            )
        until_the_end.enter_context(locked(folder))
    plotting.require_matplotlib()
    require_jinja()
    if args.tensorboard:
        require_tensorboard()
    strategy = _strategy(args)
    given = argparse.Namespace(**vars(args))  # `load_task` replaces some by what they stand for
    with watch.part("reading"), strategy.scope():
        task = load_task(args)
    schedule = fine_tuning.make_schedule(
        args.schedule,
        steps_per_epoch=fine_tuning.steps_in_epoch(task.data.train),
        epochs=args.epochs,
        cycle_epochs=args.cycle_epochs,
        t_mul=args.t_mul,
    )
    plan = Plan(task.groups, task.rates, schedule, args.frozen_epochs, args.seed)
    # Refuses an optimizer that does not fit the groups before the output folder is created.
    fine_tuning.compile_groups(
        task.model,
        task.groups,
        [schedule(rate) for rate in task.rates],
        task.data.train,
        optimizer=OPTIMIZERS[args.optimizer],
    )
    # All machines train, and one of them writes.
    writes = is_chief(strategy)
    checkpoints = folder / CHECKPOINTS if args.strategy != "multi-worker" else None
    if args.resume is not None:
        check_same_data(folder, task.data)
    elif writes:
        folder.mkdir(parents=True, exist_ok=True)
        until_the_end.enter_context(locked(folder))
        check_output_folder(folder)  # another process may have written to it meanwhile
    return _Run(folder, given, task, plan, writes, checkpoints, watch)


def _begin(run: _Run, args: argparse.Namespace) -> _Run:
    """Write the first files of a run, or bring the model to the start of one that goes on.

    Raises:
        WriteError: If the operating system refuses.
    """
    if run.writes:
        remove_partial_files(run.folder)
        if args.resume is None:
            write_settings(run.folder, run.given, run.task.data)
    if run.checkpoints is None:
        return run
    make_folder(run.checkpoints)
    remove_partial_files(run.checkpoints)
    return dataclasses.replace(run, task=_same_start(run.checkpoints / "start.npz", run.task))


def _same_start(path: Path, task: Task) -> Task:
    """Let every training of a run begin with the same weights, also after a stop.

    The weights of the head are random, and a pretraining on a GPU gives others each time.
    """
    stored = checkpoint.read_checkpoint(path)
    if stored is None:
        record = {"pretraining_accuracy": task.pretraining_accuracy}
        checkpoint.write_checkpoint(path, model_arrays(task.model), record)
        return task
    arrays, record = stored
    load_model_arrays(task.model, arrays)
    return dataclasses.replace(task, pretraining_accuracy=record["pretraining_accuracy"])


def _train_and_write(run: _Run, args: argparse.Namespace, stop: StopRequests) -> int:
    """Train, and write the results: first what is small, and the model last."""
    task, output, watch = run.task, run.folder, run.watch
    start = model_arrays(task.model) if args.compare else {}
    with messages_to_stderr():
        with watch.part("range_test"):
            plan = _with_rates(run, args, run.plan, TRAINING, auto=task.auto)
        result = train(plan, task, args, run.files(TRAINING, args), stop, [_ShowGroups()])
    with_rates, label = describe_rates(args, plan.rates)
    total = task.data.test_images
    n_correct = round(result.accuracy * total)
    print_result(accuracy_line(n_correct, total, with_rates))

    other = None
    if args.compare:
        trained = trained_arrays(task.model)
        with messages_to_stderr(), watch.part("comparison"):
            try:
                other = _compare(run, args, plan, label, result, start, stop)
            except UsageError as error:
                print_stderr(f"dlr-tf: warning: there is no comparison. {error}")
            load_trained(plan, task, args, trained)
    if other is not None:
        for line in comparison.lines(label, other["ours"], other["test_accuracies"]):
            print_result(line)

    if not run.writes:
        return 0
    watch.seconds |= {"training": result.seconds, **result.parts}
    found = {"label": label, **_report(args, task, plan, result, other)}
    found["command"] = settings.read_settings(output)["command"]

    def write_numbers() -> None:
        seconds = watch.seconds | {"total": watch.total() + result.earlier_seconds}
        found["seconds"] = {part: round(value, 1) for part, value in seconds.items()}
        write_report(output / "report.json", found)

    write_numbers()
    with messages_to_stderr(), watch.part("evaluation"):
        evaluation = evaluate_batches(
            Classifier(task.model), task.data.test, task.data.class_names, task.data.test_names
        )
        errors = [error.index for error in evaluation.most_confident_errors()]
        images = images_at(task.data.test, errors)
    with atomic_write(output / CLASSES_FILE) as path:
        write_class_names(path, task.data.class_names)
    with watch.part("page"):
        page = page_of(
            found, result.history, evaluation, images=images, steps=result.logger.history
        )
        write_text(output / "report.html", page)

    # The model comes last: with it the run is finished.
    with atomic_write(output / MODEL_FILE) as path:
        with watch.part("saving"):
            task.model.save(path)
        write_numbers()  # again, with all seconds
    if run.checkpoints is not None:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    print_result(written_line(output, [path.name for path in output.iterdir()]))
    print_result(next_line(after_training(args, output)))
    return 0


def _with_rates(run: _Run, args: argparse.Namespace, plan: Plan, name: str, *, auto: bool) -> Plan:
    """Return a plan with its peak rates, which a range test chooses if `auto`.

    Args:
        run: The run.
        args: The arguments of `finetune`.
        plan: The plan, with the ratios of the rates to that of the head if `auto`.
        name: The name of the training.
        auto: Whether to choose.

    Raises:
        UsageError: If no rate can be suggested.
    """
    if not auto:
        return plan
    # Stored, since on a GPU the choice may differ from one process to the next.
    path = run.checkpoints / f"{name}-rates.npz" if run.checkpoints else None
    stored = checkpoint.read_checkpoint(path) if path else None
    if stored is None:
        print_stderr(f"choosing the learning rate by a range test of {SWEEP.steps} steps")
        keras.utils.set_random_seed(plan.seed)
        try:
            choice = fine_tuning.auto_rates(
                run.task.model,
                plan.groups,
                plan.rates,
                run.task.data.train_from(0, plan.seed),
                batch_norm=args.batch_norm,
                head_only=plan.frozen_epochs >= args.epochs,
                fit={"class_weight": run.task.data.class_weights(args.class_weights)},
                verbose=1 if on_terminal() else 0,
                optimizer=OPTIMIZERS[args.optimizer],
            )
        except ValueError as error:
            raise UsageError(
                "No learning rate can be chosen for this model and these images. Give it with "
                f"--learning-rate. {one_line(error.__cause__ or error)}"
            ) from error
        stored = {}, {"rates": choice.rates, "line": choice.line()}
        if path:
            checkpoint.write_checkpoint(path, *stored)
    print_stderr(stored[1]["line"])
    return dataclasses.replace(plan, rates=list(stored[1]["rates"]))


def _compare(
    run: _Run,
    args: argparse.Namespace,
    plan: Plan,
    label: str,
    result: Result,
    start: Mapping[str, np.ndarray],
    stop: StopRequests,
) -> dict[str, Any]:
    """Train with several seeds, each with our rates and with one rate for all layers.

    Both have the same schedule and epochs. A range test chooses the one rate.

    Args:
        run: The run.
        args: The arguments of `finetune`.
        plan: What the training did that is kept.
        label: Its rates.
        result: Its result.
        start: The state of the model before it.
        stop: Tells when the process has to end.

    Returns:
        The entry `"compare"` of report.json, and under `"ours"` the accuracies of our rates.

    Raises:
        UsageError: If no rate can be suggested.
    """
    task, model = run.task, run.task.model
    head = [] if args.keep_head else comparison.head_variables(model, plan.groups)
    trainings = 2 * args.compare_seeds - 1

    def train_with_seed(plan: Plan, seed: int, name: str, label: str, auto: bool) -> Result:
        number = len(ours) + len(theirs)
        print_stderr(f"for comparison ({number} of {trainings}): {label}, seed {seed}")
        load_model_arrays(model, start)
        if seed != args.seed:
            comparison.start_with_seed(model, head, seed)
        plan = dataclasses.replace(plan, seed=seed)
        plan = _with_rates(run, args, plan, f"{name}-{seed}", auto=auto)
        rates.setdefault(name, []).append(plan.rates)
        files = run.files(f"{name}-{seed}", args)
        found = train(plan, task, args, files, stop, show_epochs=False)
        print_stderr(f"test accuracy {found.accuracy:.4f}")
        return found

    one_rate = dataclasses.replace(run.plan, rates=[1.0] * len(plan.groups))
    if plan.frozen_epochs >= args.epochs:  # or the other layers would never move
        one_rate = dataclasses.replace(one_rate, frozen_epochs=0)
    seeds = range(args.seed, args.seed + args.compare_seeds)
    rates: dict[str, list[Sequence[float]]] = {TRAINING: [plan.rates]}
    ours, theirs = [result], list[Result]()
    for seed in seeds:
        if seed != args.seed:
            ours.append(train_with_seed(run.plan, seed, TRAINING, label, task.auto))
        theirs.append(train_with_seed(one_rate, seed, COMPARISON, comparison.ONE_RATE, True))
    return {
        "label": comparison.ONE_RATE,
        "seeds": [*seeds],
        "learning_rates": [of_seed[-1] for of_seed in rates[COMPARISON]],
        "learning_rates_of_the_run": rates[TRAINING],
        "ours": [found.accuracy for found in ours],
        "test_accuracies": [found.accuracy for found in theirs],
        "test_losses": [found.loss for found in theirs],
        "history": theirs[0].history,
    }


def require_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        ImportError: If it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "--tensorboard needs TensorBoard, which is not installed. Run: pip install tensorboard"
        )


def describe_rates(args: argparse.Namespace, rates: Sequence[float]) -> tuple[str, str]:
    """Describe the rates at which a model is trained.

    Args:
        args: The arguments of the command.
        rates: The peak rate of each group.

    Returns:
        A phrase for the line of the result, and a short label for the plot.
    """
    if args.frozen_epochs >= args.epochs:
        return f"only the head trained, at {rates[-1]:g}", "only the head"
    if len(set(rates)) == 1:
        return f"one rate, {rates[0]:g}, schedule {args.schedule}", f"one rate, {args.schedule}"
    return "differential rates", "differential rates"


def _strategy(args: argparse.Namespace) -> tf.distribute.Strategy:
    if args.strategy is None:
        return tf.distribute.get_strategy()
    strategy = make_strategy(args.strategy, wait=args.wait)
    devices = strategy.num_replicas_in_sync
    print_stderr(f"training on {devices} device{'s' if devices > 1 else ''}")
    if args.batch_size % devices:
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be split evenly over {devices} devices. Give "
            f"a multiple of {devices}, such as {math.ceil(args.batch_size / devices) * devices}."
        )
    return strategy


class _ShowGroups(keras.callbacks.Callback):
    """Print the table of groups when the optimizer knows its variables."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        print_stderr("the groups, and their learning rates in the next step:")
        unwrap_optimizer(self.model.optimizer, MultiGroupOptimizer).summary(print_fn=print_stderr)


def _validation_images(data: ImageData) -> int | None:
    """Return the number of validation images, 0 if the test images serve, `None` if unknown."""
    if data.validation is data.test:
        return 0
    return sum(data.class_counts.get("validation", ())) or None


def _report(
    args: argparse.Namespace,
    task: Task,
    plan: Plan,
    result: Result,
    other: dict[str, Any] | None,
) -> dict[str, Any]:
    data = task.data
    found: dict[str, Any] = {
        "data": {
            "name": data.name,
            "class_names": data.class_names,
            "image_shape": data.image_shape,
            "train_images": data.train_images,
            "validation_images": _validation_images(data),
            "test_images": data.test_images,
        },
        "settings": settings.settings_of(args),
        "groups": describe_groups(task.model, plan.groups, plan.rates),
        "test_accuracy": result.accuracy,
        "test_loss": result.loss,
        "kept_epoch": result.kept_epoch,
        "pretraining_accuracy": task.pretraining_accuracy,
        "seed": args.seed,
        "versions": versions(),
    }
    if other is not None:
        found["test_accuracies"] = other["ours"]
        found["compare"] = {name: value for name, value in other.items() if name != "ours"}
    return found
