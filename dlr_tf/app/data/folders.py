"""Which images there are, and of which class: folders as they are, and CSV files.

This module lists files. It opens none of the images.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app.data.images import ENDINGS
from dlr_tf.app.paths import check_data
from dlr_tf.app.terminal import printable_name

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
        class_names: The names of the classes, sorted: numbers as numbers.
        files: The paths of the files, relative to `root`, sorted within each part.
        labels: The class of each file: its place in `class_names`.
        parts: The places in `files` of each part: "train" alone if the source is not split, else
            with "test", "validation" or both.
        broken: Paths that cannot be used, and why. Those of images are in `files` too, unless they
            are left out.
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


def find_images(source: str | os.PathLike[str], *, skip_broken: bool = False) -> Found:
    """List the images of a folder, or of a CSV file.

    A file that is reached twice in one class of one part, by links, counts once. A file that is
    reached in two classes or two parts is broken: its class, or whether it is trained on, is not
    known.

    Args:
        source: A folder with one sub-folder of images per class, or with `train` and `test`,
            `validation` or both that hold such sub-folders, in any case and also as `training`,
            `testing`, `val`, `valid`, `eval` ... Or a CSV file: see `read_table`.
        skip_broken: Whether to leave out what is known to be broken, and classes without images.
            Defaults to `False`.

    Raises:
        ValueError: If it is neither, or it has fewer than two classes, a class without images, or a
            class that is only in `test` or `validation`.
    """
    root = _existing(source)
    if root.is_file():
        return read_table(root, skip_broken=skip_broken)
    return _find_in_folder(root, skip_broken)


def find_to_score(source: str | os.PathLike[str]) -> Found:
    """List the images to score a model on: those of `test`, else of `validation`, else all.

    Args:
        source: A folder or a CSV file, as in `find_images`. It may hold one class only, and a
            folder of a class may be empty.

    Returns:
        The images, in the one part "test". What is broken is left out.

    Raises:
        ValueError: If it is neither, or it holds no images.
    """
    root = _existing(source)
    if root.is_file():
        by_part, broken = _read_rows(root)[:2]
        by_class = next(
            by_part[part] for part in ("test", "validation", "train") if part in by_part
        )
        return _found(str(root), str(root.parent), {"test": by_class}, broken, [], True)
    scan = Scan(root)
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
    return _found(place, str(root), {"test": by_class}, scan.broken, [], True, scan.aside)


def _part_to_score(root: Path, folders: Sequence[str]) -> str:
    """Return the folder of the part to score a model on, "" if the folders are classes."""
    named = _named_parts(folders)
    listing = Scan(root)
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
        self.repeated = 0
        self.empty: list[str] = []
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
        if self.repeated:
            found.append(f"{_count(self.repeated, 'link')} to an image that is there already")
        if self.empty:
            found.append(f"{_count(len(self.empty), 'class')} without images {some_of(self.empty)}")
        return ", ".join(found)


def _count(number: int, noun: str) -> str:
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else ending}"


def in_class_order(names: Iterable[str]) -> list[str]:
    """Sort the names of classes: numbers as numbers, other names as text.

    >>> in_class_order(["10", "9", "0"]), in_class_order(["10", "9", "none"])
    (['0', '9', '10'], ['10', '9', 'none'])
    """
    names = list(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def is_foreign(name: str) -> bool:
    """Return whether a file or a folder is hidden, or is what a program leaves behind."""
    return name.startswith((".", "~$")) or name in _FOREIGN_FOLDERS


def _identity(path: str) -> object:
    """Return what is the same for all links to a file, and nothing else."""
    status = os.stat(path)
    # Some file systems do not number their files.
    return (status.st_dev, status.st_ino) if status.st_ino else path


def image_files(paths: Iterable[str]) -> Iterator[str]:
    """Give the files that are named, and the images in the folders that are named, in order.

    Folders are read as those of the training: hidden files are left aside, and links to folders are
    followed. What cannot be opened is given too. Nothing is listed before it is needed.

    Args:
        paths: Files and folders.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        scan = Scan(path)
        images = set()
        for image in scan.images(""):
            image = os.path.join(path, image)
            if image in scan.broken:
                images.add(image)
            yield image
        yield from sorted(scan.broken.keys() - images)


