"""Folders with one sub-folder of images per class, perhaps in splits."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from dlr_tf._names import some_of
from dlr_tf.app.data.labelled_files import LabelledFiles, Listing, label_files
from dlr_tf.app.data.scan import Scan
from dlr_tf.app.data.splits import TO_SCORE, split_named
from dlr_tf.app.terminal import printable_name

LAYOUT = "expected one sub-folder of images per class"
_SOME_ENDINGS = "such as .jpg, .png or .webp"


def read_folder(root: Path, *, skip_broken: bool = False) -> LabelledFiles:
    """List the images to train on and to test on.

    Args:
        root: A folder with one sub-folder of images per class, or with `train` and `test`,
            `validation` or both that hold such sub-folders. See `splits` for other names of these.
        skip_broken: As in `sources.find`. Defaults to `False`.

    Raises:
        ValueError: If there are fewer than two classes, a class without images, or a class that is
            only in `test` or `validation`.
    """
    scan = Scan(root)
    folders = scan.subfolders("")
    split_folders = _split_folders(root, folders)
    warnings: list[str] = []
    splits = {}
    for split, folder in split_folders.items():
        names = scan.subfolders(folder) if folder else folders
        splits[split] = _images_by_class(scan, folder, names)
        held = {os.path.dirname(image) for images in splits[split].values() for image in images}
        nested = [name for name in names if _holds_folders_only(os.path.join(folder, name), held)]
        if nested and len(names) > 1:
            warnings.append(
                f"In {str(root / folder)!r}, {some_of(nested)} hold images in sub-folders only. "
                "Each counts as one class. If the sub-folders are the classes, give the folder "
                "that holds them."
            )
    if split_folders != {"train": ""}:
        scan.ignored.folders.update(set(folders) - set(split_folders.values()))
    listing = Listing(str(root), str(root), splits, scan.broken, scan.ignored, warnings)
    if skip_broken:
        listing.drop_empty_classes()
    _check_classes(root, split_folders, listing)
    return label_files(listing, skip_broken=skip_broken)


def read_folder_to_score(root: Path) -> LabelledFiles:
    """List the images to score a model on, all as "test": those of `test`, of `validation`, or all.

    Args:
        root: A folder as for `read_folder`. It may hold one class only, and a folder of a class may
            be empty.

    Raises:
        ValueError: If it holds no images.
    """
    scan = Scan(root)
    folders = scan.subfolders("")
    chosen = _folder_to_score(root, folders)
    classes = _images_by_class(scan, chosen, scan.subfolders(chosen) if chosen else folders)
    classes = {name: images for name, images in classes.items() if images}
    listing = Listing(str(root / chosen), str(root), {"test": classes}, scan.broken, scan.ignored)
    if not classes:
        raise _no_images(root / chosen, _first_broken(listing))
    return label_files(listing, skip_broken=True)


def _images_by_class(scan: Scan, folder: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the images of each class of a folder."""
    classes: dict[str, list[str]] = {}
    for name in names:
        # A name may be written in two ways, as one character or as a letter and its accent.
        label = printable_name(unicodedata.normalize("NFC", name))
        classes.setdefault(label, []).extend(scan.images(os.path.join(folder, name)))
    return classes


def _holds_folders_only(folder: str, held: Iterable[str]) -> bool:
    """Return whether the folders that hold images are below a folder, and the folder is not one."""
    return folder not in held and any(path.startswith(f"{folder}{os.sep}") for path in held)


def _split_folders(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return the folder of each split, relative to the root: "" for a source without splits."""
    named = _named_splits(folders)
    # A class may be called "train": a split holds folders, a class holds images.
    scan = Scan(root)
    train = [name for name in named.get("train", ()) if scan.subfolders(name)]
    if not train:
        held = [name for split in ("test", "validation") for name in named.get(split, ())]
        if held and len(held) == len(folders) and all(scan.subfolders(name) for name in held):
            raise ValueError(
                f"The data folder {str(root)!r} holds {some_of(held)} but no folder 'train'. Add "
                "one, or give a folder that holds one sub-folder of images per class."
            )
        return {"train": ""}
    splits = {"train": train}
    splits.update({split: named[split] for split in ("test", "validation") if split in named})
    chosen = {split: _only(root, names) for split, names in splits.items()}
    if len(chosen) == 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds {train[0]!r} but neither 'test' nor 'val'. Add "
            f"one of them, or give {str(root / train[0])!r}, which is then split."
        )
    return chosen


def _folder_to_score(root: Path, folders: Sequence[str]) -> str:
    """Return the folder of the split to score a model on, "" if the folders are classes."""
    named = _named_splits(folders)
    scan = Scan(root)
    holders = [name for names in named.values() for name in names if scan.subfolders(name)]
    has_train = any(name in holders for name in named.get("train", ()))
    if not has_train and (not folders or len(holders) < len(folders)):
        return ""
    return _only(root, next(named[split] for split in TO_SCORE if split in named))


def _named_splits(folders: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders whose names mean a split, for each split."""
    named: dict[str, list[str]] = {}
    for name in folders:
        split = split_named(name)
        if split is not None:
            named.setdefault(split, []).append(name)
    return named


def _only(root: Path, names: Sequence[str]) -> str:
    """Return the folder of a split, which has no other folder."""
    if len(names) > 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds {some_of(names)}, which have the same meaning. "
            "Keep one of them."
        )
    return names[0]


def _check_classes(root: Path, split_folders: dict[str, str], listing: Listing) -> None:
    """Check that every split holds images, and that two classes or more are trained on."""
    training = listing.splits["train"]
    folder = root / split_folders["train"]
    for split, classes in listing.splits.items():
        if not any(classes.values()):
            hint = _first_broken(listing)
            if split != "train":
                hint = (
                    " Images without a class cannot be tested on: remove the folder, or give "
                    f"{str(folder)!r}, which is then split."
                )
            raise _no_images(root / split_folders[split], hint)
    empty = [name for name, images in training.items() if not images]
    if empty:
        raise ValueError(
            f"The class folder {str(folder / empty[0])!r} holds no images. Add files that have an "
            f"ending of an image, {_SOME_ENDINGS}, remove the folder, or give --skip-broken to go "
            "on without."
        )
    if len(training) == 1:
        (name,) = training
        inside = Scan(folder).subfolders(name)
        hint = f", or give {str(folder / name)!r}, which holds sub-folders" if inside else ""
        raise ValueError(
            f"The data folder {str(folder)!r} has only one class, {name!r}: {LAYOUT}, two classes "
            f"or more{hint}."
        )


def _no_images(folder: Path, hint: str) -> ValueError:
    return ValueError(
        f"The data folder {str(folder)!r} holds no images in sub-folders: {LAYOUT}, with files "
        f"that have an ending of an image, {_SOME_ENDINGS}.{hint}"
    )


def _first_broken(listing: Listing) -> str:
    """Name what cannot be read and may be why there are no images, as the end of a message."""
    return "".join(f" {path!r}: {reason}." for path, reason in [*listing.broken.items()][:1])
