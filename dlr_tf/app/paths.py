"""Checks that what a person named exists. They need no TensorFlow, so a mistake is told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TFDS = "tfds:"
HUB = "hub:"
SETTINGS_FILE = "settings.json"  # of a run
MODEL_FILE = "model.keras"


def check_data(source: str) -> None:
    """Raise a `ValueError` if there is no such folder or file. A package may know other names."""
    if not source.startswith(TFDS) and not Path(source).exists():
        raise ValueError(
            f"The data {source!r} do not exist: expected a folder with one sub-folder per class, "
            "or a table with the columns path and label, or text and label."
        )


def check_run(run: str) -> None:
    """Raise a `ValueError` if there is no such folder or file, or it has another format."""
    path = Path(run)
    if not path.exists():
        raise ValueError(
            f"The model {run!r} does not exist: expected a .keras file, or a folder that `dlr-tf "
            "finetune` wrote."
        )
    if path.is_file() and path.suffix != ".keras":
        # Keras before 3.11.3 runs code that a file of the old format holds.
        target = str(path.with_suffix(".keras"))
        raise ValueError(
            f"The model {run!r} is no .keras file, and no other format is read. Convert it in "
            f"Python: keras.models.load_model({run!r}, compile=False).save({target!r})"
        )


def check_resumable(run: str) -> None:
    """Raise a `ValueError` if a folder is not that of a run."""
    if not Path(run, SETTINGS_FILE).is_file():
        what = f"holds no {SETTINGS_FILE}" if Path(run).is_dir() else "does not exist"
        raise ValueError(
            f"There is no run to resume: the folder {run!r} {what}. Give the folder of a run. A "
            "run that was stopped before its training began is started again without --resume."
        )


def check_images(paths: Sequence[str]) -> None:
    """Raise a `ValueError` if one of the paths does not exist."""
    missing = [path for path in paths if path != "-" and not Path(path).exists()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"The file {missing[0]!r}{others} does not exist. Correct the path.")


def check_local(name: str, path: str) -> None:
    """Raise a `ValueError` if a path is the address of a bucket, which no command reads or writes.

    Python would take it for a folder of this machine.
    """
    if re.match(r"[a-z0-9]+://", path):
        raise ValueError(
            f"{path!r}, given as {name}, is not a folder of this machine, and no other is read or "
            "written. Mount the bucket as a folder (gcsfuse, mountpoint-s3, blobfuse2), or copy "
            "the files before and after."
        )


def check_paths(config: Any) -> None:
    """Raise a `ValueError` if something that a command is given does not exist."""
    for name in ("data", "model", "weights", "run", "resume", "output"):
        check_local(name, str(getattr(config, name, None)))
    checks = {
        "run": check_run,
        "resume": check_resumable,
        "data": check_data,
        "paths": check_images,
    }
    for name, check in checks.items():
        value = getattr(config, name, None)
        if value is not None:
            check(value)


def paths_from_here(settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return settings whose paths begin at this working folder.

    Args:
        settings: The settings.
        folder: The working folder in which the run began.
    """
    found = dict(settings)
    is_there = {
        "data": Path.exists,
        "weights": Path.is_file,
        "model": lambda path: path.is_file() or (path / MODEL_FILE).is_file(),
    }
    for name, is_path in is_there.items():
        if found.get(name) and Path(folder) != Path.cwd() and is_path(Path(folder, found[name])):
            found[name] = str(Path(folder, found[name]))
    preset = str(found.get("model") or "").removeprefix(HUB)
    if preset != found.get("model") and preset and Path(folder, preset).is_dir():
        found["model"] = f"{HUB}{Path(folder, preset)}"
    return found
