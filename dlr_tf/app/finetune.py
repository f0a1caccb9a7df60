"""The command `finetune`."""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import dlr_tf
from dlr_tf.app.arguments import DIGIT_DEFAULTS, IMAGE_DEFAULTS
from dlr_tf.app.messages import messages_to_stderr, mistakes, progress_bar, say
from dlr_tf.app.output import check_output_folder
from dlr_tf.app.tasks import load_task, rates_of, strategy_of, template_of
from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import unwrap
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.callbacks import LearningRateLogger
from dlr_tf.training.distribution import is_chief


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    defaults = DIGIT_DEFAULTS if args.data is None else IMAGE_DEFAULTS
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    with messages_to_stderr(), mistakes():
        output = Path(args.output or Path("runs", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"))
        check_output_folder(output)
        plotting.require_matplotlib()
        strategy = strategy_of(args)
        if args.frozen_epochs > args.epochs:
            raise ValueError(
                "--frozen-epochs should not be above --epochs, which counts all epochs. "
                f"Received: --frozen-epochs {args.frozen_epochs} --epochs {args.epochs}"
            )
        with strategy.scope():
            data, model, groups, pretrained = load_task(args)
        rates = rates_of(args.learning_rate, len(groups))
        schedule = fine_tuning.make_schedule(
            args.schedule,
            steps_per_epoch=fine_tuning.steps_in_epoch(data.train),
            epochs=args.epochs,
            cycle_epochs=args.cycle_epochs,
            t_mul=args.t_mul,
        )
        fine_tuning.compile_groups(
            model,
            groups,
            [schedule(rate) for rate in rates],
            data.train,
            optimizer=template_of(args),
        )
        # On several machines all train, and one writes.
        writes = is_chief(strategy)
        if writes:
            output.mkdir(parents=True, exist_ok=True)

    initial = model.get_weights()
    settings = {"epochs": args.epochs, "batch_norm": args.batch_norm, "verbose": progress_bar()}
    logger = LearningRateLogger()
    with messages_to_stderr():
        keras.utils.set_random_seed(args.seed)
        trained = time.perf_counter()
        history = fine_tuning.fine_tune(
            model,
            groups,
            data.train,
            learning_rate=rates,
            schedule=schedule,
            frozen_epochs=args.frozen_epochs,
            validation_data=data.validation,
            optimizer=template_of(args),
            callbacks=[logger, ShowGroups()],
            **settings,
        ).history
        seconds = {"training": time.perf_counter() - trained}
        scores = model.evaluate(data.test, verbose=0, return_dict=True)
        if writes:
            model.save(output / "model.keras")
    print(f"test accuracy {scores['accuracy']:.4f} with differential rates")

    report: dict[str, Any] = {
        "data": {
            "name": data.name,
            "class_names": data.class_names,
            "image_shape": data.image_shape,
            "train_images": data.train_images,
            "test_images": data.test_images,
        },
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "verbose")},
        "groups": [
            {"name": group.name, "layers": group.layers, "learning_rate": rate}
            for group, rate in zip(groups, rates, strict=True)
        ],
        "test_accuracy": scores["accuracy"],
        "test_loss": scores["loss"],
        "pretraining_accuracy": pretrained,
        "seed": args.seed,
        "versions": {
            "dlr_tf": dlr_tf.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    compared = None
    if args.compare:
        with messages_to_stderr():
            say(f"the same model, all layers at {rates[-1]:g} throughout, for comparison:")
            keras.utils.set_random_seed(args.seed)
            model.set_weights(initial)
            compared = fine_tuning.fine_tune(
                model,
                split_layers(model, []),
                data.train,
                learning_rate=rates[-1],
                schedule="constant",
                frozen_epochs=0,
                validation_data=data.validation,
                optimizer=template_of(args),
                **settings,
            ).history
            other = model.evaluate(data.test, verbose=0, return_dict=True)
        print(f"test accuracy {other['accuracy']:.4f} with one rate, {rates[-1]:g}, throughout")
        report["compare"] = {
            "learning_rate": rates[-1],
            "test_accuracy": other["accuracy"],
            "test_loss": other["loss"],
            "history": compared,
        }

    if not writes:
        return 0
    write_history(output / "history.csv", history)
    logger.plot_learning_rate(output / "learning_rates.png")
    plotting.plot_history(
        history, output / "history.png", compare=compared, frozen_epochs=args.frozen_epochs
    )
    seconds["total"] = time.perf_counter() - started
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    (output / "report.json").write_text(json.dumps(jsonable(report), indent=2) + "\n")
    print(f"written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    return 0


class ShowGroups(keras.callbacks.Callback):
    """Prints the table of groups when the optimizer knows its variables."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        unwrap(self.model.optimizer).summary(print_fn=say)


def write_history(path: Path, history: dict[str, list[float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        for epoch, row in enumerate(zip(*history.values(), strict=True), 1):
            writer.writerow([epoch, *(float(value) for value in row)])


def jsonable(value: Any) -> Any:
    """The same with `null` for numbers that JSON has no word for, as a diverged loss is."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
