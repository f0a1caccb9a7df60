"""The arguments of `dlr-tf` and of its commands: `parse_arguments` reads and completes them.

This module imports no TensorFlow, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import dlr_tf
from dlr_tf._names import AUTO, BATCH_NORM, SCHEDULES, STRATEGIES, WAIT, did_you_mean
from dlr_tf.app.terminal import UsageError

# A network pretrained on a million photographs needs fewer epochs than one on 720 digits.
IMAGE_DEFAULTS = {"epochs": 7, "compare": False}
DIGIT_DEFAULTS = {"epochs": 31, "compare": True}
T_MUL = 2.0
OPTIMIZERS = ("adam", "adamw", "lion", "muon", "nadam", "rmsprop", "sgd")
AUGMENTATIONS = ("flip", "crop", "colour")
FORMATS = ("saved-model", "tflite", "onnx")
COMPARE_SEEDS = 3
MAX_SEED = 2**32 - 1  # of NumPy
_NOT_GIVEN = object()
# Of the training images, where the epochs are compared and there are no images for it.
VALIDATION_FRACTION = 0.1
# Only with DATA. `None` means the weights and the image size of the model.
MODEL_DEFAULTS = {"model": "MobileNetV2", "weights": None, "image_size": None, "keep_head": False}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments, fill in the defaults that depend on others, and check them together.

    Args:
        argv: Arguments after the name of the command. Defaults to those of the process.

    Raises:
        UsageError: If an argument is missing, unknown or out of range.
        SystemExit: After `--help` and `--version`.

    >>> args = parse_arguments(["finetune"])
    >>> args.command, args.epochs, args.learning_rate
    ('finetune', 31, 'auto')
    """
    command_line = list(sys.argv[1:] if argv is None else argv)
    _check_not_empty(command_line)
    args = make_parser().parse_args(command_line)
    if getattr(args, "resume", None) is not None:
        # The run has its own settings; those that are given are compared with them.
        with_marks = vars(make_parser(default=_NOT_GIVEN).parse_args(command_line))
        args.given = {name: value for name, value in with_marks.items() if value is not _NOT_GIVEN}
    elif args.command in ("finetune", "find-lr"):
        _complete(args)
    args.command_line = command_line
    is_new = args.command == "finetune" and args.resume is None
    if is_new and args.frozen_epochs > args.epochs:
        raise UsageError(
            "--frozen-epochs should not be above --epochs, which counts all epochs. "
            f"Received: --frozen-epochs {args.frozen_epochs} --epochs {args.epochs}"
        )
    if args.command == "find-lr" and not args.start < args.end:
        raise UsageError(
            f"--start should be below --end. Received: --start {args.start:g} --end {args.end:g}"
        )
    return args


def _check_not_empty(command_line: Sequence[str]) -> None:
    """Raise if an argument is empty: it would be taken for the default, or for this folder."""
    if any(re.fullmatch("(--[a-z-]+=)?", argument) for argument in command_line):
        raise UsageError(
            "An argument is empty. Give a value or leave the argument out; perhaps a variable of "
            f"the shell is not set. Received: {shlex.join(command_line)}"
        )


def _complete(args: argparse.Namespace) -> None:
    given = vars(args)
    defaults: dict[str, Any] = dict(DIGIT_DEFAULTS)
    if args.data is not None:
        defaults = {**IMAGE_DEFAULTS, **MODEL_DEFAULTS}
    for name in MODEL_DEFAULTS:
        if args.data is None and given[name] not in (None, False):
            raise UsageError(
                f"--{name.replace('_', '-')} needs DATA: give a folder of images, a CSV file "
                "or tfds:NAME. "
                "Without DATA, a small network is trained on the digits of scikit-learn."
            )
    if args.data is None and (args.augment != "none" or args.skip_broken):
        option = "--skip-broken" if args.skip_broken else "--augment"
        raise UsageError(f"{option} needs DATA: give a folder of images, a CSV file or tfds:NAME")
    if given.get("strategy") == "multi-worker":
        _check_multi_worker(args)
        defaults["compare"] = False
    for name, value in defaults.items():
        if name in given and given[name] is None:
            setattr(args, name, value)
    for name in ("cycle_epochs", "t_mul"):
        if given.get(name) is not None and args.schedule != "sgdr":
            raise UsageError(
                f"--{name.replace('_', '-')} is for cycles: give --schedule sgdr too. "
                f"Received: --schedule {args.schedule}"
            )
    if "t_mul" in given and args.t_mul is None:
        args.t_mul = T_MUL
    if given.get("wait") is not None and args.strategy != "multi-worker":
        raise UsageError("--wait needs --strategy multi-worker. Give both, or leave it out.")
    if "wait" in given and args.wait is None:
        args.wait = WAIT
    if given.get("compare_seeds") is not None and not args.compare:
        raise UsageError("--compare-seeds needs --compare. Give both, or leave it out.")
    if "compare_seeds" in given and args.compare_seeds is None:
        args.compare_seeds = COMPARE_SEEDS
    # Images that choose an epoch must not be those that the result is tested on.
    chooses = given.get("keep") == "best" or given.get("patience") is not None
    args.validation_fraction = VALIDATION_FRACTION if chooses else 0.0


