"""The command `dlr-tf`: fine-tune a model, find a learning rate, draw a schedule.

Results go to stdout, everything else to stderr. A user's mistake ends with exit code 2 and one line
that says what to do, before anything is written.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import json
import math
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import dlr_tf
from dlr_tf.app import applications
from dlr_tf.app import data as image_data
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers
from dlr_tf.core.learning_rates import resolve_learning_rates
from dlr_tf.core.optimizer import unwrap
from dlr_tf.core.schedules import SGDR, OneCycle, Triangular
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.distribution import STRATEGIES, WAIT, is_chief, make_strategy
from dlr_tf.training.learning_rate_logger import LearningRateLogger
from dlr_tf.training.lr_finder import find_learning_rate
from dlr_tf.training.lr_suggestions import SUGGESTIONS

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer | None]] = {
    "adam": lambda: None,  # FusedAdam, one per group
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda: keras.optimizers.SGD(momentum=0.9),
}
# What suits a network pretrained on a million photographs does not suit one pretrained on 720
# digits: the second has less to lose and further to go.
IMAGE_DEFAULTS = {"learning_rate": "1e-5:1e-3", "epochs": 7, "batch_size": 32, "compare": False}
DIGIT_DEFAULTS = {"learning_rate": "1e-3:1e-2", "epochs": 31, "batch_size": 16, "compare": True}
MOST_STEPS = 1_000_000  # of a drawn schedule


class _MistakeError(Exception):
    """A user's mistake, told in one line."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Without it, argparse takes -1e-3 for an option, and its complaint says nothing of rates.
        self._negative_number_matcher = re.compile(r"^-\.?\d")

    def error(self, message: str) -> Any:
        raise _MistakeError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments after the command's name. Defaults to those of the process.

    Returns:
        The exit code: 0, 1 where a sweep has no suggestion or another worker died, 2 for a user's
        mistake, 130 for Ctrl-C.
    """
    verbose = False
    try:
        args = _parser().parse_args(argv)
        verbose = getattr(args, "verbose", False)
        code: int = args.run(args)
        return code
    except SystemExit as error:  # `--help` and `--version`
        return int(error.code or 0)
    except _MistakeError as error:
        if verbose:
            traceback.print_exc()
        print(f"dlr-tf: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dlr-tf: stopped", file=sys.stderr)
        return 130
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if verbose:
            traceback.print_exc()
        reason = str(error.message).splitlines()[0]
        print(
            f"dlr-tf: error: another worker cannot be reached any more. Start all of them again. "
            f"Received: {reason}",
            file=sys.stderr,
        )
        return 1


def _finetune(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    defaults = DIGIT_DEFAULTS if args.data is None else IMAGE_DEFAULTS
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    with _messages_to_stderr(), _mistakes():
        output = Path(args.output or Path("runs", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"))
        _check_output_folder(output)
        plotting.require_matplotlib()
        strategy = _strategy(args)
        if args.frozen_epochs > args.epochs:
            raise ValueError(
                "--frozen-epochs should not be above --epochs, which counts all epochs. "
                f"Received: --frozen-epochs {args.frozen_epochs} --epochs {args.epochs}"
            )
        with strategy.scope():
            data, model, groups, pretrained = _load(args)
        rates = _rates(args.learning_rate, len(groups))
        schedule = fine_tuning.make_schedule(
            args.schedule,
            steps_per_epoch=fine_tuning.steps_in_epoch(data.train),
            epochs=args.epochs,
            cycle_epochs=args.cycle_epochs,
            t_mul=args.t_mul,
        )
        fine_tuning.compile_groups(
            model, groups, [schedule(rate) for rate in rates], data.train, optimizer=_template(args)
        )
        # On several machines all train, and one writes.
        writes = is_chief(strategy)
        if writes:
            output.mkdir(parents=True, exist_ok=True)

    initial = model.get_weights()
    settings = {"epochs": args.epochs, "batch_norm": args.batch_norm, "verbose": _bar()}
    logger = LearningRateLogger()
    with _messages_to_stderr():
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
            optimizer=_template(args),
            callbacks=[logger, _ShowGroups()],
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
        "settings": {k: v for k, v in vars(args).items() if k not in ("run", "output", "verbose")},
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
        with _messages_to_stderr():
            _say(f"the same model, all layers at {rates[-1]:g} throughout, for comparison:")
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
                optimizer=_template(args),
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
    _write_history(output / "history.csv", history)
    logger.plot_learning_rate(output / "learning_rates.png")
    plotting.plot_history(
        history, output / "history.png", compare=compared, frozen_epochs=args.frozen_epochs
    )
    seconds["total"] = time.perf_counter() - started
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    (output / "report.json").write_text(json.dumps(_jsonable(report), indent=2) + "\n")
    print(f"written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    return 0


def _find_lr(args: argparse.Namespace) -> int:
    defaults = DIGIT_DEFAULTS if args.data is None else IMAGE_DEFAULTS
    for name in ("learning_rate", "batch_size"):
        if getattr(args, name) is None:
            setattr(args, name, defaults[name])
    with _messages_to_stderr(), _mistakes():
        output = Path(args.output)
        _check_new_file(output)
        plotting.require_matplotlib()
        if not 0 < args.start < args.end:
            raise ValueError(
                "--start should be above 0 and below --end. "
                f"Received: --start {args.start:g} --end {args.end:g}"
            )
        data, model, groups, _ = _load(args)
        rates = _rates(args.learning_rate, len(groups))
        fine_tuning.compile_groups(model, groups, rates, data.train, optimizer=_template(args))
    with _messages_to_stderr():
        if args.batch_norm == "frozen":
            dlr_tf.freeze_batch_norm(model)
        sweep = find_learning_rate(
            model, data.train, start=args.start, end=args.end, steps=args.steps, verbose=_bar()
        )
        sweep.plot(output)
    found = False
    for method in SUGGESTIONS:
        try:
            print(f"{method:8s} {sweep.suggestion(method):.2e}")
            found = True
        except ValueError as error:
            _say(f"{method}: {' '.join(str(error).split())}")
    print(f"written to {output}")
    return 0 if found else 1


def _schedule(args: argparse.Namespace) -> int:
    with _messages_to_stderr(), _mistakes():
        schedule, steps, restarts = _named_schedule(args)
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"--steps should be from 1 to {MOST_STEPS}. Received: {steps} steps")
        # A look at the terminal needs no file.
        output = Path(args.output or f"{args.kind}.png") if args.output or not args.ascii else None
        if output is not None:
            _check_new_file(output)
            plotting.require_matplotlib()
    rates = np.asarray(schedule(np.arange(steps)))
    if args.ascii:
        print(plotting.ascii_plot(rates))
    if output is not None:
        title = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in schedule.get_config().items()
            if name != "name"
        )
        plotting.plot_schedule(
            np.arange(steps), rates, output, title=f"{schedule.name}: {title}", restarts=restarts
        )
        print(f"written to {output}")
    return 0


def _named_schedule(args: argparse.Namespace) -> tuple[Any, int, list[int]]:
    """The schedule, the number of steps to draw, and the restarts among them."""
    if args.kind == "sgdr":
        sgdr = SGDR(
            args.learning_rate,
            args.first_decay_steps,
            t_mul=args.t_mul,
            m_mul=args.m_mul,
            alpha=args.alpha,
            warmup_steps=args.warmup_steps,
        )
        # By default three cycles, the least that shows how they change.
        steps = args.steps or args.warmup_steps + sum(
            round(args.first_decay_steps * args.t_mul**cycle) for cycle in range(3)
        )
        return sgdr, steps, sgdr.restart_steps(min(steps, MOST_STEPS))
    if args.kind == "onecycle":
        one_cycle = OneCycle(
            args.learning_rate,
            args.steps,
            pct_start=args.pct_start,
            div=args.div,
            div_final=args.div_final,
        )
        return one_cycle, args.steps, []
    triangular = Triangular(
        args.base_learning_rate,
        args.learning_rate,
        args.step_size,
        mode=args.mode,
        gamma=args.gamma,
    )
    return triangular, args.steps or 6 * args.step_size, []


def _strategy(args: argparse.Namespace) -> tf.distribute.Strategy:
    if args.strategy is None:
        return tf.distribute.get_strategy()
    strategy = make_strategy(args.strategy, wait=args.wait)
    devices = strategy.num_replicas_in_sync
    _say(f"training on {devices} device{'s' if devices > 1 else ''}")
    if args.batch_size % devices:
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be split evenly over {devices} devices. Give "
            f"a multiple of {devices}, such as {math.ceil(args.batch_size / devices) * devices}."
        )
    return strategy


def _load(
    args: argparse.Namespace,
) -> tuple[image_data.ImageData, keras.Model, Sequence[LayerGroup], float | None]:
    """Images, model, groups, and the accuracy of the embedded default's pretraining."""
    keras.utils.set_random_seed(args.seed)
    boundaries = args.boundaries.split(",") if args.boundaries else None
    # Told before images are read and weights loaded, which takes long.
    _rates(args.learning_rate, args.groups if boundaries is None else len(boundaries) + 1)
    if args.data is None:
        for name in ("model", "weights", "image_size"):
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} needs DATA: give a folder of images or tfds:NAME. "
                    "Without DATA a small network is trained on scikit-learn's digits."
                )
        pretraining, data = image_data.load_digits(batch_size=args.batch_size, seed=args.seed)
        _say(f"pretraining on {pretraining.name}")
        backbone, accuracy = image_data.pretrain_on_digits(
            pretraining, verbose=_bar() if args.verbose else 0
        )
        _say(f"test accuracy {accuracy:.4f} on {pretraining.name}")
        model = applications.classifier(backbone, len(data.class_names))
        return data, model, _groups(model, args.groups, boundaries), accuracy
    args.model = args.model or "MobileNetV2"
    args.weights = args.weights or "imagenet"
    args.image_size = args.image_size or applications.default_image_size(args.model)
    applications.check_weights(args.weights)
    settings = {"image_size": args.image_size, "batch_size": args.batch_size, "seed": args.seed}
    source, separator, dataset = args.data.partition(":")
    if separator and source == "tfds":
        data = image_data.load_tfds(dataset, **settings)
    else:
        data = image_data.load_folder(args.data, **settings)
    _say(
        f"{data.name}: {data.train_images} images to train on, {data.test_images} to test on, "
        f"{len(data.class_names)} classes"
    )
    model = applications.application_model(
        args.model, len(data.class_names), weights=args.weights, image_size=args.image_size
    )
    return data, model, _groups(model, args.groups, boundaries), None


