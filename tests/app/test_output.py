"""Checks of what a command is going to write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlr_tf.app.output import check_new_file, check_output_folder


def test_a_folder_may_be_new_or_empty() -> None:
    Path("empty").mkdir()
    check_output_folder(Path("empty"))
    check_output_folder(Path("deep/er"))
    assert not Path("deep").exists()


def test_folders_that_hold_something() -> None:
    Path("out").mkdir()
    Path("out/precious").write_text("x")
    with pytest.raises(ValueError, match="'out' is not empty. Give another --output"):
        check_output_folder(Path("out"))
    with pytest.raises(ValueError, match="'out/precious' is a file. Give another --output"):
        check_output_folder(Path("out/precious"))
    with pytest.raises(ValueError, match="No permission to write to .*precious"):
        check_output_folder(Path("out/precious/deeper"))


def test_files() -> None:
    check_new_file(Path("sweep.svg"))
    Path("sweep.png").write_text("precious")
    with pytest.raises(ValueError, match=r"'sweep.png' exists already. Give another --output"):
        check_new_file(Path("sweep.png"))
    with pytest.raises(ValueError, match=r"'sweep.pdf' should end in .png or .svg"):
        check_new_file(Path("sweep.pdf"))
    with pytest.raises(ValueError, match="'no/such' of the output file does not exist"):
        check_new_file(Path("no/such/sweep.png"))


def test_no_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Not by the mode of a folder: the superuser may write anywhere.
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode)
    )
    message = f"No permission to write to '{tmp_path}'. Give another --output"
    with pytest.raises(ValueError, match=message):
        check_output_folder(Path("deep/er"))
    with pytest.raises(ValueError, match=message):
        check_new_file(Path("sgdr.png"))
