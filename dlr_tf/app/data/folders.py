"""Which images there are, and of which class: folders as they are, and CSV files.

This module lists files. It opens none of the images.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app.data.images import ENDINGS
from dlr_tf.app.paths import check_data
from dlr_tf.app.terminal.names import printable_name

# The names of the parts in any case, and with "_set" or "-set" at the end.
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
# What programs leave behind. Hidden files and folders are left aside too.
_FOREIGN_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "__pycache__", "lost+found")
_FOREIGN_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")
_PURPOSE = {"train": "train on", "validation": "validate on", "test": "test on"}
LAYOUT = "expected one sub-folder of images per class"
_SOME_ENDINGS = "such as .jpg, .png or .webp"


@dataclasses.dataclass(frozen=True)
class Found:
    """The image files of a source.

    Args:
        name: The folder or the CSV file.
        root: The folder that the paths begin at.
        class_names: The names of the classes, sorted.
        files: The paths of the files, relative to `root`, sorted within each part.
        labels: The class of each file: its place in `class_names`.
        parts: The places in `files` of each part: "train" alone if the source is not split, else
            with "test", "validation" or both.
        broken: Paths that are known to be unreadable, and why. Those of images are in `files` too.
        left_aside: What was found and is not used, in words.
        warnings: What may be a mistake.
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    files: list[str]
    labels: np.ndarray
    parts: Mapping[str, np.ndarray]
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_aside: str = ""
    warnings: Sequence[str] = ()


def find_images(source: str | os.PathLike[str]) -> Found:
    """List the images of a folder, or of a CSV file.

    Args:
        source: A folder with one sub-folder of images per class, or with `train` and `test`,
            `validation` or both that hold such sub-folders, in any case and also as `training`,
            `testing`, `val`, `valid`, `eval` ... Or a CSV file: see `read_table`.

    Raises:
        ValueError: If it is neither, or it has fewer than two classes, a class without images, or a
            class that is only in `test` or `validation`.
    """
    root = _existing(source)
    if root.is_file():
        return read_table(root)
    return _find_in_folder(root)


def find_to_score(source: str | os.PathLike[str]) -> Found:
    """List the images to score a model on: those of `test`, else of `validation`, else all.

    Args:
        source: A folder or a CSV file, as in `find_images`. It may hold one class only, and a
            folder of a class may be empty.

    Returns:
        The images, in the one part "test".

    Raises:
        ValueError: If it is neither, or it holds no images.
    """
    root = _existing(source)
    if root.is_file():
        by_part, broken = _read_rows(root)[:2]
        by_class = next(
            by_part[part] for part in ("test", "validation", "train") if part in by_part
        )
        return _found(str(root), str(root.parent), sorted(by_class), {"test": by_class}, broken, [])
    scan = _Scan(root)
    folders = scan.subfolders("")
    chosen = _part_to_score(root, folders)
    by_class = {}
    for name in scan.subfolders(chosen) if chosen else folders:
        label = printable_name(unicodedata.normalize("NFC", name))
        by_class.setdefault(label, []).extend(scan.images(os.path.join(chosen, name)))
    place = str(root / chosen)
    by_class = {label: images for label, images in by_class.items() if images}
    if not by_class:
        raise ValueError(
            f"The data folder {place!r} holds no images in sub-folders: {LAYOUT}, with files that "
            f"have an ending of an image, {_SOME_ENDINGS}.{_first_broken(scan)}"
        )
    found = _found(place, str(root), sorted(by_class), {"test": by_class}, scan.broken, [])
    return dataclasses.replace(found, left_aside=str(scan.aside))


def _part_to_score(root: Path, folders: Sequence[str]) -> str:
    """Return the folder of the part to score a model on, "" if the folders are classes."""
    named = _named_parts(folders)
    listing = _Scan(root)
    holders = [name for names in named.values() for name in names if listing.subfolders(name)]
    has_train = any(name in holders for name in named.get("train", ()))
    if not has_train and (not folders or len(holders) < len(folders)):
        return ""
    names = next(named[part] for part in ("test", "validation", "train") if part in named)
    _check_one_meaning(root, names)
    return names[0]


def _existing(source: str | os.PathLike[str]) -> Path:
    """Return the path of a folder or of a CSV file.

    Raises:
        ValueError: If it is neither.
    """
    root = Path(source)
    if root.is_dir() or (root.is_file() and root.suffix.lower() == ".csv"):
        return root
    check_data(str(root))
    raise ValueError(
        f"The data folder {str(root)!r} is a file, but not a CSV file: {LAYOUT}, or a "
        "CSV file with the columns path and label."
    )