def _groups(
    model: keras.Model, n_groups: int, boundaries: Sequence[str] | None
) -> Sequence[LayerGroup]:
    return split_evenly(model, n_groups) if boundaries is None else split_layers(model, boundaries)


def _template(args: argparse.Namespace) -> keras.optimizers.Optimizer | None:
    return OPTIMIZERS[args.optimizer]()


def _rates(text: str, n_groups: int) -> list[Any]:
    """The peak rate of every group: from `LO:HI`, `:HI`, one number, or one per group."""

    def number(part: str) -> float:
        try:
            return float(part)
        except ValueError:
            raise ValueError(
                "--learning-rate should be LO:HI, :HI, one number, or one number per group "
                f"separated by commas. Received: --learning-rate {text}"
            ) from None

    rates: Any
    if ":" in text:
        low, _, high = text.partition(":")
        rates = slice(number(low) if low else None, number(high))
    elif "," in text:
        rates = [number(part) for part in text.split(",")]
    else:
        rates = number(text)
    return resolve_learning_rates(rates, n_groups)


class _ShowGroups(keras.callbacks.Callback):
    """Prints the table of groups when the optimizer knows its variables."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        unwrap(self.model.optimizer).summary(print_fn=_say)


def _write_history(path: Path, history: dict[str, list[float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        for epoch, row in enumerate(zip(*history.values(), strict=True), 1):
            writer.writerow([epoch, *(float(value) for value in row)])


def _jsonable(value: Any) -> Any:
    """The same with `null` for numbers that JSON has no word for, as a diverged loss is."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_output_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output {str(folder)!r} is a file. Give another --output.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The output folder {str(folder)!r} is not empty. Give another --output.")
    _check_writable(folder)


