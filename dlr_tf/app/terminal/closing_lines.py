"""The lines that a command ends with: where the result is, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from dlr_tf.app.terminal.names import printable_name


def written_line(path: Path, names: Iterable[str] = ()) -> str:
    """Return the line that says what was written: a file, or a folder with files of these names.

    >>> written_line(Path("runs/1"), ["model.keras", "classes.json"])
    'written to runs/1: classes.json, model.keras'
    """
    files = ", ".join(sorted(names))
    return printable_name(f"written to {path}" + (f": {files}" if files else ""))


def next_line(command: Sequence[str]) -> str:
    """Return the line that says what to type next: arguments of `dlr-tf`, quoted for a shell.

    >>> next_line(["predict", "my runs/1", "photo.jpg"])
    "next: dlr-tf predict 'my runs/1' photo.jpg"
    """
    return printable_name(f"next: {shlex.join(['dlr-tf', *command])}")


def model_on_data(model: str | None, data_name: str) -> str:
    """Return the names of the model and of the data, for a title.

    >>> model_on_data("runs/1/model.keras", "photos"), model_on_data(None, "digits 5-9")
    ('model.keras on photos', 'Small network on digits 5-9')
    """
    return f"{printable_name(Path(model).name) if model else 'Small network'} on {data_name}"
