"""Checks that what a person named exists. They need no TensorFlow, so a mistake is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TFDS = "tfds:"


def check_data(source: str) -> None:
    """Check that data exist: a folder, a file, or a name that a package knows.

    Raises:
        ValueError: If there is no such folder or file.
    """
    if not source.startswith(TFDS) and not Path(source).exists():
        raise ValueError(
            f"The data folder {source!r} does not exist: expected one sub-folder of images per "
            "class, or a CSV file with the columns path and label."
        )


def check_run(run: str) -> None:
    """Check that a run or a `.keras` file exists.

    Raises:
        ValueError: If there is no such folder or file, or it is a file of another format.
    """
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


def check_images(paths: Sequence[str]) -> None:
    """Check that all paths exist.

    Raises:
        ValueError: If one does not.
    """
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"The image {missing[0]!r}{others} does not exist. Correct the path.")