def _check_new_file(path: Path) -> None:
    if path.exists():
        raise ValueError(f"The output file {str(path)!r} exists already. Give another --output.")
    if path.suffix not in (".png", ".svg"):
        raise ValueError(
            f"The output file {str(path)!r} should end in .png or .svg. Give another --output."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder {str(path.parent)!r} of the output file does not exist. Make it, or give "
            "another --output."
        )
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    """Checks that a folder, or the nearest one above it that exists, may be written to."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"No permission to write to {str(nearest)!r}. Give another --output, or run "
            "where you may write."
        )


def _bar() -> int:
    """A progress bar on a terminal, a line per epoch elsewhere."""
    return 1 if sys.stderr.isatty() else 2


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _messages_to_stderr() -> contextlib.AbstractContextManager[Any]:
    # Keras prints its progress to stdout, which is for results.
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    """Takes errors of the preparations for the user's mistakes; later ones are not."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise _MistakeError(str(error)) from error


def _whole(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}, received {text!r}"
            )
        return value

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return value


def _default(name: str) -> str:
    return f"(default: {IMAGE_DEFAULTS[name]}; without DATA {DIGIT_DEFAULTS[name]})"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dlr-tf", description=dlr_tf.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=dlr_tf.__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    _add_finetune(commands)
    _add_find_lr(commands)
    _add_schedule(commands)
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    """What is trained on what: the arguments that two commands share."""
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder with one sub-folder of images per class (or with train/ and test/ or val/ "
        "that hold these), or tfds:NAME; nothing: scikit-learn's digits, without network",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="model of keras.applications (default: MobileNetV2)"
    )
    parser.add_argument(
        "--weights",
        metavar="imagenet|none|PATH",
        help="weights to start from; PATH: a file made with include_top=False (default: imagenet)",
    )
    parser.add_argument(
        "--image-size",
        type=_whole(1),
        metavar="PIXELS",
        help="height and width that images are resized to (default: what the model was made for)",
    )
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--groups",
        type=_whole(1),
        default=3,
        metavar="N",
        help="number of groups of about equal size, the head alone in the last (default: 3)",
    )
    split.add_argument(
        "--boundaries",
        metavar="A,B",
        help="names or paths of the layers at which the second, third, ... group begin",
    )
    parser.add_argument(
        "--learning-rate",
        metavar="LO:HI",
        help="rates from the first group to the head: LO:HI (geometric), :HI (the others HI/10), "
        f"one for all, or one per group separated by commas {_default('learning_rate')}",
    )
    parser.add_argument(
        "--optimizer",
        choices=sorted(OPTIMIZERS),
        default="adam",
        metavar="NAME",
        help=f"one of {', '.join(sorted(OPTIMIZERS))} (default: adam)",
    )
    parser.add_argument(
        "--batch-size",
        type=_whole(1),
        metavar="N",
        help=f"images in a batch, over all devices {_default('batch_size')}",
    )
    parser.add_argument(
        "--batch-norm",
        choices=fine_tuning.BATCH_NORM,
        default="frozen",
        help="frozen: batch normalisation keeps its weights and statistics (default: frozen)",
    )
    parser.add_argument(
        "--seed", type=_whole(0), default=0, metavar="N", help="seed of everything (default: 0)"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show pretraining, and the traceback of an error"
    )


