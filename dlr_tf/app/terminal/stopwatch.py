"""Where a run spends its seconds."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras


class Stopwatch:
    """The seconds of the parts of a run, by name.

    >>> watch = Stopwatch()
    >>> with watch.part("reading"):
    ...     pass
    >>> list(watch.seconds), watch.total() >= watch.seconds["reading"]
    (['reading'], True)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of this block to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def total(self) -> float:
        """Return the seconds since it was made."""
        return time.perf_counter() - self._started


class FitTimes(keras.callbacks.Callback):
    """How many seconds of `fit` go into the first step, where Keras traces it, and validation."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[float] = []
        self._validation = 0.0
        self._began = 0.0

    def parts(self) -> dict[str, float]:
        """Return the seconds of tracing (the first step less a usual one) and of validation."""
        usual = statistics.median(self._steps[1:]) if len(self._steps) > 1 else 0.0
        first = self._steps[0] if self._steps else 0.0
        return {"tracing": max(0.0, first - usual), "validation": self._validation}

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._steps.append(time.perf_counter() - self._began)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._validation += time.perf_counter() - self._began
