"""Exit codes, and one line for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dlr_tf
from dlr_tf.app import cli
from dlr_tf.app.commands import find_lr, schedule
from dlr_tf.app.meeting import LostWorkerError
from dlr_tf.app.results import WriteError
from dlr_tf.app.terminal import UsageError

AssertMistake = Callable[[list[str], str], None]


def test_mistakes(assert_mistake: AssertMistake) -> None:
    assert_mistake([], "required: COMMAND")
    assert_mistake(["finetune", "--epochs", "0"], "expected an integer of at least 1")
    assert_mistake(["finetune", "--learning-rate", "fast"], "be auto, LO:HI, :HI, one number")
    Path("photos").mkdir()
    assert_mistake(["finetune", "photos", "--model", "X"], "no model 'X' in keras.applications.")
    assert_mistake(["schedule", "sgdr", "--t-mul", "0.5"], "`t_mul`")


@pytest.mark.parametrize("command", ["finetune", "find-lr"])
def test_mistakes_in_the_task(
    quick_digits: None, assert_mistake: AssertMistake, command: str
) -> None:
    pytest.importorskip("matplotlib")
    assert_mistake([command, "--boundaries", "lat"], "Did you mean 'late'?")
    assert_mistake([command, "--groups", "2", "--learning-rate", "1,2,3"], "There are 2 groups")
    assert_mistake([command, "nowhere", "--weights", "none"], "'nowhere' do not exist")


def test_outputs_that_exist(assert_mistake: AssertMistake) -> None:
    for name in ("find-lr.png", "sgdr.png"):
        Path(name).write_text("precious")
    Path("out").mkdir()
    Path("out/precious").write_text("x")
    message = "exists already. Give another --output"
    assert_mistake(["find-lr"], message)
    assert_mistake(["schedule", "sgdr"], message)
    assert_mistake(["finetune", "--output", "out"], "'out' is not empty. Give another --output")
    assert Path("sgdr.png").read_text() == "precious"


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure"])
def test_missing_extras(
    module: str, monkeypatch: pytest.MonkeyPatch, assert_mistake: AssertMistake
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert_mistake(["finetune"], 'pip install "dlr_tf[')


def test_verbose_shows_where_a_mistake_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["finetune", "nowhere", "--weights", "none", "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("dlr-tf: error: The data 'nowhere' do not exist")


def run_instead(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | Callable[[], int]) -> int:
    """Run `dlr-tf find-lr` with a command that raises or does something of our own."""

    def run(_: Any) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome()

    monkeypatch.setattr(find_lr, "run", run)
    return cli.main(["find-lr"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("too\n  long"), 2, "dlr-tf: error: too long"),
        (KeyboardInterrupt(), 130, "dlr-tf: stopped"),
        (
            LostWorkerError("worker 1 is gone\nmore"),
            75,
            "dlr-tf: error: worker 1 is gone more",
        ),
    ],
    ids=["mistake", "ctrl-c", "worker"],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    assert run_instead(monkeypatch, error) == code
    assert capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_warning_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn() -> int:
        warnings.warn("The rates fall\nfrom the first group.", UserWarning, stacklevel=1)
        return 0

    assert run_instead(monkeypatch, warn) == 0
    line = "dlr-tf: warning: The rates fall from the first group.\n"
    assert capsys.readouterr() == ("", line)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a defect"):
        run_instead(monkeypatch, ValueError("a defect"))


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "finetune" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == dlr_tf.__version__


@pytest.mark.slow
def test_python_m_dlr_tf() -> None:
    root = str(Path(dlr_tf.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "dlr_tf", "schedule", "sgdr", "--steps", "0"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "expected an integer of at least 1" in done.stderr.splitlines()[-1]


def test_a_file_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: Any) -> int:
        raise WriteError("The disk is full.")

    monkeypatch.setattr(schedule, "run", run)
    assert cli.main(["schedule", "sgdr"]) == 1
    assert capsys.readouterr().err == "dlr-tf: error: The disk is full.\n"
