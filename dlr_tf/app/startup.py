"""The seconds before a command begins: TensorFlow is loaded quietly, and Ctrl-C stops at once."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType

_STDERR = 2


@contextlib.contextmanager
def stop_at_once() -> Iterator[None]:
    """End the process at Ctrl-C with one line and exit code 130, while nothing can be lost.

    `KeyboardInterrupt` is not enough: it can arrive inside an import, which may catch it or turn it
    into another error.
    """
    if threading.current_thread() is not threading.main_thread():  # no signals can be handled
        yield
        return
    terminal = os.dup(_STDERR)  # where the line is shown, also while stderr is redirected

    def stop(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(terminal, b"dlr-tf: stopped\n")
        os._exit(128 + number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(terminal)


def load_tensorflow(*, verbose: bool) -> None:
    """Import TensorFlow without the lines that it prints about the machine.

    Its C++ code writes them to the file descriptor of stderr before any setting of TensorFlow is
    read. If the import fails, they are shown.

    Args:
        verbose: Whether to show them in any case.
    """
    if "tensorflow" in sys.modules:
        return
    if verbose:
        importlib.import_module("tensorflow")
        return
    # What it prints later: only errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with stderr_in_file() as hidden:
        try:
            tensorflow = importlib.import_module("tensorflow")
            tensorflow.config.list_physical_devices()  # loads the drivers, which print lines too
            importlib.import_module("keras")
        except BaseException:
            hidden.show()
            raise


class _Hidden:
    """The lines that were hidden."""

    def __init__(self, file: int, stderr: int) -> None:
        self._file = file
        self._stderr = stderr

    def show(self) -> None:
        """Write the lines to stderr."""
        os.lseek(self._file, 0, os.SEEK_SET)
        while chunk := os.read(self._file, 2**16):
            os.write(self._stderr, chunk)


@contextlib.contextmanager
def stderr_in_file() -> Iterator[_Hidden]:
    """Redirect the file descriptor of stderr to a temporary file.

    C++ code writes there past `sys.stderr`.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        try:
            yield _Hidden(file.fileno(), stderr)
        finally:
            sys.stderr.flush()
            os.dup2(stderr, _STDERR)
            os.close(stderr)
