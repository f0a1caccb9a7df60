"""The lines that a command ends with."""

from __future__ import annotations

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
    line = next_line(after_training("photos", Path("it's a run; rm -r")))
    assert line.startswith("next: ")
    words = shlex.split(line.partition(" ")[2])
    assert words == ["dlr-tf", "predict", "it's a run; rm -r", "photo.jpg"]
    assert next_line(after_training(None, Path("run"))) == "next: dlr-tf finetune PHOTOS"


def test_model_and_data_of_a_title() -> None:
    assert model_on_data("a/b/mine.keras", "x") == "mine.keras on x"
    assert model_on_data(None, "digits") == "small network on digits"


def test_the_command_with_options() -> None:
    argv = ["finetune", "photos", "--boundaries", "a,b", "--seed", "3", "--batch-norm", "train"]
    options = {"boundaries": "a,b", "seed": 3, "batch_norm": "train", "weights": None}
    words = command_with("finetune", "photos", {"data": "photos", **options})
    assert words == argv
    assert vars(parse_arguments(words)) == vars(parse_arguments(argv))
    words = command_with("finetune", None, {"compare": False, "strict": True})
    assert words == ["finetune", "--no-compare", "--strict"]