def _add_finetune(commands: Any) -> None:
    parser = commands.add_parser(
        "finetune",
        help="fine-tune a pretrained model",
        description="Fine-tunes a pretrained model with differential learning rates.",
        allow_abbrev=False,
    )
    _add_task(parser)
    parser.add_argument(
        "--epochs",
        type=_whole(1),
        metavar="N",
        help=f"all epochs, frozen ones among them {_default('epochs')}",
    )
    parser.add_argument(
        "--frozen-epochs",
        type=_whole(0),
        default=1,
        metavar="N",
        help="epochs in which only the head learns (default: 1)",
    )
    parser.add_argument(
        "--schedule",
        choices=fine_tuning.SCHEDULES,
        default="sgdr",
        help="how rates change over the steps (default: sgdr)",
    )
    parser.add_argument(
        "--cycle-epochs",
        type=_positive,
        metavar="X",
        help="length of the first sgdr cycle in epochs (default: about 1, so that the last cycle "
        "ends with the training)",
    )
    parser.add_argument(
        "--t-mul",
        type=_positive,
        default=2.0,
        metavar="X",
        help="each sgdr cycle is this many times longer than the one before (default: 2)",
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="also train at one rate throughout: the head's, all layers, as many epochs (default: "
        "only without DATA)",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="mirrored: on all GPUs of this machine; multi-worker: on the machines that the "
        "environment variable TF_CONFIG names (default: on one device)",
    )
    parser.add_argument(
        "--wait",
        type=_positive,
        default=WAIT,
        metavar="SECONDS",
        help=f"how long multi-worker waits for the others (default: {WAIT:g})",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="new or empty folder (default: runs/<date-time>)"
    )
    parser.set_defaults(run=_finetune)


