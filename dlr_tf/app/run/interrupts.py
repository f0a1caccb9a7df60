"""Ctrl-C and SIGTERM while a run can be continued later."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """The user or the system asked the process to end, by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that ended with this signal: 130 or 143."""
        return 128 + self.number


class StopRequests:
    """In this context, Ctrl-C and SIGTERM end the process at a point from which it can go on.

    In a `deferred()` block, the first signal is only noted, and `check` raises after `agree`. The
    second one, and any signal outside such a block, raises at once. In a thread other than the main
    one, where signals cannot be handled, nothing changes. `any_worker` tells whether one of the
    workers passes `True`.
    """

    def __init__(self) -> None:
        self.any_worker: Callable[[bool], bool] = bool
        self._requested: int | None = None
        self._agreed: int | None = None
        self._is_deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> bool:
        """Return whether one of the workers has noted a signal, so that all end after this step.

        All call it. A signal that comes later counts the next time: the others do not know of it.
        """
        own = self._requested
        if self.any_worker(own is not None):
            self._agreed = own or signal.SIGTERM
        return self._agreed is not None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal in this block, which calls `agree` after each step."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def check(self) -> None:
        """Raise a `StoppedError` if `agree` has found a signal."""
        if self._agreed is not None:
            raise StoppedError(self._agreed)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_deferred and self._requested is None:
            self._requested = number
            # Not by `print`, which may be at work where the signal arrives.
            with contextlib.suppress(OSError):
                os.write(2, b"\ndlr-tf: stopping after this step; Ctrl-C again stops at once\n")
            return
        raise StoppedError(number)
