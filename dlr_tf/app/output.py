"""Checks of the files and folders that a command is to write, before it begins."""

from __future__ import annotations

import os
from pathlib import Path


def check_output_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output {str(folder)!r} is a file. Give another --output.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The output folder {str(folder)!r} is not empty. Give another --output.")
    _check_writable(folder)


def check_new_file(path: Path) -> None:
    if path.exists():
        raise ValueError(f"The output file {str(path)!r} exists already. Give another --output.")
    if path.suffix not in (".png", ".svg"):
        raise ValueError(
            f"The output file {str(path)!r} should end in .png or .svg. Give another --output."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder {str(path.parent)!r} of the output file does not exist. Make it, or give "
            "another --output."
        )
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    """Checks that a folder, or the nearest one above it that exists, may be written to."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"No permission to write to {str(nearest)!r}. Give another --output, or run "
            "where you may write."
        )
