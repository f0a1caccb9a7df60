"""The file `settings.json` of a run: what it was started with, so that it can be resumed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlr_tf._names import MAX_NAMES, some_of
from dlr_tf.app.config import RunConfig
from dlr_tf.app.data import ImageData
from dlr_tf.app.models import application_names
from dlr_tf.app.paths import TFDS
from dlr_tf.app.results import json_text, versions, write_text

FILE = "settings.json"
_PATHS = ("data", "weights", "model")


def write_settings(
    folder: Path, config: RunConfig, command_line: Sequence[str], data: ImageData
) -> None:
    """Write what a run is started with.

    Args:
        folder: The folder of the run.
        config: What it does.
        command_line: The arguments of `dlr-tf`.
        data: The images.

    Raises:
        WriteError: If the operating system refuses.
    """
    content = {
        "command": ["dlr-tf", *command_line],
        "folder": os.getcwd(),
        "settings": config.as_dict(),
        "class_names": list(data.class_names),
        "data": _numbers(data),
        "versions": versions(),
    }
    _write(folder, content)


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_text(folder / FILE, json_text(content))


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what a run was started with.

    Raises:
        ValueError: If the folder is not that of a run.
    """
    path = folder / FILE
    if not path.is_file():
        what = "holds no settings.json" if folder.is_dir() else "does not exist"
        raise ValueError(
            f"There is no run to resume: the folder {str(folder)!r} {what}. Give the folder of "
            "a run. A run that was stopped before its training began is started again without "
            "--resume."
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["settings"].keys(), content["class_names"], content["data"].keys()
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"The file {str(path)!r} is not one that dlr-tf wrote: {error!r}. Give the folder of a "
            "run."
        ) from error
    return content


def run_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that a run was started with, empty where they are not known.

    Paths in it are found from this working folder, also if the run began in another one.

    Args:
        folder: The folder of the run.
    """
    try:
        stored = read_settings(folder)
    except ValueError:
        return {}
    return paths_from_here(stored["settings"], stored.get("folder"))


def resumed_config(folder: Path, given: Mapping[str, Any]) -> RunConfig:
    """Return what a run that is resumed does.

    Args:
        folder: The folder of the run.
        given: The options that are given now, by name. DATA may be another place of the same
            images: `check_same_data` compares them.

    Raises:
        ValueError: If there is no such run, or an option that is given differs from the run's.
    """
    stored = read_settings(folder)
    own = paths_from_here(stored["settings"], stored.get("folder"))
    if all(_is_path("data", data) for data in (own.get("data"), given.get("data"))):
        own["data"] = given["data"]
    elif _is_path("data", own.get("data")) and not Path(own["data"]).exists():
        raise ValueError(
            f"The images of the run are no longer in {own['data']!r}. Give the place where they "
            f"are: dlr-tf finetune --resume {shlex.quote(str(folder))} DATA"
        )
    try:
        config = RunConfig.of(own)
    except TypeError as error:
        raise ValueError(
            f"The file {str(folder / FILE)!r} was not written by this version of dlr-tf: {error}. "
            "Resume the run with the version that began it."
        ) from error
    check_options(folder, config.as_dict(), given)
    return config


def check_options(folder: Path, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that the options that are given now are those of a run.

    Args:
        folder: The folder of the run.
        known: The settings of the run. Other options are not compared.
        given: The options that are given now, by name.

    Raises:
        ValueError: If one differs.
    """
    differing = [
        _difference(name, value, known[name])
        for name, value in given.items()
        if name in known and not _is_same(name, value, known[name])
    ]
    output = given.get("output")
    if output is not None and Path(output).resolve() != folder.resolve():
        differing.append(f"--output {output} differs from the run's folder {folder}")
    if differing:
        raise ValueError(
            f"{'; '.join(differing[:MAX_NAMES])}. A run is resumed with its own settings: leave "
            "out all options but --resume. To train its model further, start a run with --model "
            f"{folder} --keep-head."
        )


