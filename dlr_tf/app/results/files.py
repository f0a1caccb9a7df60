"""The files and folders that a command writes: checked before the work, written atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dlr_tf.app.terminal import CommandError

# A file is written in a new folder of this name and a random ending, beside its final place.
_PARTIAL = ".dlr_tf.partial-"
_LOCK = ".dlr_tf.lock"


class WriteError(CommandError):
    """A file cannot be written, for example because the disk is full."""


def check_output_folder(folder: Path) -> None:
    """Raise a `ValueError` if a folder is not new or empty, or cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output {str(folder)!r} is a file. Give another --output.")
    if folder.is_dir() and any(not _is_temporary(path) for path in folder.iterdir()):
        raise ValueError(f"The output folder {str(folder)!r} is not empty. Give another --output.")
    check_writable(folder)


def check_new(path: Path, noun: str = "output") -> None:
    """Check that a path is new, in a folder that exists and can be written. `noun` is its name.

    Raises:
        ValueError: If it is not.
    """
    if path.exists():
        raise ValueError(f"The {noun} {str(path)!r} exists already. Give another --output.")
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder {str(path.parent)!r} of the {noun} does not exist. Create it, or give "
            "another --output."
        )
    check_writable(path.parent)


def check_new_file(path: Path) -> None:
    """Check that a plot is a new file, in a format that can be written, in a folder that exists.

    Raises:
        ValueError: If it is not, or there is no permission.
    """
    if not path.exists() and path.suffix not in (".png", ".svg"):
        raise ValueError(
            f"The output file {str(path)!r} should end in .png or .svg. Give another --output."
        )
    check_new(path, "output file")


def check_writable(folder: Path) -> None:
    """Raise a `ValueError` if a folder, or its nearest parent that exists, is not writable."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"The output {str(folder)!r} is below a file. Give another --output.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"No permission to write to {str(nearest)!r}. Give another --output, or run the "
            "command in a folder where you have permission."
        )


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: it is there complete or not at all, whatever happens meanwhile.

    The block writes to the path that it gets, in a new folder beside the final place. After the
    block, the file is on the disk and gets the final name in one step. If the block raises, it is
    removed, and a file that had the final name before stays. A folder is written in the same way;
    it must not be there before.

    Raises:
        WriteError: If the operating system refuses, for example because the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder, "report.json")) as partial:
    ...         _ = partial.write_text("{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['report.json']
    """
    with _write_errors(path):
        with tempfile.TemporaryDirectory(
            prefix=_PARTIAL, dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            partial = Path(folder, path.name)
            yield partial
            if partial.is_file():
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the operating system in this block into a `WriteError`."""
    try:
        yield
    except BaseException as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise WriteError(
            f"{str(path)!r} could not be written: {reason.strerror or reason}."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, or raise a `WriteError`."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add to a text file, and wait until it is on the disk, or raise a `WriteError`."""
    with _write_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Create a folder if it is not there, and those above it, or raise a `WriteError`."""
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what an earlier process left in a folder when it was killed while it wrote a file."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _is_partial(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_temporary(path: Path) -> bool:
    return _is_partial(path) or path.name == _LOCK


def _is_partial(path: Path) -> bool:
    return path.name.startswith(_PARTIAL) and path.is_dir()


def _sync_folder(folder: Path) -> None:
    """Wait until a change of names in a folder is on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the error of the operating system behind an error, `None` if there is none.

    HDF5 reports a full disk as a `RuntimeError` that only quotes the system's message.
    """
    while error is not None:
        if isinstance(error, OSError):
            return error
        full = os.strerror(errno.ENOSPC)
        if isinstance(error, (RuntimeError, ValueError)) and full.lower() in str(error).lower():
            return OSError(errno.ENOSPC, full)
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same lock out of a folder that exists.

    The system ends the lock with the process, however it ends. Where there are no such locks, the
    block runs without.

    Raises:
        ValueError: If another process has the lock.
        ImportError: If filelock is not installed.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise ImportError(
            'The command needs filelock, which is not installed. Run: pip install "dlr_tf[command]"'
        ) from error
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"Another process is writing to {str(folder)!r}. Stop it first, or wait for it."
        ) from None
    except (NotImplementedError, OSError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            (folder / _LOCK).unlink()
        lock.release()
