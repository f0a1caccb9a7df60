"""What the command prints on stderr: progress, warnings, and the mistakes of its user."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any


class CommandError(Exception):
    """A reason why the command ends early. The message is one line."""

    exit_code = 1


class UsageError(CommandError):
    """A mistake of the user. The message says what to do."""

    exit_code = 2


def print_stderr(text: str) -> None:
    """Print a text on stderr. Results alone go to stdout."""
    print(text, file=sys.stderr)


_notes_are_shown = [True]


@contextlib.contextmanager
def notes(*, shown: bool) -> Iterator[None]:
    """Show what `print_note` prints in this block, and what Keras prints, or not."""
    before = _notes_are_shown[0]
    _notes_are_shown[0] = shown
    try:
        yield
    finally:
        _notes_are_shown[0] = before


def notes_are_shown() -> bool:
    """Return whether more than results, warnings and errors is to be printed."""
    return _notes_are_shown[0]


def print_note(text: str) -> None:
    """Print on stderr what nobody needs who has chosen `--quiet`."""
    if notes_are_shown():
        print_stderr(text)


def print_result(text: str) -> None:
    """Print a line on stdout. If its reader has gone, as `head` does, the command goes on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence_stdout()


def silence_stdout() -> None:
    """Send the rest to nowhere, so that Python does not complain about the pipe at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(text: object) -> str:
    """Return a text with every line break and run of spaces replaced by one space.

    >>> one_line("too\\n   long")
    'too long'
    """
    return " ".join(str(text).split())


def messages_to_stderr() -> contextlib.AbstractContextManager[Any]:
    """Send to stderr what Keras prints on stdout, or to nowhere with `--quiet`."""
    return contextlib.redirect_stdout(sys.stderr if notes_are_shown() else io.StringIO())


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show each Python warning as one line, without the path and the text of the source."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print_stderr(f"dlr-tf: warning: {one_line(message)}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


# What the preparations raise if something is wrong with what the user gave.
MISTAKES = (ValueError, TypeError, OverflowError, ImportError, OSError)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the errors of the preparations into `UsageError`.

    Only the preparations run in this context. An error of the training itself is a defect, and
    keeps its traceback.
    """
    try:
        yield
    except MISTAKES as error:
        raise UsageError(str(error)) from error
