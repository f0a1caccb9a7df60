"""The lines that a command ends with."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.terminal.closing_lines import (
    accuracy_line,
    after_training,
    command_with,
    model_on_data,
    next_line,
    written_line,
)


def test_what_was_reached() -> None:
    line = accuracy_line(1, 3, "one rate, 0.001, schedule sgdr")
    assert line == "test accuracy 0.3333 (1 of 3) with one rate, 0.001, schedule sgdr"


def test_where_it_is() -> None:
    assert written_line(Path("a.png")) == "written to a.png"
    assert written_line(Path("run"), iter(["b", "a"])) == "written to run: a, b"


def test_what_to_type_next() -> None:
    photos = argparse.Namespace(data="photos")
    line = next_line(after_training(photos, Path("it's a run; rm -r")))
    assert line.startswith("next: ")
    words = shlex.split(line.partition(" ")[2])
    assert words == ["dlr-tf", "predict", "it's a run; rm -r", "photo.jpg"]
    embedded = argparse.Namespace(data=None)
    assert next_line(after_training(embedded, Path("run"))) == "next: dlr-tf finetune PHOTOS"


def test_model_and_data_of_a_title() -> None:
    assert model_on_data(argparse.Namespace(model="a/b/mine.keras"), "x") == "mine.keras on x"
    assert model_on_data(argparse.Namespace(model=None), "digits") == "small network on digits"


def test_options_of_one_command_for_another() -> None:
    argv = ["photos", "--boundaries", "a,b", "--seed", "3", "--batch-norm", "train"]
    given = parse_arguments(["find-lr", *argv, "--steps", "7", "--verbose", "--output", "a.png"])
    defaults = vars(parse_arguments(["finetune", "x"]))
    words = command_with("finetune", given, defaults, {"learning_rate": "1e-5:1e-4"})
    assert words[:2] == ["finetune", "photos"]
    again, first = parse_arguments(words), parse_arguments(["finetune", *argv])
    expected = {**vars(first), "learning_rate": "1e-5:1e-4", "command_line": words}
    assert vars(again) == expected
    switches = argparse.Namespace(data=None, compare=False, strict=True)
    words = command_with("finetune", switches, {"compare": True, "strict": False}, {})
    assert words == ["finetune", "--no-compare", "--strict"]