def _add_find_lr(commands: Any) -> None:
    parser = commands.add_parser(
        "find-lr",
        help="find a learning rate by a range test",
        description="Sweeps the head's rate, the other groups in ratio, and suggests rates.",
        allow_abbrev=False,
    )
    _add_task(parser)
    parser.add_argument(
        "--start", type=_positive, default=1e-7, metavar="X", help="first rate (default: 1e-7)"
    )
    parser.add_argument(
        "--end", type=_positive, default=10.0, metavar="X", help="last rate (default: 10)"
    )
    parser.add_argument(
        "--steps", type=_whole(1), default=100, metavar="N", help="steps (default: 100)"
    )
    parser.add_argument(
        "--output",
        default="find-lr.png",
        metavar="FILE",
        help="new .png or .svg file (default: find-lr.png)",
    )
    parser.set_defaults(run=_find_lr)


def _add_schedule(commands: Any) -> None:
    parser = commands.add_parser(
        "schedule",
        help="draw a schedule",
        description="Draws the learning rate over the steps.",
        allow_abbrev=False,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=_Parser)
    sgdr = kinds.add_parser("sgdr", help="cosine annealing with warm restarts", allow_abbrev=False)
    sgdr.add_argument("--first-decay-steps", type=_whole(1), default=100, metavar="N")
    sgdr.add_argument("--t-mul", type=_positive, default=2.0, metavar="X")
    sgdr.add_argument("--m-mul", type=float, default=1.0, metavar="X")
    sgdr.add_argument("--alpha", type=float, default=0.0, metavar="X")
    sgdr.add_argument("--warmup-steps", type=_whole(0), default=0, metavar="N")
    sgdr.add_argument("--steps", type=_whole(1), metavar="N", help="(default: three cycles)")
    one_cycle = kinds.add_parser("onecycle", help="one rise and one fall", allow_abbrev=False)
    one_cycle.add_argument("--steps", type=_whole(2), default=1000, metavar="N")
    one_cycle.add_argument("--pct-start", type=float, default=0.25, metavar="X")
    one_cycle.add_argument("--div", type=float, default=25.0, metavar="X")
    one_cycle.add_argument("--div-final", type=float, default=1e5, metavar="X")
    triangular = kinds.add_parser("triangular", help="cyclical rates", allow_abbrev=False)
    triangular.add_argument("--base-learning-rate", type=float, default=1e-4, metavar="X")
    triangular.add_argument("--step-size", type=_whole(1), default=100, metavar="N")
    triangular.add_argument(
        "--mode", choices=("triangular", "triangular2", "exp_range"), default="triangular"
    )
    triangular.add_argument("--gamma", type=float, default=0.99994, metavar="X")
    triangular.add_argument("--steps", type=_whole(1), metavar="N", help="(default: three cycles)")
    for kind in (sgdr, one_cycle, triangular):
        kind.add_argument("--learning-rate", type=float, default=1e-3, metavar="PEAK")
        kind.add_argument("--ascii", action="store_true", help="draw in the terminal")
        kind.add_argument(
            "--output",
            metavar="FILE",
            help="new .png or .svg file (default: KIND.png, or none with --ascii)",
        )
    parser.set_defaults(run=_schedule)
