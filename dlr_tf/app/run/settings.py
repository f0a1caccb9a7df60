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
from dlr_tf.app.models import KnownTarget
from dlr_tf.app.options import in_words, option_name
from dlr_tf.app.paths import SETTINGS_FILE, TFDS, check_resumable, paths_from_here
from dlr_tf.app.results import json_text, versions, write_text


def write_settings(
    folder: Path, config: RunConfig, command_line: Sequence[str], data: ImageData
) -> None:
    """Write what a run is started with, and the arguments of `dlr-tf`."""
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
    write_text(folder / SETTINGS_FILE, json_text(content))


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a run was started with. Paths in its settings begin at this working folder.

    Raises:
        ValueError: If the folder is not that of a run.
    """
    check_resumable(str(folder))
    path = folder / SETTINGS_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["class_names"], content["data"].keys()
        content["settings"] = paths_from_here(content["settings"], content["folder"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"The file {str(path)!r} is not one that dlr-tf wrote: {error!r}. Give the folder of a "
            "run."
        ) from error
    return content


def run_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a run, empty where they are not known."""
    try:
        return read_settings(folder)["settings"]
    except ValueError:
        return {}


def resumed_config(folder: Path, given: Mapping[str, Any]) -> RunConfig:
    """Return what a run that is resumed does.

    Args:
        folder: The folder of the run.
        given: The options that are given now, by name. DATA may be another place of the same
            images: `check_same_data` compares them.

    Raises:
        ValueError: If there is no such run, or an option that is given differs from the run's.
    """
    own = read_settings(folder)["settings"]
    is_folder = own.get("data") and not own["data"].startswith(TFDS)
    if is_folder and not given.get("data", TFDS).startswith(TFDS):
        own["data"] = given["data"]
    elif is_folder and not Path(own["data"]).exists():
        raise ValueError(
            f"The data of the run are no longer in {own['data']!r}. Give the place where they "
            f"are: dlr-tf finetune --resume {shlex.quote(str(folder))} DATA"
        )
    config = RunConfig.of(own)
    check_options(folder, config.as_dict(), given)
    return config


def check_options(folder: Path, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if an option that is given now differs from that of a run."""
    known = {**known, "output": str(folder)}
    if Path(given.get("output", "")) == folder:
        known["output"] = given["output"]
    differing = [
        f"{'DATA' if name == 'data' else option_name(name)} {in_words(value)} differs from the "
        f"run's {in_words(known[name])}"
        for name, value in given.items()
        if name in known and value != known[name]
    ]
    if differing:
        raise ValueError(
            f"{'; '.join(differing[:MAX_NAMES])}. A run is resumed with its own settings: leave "
            "out all options but --resume. To train its model further, start a run with --model "
            f"{folder} --keep-head."
        )


def write_place_of_data(folder: Path, config: RunConfig) -> None:
    """Write where the images of a run that is resumed are now, if they have moved."""
    content = read_settings(folder)
    if config.data != content["settings"]["data"]:
        # Not from the working folder, which may not be that in which the run began.
        content["settings"]["data"] = os.path.abspath(str(config.data))
        _write(folder, content)


def check_same_data(folder: Path, data: ImageData) -> None:
    """Raise a `ValueError` if the images are not those that a run began with."""
    stored, nouns = read_settings(folder), KnownTarget(data.class_names, data.kind).nouns
    if tuple(stored["class_names"]) != data.class_names:
        raise ValueError(
            "The data have changed since the run began, so it cannot be resumed. It began with "
            f"the {nouns} {some_of(stored['class_names'])}. Found now: {some_of(data.class_names)}"
        )
    now = _numbers(data)
    differs = {name for name, value in stored["data"].items() if now.get(name) != value}
    if differs == {"fingerprint"}:
        raise ValueError(
            "The data have changed since the run began, so it cannot be resumed: as many "
            f"{data.unit}s as before, but other ones, or with other {nouns}. Restore them, or "
            "start another run."
        )
    if differs:
        before, after = (
            ", ".join(
                f"{name.replace('_images', f' {data.unit}s')}: {count}"
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
