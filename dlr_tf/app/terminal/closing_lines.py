"""The lines that a command ends with: what was reached, where it is, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlr_tf.app.terminal.names import printable_name

# The embedded task has no argument --model.
EMBEDDED_MODEL = "small network"
_NOT_OF_THE_TASK = ("data", "output", "validation_fraction")


def accuracy_line(n_correct: int, total: int, with_rates: str) -> str:
    """Return the line that says what was reached.

    Args:
        n_correct: Number of correct predictions.
        total: Number of test images, 1 or more.
        with_rates: What `describe_rates` returns, or another phrase for the rates.

    >>> accuracy_line(764, 796, "differential rates")
    'test accuracy 0.9598 (764 of 796) with differential rates'
    """
    return f"test accuracy {n_correct / total:.4f} ({n_correct} of {total}) with {with_rates}"


def written_line(path: Path, names: Iterable[str] = ()) -> str:
    """Return the line that says what was written.

    Args:
        path: A file, or a folder.
        names: The names of the files in the folder. Defaults to none.

    >>> written_line(Path("runs/1"), ["model.keras", "classes.json"])
    'written to runs/1: classes.json, model.keras'
    """
    files = ", ".join(sorted(names))
    return printable_name(f"written to {path}" + (f": {files}" if files else ""))


def next_line(command: Sequence[str]) -> str:
    """Return the line that says what to type next. Paths are quoted for a shell.

    Args:
        command: The arguments of `dlr-tf`.

    >>> next_line(["predict", "my runs/1", "photo.jpg"])
    "next: dlr-tf predict 'my runs/1' photo.jpg"
    """
    return printable_name(f"next: {shlex.join(['dlr-tf', *command])}")


def after_training(data: str | None, run: Path) -> list[str]:
    """Return the command to type after `finetune`, for `next_line`.

    Args:
        data: The argument DATA of `finetune`; `None` for the embedded digits.
        run: Its output folder.

    >>> after_training("photos", Path("runs/1"))
    ['predict', 'runs/1', 'photo.jpg']
    """
    # The embedded network knows digits of 8 by 8 pixels: a photo of one's own is no use to it.
    return ["finetune", "PHOTOS"] if data is None else ["predict", str(run), "photo.jpg"]


def model_on_data(model: str | None, data_name: str) -> str:
    """Return the names of the model and of the data, for the titles of plots and pages.

    Args:
        model: The name or the path of the model; `None` for the embedded network.
        data_name: What `ImageData.name` says.

    >>> model_on_data("VGG16", "photos")
    'VGG16 on photos'
    """
    return f"{printable_name(Path(model).name) if model else EMBEDDED_MODEL} on {data_name}"


def command_with(command: str, data: str | None, options: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a command, for `next_line`.

    Args:
        command: Its name.
        data: Its argument DATA; `None` for the embedded digits.
        options: Options by name, with their values. `None` and what is no option of the task are
            left out.

    >>> options = {"model": "VGG16", "keep_head": True, "learning_rate": "1e-4"}
    >>> command_with("finetune", "my photos", options)
    ['finetune', 'my photos', '--model', 'VGG16', '--keep-head', '--learning-rate', '1e-4']
    """
    words = [command] if data is None else [command, data]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name in _NOT_OF_THE_TASK or value is None:
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    return words
