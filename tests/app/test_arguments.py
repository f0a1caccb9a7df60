"""The arguments: defaults, checks, and the help of every option."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator

import pytest

from dlr_tf.app import config
from dlr_tf.app.arguments import make_parser, parse_arguments
from dlr_tf.app.data.augmentation import AUGMENTATIONS, MIXUP
from dlr_tf.app.models import FORMATS
from dlr_tf.app.terminal import UsageError


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], r"invalid choice: 'train' \(choose from"),
        (
            ["finetune", "--epoch", "3"],
            r"arguments: --epoch\. Did you mean '--epochs'\? \(see `dlr-tf finetune --help`\)",
        ),
        (["finetune", "--lr", "3"], r"--lr\. Did you mean '--learning-rate'\?"),
        (["schedule", "sgdr", "--step", "3"], r"'--steps'\? \(see `dlr-tf schedule sgdr --help`"),
        (["finetune", "--epochs", "0"], "--epochs: expected an integer of at least 1"),
        (["finetune", "--epochs", "x"], "--epochs: expected an integer of at least 1"),
        (["finetune", "--epochs", "2", "--frozen-epochs", "3"], "not be above --epochs"),
        (["finetune", "--frozen-epochs", "32"], "Received: --frozen-epochs 32 --epochs 31"),
        (["finetune", "--cycle-epochs", "0"], "--cycle-epochs: expected a number above 0"),
        (["finetune", "--cycle-epochs", "inf"], "--cycle-epochs: expected a number above 0"),
        (["finetune", "--optimizer", "adamm"], r"invalid choice: 'adamm' \(choose from"),
        (["finetune", "--schedule", "cosin"], r"invalid choice: 'cosin' \(choose from"),
        (["finetune", "--batch-norm", "off"], r"invalid choice: 'off' \(choose from"),
        (["finetune", "--groups", "2", "--boundaries", "late"], "not allowed with argument"),
        (["finetune", "--model", "VGG16"], "--model needs DATA"),
        (["find-lr", "--weights", "none"], "--weights needs DATA"),
        (["finetune", "--image-size", "32"], "--image-size needs DATA"),
        (["find-lr", "--start", "1", "--end", "0.1"], "--start should be below --end"),
        (["finetune", "--t-mul", "2"], "--t-mul is for cycles: give --schedule sgdr too, or"),
        (["finetune", "--cycle-epochs", "2", "--schedule", "constant"], "--cycle-epochs is for"),
        (["finetune", "photos", "--compare-seeds", "2"], "--compare-seeds needs --compare"),
        (["finetune", "--warmup", "1.5"], "a share of all steps below 1, received '1.5'"),
        (["finetune", "--warmup", "-1"], "--warmup: expected a number of steps, or a share"),
        (["finetune", "--warmup", "ten"], "--warmup: expected a number of steps, or a share"),
        (["find-lr", "--weight-decay", "-0.1"], "--weight-decay: expected a number, 0 or more"),
        (["finetune", "--weight-decay", "x"], "--weight-decay: expected a number, 0 or more"),
        (["schedule"], "required: KIND"),
    ],
    ids=" ".join,
)
def test_mistakes(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments(argv)


def test_defaults_depend_on_the_data() -> None:
    digits, images = parse_arguments(["finetune"]), parse_arguments(["finetune", "photos"])
    assert (digits.epochs, digits.batch_size, digits.compare) == (31, 16, True)
    assert (digits.learning_rate, digits.model) == ("auto", None)
    assert (images.epochs, images.batch_size, images.compare) == (7, 16, False)
    assert (images.learning_rate, images.model, images.weights) == (
        "auto",
        "MobileNetV2",
        None,
    )
    given = ["--batch-size", "8", "--learning-rate", "-1e-3", "--weights", "none"]
    swept = parse_arguments(["find-lr", "photos", *given])
    assert (swept.batch_size, swept.learning_rate, swept.weights) == (8, "-1e-3", "none")
    assert not hasattr(swept, "epochs")
    assert parse_arguments(["finetune", "--no-compare"]).compare is False


def test_a_warm_up_is_steps_or_a_share() -> None:
    given = {text: parse_arguments(["finetune", "--warmup", text]).warmup for text in ("0.1", "20")}
    assert given == {"0.1": 0.1, "20": 20}
    assert isinstance(given["20"], int)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def test_every_option_has_help_with_its_default() -> None:
    n_options = 0
    for parser in parsers(make_parser()):
        config = parser.get_default("described_by")
        for field in dataclasses.fields(config) if config else ():
            (action,) = [a for a in parser._actions if a.dest == field.name] or [None]
            if action is None:
                assert field.name in ("validation_fraction", "given", "command_line")
                continue
            n_options += 1
            (told,) = re.findall(r"\(default: ([^()]+)\)", action.help or "") or [None]
            assert bool(told) == (not action.required), f"{parser.prog}: {action.dest}"
            if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
                assert float(told.partition(";")[0]) == field.default, field.name
    assert n_options > 40


def test_options_as_they_are_typed() -> None:
    argv = ["photos", "--boundaries", "a,b", "--batch-norm", "train", "--seed", "3"]
    assert parse_arguments(["find-lr", *argv]).as_typed() == argv
    assert parse_arguments(["find-lr"]).as_typed() == []


@pytest.mark.parametrize("argv", [["--help"], ["finetune", "--help"], ["schedule", "sgdr", "-h"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse_arguments(argv)
    assert "usage: dlr-tf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["finetune", ""], "An argument is empty. .* Received: finetune ''"),
        (["finetune", "photos", "--output="], "An argument is empty. .* photos --output="),
        (["finetune", "--wait", "5"], "--wait needs --strategy multi-worker"),
        (["finetune", "--seed", "4294967296"], "an integer from 0 to 4294967295, received '42"),
    ],
)
def test_values_that_would_not_be_used(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments(argv)


def test_a_value_may_begin_with_a_dash() -> None:
    assert parse_arguments(["finetune", "--learning-rate", "-,1e-3"]).learning_rate == "-,1e-3"


def test_options_for_images() -> None:
    args = parse_arguments(["finetune", "photos"])
    assert (args.augment, args.class_weights, args.skip_broken) == ("none", "none", False)
    assert parse_arguments(["finetune", "photos", "--augment"]).augment == "flip,crop,colour"
    assert parse_arguments(["find-lr", "photos", "--augment", "Crop,flip"]).augment == "flip,crop"
    with pytest.raises(UsageError, match="--augment: expected names of flip, crop, colour, rot"):
        parse_arguments(["finetune", "--augment", "photos"])
    for option in ("--augment", "--skip-broken"):
        with pytest.raises(UsageError, match=f"{option} needs DATA: give a folder"):
            parse_arguments(["finetune", option])


def test_optimizers_and_formats_in_any_case() -> None:
    assert parse_arguments(["finetune", "--optimizer", "AdamW"]).optimizer == "adamw"
    assert parse_arguments(["export", "run", "--format", "ONNX"]).format == "onnx"


def test_what_can_be_typed_is_what_there_is() -> None:
    """`config` imports no TensorFlow, so it cannot read these names where they are used."""
    assert tuple(FORMATS) == config.FORMATS
    assert (*AUGMENTATIONS, MIXUP) == config.AUGMENTATIONS


def test_names_of_augmentations() -> None:
    for typed, names in (("crop , FLIP", ["flip", "crop"]), ("none", ())):
        assert parse_arguments(["find-lr", "x", "--augment", typed]).augmentations == names
    with pytest.raises(UsageError, match="expected names of flip, crop, colour, .* 'flip,zoom'"):
        parse_arguments(["find-lr", "x", "--augment", "flip,zoom"])


def test_frozen_epochs_are_compared_with_the_epochs_that_the_data_get() -> None:
    images = parse_arguments(["finetune", "photos", "--frozen-epochs", "9"])  # perhaps 21 epochs
    assert (images.frozen_epochs, images.epochs) == (9, 7)
    with pytest.raises(ValueError, match="--frozen-epochs 9 --epochs 7"):
        images.check_frozen_epochs()
    with pytest.raises(UsageError, match="--frozen-epochs 9 --epochs 8"):
        parse_arguments(["finetune", "photos", "--frozen-epochs", "9", "--epochs", "8"])