def _check_multi_worker(args: argparse.Namespace) -> None:
    if args.checkpoint_every is not None:
        raise UsageError(
            "--checkpoint-every does not work with --strategy multi-worker, which writes no "
            "checkpoints. Leave it out."
        )
    if args.compare:
        raise UsageError("--compare does not work with --strategy multi-worker. Leave it out.")
    if args.learning_rate == AUTO:
        raise UsageError(
            "--strategy multi-worker needs --learning-rate, since each machine would choose its "
            "own. Give rates, for example 1e-4:1e-3, or those that a run on one machine chose."
        )


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UsageError`, and takes negative numbers as values.

    Options cannot be shortened.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)
        # By default, argparse takes -1e-3 and -,1e-3 for options, and its message does not name
        # the rate.
        self._negative_number_matcher = re.compile(r"^-(\.?\d|,)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Read the arguments. An unknown option is an error of the command that it was given to."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = re.findall(r"--[a-z-]+", self.format_help())
            hint = did_you_mean(unknown[0], known) if unknown[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
        return found, unknown

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a function that reads an integer of at least `minimum`, and at most `maximum`."""
    expected = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"expected an integer {expected}, received {text!r}")
        return value

    return parse


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return value


def positive_or_zero(text: str) -> float:
    """Read a finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, received {text!r}")
    return value


def steps_or_share(text: str) -> float:
    """Read a number of steps, an integer, or a share below 1.

    >>> steps_or_share("100"), steps_or_share("0.1")
    (100, 0.1)
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 < value < 1:
        return value
    if value < 0 or not value.is_integer():
        raise argparse.ArgumentTypeError(
            f"expected a number of steps, or a share of all steps below 1, received {text!r}"
        )
    return int(value)


def make_parser(*, default: object = None) -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Args:
        default: What every argument of `finetune` is if it is not given. Defaults to `None`: each
            has its own default.
    """
    parser = Parser(prog="dlr-tf", description=dlr_tf.__doc__)
    parser.add_argument("--version", action="version", version=dlr_tf.__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    finetune = _add_finetune(commands)
    if default is not None:
        finetune.set_defaults(**dict.fromkeys(vars(finetune.parse_args([])), default))
    _add_find_lr(commands)
    _add_layers(commands)
    _add_predict(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_schedule(commands)
    return parser


def _default(name: str) -> str:
    return f"(default: {IMAGE_DEFAULTS[name]}; without DATA {DIGIT_DEFAULTS[name]})"


def _add_task(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for data, model, groups and rates, which two commands share."""
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder with one sub-folder of images per class (or with train/ and test/ or val/ "
        "that hold such sub-folders), CSV file with the columns path, label and perhaps split, or "
        "tfds:NAME (default: the digits of scikit-learn, which need no network)",
    )
    _add_model(parser)
    _add_images(parser)
    _add_split(parser)
    parser.add_argument(
        "--learning-rate",
        default=AUTO,
        metavar="LO:HI",
        help="auto: the first group has a tenth of the rate of the head, which finetune chooses "
        "with a range test; or rates from the first group to the head: LO:HI (geometric), :HI (the "
        "others HI/10), one for all, or one per group separated by commas (default: auto)",
    )
    parser.add_argument(
        "--optimizer",
        type=_optimizer,
        default="adam",
        metavar="NAME",
        help=f"one of {', '.join(OPTIMIZERS)}, in upper or lower case (default: adam)",
    )
    parser.add_argument(
        "--weight-decay",
        type=positive_or_zero,
        metavar="X",
        help="decoupled weight decay of all weights, at the rate of their group (default: that of "
        "the optimizer: 0.004 for adamw and muon, else none)",
    )
    parser.add_argument(
        "--batch-size",
        type=integer(1),
        default=16,
        metavar="N",
        help="images in a batch, over all devices (default: 16)",
    )
    parser.add_argument(
        "--batch-norm",
        choices=BATCH_NORM,
        default="frozen",
        help="frozen: batch normalization keeps its weights and statistics; train: it is trained "
        "with its group (default: frozen)",
    )
    parser.add_argument(
        "--seed",
        type=integer(0, MAX_SEED),
        default=0,
        metavar="N",
        help="seed of all random numbers (default: 0)",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show the pretraining, and the traceback of an error (default: off)",
    )


def _optimizer(text: str) -> str:
    name = text.lower()
    if name not in OPTIMIZERS:
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(OPTIMIZERS)}, received {text!r}."
            f"{did_you_mean(name, OPTIMIZERS)}"
        )
    return name


def parse_augmentations(text: str) -> tuple[str, ...]:
    """Read the names of augmentations, separated by commas, or `none`.

    Raises:
        ValueError: If a name is unknown.

    >>> parse_augmentations("crop,flip")
    ('flip', 'crop')
    """
    names = [name.strip().lower().replace("color", "colour") for name in text.split(",")]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise ValueError(
            f"expected names of {', '.join(AUGMENTATIONS)}, separated by commas, received {text!r}"
        )
    return tuple(name for name in AUGMENTATIONS if name in names)


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for what is done with the images of DATA."""
    parser.add_argument(
        "--augment",
        nargs="?",
        type=_augmentations,
        const=",".join(AUGMENTATIONS),
        default="none",
        metavar="A,B",
        help="change the training images at random: flip (left to right), crop (a part of 0.7 to 1 "
        "of the sides), colour (brightness, contrast, saturation), or several separated by commas; "
        "--augment alone: all of them (default: none)",
    )
    parser.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced: an image counts the more, the fewer its class has, so that all classes "
        "count the same (default: none)",
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="go on without the image files that cannot be read (default: stop and name them)",
    )


def _augmentations(text: str) -> str:
    try:
        return ",".join(parse_augmentations(text)) or "none"
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe a network."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="model of keras.applications, in upper or lower case; or a .keras file, or a folder "
        "that finetune wrote: its head is replaced, and preprocessing is taken to be inside; or "
        "hub:NAME, a preset of KerasHub; its layers: dlr-tf layers MODEL (default: "
        f"{MODEL_DEFAULTS['model']})",
    )
    parser.add_argument(
        "--weights",
        metavar="imagenet|none|PATH",
        help="weights to start from; none: random; PATH: a file made with include_top=False "
        "(default: imagenet; for hub:NAME those of the preset; a .keras file has its own)",
    )
    _add_image_size(parser)


def _add_image_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image-size",
        type=integer(1),
        metavar="PIXELS",
        help="height and width that images are resized to (default: the size that the model was "
        "made for)",
    )
    parser.add_argument(
        "--keep-head",
        action="store_true",
        help="keep the head of a .keras file, which then needs one output per class (default: a "
        "new head)",
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--groups",
        type=integer(1),
        metavar="N",
        help="number of groups: the last is the head alone, the others have about equal sizes "
        "(default: 3, or as many as there can be)",
    )
    split.add_argument(
        "--boundaries",
        metavar="A,B",
        help="names or paths of the layers at which the second, third, ... group begin; the head "
        "becomes a group of its own (default: none, see --groups)",
    )


def _add_finetune(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "finetune",
        help="fine-tune a pretrained model",
        description="Fine-tune a pretrained model with differential learning rates.",
    )
    _add_task(parser)
    parser.add_argument(
        "--epochs",
        type=integer(1),
        metavar="N",
        help=f"number of epochs, the frozen ones included {_default('epochs')}",
    )
    parser.add_argument(
        "--frozen-epochs",
        type=integer(0),
        default=0,
        metavar="N",
        help="number of first epochs in which only the head is trained (default: 0)",
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="onecycle",
        help="how the rates change over the steps (default: onecycle)",
    )
    parser.add_argument(
        "--warmup",
        type=steps_or_share,
        default=0,
        metavar="N|SHARE",
        help="steps of a linear rise from 0 before the schedule, or their share of all steps, such "
        "as 0.1; the schedule fills the rest (default: 0)",
    )
    parser.add_argument(
        "--cycle-epochs",
        type=positive,
        metavar="X",
        help="length of the first sgdr cycle in epochs (default: about 1, so that the last cycle "
        "ends with the training)",
    )
    parser.add_argument(
        "--t-mul",
        type=positive,
        metavar="X",
        help="each sgdr cycle is this many times longer than the one before, at least 1 "
        "(default: 2)",
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="also train with one rate for all layers, chosen by a range test, with the same "
        "schedule and for as many epochs, and compare several seeds (default: only without DATA)",
    )
    parser.add_argument(
        "--compare-seeds",
        type=integer(1),
        metavar="N",
        help="with --compare, how many seeds are trained for each (default: 3)",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="mirrored: on all GPUs of this machine; multi-worker: on the machines that the "
        "environment variable TF_CONFIG names (default: on one device)",
    )
    parser.add_argument(
        "--wait",
        type=positive,
        metavar="SECONDS",
        help=f"how long multi-worker waits for the other machines (default: {WAIT:g})",
    )
    _add_long_runs(parser)
    parser.add_argument(
        "--output", metavar="DIR", help="new or empty folder (default: runs/<date-time>)"
    )
    return parser


def _add_long_runs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for trainings that are interrupted, watched, or ended early."""
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume the run in this folder after a stop, with the settings that it has; no other "
        "option is needed, and conflicting ones are rejected; give DATA if the images have moved "
        "(default: a new run)",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=integer(1),
        metavar="N",
        help="also write a checkpoint every N steps (default: only at the end of every epoch)",
    )
    parser.add_argument(
        "--keep",
        choices=("best", "last"),
        default="last",
        help="the model that is tested and written: that of the last epoch, or of the best one, "
        "which has the highest validation accuracy, and among several the lowest validation loss "
        "(default: last)",
    )
    parser.add_argument(
        "--patience",
        type=integer(1),
        metavar="N",
        help="stop when N epochs in a row were no better, in the sense of --keep, than the best "
        "one before; after a restart of sgdr, a few epochs can be worse (default: train all "
        "epochs)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write the curves for TensorBoard, to the folder tensorboard of the run "
        "(default: off)",
    )


def _add_find_lr(commands: Any) -> None:
    parser = commands.add_parser(
        "find-lr",
        help="find a learning rate by a range test",
        description="Raise the rate of the head step by step, keep the ratios of the other groups "
        "to it, and suggest rates.",
    )
    _add_task(parser)
    parser.add_argument(
        "--start", type=positive, default=1e-5, metavar="X", help="first rate (default: 1e-5)"
    )
    parser.add_argument(
        "--end", type=positive, default=10.0, metavar="X", help="last rate (default: 10)"
    )
    parser.add_argument(
        "--steps",
        type=integer(1),
        default=60,
        metavar="N",
        help="number of steps (default: 60)",
    )
    parser.add_argument(
        "--output",
        default="find-lr.png",
        metavar="FILE",
        help="new .png or .svg file (default: find-lr.png)",
    )


def _add_layers(commands: Any) -> None:
    parser = commands.add_parser(
        "layers",
        help="list the layers of a model, and where it can be cut into groups",
        description="List the layers of a model, with their outputs, parameters and groups, and "
        "suggest --boundaries. No weights are downloaded.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="as --model of finetune (default: the network for the digits of scikit-learn)",
    )
    _add_image_size(parser)
    _add_split(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="one line for each layer (default: for each block, if there are many layers)",
    )
    _add_verbose(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder that finetune wrote, or a .keras file with classes.json beside it (default: "
        "none, it is required)",
    )


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose", action="store_true", help="show the traceback of an error (default: off)"
    )


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="classify images with a model that finetune wrote",
        description="Print the most probable classes of each image, one line per image.",
    )
    _add_run(parser)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image files, and folders whose images are classified, those in sub-folders too "
        "(default: none, at least one is required)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print a table as CSV (default: text)")
    form.add_argument("--json", action="store_true", help="print a JSON list (default: text)")
    parser.add_argument(
        "--top",
        type=integer(1),
        default=3,
        metavar="N",
        help="number of classes to print for each image (default: 3)",
    )
    _add_prediction_batch(parser)


def _add_prediction_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=integer(1),
        default=32,
        metavar="N",
        help="number of images that are classified together (default: 32)",
    )
    _add_verbose(parser)


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a model that finetune wrote on images whose classes are known",
        description="Print the accuracy, the scores of each class and the ten most confident "
        "errors, and draw the confusion matrix.",
    )
    _add_run(parser)
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="as DATA of finetune: its part test, else val, else all images; of the data that the "
        "model was trained on, the images that were kept for testing (default: the data that the "
        "model was trained on)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="new or empty folder (default: a new folder RUN/evaluation)",
    )
    _add_prediction_batch(parser)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write a model that finetune wrote in a format of another tool",
        description="Write a model for inference, load it again, and check that its predictions "
        "are those of the model.",
    )
    _add_run(parser)
    parser.add_argument(
        "--format",
        type=str.lower,
        choices=FORMATS,
        default="saved-model",
        help="saved-model: a folder for TensorFlow; tflite: a file for LiteRT; onnx: a file for "
        "ONNX Runtime (default: saved-model)",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="new file or folder (default: RUN/saved_model, RUN/model.tflite or RUN/model.onnx)",
    )
    _add_verbose(parser)


def _add_schedule(commands: Any) -> None:
    parser = commands.add_parser(
        "schedule",
        help="draw a schedule",
        description="Draw the learning rate over the steps.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=Parser)
    sgdr = kinds.add_parser("sgdr", help="cosine annealing with warm restarts")
    _add_number(sgdr, "--first-decay-steps", integer(1), 100, "length of the first cycle in steps")
    _add_number(sgdr, "--t-mul", positive, 2.0, "factor between the lengths of two cycles")
    _add_number(sgdr, "--m-mul", float, 1.0, "factor between the peaks of two cycles")
    _add_number(sgdr, "--alpha", float, 0.0, "lowest rate as a fraction of the peak")
    _add_number(sgdr, "--warmup-steps", integer(0), 0, "steps of linear rise at the start")
    one_cycle = kinds.add_parser("onecycle", help="one rise and one fall")
    _add_number(one_cycle, "--steps", integer(2), 1000, "number of steps")
    _add_number(one_cycle, "--pct-start", float, 0.25, "fraction of the steps for the rise")
    _add_number(one_cycle, "--div", float, 25.0, "peak divided by the first rate")
    _add_number(one_cycle, "--div-final", float, 1e5, "peak divided by the last rate")
    triangular = kinds.add_parser("triangular", help="cyclical rates")
    _add_number(triangular, "--base-learning-rate", float, 1e-4, "lowest rate")
    _add_number(triangular, "--step-size", integer(1), 100, "steps of one rise or one fall")
    triangular.add_argument(
        "--mode",
        choices=("triangular", "triangular2", "exp_range"),
        default="triangular",
        help="triangular: all peaks are equal; triangular2: each is half of the one before; "
        "exp_range: the rates fall by --gamma each step (default: triangular)",
    )
    _add_number(triangular, "--gamma", float, 0.99994, "factor per step of exp_range")
    for kind in (sgdr, triangular):
        kind.add_argument(
            "--steps",
            type=integer(1),
            metavar="N",
            help="number of steps to draw (default: three cycles)",
        )
    for kind in (sgdr, one_cycle, triangular):
        _add_number(kind, "--learning-rate", float, 1e-3, "peak rate")
        kind.add_argument(
            "--ascii", action="store_true", help="draw in the terminal (default: in a file)"
        )
        _add_verbose(kind)
        kind.add_argument(
            "--output",
            metavar="FILE",
            help="new .png or .svg file (default: KIND.png, or none with --ascii)",
        )


def _add_number(
    parser: argparse.ArgumentParser,
    option: str,
    kind: Callable[[str], float],
    default: float,
    text: str,
) -> None:
    parser.add_argument(
        option,
        type=kind,
        default=default,
        metavar="X" if isinstance(default, float) else "N",
        help=f"{text} (default: {default:g})",
    )
