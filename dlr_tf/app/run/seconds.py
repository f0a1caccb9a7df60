"""Where a run spends its time: seconds by the clock, and of all processor cores together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple


class Seconds(NamedTuple):
    """A time: by the clock, and of the processor, all cores together.

    A part that waits has much of the first and little of the second.
    """

    wall: float = 0.0
    processor: float = 0.0

    def plus(self, other: Seconds) -> Seconds:
        """Return the sum."""
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def since(self, start: Seconds) -> Seconds:
        """Return the difference."""
        return Seconds(self.wall - start.wall, self.processor - start.processor)

    @classmethod
    def now(cls) -> Seconds:
        """Return a point in time, to subtract from a later one."""
        return cls(time.perf_counter(), time.process_time())


class Stopwatch:
    """The time that the parts of a run take, by name.

    >>> watch = Stopwatch()
    >>> with watch.part("reading"):
    ...     pass
    >>> list(watch.parts), watch.total().wall >= watch.parts["reading"].wall
    (['reading'], True)
    """

    def __init__(self) -> None:
        self.parts: dict[str, Seconds] = {}
        self._started = Seconds.now()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of this block to a part."""
        started = Seconds.now()
        try:
            yield
        finally:
            self.add(name, Seconds.now().since(started))

    def add(self, name: str, seconds: Seconds) -> None:
        """Add a time to a part."""
        self.parts[name] = self.parts.get(name, Seconds()).plus(seconds)

    def total(self) -> Seconds:
        """Return the time since it was made."""
        return Seconds.now().since(self._started)
