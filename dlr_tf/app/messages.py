"""What the command prints beside its results, and the mistakes of its user."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


class MistakeError(Exception):
    """A user's mistake, told in one line."""


def progress_bar() -> int:
    """A progress bar on a terminal, a line per epoch elsewhere."""
    return 1 if sys.stderr.isatty() else 2


def say(text: str) -> None:
    print(text, file=sys.stderr)


def messages_to_stderr() -> contextlib.AbstractContextManager[Any]:
    # Keras prints its progress to stdout, which is for results.
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Takes errors of the preparations for the user's mistakes; later ones are not."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise MistakeError(str(error)) from error
