"""CSV files that name images, their classes, and perhaps their splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dlr_tf._names import some_of
from dlr_tf.app.data.labelled_files import (
    FileRow,
    LabelledFiles,
    Listing,
    files_of,
    label_files,
)
from dlr_tf.app.data.splits import TO_SCORE, split_named
from dlr_tf.app.data.tables import Row, read_table
from dlr_tf.app.data.targets import CLASS, Columns, class_name, kind_wanted, read_targets


class _Row(NamedTuple):
    line: int
    path: str
    split: str
    cells: tuple[str, ...]


class _Table(NamedTuple):
    """What a CSV file holds: the label columns, the rows, and whether it has a split column."""

    columns: list[str]
    rows: list[_Row]
    has_splits: bool


def read_csv(
    path: Path,
    *,
    skip_broken: bool = False,
    to_score: bool = False,
    columns: Columns | None = None,
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
    columns = columns or Columns()
    found = _read_rows(path, columns)
    splits = {row.split for row in found.rows}
    if to_score:
        scored = next(split for split in TO_SCORE if split in splits)
        rows = [row._replace(split="test") for row in found.rows if row.split == scored]
        found = found._replace(rows=rows)
    elif "train" not in splits or (len(splits) == 1 and found.has_splits):
        raise ValueError(
            f"The column split of the CSV file {str(path)!r} should hold train, and test or "
            f"validation. Received: {some_of(sorted(splits))}. Without the column, the images "
            "are split automatically."
        )
    root = str(path.parent)
    broken = {
        os.path.join(root, row.path): f"there is no such file (line {row.line} of {str(path)!r})"
        for row in found.rows
        if not os.path.exists(os.path.join(root, row.path))
    }
    if len(broken) == len(found.rows):
        raise ValueError(
            f"No file that the CSV file {str(path)!r} names exists, such as "
            f"{next(iter(broken))!r}. The paths should be relative to the folder of the CSV file."
        )
    listing = Listing(str(path), root, {}, broken)
    kind = kind_wanted(columns.target, [row.cells for row in found.rows])
    if kind != CLASS:
        return _with_targets(found, kind, listing, skip_broken or to_score)
    if len(found.columns) > 1:
        raise ValueError(
            "--target class needs one label column. Received: --label-column "
            f"{','.join(found.columns)}"
        )
    for row in found.rows:
        if not row.cells[0]:
            raise ValueError(f"Line {row.line} of the CSV file {str(path)!r} has no label.")
        classes = listing.splits.setdefault(row.split, {})
        classes.setdefault(class_name(row.cells[0]), []).append(row.path)
    if to_score:
        return label_files(listing, skip_broken=True)
    if skip_broken:
        listing.drop_empty_classes()
    return label_files(listing, skip_broken=skip_broken)


def _with_targets(found: _Table, kind: str, listing: Listing, skip_broken: bool) -> LabelledFiles:
    """Return files with several labels or with numbers."""
    targets = read_targets(kind, found.columns, [row.cells for row in found.rows])
    for index, reason in targets.broken.items():
        row = found.rows[index]
        where = f"line {row.line} of {listing.name!r}"
        listing.broken[os.path.join(listing.root, row.path)] = f"{reason} ({where})"
    rows = [FileRow(row.split, row.path, "|".join(row.cells)) for row in found.rows]
    return files_of(
        listing, rows, targets.names, targets.values, skip_broken=skip_broken, kind=kind
    )


def _read_rows(table: Path, columns: Columns) -> _Table:
    root = str(table.parent)
    received, rows = read_table(table)
    names = columns.find(received, f"the CSV file {str(table)!r}")
    found = []
    lines: dict[str, int] = {}
    for row in rows:
        where = f"Line {row.line} of the CSV file {str(table)!r}"
        path = _path(root, _filled(row, names["path"][0], "path", where))
        split = "train"
        for name in names["split"]:
            split = _split(_filled(row, name, "split", where), where)
        if path in lines:
            raise ValueError(
                f"{where} repeats the path {path!r} of line {lines[path]}. Keep one of them."
            )
        lines[path] = row.line
        cells = tuple(_cell(row, name, where) for name in names["label"])
        found.append(_Row(row.line, path, split, cells))
    if not found:
        raise ValueError(f"The CSV file {str(table)!r} names no images. Add lines: path,label.")
    # As the table writes them.
    spelled = {name.lower(): name for name in received}
    return _Table([spelled[name] for name in names["label"]], found, bool(names["split"]))


def _cell(row: Row, column: str, where: str) -> str:
    value = row.cells.get(column, "").strip()
    if "\n" in value or "\r" in value:
        raise ValueError(
            f"{where} begins a {column} of several lines. Perhaps a quotation mark is missing: "
            f"{value[:80]!r}"
        )
    if "\0" in value:
        raise ValueError(f"{where} has a null character in its {column}. Save the file as UTF-8.")
    return value


def _filled(row: Row, column: str, role: str, where: str) -> str:
    value = _cell(row, column, where)
    if not value:
        raise ValueError(f"{where} has no {role}.")
    return value


def _path(root: str, path: str) -> str:
    """Return a path that may have been written on Windows as it is here."""
    if "\\" in path and not os.path.exists(os.path.join(root, path)):
        path = path.replace("\\", "/")
    return os.path.normpath(path)


def _split(name: str, where: str) -> str:
    split = split_named(name)
    if split is None:
        raise ValueError(f"{where} has the split {name!r}. Expected: train, test or validation.")
    return split