def part_of(name: str) -> str | None:
    """Return the part that the name of a folder means, `None` if it is no such name.

    >>> part_of("Training"), part_of("val"), part_of("test_set"), part_of("cat")
    ('train', 'validation', 'test', None)
    """
    name = name.lower()
    for ending in ("_set", "-set"):
        name = name.removesuffix(ending)
    return next((part for part, names in PARTS.items() if name in names), None)


class _LeftAside:
    """Counts what is not used."""

    def __init__(self) -> None:
        self.hidden = 0
        self.outside = 0
        self.folders: collections.Counter[str] = collections.Counter()
        self.endings: collections.Counter[str] = collections.Counter()

    def __str__(self) -> str:
        found = []
        if self.hidden:
            found.append(_count(self.hidden, "hidden file"))
        if self.folders:
            names = some_of(sorted(self.folders))
            found.append(f"{_count(sum(self.folders.values()), 'folder')} {names}")
        if self.endings:
            number = sum(self.endings.values())
            endings = some_of([ending for ending, _ in self.endings.most_common()])
            found.append(f"{_count(number, 'file')} without the ending of an image {endings}")
        if self.outside:
            found.append(f"{_count(self.outside, 'image')} outside of the class folders")
        return ", ".join(found)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def is_foreign(name: str) -> bool:
    """Return whether a file or a folder is hidden, or is what a program leaves behind."""
    return name.startswith((".", "~$")) or name in _FOREIGN_FOLDERS


class _Scan:
    """Lists folders, and remembers what is left aside and what is broken."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.aside = _LeftAside()
        self.broken: dict[str, str] = {}

    def subfolders(self, folder: str) -> list[str]:
        """Return the names of the sub-folders that may be classes or parts."""
        names = []
        for entry in self._entries(folder):
            if not entry.is_dir():
                if self._is_image(entry, os.path.join(folder, entry.name)):
                    self.aside.outside += 1
            elif is_foreign(entry.name):
                self.aside.folders[entry.name] += 1
            else:
                names.append(entry.name)
        return sorted(names)

    def images(self, folder: str, above: Sequence[tuple[int, int]] = ()) -> list[str]:
        """Return the images in a folder and all folders below it, not sorted."""
        found, below = [], []
        for entry in self._entries(folder):
            path = os.path.join(folder, entry.name)
            if not entry.is_dir():
                if self._is_image(entry, path):
                    found.append(path)
            elif is_foreign(entry.name):
                self.aside.folders[entry.name] += 1
            else:
                below.append(path)
        if below:
            status = os.stat(os.path.join(self.root, folder))
            above = (*above, (status.st_dev, status.st_ino))
        for path in below:
            status = os.stat(os.path.join(self.root, path))
            # A link may lead to a folder above it.
            if (status.st_dev, status.st_ino) not in above:
                found += self.images(path, above)
        return found

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = os.path.join(self.root, folder)
        try:
            with os.scandir(path) as entries:
                return list(entries)
        except PermissionError:
            self.broken[path] = "permission to open this folder is denied"
            return []

    def _is_image(self, entry: os.DirEntry[str], path: str) -> bool:
        name = entry.name.lower()
        if is_foreign(entry.name) or name in _FOREIGN_FILES:
            self.aside.hidden += 1
            return False
        ending = os.path.splitext(name)[1]
        # A link without an ending may stand for a folder of images.
        if ending in ("", *ENDINGS) and entry.is_symlink() and not os.path.exists(entry.path):
            self.broken[os.path.join(self.root, path)] = (
                f"it is a link to {os.readlink(entry.path)!r}, which does not exist"
            )
            return bool(ending)
        if ending in ENDINGS:
            return True
        self.aside.endings[ending or "none"] += 1
        return False


def _find_in_folder(root: Path) -> Found:
    scan = _Scan(root)
    folders = scan.subfolders("")
    parts = _part_folders(root, folders, scan)
    warnings: list[str] = []
    by_part: dict[str, dict[str, list[str]]] = {}
    for part, folder in parts.items():
        names = scan.subfolders(folder) if folder else folders
        by_class: dict[str, list[str]] = {}
        nested = []
        for name in names:
            place = os.path.join(folder, name)
            images = scan.images(place)
            # A name may be written in two ways, as one character or as a letter and its accent.
            label = printable_name(unicodedata.normalize("NFC", name))
            by_class.setdefault(label, []).extend(images)
            if images and not any(os.path.dirname(image) == place for image in images):
                nested.append(name)
        by_part[part] = by_class
        if nested and len(names) > 1:
            warnings.append(
                f"In {str(root / folder)!r}, {some_of(nested)} hold images in sub-folders only. "
                "Each counts as one class. If the sub-folders are the classes, give the folder "
                "that holds them."
            )
    names = _class_names(root, parts, by_part, scan)
    unused = [name for name in folders if parts != {"train": ""} and name not in parts.values()]
    scan.aside.folders.update(unused)
    found = _found(str(root), str(root), names, by_part, scan.broken, warnings)
    return dataclasses.replace(found, left_aside=str(scan.aside))


def _part_folders(root: Path, folders: Sequence[str], scan: _Scan) -> dict[str, str]:
    """Return the folder of each part, relative to the root: "" for a source that is not split."""
    named = _named_parts(folders)
    # A class may be called "train": a part holds folders, a class holds images.
    listing = _Scan(root)
    train = [name for name in named.get("train", ()) if listing.subfolders(name)]
    if not train:
        held = [name for part in ("test", "validation") for name in named.get(part, ())]
        if held and len(held) == len(folders) and all(listing.subfolders(name) for name in held):
            raise ValueError(
                f"The data folder {str(root)!r} holds {some_of(held)} but no folder 'train'. Add "
                "one, or give a folder that holds one sub-folder of images per class."
            )
        return {"train": ""}
    parts = {"train": train}
    parts.update({part: named[part] for part in ("test", "validation") if part in named})
    for names in parts.values():
        _check_one_meaning(root, names)
    if len(parts) == 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds {train[0]!r} but neither 'test' nor 'val'. Add "
            f"one of them, or give {str(root / train[0])!r}, which is then split."
        )
    return {part: names[0] for part, names in parts.items()}


def _named_parts(folders: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders whose names mean a part, for each part."""
    named: dict[str, list[str]] = {}
    for name in folders:
        part = part_of(name)
        if part is not None:
            named.setdefault(part, []).append(name)
    return named