class Scan:
    """Lists folders, and remembers what is left aside and what is broken."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
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

    def images(self, folder: str, above: Sequence[object] = ()) -> Iterator[str]:
        """Give the images in a folder and then those in all folders below it, in order.

        Links to folders are followed. Nothing is listed before it is needed.
        """
        below = []
        for entry in self._entries(folder):
            path = os.path.join(folder, entry.name)
            if not entry.is_dir():
                if self._is_image(entry, path):
                    yield path
            elif is_foreign(entry.name):
                self.aside.folders[entry.name] += 1
            else:
                below.append(path)
        if below:
            above = (*above, _identity(os.path.join(self.root, folder)))
        for path in below:
            # A link may lead to a folder above it.
            if _identity(os.path.join(self.root, path)) not in above:
                yield from self.images(path, above)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = os.path.join(self.root, folder)
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
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


def _find_in_folder(root: Path, skip_broken: bool) -> Found:
    scan = Scan(root)
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
            images = list(scan.images(place))
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
    if skip_broken:
        by_part["train"] = _without_empty(by_part["train"], str(root), scan.broken, scan.aside)
    _check_classes(root, parts, by_part, scan)
    unused = [name for name in folders if parts != {"train": ""} and name not in parts.values()]
    scan.aside.folders.update(unused)
    return _found(str(root), str(root), by_part, scan.broken, warnings, skip_broken, scan.aside)


def _without_empty(
    by_class: Mapping[str, list[str]], root: str, broken: Mapping[str, str], aside: _LeftAside
) -> dict[str, list[str]]:
    """Return the classes that hold an image that may be read, and note the others."""
    kept = {
        name: images
        for name, images in by_class.items()
        if any(os.path.join(root, image) not in broken for image in images)
    }
    aside.empty = sorted(by_class.keys() - kept.keys())
    return kept


def _part_folders(root: Path, folders: Sequence[str], scan: Scan) -> dict[str, str]:
    """Return the folder of each part, relative to the root: "" for a source that is not split."""
    named = _named_parts(folders)
    # A class may be called "train": a part holds folders, a class holds images.
    listing = Scan(root)
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


def _first_broken(scan: Scan) -> str:
    """Name what cannot be read and may be why there are no images, as the end of a message."""
    return " {!r}: {}.".format(*next(iter(scan.broken.items()))) if scan.broken else ""


def _check_classes(
    root: Path,
    parts: Mapping[str, str],
    by_part: Mapping[str, Mapping[str, Sequence[str]]],
    scan: Scan,
) -> None:
    """Check that every part holds images, and that two classes or more are trained on."""
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
            f"ending of an image, {_SOME_ENDINGS}, remove the folder, or give --skip-broken to go "
            "on without."
        )
    if len(training) == 1:
        (name,) = training
        inside = Scan(root).subfolders(os.path.join(parts["train"], name))
        hint = f", or give {str(folder / name)!r}, which holds sub-folders" if inside else ""
        raise ValueError(
            f"The data folder {str(folder)!r} has only one class, {name!r}: {LAYOUT}, two classes "
            f"or more{hint}."
        )


def _found(
    name: str,
    root: str,
    by_part: Mapping[str, Mapping[str, Sequence[str]]],
    broken: Mapping[str, str],
    warnings: list[str],
    skip_broken: bool,
    aside: _LeftAside | None = None,
) -> Found:
    """Number the files of all parts, and compare the classes of the parts."""
    aside = aside or _LeftAside()
    class_names = in_class_order(by_part["train"] if "train" in by_part else by_part["test"])
    known = {class_name: label for label, class_name in enumerate(class_names)}
    rows: list[tuple[str, str, str]] = []  # part, path, class
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
        rows += sorted((part, path, key) for key, paths in by_class.items() for path in paths)
    repeated, ambiguous = _same_files(root, rows)
    aside.repeated = len(repeated)
    broken = {**broken, **ambiguous}
    rows = [
        row
        for row in rows
        if row[1] not in repeated and not (skip_broken and os.path.join(root, row[1]) in broken)
    ]
    return Found(
        name=printable_name(name),
        root=root,
        class_names=tuple(class_names),
        files=[path for _, path, _ in rows],
        labels=np.array([known[key] for _, _, key in rows], "int32"),
        parts={
            part: np.array([i for i, row in enumerate(rows) if row[0] == part], "int64")
            for part in by_part
        },
        broken=broken,
        left_aside=str(aside),
        warnings=warnings,
    )


def _same_files(root: str, rows: Sequence[tuple[str, str, str]]) -> tuple[set[str], dict[str, str]]:
    """Find the files that are reached by several paths.

    Args:
        root: The folder that the paths begin at.
        rows: Part, path and class of each image.

    Returns:
        The paths that add nothing: another path to the file is in the same class of the same part.
        And the full paths of the files whose class or part is ambiguous, and why.
    """
    by_file = collections.defaultdict(list)
    for row in rows:
        # What does not exist is found broken elsewhere.
        with contextlib.suppress(OSError):
            by_file[_identity(os.path.join(root, row[1]))].append(row)
    repeated: set[str] = set()
    ambiguous: dict[str, str] = {}
    for same in by_file.values():
        meanings = {(part, class_name): path for part, path, class_name in reversed(same)}
        if len(meanings) == 1:
            repeated.update(path for _, path, _ in same[1:])
            continue
        for part, path, class_name in same:
            other = next(meaning for meaning in meanings if meaning != (part, class_name))
            ambiguous[os.path.join(root, path)] = (
                f"it is the same file as {os.path.join(root, meanings[other])!r}, and counts as "
                f"class {class_name!r} to {_PURPOSE[part]} here, and as class {other[1]!r} to "
                f"{_PURPOSE[other[0]]} there"
            )
    return repeated, ambiguous


def read_table(path: str | os.PathLike[str], *, skip_broken: bool = False) -> Found:
    """List the images that a CSV file names.

    The first line names the columns: `path` (relative to the folder of the CSV file; a backslash
    may separate folders), `label` (the name of the class), and perhaps `split` (`train`, `test` or
    `validation`, or another name of these parts). Other columns are not read.

    Args:
        path: The CSV file, in UTF-8.
        skip_broken: As in `find_images`. Defaults to `False`.

    Raises:
        ValueError: If a column is missing, a line is wrong, or there are fewer than two classes.
    """
    table = Path(path)
    by_part, broken, has_split = _read_rows(table)
    root, aside = str(table.parent), _LeftAside()
    if skip_broken and "train" in by_part:
        by_part["train"] = _without_empty(by_part["train"], root, broken, aside)
    _check_table_classes(table, by_part, has_split)
    return _found(str(table), root, by_part, broken, [], skip_broken, aside)


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
                name = _existing_form(root, name)
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


def _existing_form(root: str, name: str) -> str:
    """Return a path of a table, which may have been written on Windows, as it is here."""
    if "\\" in name and not os.path.exists(os.path.join(root, name)):
        name = name.replace("\\", "/")
    return os.path.normpath(name)


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


def _check_table_classes(
    table: Path,
    by_part: Mapping[str, Mapping[str, Sequence[str]]],
    has_split: bool,
) -> None:
    """Check that a table has the parts it needs, and that two classes or more are trained on."""
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
