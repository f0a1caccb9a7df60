"""Files with one class each, in splits: what folders and CSV files have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlr_tf._names import MAX_NAMES
from dlr_tf.app.data.scan import file_identity
from dlr_tf.app.data.splits import PURPOSE, check_classes
from dlr_tf.app.data.targets import CLASS, in_order
from dlr_tf.app.terminal import printable_name

REPEATED = "links to an image that is there already"


@dataclasses.dataclass(frozen=True)
class LabelledFiles:
    """The files of a source, with their classes.

    Args:
        name: The folder or the CSV file.
        root: The folder that the paths begin at.
        class_names: The names of the classes, sorted: numbers as numbers.
        files: The paths of the files, relative to `root`, sorted within each split.
        labels: The class of each file: its index in `class_names`.
        splits: The indices of the files of each split: "train" alone if the source is not split,
            else with "test", "validation" or both; "test" alone if a model is scored.
        broken: Full paths, and lines of a table, that cannot be used, and why. Images that are
            damaged are in `files` too, without `skip_broken`.
        ignored: What is there and is not used, in words.
        warnings: What may be a mistake.
        skip_broken: Whether to go on without what is broken.
        kind: The kind of target. For "labels" and "number", `class_names` are the labels or the
            columns, and `labels` has one column of floats for each. Defaults to "class".
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    files: Sequence[str]
    labels: np.ndarray
    splits: Mapping[str, np.ndarray]
    broken: Mapping[str, str]
    ignored: str
    warnings: Sequence[str]
    skip_broken: bool
    kind: str = CLASS


@dataclasses.dataclass
class Listing:
    """What a folder or a CSV file lists, not yet checked: the paths of each class of each split."""

    name: str
    root: str
    splits: dict[str, dict[str, list[str]]]
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def drop_empty_classes(self) -> None:
        """Drop the classes to train on that hold no image that may be read, and count them."""
        classes = self.splits.get("train", {})
        for name, paths in list(classes.items()):
            if all(os.path.join(self.root, path) in self.broken for path in paths):
                del classes[name]
                self.ignored[f"class {name!r} without images"] += 1


class FileRow(NamedTuple):
    """A file of a split, and its class, or whatever else it is labelled with."""

    split: str
    path: str
    class_name: str


def label_files(listing: Listing, *, skip_broken: bool = False) -> LabelledFiles:
    """Give the classes their labels, and compare the splits.

    The classes are those of "train", if there is such a split.

    Raises:
        ValueError: If a class is only in "test" or "validation".
    """
    class_names = in_order(listing.splits.get("train") or listing.splits["test"])
    labels = {class_name: label for label, class_name in enumerate(class_names)}
    present = {
        split: {class_name for class_name, paths in classes.items() if paths}
        for split, classes in listing.splits.items()
    }
    listing.warnings += check_classes(listing.name, present, class_names, "image")
    rows = sorted(
        FileRow(split, path, class_name)
        for split, classes in listing.splits.items()
        for class_name, paths in classes.items()
        for path in paths
    )
    values = np.array([labels[row.class_name] for row in rows], "int32")
    return files_of(listing, rows, class_names, values, skip_broken=skip_broken)


def files_of(
    listing: Listing,
    rows: Sequence[FileRow],
    class_names: Sequence[str],
    labels: np.ndarray,
    *,
    skip_broken: bool,
    kind: str = CLASS,
) -> LabelledFiles:
    """Return the files of rows, each with its label, sorted, without those that cannot be used.

    A file that is reached twice in one class of one split, by links, counts once. A file that is
    reached in two classes or two splits is broken: its class, or whether it is trained on, is not
    known.
    """
    repeated, ambiguous = same_files(listing.root, rows)
    if repeated:
        listing.ignored[REPEATED] = len(repeated)
    broken = {**listing.broken, **ambiguous}
    left_out = broken if skip_broken else {}
    order = [
        index
        for index, row in enumerate(rows)
        if row.path not in repeated and os.path.join(listing.root, row.path) not in left_out
    ]
    order.sort(key=rows.__getitem__)
    splits = [rows[index].split for index in order]
    return LabelledFiles(
        name=printable_name(listing.name),
        root=listing.root,
        class_names=tuple(class_names),
        files=[rows[index].path for index in order],
        labels=labels[order],
        splits={
            split: np.flatnonzero(np.array(splits, str) == split)
            for split in ("train", "test", "validation")
            if split in splits or split in listing.splits
        },
        broken=broken,
        ignored=_counts(listing.ignored),
        warnings=listing.warnings,
        skip_broken=skip_broken,
        kind=kind,
    )


def _counts(ignored: Counter[str]) -> str:
    """Return what is ignored and how often, in one line."""
    counts = [f"{what} ({count})" for what, count in sorted(ignored.items())]
    more = len(counts) - MAX_NAMES
    return ", ".join(counts[:MAX_NAMES]) + (f", and {more} more" if more > 0 else "")


def same_files(root: str, rows: Sequence[FileRow]) -> tuple[set[str], dict[str, str]]:
    """Find the files that are reached by several paths.

    Returns:
        The paths that add nothing: another path to the file is in the same class of the same split.
        And the full paths of the files whose class or split is ambiguous, and why.
    """
    by_file: dict[object, list[FileRow]] = {}
    for row in rows:
        with contextlib.suppress(OSError):  # what does not exist is broken anyway
            by_file.setdefault(file_identity(os.path.join(root, row.path)), []).append(row)
    repeated: set[str] = set()
    ambiguous: dict[str, str] = {}
    for same in by_file.values():
        if len({(row.split, row.class_name) for row in same}) == 1:
            repeated.update(row.path for row in same[1:])
            continue
        for row in same:
            other = next(other for other in same if other[::2] != row[::2])
            ambiguous[os.path.join(root, row.path)] = (
                f"it is the same file as {os.path.join(root, other.path)!r}, and counts as class "
                f"{row.class_name!r} to {PURPOSE[row.split]} here, and as class "
                f"{other.class_name!r} to {PURPOSE[other.split]} there"
            )
    return repeated, ambiguous
