"""The command `finetune`: train a pretrained model, and write the results."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import LayerGroup, LearningRateLogger, MultiGroupOptimizer, split_layers
from dlr_tf.app import report, thumbnails
from dlr_tf.app.evaluation import Evaluation
from dlr_tf.app.messages import messages_to_stderr, mistakes, say
from dlr_tf.app.output import check_output_folder
from dlr_tf.app.page import write_page
from dlr_tf.app.progress import Progress
from dlr_tf.app.results import (
    accuracy_line,
    after_training,
    model_on_data,
    next_line,
    written_line,
)
from dlr_tf.app.tasks import OPTIMIZERS, Task, load_task
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.distribution import distributed_fit, is_chief, make_strategy


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of one training."""

    history: dict[str, list[float]]
    accuracy: float
    loss: float
    seconds: float


def run(args: argparse.Namespace) -> int:
    """Train, test, and write the output folder.

    Args:
        args: What `parse_arguments` returns for `finetune`.

    Returns:
        The exit code, 0.

    Raises:
        MistakeError: If something is wrong with the arguments, before anything is written.
    """
    started = time.perf_counter()
    with messages_to_stderr(), mistakes():
        output = Path(args.output or Path("runs", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"))
        check_output_folder(output)
        plotting.require_matplotlib()
        strategy = _strategy(args)
        with strategy.scope():
            task = load_task(args)
        schedule = fine_tuning.make_schedule(
            args.schedule,
            steps_per_epoch=fine_tuning.steps_in_epoch(task.data.train),
            epochs=args.epochs,
            cycle_epochs=args.cycle_epochs,
            t_mul=args.t_mul,
        )
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
        if writes:
            output.mkdir(parents=True, exist_ok=True)

    initial = task.model.get_weights()
    logger = LearningRateLogger()
    with messages_to_stderr():
        result = _train(
            args,
            task,
            task.groups,
            learning_rate=task.rates,
            schedule=schedule,
            frozen_epochs=args.frozen_epochs,
            callbacks=[logger, _ShowGroups()],
        )
        if writes:
            task.model.save(output / "model.keras")
        evaluation = _evaluate(task)
    with_rates, label = describe_rates(args, task.rates)
    total = len(evaluation.labels)
    print(accuracy_line(evaluation.right, total, with_rates))

    other = None
    if args.compare:
        head_rate = task.rates[-1]
        with messages_to_stderr():
            say(f"for comparison, the same model with all layers at {head_rate:g} throughout:")
            task.model.set_weights(initial)
            other = _train(
                args,
                task,
                split_layers(task.model, []),
                learning_rate=head_rate,
                schedule="constant",
                frozen_epochs=0,
            )
        right = round(other.accuracy * total)
        print(accuracy_line(right, total, f"one rate, {head_rate:g}, throughout"))

    if not writes:
        return 0
    report.write_history(output / "history.csv", result.history)
    names = model_on_data(args, task.data.name)
    logger.plot_learning_rate(output / "learning_rates.png", title=f"{names}: learning rates")
    plotting.plot_history(
        result.history,
        output / "history.png",
        compare=other.history if other else None,
        frozen_epochs=args.frozen_epochs,
        labels=(label, "one rate throughout" if label.startswith("one rate") else "one rate"),
        title=f"{names}: loss and accuracy",
    )
    seconds = {"training": result.seconds, "total": time.perf_counter() - started}
    found = {"label": label, **_report(args, task, result, other, seconds)}
    report.write_report(output / "report.json", found)
    images = thumbnails.images_at(
        task.data.test,
        evaluation.worst_mistakes(),
        white=16.0 if args.data is None else 255.0,
    )
    write_page(
        output / "report.html",
        found,
        result.history,
        evaluation,
        image_of=images.__getitem__,
        names=task.data.test_names,
        steps=logger.history,
    )
    print(written_line(output, [path.name for path in output.iterdir()]))
    print(next_line(after_training(args, output)))
    return 0


def _evaluate(task: Task) -> Evaluation:
    labels = np.concatenate([np.asarray(labels) for _, labels in task.data.test])
    with distributed_fit(task.model, task.data.test.element_spec):
        probabilities = task.model.predict(task.data.test, verbose=0)
    return Evaluation(task.data.class_names, labels, probabilities)


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
    say(f"training on {devices} device{'s' if devices > 1 else ''}")
    if args.batch_size % devices:
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be split evenly over {devices} devices. Give "
            f"a multiple of {devices}, such as {math.ceil(args.batch_size / devices) * devices}."
        )
    return strategy


def _train(
    args: argparse.Namespace,
    task: Task,
    groups: Sequence[LayerGroup],
    *,
    learning_rate: Any,
    schedule: Any,
    frozen_epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Result:
    keras.utils.set_random_seed(args.seed)
    started = time.perf_counter()
    with Progress(args.epochs) as progress:
        history = fine_tuning.fine_tune(
            task.model,
            groups,
            task.data.train_from(0),
            learning_rate=learning_rate,
            schedule=schedule,
            epochs=args.epochs,
            steps_per_epoch=fine_tuning.steps_in_epoch(task.data.train),
            frozen_epochs=frozen_epochs,
            validation_data=task.data.validation,
            optimizer=OPTIMIZERS[args.optimizer],
            batch_norm=args.batch_norm,
            callbacks=[*callbacks, progress],
            verbose=0,
        ).history
    seconds = time.perf_counter() - started
    with distributed_fit(task.model, task.data.test.element_spec):
        scores = task.model.evaluate(task.data.test, verbose=0, return_dict=True)
    return Result(history, scores["accuracy"], scores["loss"], seconds)


class _ShowGroups(keras.callbacks.Callback):
    """Print the table of groups when the optimizer knows its variables."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        unwrap_optimizer(self.model.optimizer, MultiGroupOptimizer).summary(print_fn=say)


def _report(
    args: argparse.Namespace,
    task: Task,
    result: Result,
    other: Result | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    data = task.data
    found: dict[str, Any] = {
        "data": {
            "name": data.name,
            "class_names": data.class_names,
            "image_shape": data.image_shape,
            "train_images": data.train_images,
            "test_images": data.test_images,
        },
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "verbose")},
        "groups": report.describe_groups(task.model, task.groups, task.rates),
        "test_accuracy": result.accuracy,
        "test_loss": result.loss,
        "pretraining_accuracy": task.pretraining_accuracy,
        "seed": args.seed,
        "versions": report.versions(),
    }
    if other is not None:
        found["compare"] = {
            "learning_rate": task.rates[-1],
            "test_accuracy": other.accuracy,
            "test_loss": other.loss,
            "history": other.history,
        }
    found["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return found
