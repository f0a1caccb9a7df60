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


def read_folder(root: Path, *, skip_broken: bool = False, to_score: bool = False) -> LabelledFiles:
    """List the images of a folder: see `sources.find`.

    The folder holds one sub-folder of images per class, or `train` and `test`, `validation` or both
    that hold such sub-folders. See `splits` for other names of these.

    Raises:
        ValueError: If there are no images; to train on also if there are fewer than two classes, a
            class without images, or a class that is only in `test` or `validation`.
    """
    scan = Scan(root)
    folders = scan.subfolders("")
    split_folders = _split_folders(root, folders)
    name = root
    if to_score:
        chosen = next(split_folders[split] for split in TO_SCORE if split in split_folders)
        split_folders, name = {"test": chosen}, root / chosen
    splits = {
        split: _images_by_class(scan, folder, scan.subfolders(folder) if folder else folders)
        for split, folder in split_folders.items()
    }
    listing = Listing(str(name), str(root), splits, scan.broken, scan.ignored)
    if to_score:
        splits["test"] = {label: images for label, images in splits["test"].items() if images}
        if not splits["test"]:
            raise _no_images(name, _first_broken(listing))
        return label_files(listing, skip_broken=True)
    if split_folders != {"train": ""}:
        beside = set(folders) - set(split_folders.values())
        scan.ignored.update(f"folders called {name!r}" for name in beside)
    if skip_broken:
        listing.drop_empty_classes()
    _check_splits(root, split_folders)
    _check_classes(root, split_folders, listing)
    for split, folder in split_folders.items():
        nested = [label for label, images in splits[split].items() if _is_nested(folder, images)]
        if nested and len(splits[split]) > 1:
            listing.warnings.append(
                f"In {str(root / folder)!r}, {some_of(nested)} hold images in sub-folders only. "
                "Each counts as one class. If the sub-folders are the classes, give the folder "
                "that holds them."
            )
    return label_files(listing, skip_broken=skip_broken)


def _images_by_class(scan: Scan, folder: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the images of each class of a folder."""
    classes: dict[str, list[str]] = {}
    for name in names:
        # A name may be written in two ways, as one character or as a letter and its accent.
        label = printable_name(unicodedata.normalize("NFC", name))
        classes.setdefault(label, []).extend(scan.images(os.path.join(folder, name)))
    return classes


def _is_nested(folder: str, images: Sequence[str]) -> bool:
    """Return whether all images of a class are in sub-folders of its folder."""
    depth = len(Path(folder).parts) + 2
    return bool(images) and all(len(Path(image).parts) > depth for image in images)


def _split_folders(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return the folder of each split, relative to the root: "" for a source without splits."""
    named: dict[str, list[str]] = {}
    for name in folders:
        split = split_named(name)
        if split is not None:
            named.setdefault(split, []).append(name)
    # A class may be called "train": a split holds folders, a class holds images.
    scan = Scan(root)
    holders = {name for names in named.values() for name in names if scan.subfolders(name)}
    named["train"] = [name for name in named.get("train", ()) if name in holders]
    if not named["train"]:
        del named["train"]
        if not folders or len(holders) < len(folders):
            return {"train": ""}
    for names in named.values():
        if len(names) > 1:
            raise ValueError(
                f"The data folder {str(root)!r} holds {some_of(names)}, which have the same "
                "meaning. Keep one of them."
            )
    order = [split for split in ("train", "test", "validation") if split in named]
    return {split: named[split][0] for split in order}


def _check_splits(root: Path, split_folders: dict[str, str]) -> None:
    """Check that there is something to train on and something to test on."""
    if "train" not in split_folders:
        raise ValueError(
            f"The data folder {str(root)!r} holds {some_of([*split_folders.values()])} but no "
            "folder 'train'. Add one, or give a folder that holds one sub-folder of images per "
            "class."
        )
    train = split_folders["train"]
    if train and len(split_folders) == 1:
        raise ValueError(
            f"The data folder {str(root)!r} holds {train!r} but neither 'test' nor 'val'. Add "
            f"one of them, or give {str(root / train)!r}, which is then split."
        )


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
