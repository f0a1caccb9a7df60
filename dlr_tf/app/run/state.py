"""How far a training is, and what its epochs gave. All of it is plain numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dlr_tf.app.run.seconds import Seconds

History = dict[str, list[float]]


@dataclasses.dataclass
class TrainingState:
    """How far a training is.

    Args:
        epoch: Int from 0: the epoch that the next step belongs to.
        step: Int from 0: the index of the next step within that epoch.
        is_finished: Whether nothing is left to train.
        history: The logs of the epochs before.
        best_epoch: Int from 1: the best epoch so far; 0 before the first ends.
        head_alone: The score on the test images after the head start; `None` without one.
        seconds: How long the training took, over all processes.
    """

    epoch: int = 0
    step: int = 0
    is_finished: bool = False
    history: History = dataclasses.field(default_factory=dict)
    best_epoch: int = 0
    head_alone: float | None = None
    seconds: Seconds = dataclasses.field(default_factory=Seconds)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TrainingState:
        """Return the state that `as_record` wrote."""
        state = cls(**record)
        state.seconds = Seconds(*state.seconds)
        return state

    def as_record(self) -> dict[str, Any]:
        """Return the state for JSON."""
        return dataclasses.asdict(self)

    def end_epoch(self, logs: Mapping[str, float], score: str) -> None:
        """Add the logs of an epoch, and go to the next one. `score` tells which epoch is best."""
        self.epoch, self.step = self.epoch + 1, 0
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self.best_epoch = best_epoch(self.history, score)


def best_epoch(history: Mapping[str, Sequence[float]], score: str) -> int:
    """Return the number of the best epoch, from 1.

    The best epoch has the highest validation score, or the lowest one if that is the loss; among
    several, the lowest validation loss; among several again, it is the first. An epoch whose loss
    is not finite is never better.

    >>> history = {"val_accuracy": [0.8, 0.9, 0.9, 0.7], "val_loss": [0.1, 0.4, 0.3, 0.2]}
    >>> best_epoch(history, "accuracy")
    3
    >>> best_epoch({"val_accuracy": [0.2, 0.9], "val_loss": [5.0, math.nan]}, "accuracy")
    1
    """

    def value(epoch: int) -> tuple[float, float]:
        reached, loss = (history[f"val_{name}"][epoch] for name in (score, "loss"))
        reached = -loss if score == "loss" else reached
        return (reached, -loss) if math.isfinite(loss) else (-math.inf, -math.inf)

    return 1 + max(range(len(history["val_loss"])), key=value)


def log_text(history: Mapping[str, Sequence[float]], *, first: int = 0) -> str:
    r"""Return the rows of `log.csv`. NaN, as the rate of a frozen group, becomes an empty cell.

    `first` is the first epoch to return, from 0. Before epoch 0 comes the row of the names.

    >>> log_text({"loss": [2.0, 0.5], "learning_rate/body": [math.nan, 0.1]})
    'epoch,loss,learning_rate/body\n1,2.0,\n2,0.5,0.1\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if first == 0 and history:
        writer.writerow(["epoch", *history])
    for epoch, row in enumerate(zip(*history.values(), strict=True), 1):
        if epoch > first:
            writer.writerow([epoch, *("" if math.isnan(value) else value for value in row)])
    return text.getvalue()
