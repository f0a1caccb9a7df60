"""CSV files that name images, their classes, and perhaps their splits."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from dlr_tf._names import some_of
from dlr_tf.app.data.labelled_files import LabelledFiles, Listing, label_files
from dlr_tf.app.data.splits import TO_SCORE, split_named
from dlr_tf.app.terminal import printable_name


def read_csv(path: Path, *, skip_broken: bool = False, to_score: bool = False) -> LabelledFiles:
    """List the images that a CSV file names: see `sources.find`.

    The first line names the columns: `path` (relative to the folder of the CSV file; a backslash
    may separate folders), `label` (the name of the class), and perhaps `split` (`train`, `test` or
    `validation`, or another name of these splits), in upper or lower case. Other columns are not
    read.

    Raises:
        ValueError: If a column is missing, a line is wrong, or there are fewer than two classes to
            train on.
    """
    listing, has_splits = _read_rows(path)
    splits = listing.splits
    if to_score:
        listing.splits = {"test": next(splits[split] for split in TO_SCORE if split in splits)}
        return label_files(listing, skip_broken=True)
    if skip_broken:
        listing.drop_empty_classes()
    if "train" not in splits or (len(splits) == 1 and has_splits):
        raise ValueError(
            f"The column split of the CSV file {str(path)!r} should hold train, and test or "
            f"validation. Received: {some_of(sorted(splits))}. Without the column, the images "
            "are split automatically."
        )
    if len(splits["train"]) < 2:
        raise ValueError(
            f"The CSV file {str(path)!r} has only one class, {next(iter(splits['train']), '')!r}. "
            "Expected: two classes or more."
        )
    return label_files(listing, skip_broken=skip_broken)


def _read_rows(table: Path) -> tuple[Listing, bool]:
    """Return what a CSV file lists, and whether it has a column for the splits."""
    root = str(table.parent)
    listing = Listing(str(table), root, {})
    lines: dict[str, int] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            rows.fieldnames = _columns(table, rows.fieldnames)
            has_splits = "split" in rows.fieldnames
            for row in rows:
                where = f"Line {rows.line_num} of the CSV file {str(table)!r}"
                path = _path(root, _cell(row, "path", where))
                label = printable_name(unicodedata.normalize("NFC", _cell(row, "label", where)))
                split = _split(_cell(row, "split", where), where) if has_splits else "train"
                if path in lines:
                    raise ValueError(
                        f"{where} repeats the path {path!r} of line {lines[path]}. Keep one of "
                        "them."
                    )
                lines[path] = rows.line_num
                listing.splits.setdefault(split, {}).setdefault(label, []).append(path)
                if not os.path.exists(os.path.join(root, path)):
                    listing.broken[os.path.join(root, path)] = (
                        f"there is no such file (line {rows.line_num} of {str(table)!r})"
                    )
    except UnicodeDecodeError as error:
        raise ValueError(f"The CSV file {str(table)!r} is not in UTF-8: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"The CSV file {str(table)!r} cannot be read: {error}.") from error
    if not lines:
        raise ValueError(f"The CSV file {str(table)!r} names no images. Add lines: path,label.")
    if len(listing.broken) == len(lines):
        raise ValueError(
            f"No file that the CSV file {str(table)!r} names exists, such as "
            f"{next(iter(listing.broken))!r}. The paths should be relative to the folder of the "
            "CSV file."
        )
    return listing, has_splits


def _columns(table: Path, names: Iterable[str] | None) -> list[str]:
    received = [name.strip() for name in names or ()]
    found = [name.lower() for name in received]
    missing = [name for name in ("path", "label") if name not in found]
    if missing:
        other = any(separator in name for name in found for separator in ";\t")
        hint = " Separate the columns by commas." if other else ""
        raise ValueError(
            f"The first line of the CSV file {str(table)!r} should name the columns path and "
            f"label, and perhaps split. Missing: {some_of(missing)}. Received: "
            f"{some_of(received)}.{hint}"
        )
    repeated = [name for name in ("path", "label", "split") if found.count(name) > 1]
    if repeated:
        raise ValueError(
            f"The first line of the CSV file {str(table)!r} names the column {repeated[0]} more "
            f"than once: {some_of(received)}. Keep one of them."
        )
    return found


def _cell(row: Mapping[str, str | None], column: str, where: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise ValueError(f"{where} has no {column}.")
    if "\n" in value or "\r" in value:
        raise ValueError(
            f"{where} ends a {column} of several lines. Perhaps a quotation mark is missing: "
            f"{value[:80]!r}"
        )
    if "\0" in value:
        raise ValueError(f"{where} has a null character in its {column}. Save the file as UTF-8.")
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
