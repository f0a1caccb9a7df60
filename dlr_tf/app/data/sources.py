"""What a person names as DATA: a folder, a CSV file, or a data set of TensorFlow Datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dlr_tf.app.data.csv_files import read_csv
from dlr_tf.app.data.folders import LAYOUT, read_folder
from dlr_tf.app.data.image_data import ImageData, Settings
from dlr_tf.app.data.image_files import load_files
from dlr_tf.app.data.images import require_pillow
from dlr_tf.app.data.labelled_files import LabelledFiles
from dlr_tf.app.data.limits import limited
from dlr_tf.app.data.targets import CLASS, Columns
from dlr_tf.app.data.texts import LabelledTexts, are_texts, load_texts, read_texts
from dlr_tf.app.data.tfds import TfdsSource, find_tfds, load_tfds
from dlr_tf.app.paths import TFDS, check_data


def find(
    source: str | os.PathLike[str],
    *,
    skip_broken: bool = False,
    to_score: bool = False,
    columns: Columns | None = None,
) -> Any:
    """Find the classes of a source without reading its images. Texts are read.

    Args:
        source: A folder (see `read_folder`), a CSV file (see `read_csv`), or `"tfds:NAME"`.
        skip_broken: Whether to go on without files that cannot be read or used, and without classes
            that hold none. Not for a data set of TensorFlow Datasets. Defaults to `False`.
        to_score: Whether a model is scored. Then one split is listed, as "test": that of `test`,
            else of `validation`, else all images. It may hold one class only, and what is broken is
            left out. Not for a data set of TensorFlow Datasets. Defaults to `False`.
        columns: Which columns of a table are read. Defaults to those with usual names.

    Returns:
        `LabelledFiles`, `LabelledTexts` or a `TfdsSource`, for `load`. Its `class_names` are the
        names of the classes.

    Raises:
        ImportError: If a package that the source needs is not installed.
        ValueError: If there is no such source, or its classes cannot be used.
    """
    name = os.fspath(source)
    columns, path = columns or Columns(), Path(name)
    is_for_tables = columns not in (Columns(), Columns(CLASS))
    if is_for_tables and (name.startswith(TFDS) or path.is_dir()):
        raise ValueError(
            f"{', '.join(columns.given)} is for a CSV file: a folder and tfds:NAME have one class "
            f"for each image. Received: {name!r}"
        )
    if name.startswith(TFDS):
        if skip_broken:
            raise ValueError(
                "--skip-broken is for a folder or a CSV file. Received: --skip-broken with "
                f"{name!r}"
            )
        return find_tfds(name.removeprefix(TFDS))
    if are_texts(name, columns):
        return read_texts(path, columns=columns, skip_broken=skip_broken, to_score=to_score)
    if columns.text_column is not None:
        raise ValueError(
            "--text-column is for a table of texts, a file that ends in .csv, .tsv or .jsonl. "
            f"Received: --text-column {columns.text_column} with {name!r}"
        )
    require_pillow()
    if path.is_dir():
        return read_folder(path, skip_broken=skip_broken, to_score=to_score)
    if path.is_file() and path.suffix.lower() == ".csv":
        return read_csv(path, skip_broken=skip_broken, to_score=to_score, columns=columns)
    check_data(name)
    raise ValueError(
        f"The data folder {name!r} is a file, but not a CSV file: {LAYOUT}, or a CSV file with the "
        "columns path and label. Texts are in a .csv, .tsv or .jsonl file with the columns text "
        "and label."
    )


def load(source: Any, **settings: Any) -> ImageData:
    """Read the images of a source.

    Args:
        source: What `find` returns; or what it takes, if that has no more arguments.
        **settings: `image_size`, and what else `Settings` holds.

    Raises:
        ImportError: If a package that the source needs is not installed.
        ValueError: If the images cannot be used.
    """
    found = source
    if not isinstance(source, (LabelledFiles, LabelledTexts, TfdsSource)):
        found = find(source)
    how = Settings(**settings)
    found = limited(found, how.limit, how.seed)
    if isinstance(found, LabelledTexts):
        return load_texts(found, how)
    return load_tfds(found, how) if isinstance(found, TfdsSource) else load_files(found, how)
