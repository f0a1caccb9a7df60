"""The image files in a folder and below it. One rule for all commands; no image is opened."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator, Sequence

from dlr_tf.app.data.images import ENDINGS

# What programs leave behind. Hidden files and folders are ignored too.
_FOREIGN_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "__pycache__", "lost+found")
_FOREIGN_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")


class Scan:
    """Lists the folders below a root, and remembers what is ignored and what is broken.

    Args:
        root: The folder. All paths are relative to it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self.ignored = collections.Counter[str]()
        self.broken: dict[str, str] = {}

    def subfolders(self, folder: str) -> list[str]:
        """Return the names of the sub-folders that may be classes or splits."""
        names = []
        for entry in self._entries(folder):
            if not _is_folder(entry):
                if self._is_image(entry, os.path.join(folder, entry.name)):
                    self.ignored["images outside of the class folders"] += 1
            elif self._is_used(entry.name):
                names.append(entry.name)
        return names

    def images(self, folder: str, above: Sequence[object] = ()) -> Iterator[str]:
        """Give the images in a folder and then those in all folders below it, in order.

        Links to folders are followed. Nothing is listed before it is needed.
        """
        below = []
        for entry in self._entries(folder):
            path = os.path.join(folder, entry.name)
            if not _is_folder(entry):
                if self._is_image(entry, path):
                    yield path
            elif self._is_used(entry.name):
                below.append(path)
        if below:
            above = (*above, file_identity(os.path.join(self.root, folder)))
        for path in below:
            # A link may lead to a folder above it.
            if file_identity(os.path.join(self.root, path)) not in above:
                yield from self.images(path, above)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = os.path.join(self.root, folder)
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            self.broken[path] = "permission to open this folder is denied"
            return []

    def _is_used(self, folder_name: str) -> bool:
        if _is_hidden(folder_name) or folder_name in _FOREIGN_FOLDERS:
            self.ignored[f"folders called {folder_name!r}"] += 1
            return False
        return True

    def _is_image(self, entry: os.DirEntry[str], path: str) -> bool:
        name = entry.name.lower()
        if _is_hidden(name) or name in _FOREIGN_FILES:
            self.ignored["hidden files"] += 1
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
        self.ignored[f"files {ending}" if ending else "files without an ending"] += 1
        return False


def list_images(paths: Iterable[str]) -> Iterator[str]:
    """Give the files that are named, and the images in the folders that are named, in order.

    What cannot be opened is given too. Nothing is listed before it is needed.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        scan = Scan(path)
        for image in scan.images(""):
            full_path = os.path.join(path, image)
            scan.broken.pop(full_path, None)  # its reader finds out why
            yield full_path
        yield from sorted(scan.broken)


def file_identity(path: str) -> object:
    """Return what is the same for all links to a file or a folder, and for nothing else.

    Raises:
        OSError: If it does not exist.
    """
    status = os.stat(path)
    # Some file systems do not number their files.
    return (status.st_dev, status.st_ino) if status.st_ino else path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$"))
