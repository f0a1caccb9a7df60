"""The seconds before a command begins: TensorFlow is loaded quietly, and Ctrl-C stops at once.

What this module imports is loaded before Ctrl-C is handled, so it is little.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from dlr_tf._clusters import is_cluster

_STDERR = 2


@contextlib.contextmanager
def stop_at_once() -> Iterator[None]:
    """End the process at Ctrl-C with one line and exit code 130, while nothing can be lost.

    `KeyboardInterrupt` is not enough: it can arrive inside an import, which may catch it or turn it
    into another error.
    """
    terminal = os.dup(_STDERR)  # where the line is shown, also while stderr is redirected

    def stop(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(terminal, b"dlr-tf: stopped\n")
        os._exit(128 + number)

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread, which alone handles signals
        before = None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
        os.close(terminal)


def load_tensorflow(*, verbose: bool) -> None:
    """Import TensorFlow, without the lines that it prints about the machine if not verbose.

    Its C++ code writes them to the file descriptor of stderr before any setting of TensorFlow is
    read. If the import fails, they are shown.
    """
    if "tensorflow" in sys.modules:
        return
    if verbose:
        importlib.import_module("tensorflow")
        return
    # What it prints later: only errors, and on several machines not those that follow the end of
    # a worker, for which the command has a line of its own.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if is_cluster(os.environ) else "2")
    with stderr_in_file() as show:
        try:
            tensorflow = importlib.import_module("tensorflow")
            tensorflow.config.list_physical_devices()  # loads the drivers, which print lines too
            importlib.import_module("keras")
        except BaseException:
            show()
            raise


@contextlib.contextmanager
def stderr_in_file() -> Iterator[Callable[[], None]]:
    """Redirect the file descriptor of stderr to a temporary file, and give a function to show it.

    C++ code writes there past `sys.stderr`.
    """
    import tempfile

    sys.stderr.flush()
    stderr = os.dup(_STDERR)
    with tempfile.TemporaryFile() as hidden:

        def show() -> None:
            hidden.seek(0)
            os.write(stderr, hidden.read())

        os.dup2(hidden.fileno(), _STDERR)
        try:
            yield show
        finally:
            sys.stderr.flush()
            os.dup2(stderr, _STDERR)
            os.close(stderr)