def _check_one_meaning(root: Path, names: Sequence[str]) -> None:
    """Check that a part has one folder."""
    if len(names) > 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds {some_of(names)}, which have the same meaning. "
            "Keep one of them."
        )


def _first_broken(scan: _Scan) -> str:
    """Name what cannot be read and may be why there are no images, as the end of a message."""
    return " {!r}: {}.".format(*next(iter(scan.broken.items()))) if scan.broken else ""


def _class_names(
    root: Path,
    parts: Mapping[str, str],
    by_part: Mapping[str, Mapping[str, Sequence[str]]],
    scan: _Scan,
) -> list[str]:
    """Return the classes of the training images, and check them."""
    for part, by_class in by_part.items():
        folder = root / parts[part]
        if not any(by_class.values()):
            if part != "train":
                hint = (
                    f" Images without a class cannot be tested on: remove the folder, or give "
                    f"{str(root / parts['train'])!r}, which is then split."
                )
            else:
                hint = _first_broken(scan)
            raise ValueError(
                f"The data folder {str(folder)!r} holds no images in sub-folders: {LAYOUT}, with "
                f"files that have an ending of an image, {_SOME_ENDINGS}.{hint}"
            )
    training = by_part["train"]
    folder = root / parts["train"]
    empty = [name for name, images in training.items() if not images]
    if empty:
        raise ValueError(
            f"The class folder {str(folder / empty[0])!r} holds no images. Add files that have an "
            f"ending of an image, {_SOME_ENDINGS}, or remove the folder."
        )
    if len(training) == 1:
        (name,) = training
        inside = _Scan(root).subfolders(os.path.join(parts["train"], name))
        hint = f", or give {str(folder / name)!r}, which holds sub-folders" if inside else ""
        raise ValueError(
            f"The data folder {str(folder)!r} has only one class, {name!r}: {LAYOUT}, two classes "
            f"or more{hint}."
        )
    return sorted(training)


def _found(
    name: str,
    root: str,
    class_names: Sequence[str],
    by_part: Mapping[str, Mapping[str, Sequence[str]]],
    broken: Mapping[str, str],
    warnings: list[str],
) -> Found:
    """Number the files of all parts, and compare the classes of the parts."""
    known = {class_name: label for label, class_name in enumerate(class_names)}
    files: list[str] = []
    labels: list[int] = []
    parts = {}
    for part, by_class in by_part.items():
        present = {class_name for class_name, images in by_class.items() if images}
        unknown = sorted(present - known.keys())
        if unknown:
            raise ValueError(
                f"The data {name!r} have classes to {_PURPOSE[part]} that are not in the "
                f"training images: {some_of(unknown)}.{did_you_mean(unknown[0], class_names)} "
                "Every class needs images to train on."
            )
        absent = sorted(known.keys() - present)
        if absent:
            warnings.append(
                f"There are no images to {_PURPOSE[part]} for {len(absent)} of "
                f"{len(known)} classes: {some_of(absent)}."
            )
        pairs = sorted((path, known[key]) for key, paths in by_class.items() for path in paths)
        parts[part] = np.arange(len(files), len(files) + len(pairs))
        files += [path for path, _ in pairs]
        labels += [label for _, label in pairs]
    return Found(
        name=printable_name(name),
        root=root,
        class_names=tuple(class_names),
        files=files,
        labels=np.array(labels, "int32"),
        parts=parts,
        broken=broken,
        warnings=warnings,
    )


