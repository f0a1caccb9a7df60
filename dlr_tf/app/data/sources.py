"""What a person names as DATA: a folder, a CSV file, or a data set of TensorFlow Datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dlr_tf.app.data.csv_files import read_csv, read_csv_to_score
from dlr_tf.app.data.folders import LAYOUT, read_folder, read_folder_to_score
from dlr_tf.app.data.image_data import ImageData, Settings
from dlr_tf.app.data.image_files import load_files
from dlr_tf.app.data.images import require_pillow
from dlr_tf.app.data.labelled_files import LabelledFiles
from dlr_tf.app.data.tfds import TfdsSource, find_tfds, load_tfds
from dlr_tf.app.paths import TFDS, check_data


def find(
    source: str | os.PathLike[str], *, skip_broken: bool = False
) -> LabelledFiles | TfdsSource:
    """Find the classes of a source without reading the images.

    Args:
        source: A folder (see `read_folder`), a CSV file (see `read_csv`), or `"tfds:NAME"`.
        skip_broken: Whether to go on without files that cannot be read or used, and without classes
            that hold none. Not for a data set of TensorFlow Datasets. Defaults to `False`.

    Returns:
        An object for `load`. Its `class_names` are the names of the classes.

    Raises:
        ImportError: If a package that the source needs is not installed.
        ValueError: If there is no such source, or its classes cannot be used.
    """
    name = os.fspath(source)
    if name.startswith(TFDS):
        if skip_broken:
            raise ValueError(
                "--skip-broken is for a folder or a CSV file. Received: --skip-broken with "
                f"{name!r}"
            )
        return find_tfds(name.removeprefix(TFDS))
    path = _existing(name)
    return (read_csv if path.is_file() else read_folder)(path, skip_broken=skip_broken)


def find_to_score(source: str | os.PathLike[str]) -> LabelledFiles:
    """List the images to score a model on: those of `test`, else of `validation`, else all.

    Args:
        source: A folder or a CSV file, as for `find`. It may hold one class only, and a folder of a
            class may be empty.

    Returns:
        The images, in the one split "test". What is broken is left out.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If there is no such source, or it holds no images.
    """
    path = _existing(source)
    return (read_csv_to_score if path.is_file() else read_folder_to_score)(path)


def load(source: Any, *, skip_broken: bool = False, **settings: Any) -> ImageData:
    """Read the images of a source.

    Args:
        source: As for `find`, or what it returns.
        skip_broken: As for `find`, where `source` is not what it returns.
        **settings: `image_size`, and what else `Settings` holds.

    Raises:
        ImportError: If a package that the source needs is not installed.
        ValueError: If the images cannot be used.
    """
    if not isinstance(source, (LabelledFiles, TfdsSource)):
        source = find(source, skip_broken=skip_broken)
    if isinstance(source, TfdsSource):
        return load_tfds(source, Settings(**settings))
    return load_files(source, Settings(**settings))


def _existing(source: str | os.PathLike[str]) -> Path:
    """Return the path of a folder or of a CSV file, and check that it can be read."""
    require_pillow()
    path = Path(source)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".csv"):
        return path
    check_data(str(path))
    raise ValueError(
        f"The data folder {str(path)!r} is a file, but not a CSV file: {LAYOUT}, or a CSV file "
        "with the columns path and label."
    )
