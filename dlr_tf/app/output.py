"""Checks of the files and folders that a command writes, before the work begins."""

from __future__ import annotations

import os
from pathlib import Path


def check_output_folder(folder: Path) -> None:
    """Check that a folder is new or empty and that it can be written.

    Raises:
        ValueError: If it is a file, is not empty, or there is no permission.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output {str(folder)!r} is a file. Give another --output.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The output folder {str(folder)!r} is not empty. Give another --output.")
    _check_writable(folder)


def check_new_file(path: Path) -> None:
    """Check that a plot is a new file, in a format that can be written, in a folder that exists.

    Raises:
        ValueError: If it is not, or there is no permission.
    """
    if path.exists():
        raise ValueError(f"The output file {str(path)!r} exists already. Give another --output.")
    if path.suffix not in (".png", ".svg"):
        raise ValueError(
            f"The output file {str(path)!r} should end in .png or .svg. Give another --output."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder {str(path.parent)!r} of the output file does not exist. Create it, or "
            "give another --output."
        )
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    """Check the permission to write to a folder, or to its nearest parent that exists."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"No permission to write to {str(nearest)!r}. Give another --output, or run the "
            "command in a folder where you have permission."
        )
