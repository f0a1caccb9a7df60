"""The lines that a command ends with: what was reached, where it is, what to type next."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlr_tf.app.terminal.names import printable_name

# The embedded task has no argument --model.
EMBEDDED_MODEL = "small network"
_NOT_OF_THE_TASK = frozenset(
    ["command", "command_line", "data", "output", "resume", "validation_fraction", "verbose"]
)


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


def after_training(args: argparse.Namespace, run: Path) -> list[str]:
    """Return the command to type after `finetune`, for `next_line`.

    Args:
        args: The arguments of `finetune`.
        run: Its output folder.

    >>> after_training(argparse.Namespace(data="photos"), Path("runs/1"))
    ['predict', 'runs/1', 'photo.jpg']
    """
    # The embedded network knows digits of 8 by 8 pixels: a photo of one's own is no use to it.
    return ["finetune", "PHOTOS"] if args.data is None else ["predict", str(run), "photo.jpg"]


def model_on_data(args: argparse.Namespace, data_name: str) -> str:
    """Return the names of the model and of the data, for the titles of plots and pages.

    Args:
        args: The arguments of the command.
        data_name: What `ImageData.name` says.

    >>> model_on_data(argparse.Namespace(model="VGG16"), "photos")
    'VGG16 on photos'
    """
    model = printable_name(Path(args.model).name) if args.model else EMBEDDED_MODEL
    return f"{model} on {data_name}"


def command_with(
    command: str, args: argparse.Namespace, defaults: Mapping[str, Any], changes: Mapping[str, str]
) -> list[str]:
    """Return the arguments of another command with the same task.

    Args:
        command: Name of the other command.
        args: The arguments that were given.
        defaults: The arguments of the other command when only DATA is given. An argument with
            another value is repeated, one that the other command does not have is left out.
        changes: Texts of arguments to set.

    >>> args = argparse.Namespace(data="my photos", model="VGG16", batch_norm="frozen", steps=9)
    >>> defaults = {"data": "x", "model": "MobileNetV2", "batch_norm": "frozen"}
    >>> command_with("finetune", args, defaults, {"learning_rate": "1e-4"})
    ['finetune', 'my photos', '--model', 'VGG16', '--learning-rate', '1e-4']
    """
    words = [command] if getattr(args, "data", None) is None else [command, args.data]
    given = {
        name: value
        for name, value in vars(args).items()
        if name in defaults and value != defaults[name]
    }
    for name, value in {**given, **changes}.items():
        option = f"--{name.replace('_', '-')}"
        if name in _NOT_OF_THE_TASK or value is None:
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words
