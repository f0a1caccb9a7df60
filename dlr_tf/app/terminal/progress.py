"""The progress of a training: one line per epoch, and on a terminal a bar while it runs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import keras
import rich.console
import rich.progress
import rich.table

from dlr_tf.app.terminal.messages import notes_are_shown
from dlr_tf.training.learning_rate_logger import RATE

WIDTH = 80  # of a line
_RATES_WIDTH = 21  # three rates

Logs = Mapping[str, float]


def on_terminal(stream: TextIO | None = None) -> bool:
    """Return whether a bar is to be drawn on a stream. Defaults to stderr."""
    return notes_are_shown() and (stream or sys.stderr).isatty()


def format_rates(rates: Sequence[float]) -> str:
    """Write the rates of the groups, of more than three the first and the last one.

    >>> format_rates([1e-5, 1e-4, 1e-3]), format_rates([math.nan, 2e-3])
    ('1e-05 / 1e-04 / 1e-03', '- / 2e-03')
    >>> format_rates([1e-5, 3e-5, 1e-4, 3e-4, 1e-3])
    '1e-05 .. 1e-03'
    """
    texts = ["-" if math.isnan(rate) else f"{rate:.0e}" for rate in rates]
    line = " / ".join(texts)
    return line if len(line) <= _RATES_WIDTH else f"{texts[0]} .. {texts[-1]}"


def format_value(value: float) -> str:
    """Write a loss or a metric in at most 8 characters.

    >>> [format_value(value) for value in (0.41234, 12.5, 2.5e6, -1e-9, math.nan)]
    ['0.4123', '12.5000', '2.5e+06', '-0.0000', 'nan']
    """
    return f"{value:.4f}" if not abs(value) >= 100 else f"{value:.3g}"


def epoch_line(epoch: int, epochs: int, logs: Logs, seconds: float) -> str:
    """Return the line of an epoch, counted from 1. Its columns are those of `header`.

    >>> logs = {"loss": 0.5, "learning_rate/body": 1e-4, "learning_rate/head": 1e-3}
    >>> print(header(20, logs), epoch_line(3, 20, logs, 4.2), sep="\\n")
    epoch      loss     sec  learning rates
     3/20    0.5000     4.2  1e-04 / 1e-03
    """
    cells = [f"{epoch}/{epochs}".rjust(_epoch_width(epochs))]
    cells += [format_value(logs[name]).rjust(_width_of(name)) for name in _metrics(logs)]
    cells.append((f"{seconds:.1f}" if seconds < 1e4 else f"{seconds:.0f}").rjust(6))
    return "  ".join([*cells, format_rates(_rates(logs))]).rstrip()


def header(epochs: int, logs: Logs) -> str:
    """Return the names of the columns of `epoch_line`."""
    names = ["epoch".rjust(_epoch_width(epochs))]
    names += [_short(name).rjust(_width_of(name)) for name in _metrics(logs)]
    names.append("sec".rjust(6))
    return "  ".join([*names, "learning rates"] if _rates(logs) else names)


def bar_text(epoch: int, epochs: int, step: int, steps: int | None, logs: Logs) -> str:
    """Return the text beside the bar.

    >>> bar_text(3, 7, 45, 75, {"accuracy": 0.871, "loss": 0.412})
    'epoch 3/7  45/75  loss 0.4120  accuracy 0.8710'
    """
    total = "?" if steps is None else str(steps)
    metrics = [f"{name} {format_value(logs[name])}" for name in _metrics(logs)]
    return "  ".join([f"epoch {epoch}/{epochs}", f"{step:>{len(total)}}/{total}", *metrics])


def _rates(logs: Logs) -> list[float]:
    return [float(value) for name, value in logs.items() if name.startswith(RATE)]


def _metrics(logs: Logs) -> list[str]:
    """Return the names of the metrics, the losses and accuracies first."""
    first = [name for name in ("loss", "accuracy", "val_loss", "val_accuracy") if name in logs]
    return first + [n for n in logs if n not in first and not n.startswith(RATE)]


def _epoch_width(epochs: int) -> int:
    return max(len("epoch"), 2 * len(str(epochs)) + 1)


def _width_of(name: str) -> int:
    return max(len(_short(name)), 8)


def _short(name: str) -> str:
    return name.replace("accuracy", "acc") if name.startswith("val_") else name


class Progress(keras.callbacks.Callback):
    """Show the progress of `fit` in lines of at most 80 columns.

    After each epoch a line is printed: loss, metrics, seconds and the rates of the groups in the
    last step, `-` for a group that did not move. On a terminal, a bar shows the steps meanwhile.
    It continues over several calls of `fit`, and with `initial_epoch`.

    Use it as a context manager, so that the bar is removed if the training ends with an error, and
    put it after `LearningRateLogger` in the list of callbacks. Give `verbose=0` to `fit`.

    Args:
        epochs: Number of all epochs.
        first_step: Number of steps of the first epoch that were done before, in a training that was
            stopped within an epoch. Defaults to 0.
        lines: Whether to print a line after each epoch. Defaults to `True`; with `False` there is
            only the bar.
        stream: Where to write. Defaults to `None`: stderr.
    """

    def __init__(
        self,
        epochs: int,
        *,
        first_step: int = 0,
        lines: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__()
        self.epochs = epochs
        self._first_step = first_step
        self._has_lines = lines
        self._stream = stream
        self._bar: rich.progress.Progress | None = None
        self._columns = ""
        self._epoch = 0
        self._epoch_began = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1
        self._epoch_began = time.monotonic()
        self.close()
        stream = self._stream or sys.stderr
        if not on_terminal(stream):
            return
        console = rich.console.Console(file=stream)
        console = rich.console.Console(file=stream, width=min(WIDTH, console.width))
        text = rich.table.Column(no_wrap=True)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False, table_column=text),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
        )
        step = self._first_step
        self._bar.add_task(self._text(step, {}), total=self.params.get("steps"), completed=step)
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._bar is not None:
            step = self._first_step + batch + 1
            text = self._text(step, logs or {})
            self._bar.update(self._bar.task_ids[0], completed=step, description=text)

    def on_test_begin(self, logs: Any = None) -> None:
        if self._bar is not None:
            text = f"epoch {self._epoch}/{self.epochs}  validation"
            self._bar.update(self._bar.task_ids[0], description=text, refresh=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.close()
        self._first_step = 0
        if not (self._has_lines and notes_are_shown()):
            return
        values = logs or {}
        columns = header(self.epochs, values)
        if columns != self._columns:
            self._columns = columns
            self._print(columns)
        seconds = time.monotonic() - self._epoch_began
        self._print(epoch_line(epoch + 1, self.epochs, values, seconds))

    def _text(self, step: int, logs: Logs) -> str:
        return bar_text(self._epoch, self.epochs, step, self.params.get("steps"), logs)

    def _print(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)
