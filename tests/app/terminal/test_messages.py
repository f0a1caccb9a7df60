"""Messages on stderr."""

from __future__ import annotations

import os
import sys
import warnings

import pytest

from dlr_tf.app.terminal.messages import (
    UsageError,
    messages_to_stderr,
    print_result,
    usage_errors,
    warnings_in_one_line,
)


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line_without_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    shown_before = warnings.showwarning
    with warnings_in_one_line():
        warnings.warn("The rates fall.\n  Swap them.", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "dlr-tf: warning: The rates fall. Swap them.\n")
    assert warnings.showwarning is shown_before


@pytest.mark.parametrize("kind", [ValueError, TypeError, OverflowError, ImportError, OSError])
def test_errors_of_preparations_are_mistakes(kind: type[Exception]) -> None:
    with pytest.raises(UsageError, match="wrong"), usage_errors():
        raise kind("wrong")


def test_other_errors_are_not() -> None:
    with pytest.raises(RuntimeError, match="defect"), usage_errors():
        raise RuntimeError("defect")


def test_prints_of_others_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with messages_to_stderr():
        print("Epoch 1/3")
    assert capsys.readouterr() == ("", "Epoch 1/3\n")


def test_a_result_whose_reader_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        os.close(reader)
        monkeypatch.setattr(sys, "stdout", stream)
        print_result("first")
        print_result("second")
