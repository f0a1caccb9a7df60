"""CSV files that name images, their classes, and perhaps their splits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dlr_tf.app.data.labelled_files import (
    FileRow,
    LabelledFiles,
    Listing,
    files_of,
    label_files,
)
from dlr_tf.app.data.labelled_rows import (
    check_rows,
    examples_to_use,
    labelled_rows,
    problem_of_line,
)
from dlr_tf.app.data.tables import Row, read_table
from dlr_tf.app.data.targets import Columns


def read_csv(
    path: Path,
    *,
    columns: Columns,
    skip_broken: bool = False,
    to_score: bool = False,
) -> LabelledFiles:
    """List the images that a CSV file names: see `sources.find`.

    The first line names the columns, in upper or lower case: `path` (relative to the folder of the
    CSV file; a backslash may separate folders), `label`, and perhaps `split` (`train`, `test` or
    `validation`, or another name of these splits), or what `columns` names. Other columns are not
    read.

    Raises:
        ValueError: If a column is missing, a line is wrong, or there are fewer than two classes to
            train on.
    """
    name, root = str(path), str(path.parent)
    names, rows = read_table(path)
    found = columns.find(names, name)
    lines: dict[str, int] = {}

    def content_of(row: Row) -> tuple[str, tuple[str, ...]]:
        text = row.cells.get(found["path"][0], "").strip()
        problem = problem_of_line(text, "path") if text else "it has no path"
        if problem:
            return problem, ()
        image = _path(root, text)
        if image in lines:
            return f"it repeats the path {image!r} of line {lines[image]}; keep one of them", ()
        lines[image] = row.line
        return "", (image,)

    # What is missing in a line, or too much, counts only where it is needed.
    rows = [row._replace(problem="") for row in rows]
    targets, examples, broken = labelled_rows(path, columns, names, rows, found, content_of)
    skip_broken |= to_score
    if not skip_broken:
        check_rows(name, broken, "row")
    examples = examples_to_use(name, examples, "image", to_score=to_score)
    missing = {
        os.path.join(root, one.content[0]): f"there is no such file ({one.place})"
        for one in examples
        if not os.path.exists(os.path.join(root, one.content[0]))
    }
    if len(missing) == len(examples):
        raise ValueError(
            f"No file that the CSV file {name!r} names exists, such as {next(iter(missing))!r}. "
            "The paths should be relative to the folder of the CSV file."
        )
    listing = Listing(name, root, {}, {**broken, **missing})
    if targets:
        files = [FileRow(e.split, e.content[0], str(e.target.tolist())) for e in examples]
        values = np.array([one.target for one in examples])
        kind = targets.kind
        return files_of(listing, files, targets.names, values, skip_broken=skip_broken, kind=kind)
    for one in examples:
        listing.splits.setdefault(one.split, {}).setdefault(one.target, []).append(one.content[0])
    if skip_broken and not to_score:
        listing.drop_empty_classes()
    return label_files(listing, skip_broken=skip_broken)


def _path(root: str, path: str) -> str:
    """Return a path that may have been written on Windows as it is here."""
    if "\\" in path and not os.path.exists(os.path.join(root, path)):
        path = path.replace("\\", "/")
    return os.path.normpath(path)