def write_place_of_data(folder: Path, config: RunConfig) -> None:
    """Write where the images of a run that is resumed are now, if they have moved.

    Raises:
        WriteError: If the operating system refuses.
    """
    content = read_settings(folder)
    before = paths_from_here(content["settings"], content.get("folder"))["data"]
    if config.data is not None and not _is_same("data", config.data, before):
        # Without the working folder, which may not be that in which the run began.
        content["settings"]["data"] = os.path.abspath(config.data)
        _write(folder, content)


def check_same_data(folder: Path, data: ImageData) -> None:
    """Check that the images are those that a run began with.

    Args:
        folder: The folder of the run.
        data: The images that were found now.

    Raises:
        ValueError: If the classes or the numbers of images differ.
    """
    stored = read_settings(folder)
    if tuple(stored["class_names"]) != data.class_names:
        raise ValueError(
            "The data have changed since the run began, so it cannot be resumed. It began with "
            f"the classes {some_of(stored['class_names'])}. Found now: {some_of(data.class_names)}"
        )
    now = _numbers(data)
    differs = {name for name, value in stored["data"].items() if now.get(name) != value}
    if differs == {"fingerprint"}:
        raise ValueError(
            "The data have changed since the run began, so it cannot be resumed: as many images "
            "as before, but other files, classes of files, or sizes of files. Restore them, or "
            "start another run."
        )
    if differs:
        before, after = (
            ", ".join(
                f"{name.replace('_', ' ')}: {count}"
                for name, count in numbers.items()
                if name != "fingerprint"
            )
            for numbers in (stored["data"], now)
        )
        raise ValueError(
            "The data have changed since the run began, so it cannot be resumed. It began with "
            f"{before}. Found now: {after}"
        )


def _numbers(data: ImageData) -> dict[str, Any]:
    return {
        "train_images": data.train_images,
        "test_images": data.test_images,
        "fingerprint": data.fingerprint,
    }


def _difference(name: str, given: Any, stored: Any) -> str:
    """Say how an argument differs from that of the run.

    >>> _difference("frozen_epochs", 2, 1)
    "--frozen-epochs 2 differs from the run's 1"
    >>> _difference("compare", False, True)
    '--no-compare differs from the run, where --compare is on'
    """
    option = "DATA" if name == "data" else f"--{name.replace('_', '-')}"
    if isinstance(given, bool):
        shown = option if given else f"--no-{option[2:]}"
        return f"{shown} differs from the run, where {option} is {'on' if stored else 'off'}"
    return f"{option} {given} differs from the run's {'none' if stored is None else stored}"


def paths_from_here(stored: Mapping[str, Any], folder: str | None) -> dict[str, Any]:
    """Return settings whose paths are found from this working folder.

    Args:
        stored: The settings.
        folder: The working folder in which the run began. `None` if it is not known.
    """
    if folder is None or Path(folder) == Path.cwd():
        return dict(stored)
    return {
        name: _from_here(value, folder) if name in _PATHS and _is_path(name, value) else value
        for name, value in stored.items()
    }


def _is_path(name: str, value: Any) -> bool:
    """Return whether a setting is a path, and no name of something else.

    >>> _is_path("data", "photos"), _is_path("data", "tfds:mnist"), _is_path("model", "vgg16")
    (True, False, False)
    """
    if not value or value in ("imagenet", "none") or value.startswith((TFDS, "hub:")):
        return False
    names = [known.lower() for known in application_names()]
    return name != "model" or value.lower() not in names


def _from_here(path: str, folder: str) -> str:
    absolute = Path(folder, path)
    return str(absolute) if absolute.exists() else path


def _is_same(name: str, given: Any, stored: Any) -> bool:
    """Return whether two values of an argument mean the same."""
    if name not in _PATHS or not (given and stored):
        return bool(given == stored)
    if _is_path(name, given) and _is_path(name, stored):
        return os.path.realpath(given) == os.path.realpath(stored)
    return bool(given.lower() == stored.lower() if name == "model" else given == stored)
