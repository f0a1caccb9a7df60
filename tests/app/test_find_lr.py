"""The command `find-lr`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dlr_tf.app import cli

pytest.importorskip("matplotlib")


def test_suggestions_and_picture(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["find-lr", "--start", "1e-5", "--end", "10", "--steps", "60", "--output", "sweep.svg"]
    assert cli.main(argv) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    suggestions = dict(line.split() for line in lines)
    assert set(suggestions) <= {"valley", "slide", "steep", "minimum"}
    assert "valley" in suggestions
    assert all(1e-5 < float(rate) < 10 for rate in suggestions.values())
    assert last == "written to sweep.svg"
    assert Path("sweep.svg").read_text().startswith("<?xml")


def test_without_a_suggestion(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["find-lr", "--steps", "2", "--batch-norm", "train"]) == 1
    out, err = capsys.readouterr()
    assert out == "written to find-lr.png\n"
    assert "valley: The sweep of 2 points" in err
    assert Path("find-lr.png").read_bytes().startswith(b"\x89PNG")


def test_a_head_without_a_rate(
    quick_digits: None, assert_mistake: Callable[[list[str], str], None]
) -> None:
    assert_mistake(["find-lr", "--learning-rate", "0.1,0.1,0"], "above 0 for the head")
