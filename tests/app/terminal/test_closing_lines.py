"""The lines that a command ends with."""

from __future__ import annotations

import shlex
from pathlib import Path

from dlr_tf.app.terminal.closing_lines import model_on_data, next_line, written_line


def test_where_it_is() -> None:
    assert written_line(Path("a.png")) == "written to a.png"
    assert written_line(Path("run"), iter(["b", "a"])) == "written to run: a, b"


def test_what_to_type_next() -> None:
    line = next_line(["predict", "it's a run; rm -r", "photo.jpg"])
    assert line.startswith("next: ")
    words = shlex.split(line.partition(" ")[2])
    assert words == ["dlr-tf", "predict", "it's a run; rm -r", "photo.jpg"]


def test_model_and_data_of_a_title() -> None:
    assert model_on_data("a/b/mine.keras", "x") == "mine.keras on x"
    assert model_on_data(None, "digits") == "Small network on digits"