def read_table(path: str | os.PathLike[str]) -> Found:
    """List the images that a CSV file names.

    The first line names the columns: `path` (relative to the folder of the CSV file), `label` (the
    name of the class), and perhaps `split` (`train`, `test` or `validation`, or another name of
    these parts). Other columns are not read.

    Args:
        path: The CSV file, in UTF-8.

    Raises:
        ValueError: If a column is missing, a line is wrong, or there are fewer than two classes.
    """
    table = Path(path)
    by_part, broken, has_split = _read_rows(table)
    names = _table_classes(table, by_part, has_split)
    return _found(str(table), str(table.parent), names, by_part, broken, [])


def _read_rows(
    table: Path,
) -> tuple[dict[str, dict[str, list[str]]], dict[str, str], bool]:
    """Return the paths of each class of each part, what is broken, and whether there are parts."""
    root = str(table.parent)
    by_part: dict[str, dict[str, list[str]]] = {}
    broken: dict[str, str] = {}
    lines: dict[str, int] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            has_split = "split" in _columns(table, rows.fieldnames)
            for row in rows:
                where = f"Line {rows.line_num} of the CSV file {str(table)!r}"
                name, label = (_cell(row, column, where) for column in ("path", "label"))
                name = os.path.normpath(name)
                part: str | None = "train"
                if has_split:
                    value = _cell(row, "split", where)
                    part = part_of(value)
                    if part is None:
                        raise ValueError(
                            f"{where} has the split {value!r}. Expected: train, test or validation."
                        )
                if name in lines:
                    raise ValueError(
                        f"{where} repeats the path {name!r} of line {lines[name]}. Keep one of "
                        "them."
                    )
                lines[name] = rows.line_num
                by_class = by_part.setdefault(str(part), {})
                by_class.setdefault(unicodedata.normalize("NFC", label), []).append(name)
                if not os.path.exists(os.path.join(root, name)):
                    broken[os.path.join(root, name)] = (
                        f"there is no such file (line {rows.line_num} of {str(table)!r})"
                    )
    except UnicodeDecodeError as error:
        raise ValueError(f"The CSV file {str(table)!r} is not in UTF-8: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"The CSV file {str(table)!r} cannot be read: {error}.") from error
    if not lines:
        raise ValueError(f"The CSV file {str(table)!r} names no images. Add lines: path,label.")
    if len(broken) == len(lines):
        raise ValueError(
            f"No file that the CSV file {str(table)!r} names exists, such as "
            f"{next(iter(broken))!r}. The paths should be relative to the folder of the CSV file."
        )
    return by_part, broken, has_split


def _columns(table: Path, names: Iterable[str] | None) -> list[str]:
    found = [name.strip() for name in names or ()]
    missing = [name for name in ("path", "label") if name not in found]
    if missing:
        hint = " Separate the columns by commas." if any(";" in name for name in found) else ""
        raise ValueError(
            f"The first line of the CSV file {str(table)!r} should name the columns path and "
            f"label, and perhaps split. Missing: {some_of(missing)}. Received: {some_of(found)}."
            f"{hint}"
        )
    return found


def _cell(row: Mapping[str, str | None], column: str, where: str) -> str:
    value = next((v for name, v in row.items() if name and name.strip() == column), None)
    if value is None or not value.strip():
        raise ValueError(f"{where} has no {column}.")
    return value.strip()


def _table_classes(
    table: Path,
    by_part: Mapping[str, Mapping[str, Sequence[str]]],
    has_split: bool,
) -> list[str]:
    """Return the classes that a table trains on, and check them."""
    if "train" not in by_part or (len(by_part) == 1 and has_split):
        raise ValueError(
            f"The column split of the CSV file {str(table)!r} should hold train, and test or "
            f"validation. Received: {some_of(sorted(by_part))}. Without the column, the images "
            "are split by themselves."
        )
    training = by_part["train"]
    if len(training) == 1:
        raise ValueError(
            f"The CSV file {str(table)!r} has only one class, {next(iter(training))!r}. Expected: "
            "two classes or more."
        )
    return sorted(training)
