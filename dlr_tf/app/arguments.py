"""The arguments of the command and of its three sub-commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

import dlr_tf
from dlr_tf.app.messages import MistakeError
from dlr_tf.app.tasks import OPTIMIZERS
from dlr_tf.training import fine_tuning
from dlr_tf.training.distribution import STRATEGIES, WAIT

# What suits a network pretrained on a million photographs does not suit one pretrained on 720
# digits: the second has less to lose and further to go.
IMAGE_DEFAULTS = {"learning_rate": "1e-5:1e-3", "epochs": 7, "batch_size": 32, "compare": False}
DIGIT_DEFAULTS = {"learning_rate": "1e-3:1e-2", "epochs": 31, "batch_size": 16, "compare": True}


class Parser(argparse.ArgumentParser):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Without it, argparse takes -1e-3 for an option, and its complaint says nothing of rates.
        self._negative_number_matcher = re.compile(r"^-\.?\d")

    def error(self, message: str) -> Any:
        raise MistakeError(f"{message} (see `{self.prog} --help`)")


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


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dlr-tf", description=dlr_tf.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=dlr_tf.__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
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


def _add_schedule(commands: Any) -> None:
    parser = commands.add_parser(
        "schedule",
        help="draw a schedule",
        description="Draws the learning rate over the steps.",
        allow_abbrev=False,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=Parser)
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
