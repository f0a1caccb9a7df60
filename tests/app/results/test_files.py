"""Checks of what a command is going to write, and writing it atomically."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dlr_tf.app.results import (
    WriteError,
    append_text,
    atomic_write,
    check_new_file,
    check_output_folder,
    locked,
    remove_partial_files,
    write_text,
)


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
    with pytest.raises(ValueError, match="'out/precious/deeper' is below a file. Give"):
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


def test_a_file_is_whole_or_not_there() -> None:
    path = Path("model.keras")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert partial.name == "model.keras"
        assert not path.exists()
    assert path.read_text() == "new"
    for error in (KeyError("a defect"), KeyboardInterrupt("signal 2")):
        with pytest.raises(type(error), match="a defect|signal 2"), atomic_write(path) as partial:
            partial.write_text("half")
            raise error
    assert path.read_text() == "new"
    assert os.listdir() == ["model.keras"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        # HDF5 has no class of its own for it.
        RuntimeError(
            "Can't decrement id ref count (errno = 28, message = 'No space left on device'"
        ),
    ],
    ids=["system", "hdf5"],
)
def test_a_full_disk(error: Exception) -> None:
    write_text(Path("log.csv"), "old")
    message = "'log.csv' could not be written: No space left on device"
    with pytest.raises(WriteError, match=message), atomic_write(Path("log.csv")) as partial:
        partial.write_text("half")
        raise error
    # Python's own errors that follow hide the first one.
    with pytest.raises(WriteError, match=message), atomic_write(Path("log.csv")) as partial:
        try:
            raise error
        finally:
            raise AttributeError("a file that was never opened")
    assert Path("log.csv").read_text() == "old"
    assert os.listdir() == ["log.csv"]


def test_a_folder_that_does_not_exist() -> None:
    with pytest.raises(WriteError, match="'no/log.csv' could not be written: No such file"):
        write_text(Path("no/log.csv"), "x")
    with pytest.raises(WriteError, match="'no/log.csv' could not be written: No such file"):
        append_text(Path("no/log.csv"), "x")


def test_what_a_killed_process_left() -> None:
    Path("out").mkdir()
    with atomic_write(Path("out/model.keras")) as partial:
        partial.write_text("half")
        shutil.copytree(partial.parent, f"{partial.parent}-of-a-killed-process")
    Path("out/model.keras").unlink()
    assert len(os.listdir("out")) == 1
    check_output_folder(Path("out"))
    # Files of others, whatever they are called.
    names = {".hidden", ".model.partial.keras", "model.keras.partial"}
    for name in names:
        Path("out", name).write_text("precious")
    with pytest.raises(ValueError, match="'out' is not empty"):
        check_output_folder(Path("out"))
    with atomic_write(Path("out/model.keras")) as partial:
        partial.write_text("new")
    Path("out/model.keras").unlink()
    remove_partial_files(Path("out"))
    remove_partial_files(Path("nowhere"))
    assert {path.name for path in Path("out").iterdir()} == names
    assert {path.read_text() for path in Path("out").iterdir()} == {"precious"}


def test_a_folder_is_whole_or_not_there() -> None:
    with atomic_write(Path("saved")) as partial:
        partial.mkdir()
        (partial / "model").write_text("new")
        assert not Path("saved").exists()
    assert Path("saved/model").read_text() == "new"
    assert os.listdir() == ["saved"]


def test_two_processes_do_not_write_to_one_folder() -> None:
    pytest.importorskip("filelock")
    message = "Another process is writing to '.'"
    with locked(Path()), pytest.raises(ValueError, match=message), locked(Path()):
        pass
    with locked(Path()):
        check_output_folder(Path())
    assert os.listdir() == []
