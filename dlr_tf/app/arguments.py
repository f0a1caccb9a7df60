"""What was typed becomes the configuration of a command, or an error that says what to correct.

This module imports no TensorFlow, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import dlr_tf
from dlr_tf.app.config import (
    WITHOUT_DATA,
    CommandConfig,
    EvaluateConfig,
    ExportConfig,
    FindLrConfig,
    FinetuneConfig,
    LayersConfig,
    OneCycleConfig,
    PredictConfig,
    ScheduleConfig,
    SgdrConfig,
    TaskConfig,
    TriangularConfig,
    Usual,
)
from dlr_tf.app.config_files import typed_options
from dlr_tf.app.options import Parser, add_options, option_name, summary
from dlr_tf.app.terminal import UsageError, usage_errors

COMMANDS: tuple[type[CommandConfig], ...] = (
    FinetuneConfig,
    FindLrConfig,
    LayersConfig,
    PredictConfig,
    EvaluateConfig,
    ExportConfig,
)
KINDS: tuple[type[ScheduleConfig], ...] = (SgdrConfig, OneCycleConfig, TriangularConfig)
TEXTS = ("text_column", "sequence_length")
COLUMNS = ("target", "label_column", "path_column", "split_column")
MODEL = ("model", "weights", "image_size", "keep_head")
NEED_DATA = (*COLUMNS, *TEXTS, *MODEL, "augment", "skip_broken", "limit")
# Of the training images, where the epochs are compared and there are no images for it.
VALIDATION_FRACTION = 0.1
CONFIG = (
    "JSON or YAML file with options by name, or settings.json of a run; what is typed counts "
    "instead (default: none)"
)
QUIET = "print results, warnings and errors alone (default: off)"
VERBOSE = "show the traceback of an error, and what TensorFlow says of the machine (default: off)"


def parse_arguments(argv: Sequence[str] | None = None) -> Any:
    """Return the configuration of the command that was typed.

    Args:
        argv: Arguments after the name of the command. Defaults to those of the process.

    Raises:
        UsageError: If an argument is missing, unknown or out of range, or does not fit another.
        SystemExit: After `--help` and `--version`.

    >>> config = parse_arguments(["finetune"])
    >>> config.command, config.epochs, config.learning_rate
    ('finetune', 31, 'auto')
    """
    command_line = list(sys.argv[1:] if argv is None else argv)
    _check_not_empty(command_line)
    given = vars(make_parser().parse_args(command_line))
    kind: type[CommandConfig] = given.pop("described_by")
    if "config" in given:
        given = _with_file(given.pop("config"), kind, given)
    if "resume" in given:  # such a run has its own settings
        return FinetuneConfig.of({**given, "given": given})
    options = _completed(given) if issubclass(kind, TaskConfig) else given
    config = kind.of({**options, "given": given, "command_line": command_line})
    if isinstance(config, FinetuneConfig) and not isinstance(config.epochs, Usual):
        with usage_errors():
            config.check_frozen_epochs()
    if isinstance(config, ExportConfig) and config.quantize and config.format != "tflite":
        raise UsageError(
            f"--quantize is for --format tflite. Received: --quantize {config.quantize} --format "
            f"{config.format}"
        )
    if isinstance(config, FindLrConfig) and not config.start < config.end:
        raise UsageError(
            "--start should be below --end. Received: "
            f"--start {config.start:g} --end {config.end:g}"
        )
    return config


def _with_file(path: str, kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was typed, with the options of a file where they were not."""
    if "resume" in given:
        raise UsageError("--config is for a new run: one that is resumed has its own settings.")
    words = typed_options(path, kind, given)
    try:
        found = vars(make_parser().parse_args([kind.command, *words]))
    except UsageError as error:
        raise UsageError(f"In the file {path!r}: {error}") from error
    del found["described_by"]
    return {**found, **given}


def _check_not_empty(command_line: Sequence[str]) -> None:
    """Raise if an argument is empty: it would be taken for the default, or for this folder."""
    if any(re.fullmatch("(--[a-z-]+=)?", argument) for argument in command_line):
        raise UsageError(
            "An argument is empty. Give a value or leave the argument out; perhaps a variable of "
            f"the shell is not set. Received: {shlex.join(command_line)}"
        )


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options together, and return them with the defaults that depend on others."""
    options = dict(given)
    if "data" not in given:
        options = {**WITHOUT_DATA, **given}
        for name in NEED_DATA:
            if name in given:
                raise UsageError(
                    f"{option_name(name)} needs DATA: give a folder of images, a table of "
                    "images or of texts, or tfds:NAME. Without DATA, a small network is trained on "
                    "the digits of scikit-learn."
                )
    if given.get("strategy") == "multi-worker":
        options["compare"] = given.get("compare", False)
    for name in ("cycle_epochs", "t_mul"):
        if name in given and given.get("schedule") != "sgdr":
            raise UsageError(
                f"{option_name(name)} is for cycles: give --schedule sgdr too, or leave it out."
            )
    if "wait" in given and given.get("strategy") != "multi-worker":
        raise UsageError("--wait needs --strategy multi-worker. Give both, or leave it out.")
    if "compare_seeds" in given and not options.get("compare"):
        raise UsageError("--compare-seeds needs --compare. Give both, or leave it out.")
    if given.get("average_weights") and given.get("keep") == "best":
        raise UsageError(
            "--average-weights and --keep best exclude each other: the mean is over all epochs. "
            "Leave one out."
        )
    # Images that choose an epoch must not be those that the result is tested on.
    chooses = given.get("keep") == "best" or "patience" in given
    return {**options, "validation_fraction": VALIDATION_FRACTION if chooses else 0.0}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(prog="dlr-tf", description=dlr_tf.__doc__)
    parser.add_argument("--version", action="version", version=dlr_tf.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for config in COMMANDS:
        _add_command(commands, config.command, config)
    schedule = _add_parser(commands, ScheduleConfig.command, ScheduleConfig)
    kinds = schedule.add_subparsers(required=True, metavar="KIND", parser_class=Parser)
    for kind in KINDS:
        _add_command(kinds, kind.kind, kind)
    return parser


def _add_command(parsers: Any, name: str, config: type[CommandConfig]) -> None:
    parser = _add_parser(parsers, name, config)
    add_options(parser, config)
    parser.add_argument("--quiet", action="store_true", help=QUIET)
    parser.add_argument("--verbose", action="store_true", help=VERBOSE)
    if issubclass(config, TaskConfig):
        parser.add_argument("--config", metavar="FILE", help=CONFIG)
    parser.set_defaults(described_by=config)


def _add_parser(parsers: Any, name: str, config: type[CommandConfig]) -> argparse.ArgumentParser:
    text = summary(config)
    return parsers.add_parser(name, help=text.splitlines()[0], description=text)
