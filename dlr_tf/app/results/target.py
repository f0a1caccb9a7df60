"""What a model is trained for: what all kinds of targets have in common."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dlr_tf.app.terminal import table

N_ERRORS = 10  # that are shown


@dataclasses.dataclass(frozen=True)
class Target:
    """The kind of target: loss, metrics, scores, and how a prediction is printed.

    Args:
        class_names: The classes, in the order of the labels; or the labels, or the columns.
    """

    class_names: tuple[str, ...]

    kind: ClassVar[str]
    score: ClassVar[str]  # the metric by which epochs are compared: "loss", or higher is better
    score_words: ClassVar[str]

    @property
    def loss(self) -> Any:
        """The argument `loss` of `compile`."""
        raise NotImplementedError

    @property
    def metrics(self) -> Sequence[Any]:
        """The argument `metrics` of `compile`."""
        raise NotImplementedError

    def result_line(self, score: float, total: int, label: str, unit: str = "image") -> str:
        """Return the line about a training that has ended."""
        return f"test {self.score_words} {score:.4f} on {total} {unit}s with {label}"

    def evaluate(self, labels: np.ndarray, outputs: np.ndarray, names: Sequence[str] = ()) -> Any:
        """Return the scores of a model whose outputs are known."""
        raise NotImplementedError

    def text(self, row: np.ndarray, top: int) -> str:
        """Return the outputs for one example as text. `top` is the number of classes."""
        raise NotImplementedError

    def csv_header(self, top: int) -> list[str]:
        """Return the names of the columns of `csv_cells`."""
        raise NotImplementedError

    def csv_cells(self, row: np.ndarray, top: int) -> list[str]:
        """Return the outputs for one example for a table."""
        raise NotImplementedError

    def json_item(self, row: np.ndarray, top: int) -> dict[str, Any]:
        """Return the outputs for one example for JSON."""
        raise NotImplementedError


class ErrorLine(NamedTuple):
    """A word, what it is, and what may follow, such as a probability."""

    word: str
    value: str
    rest: str = ""


@dataclasses.dataclass(frozen=True)
class WorstError:
    """A bad prediction: the example, what is shown of it, and what JSON holds if that differs."""

    index: int
    name: str
    lines: Sequence[ErrorLine]
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        lines = {line.word: f"{line.value}{line.rest}" for line in self.lines}
        return {"index": self.index, "name": self.name, **(self.values or lines)}


@dataclasses.dataclass(frozen=True)
class TargetEvaluation:
    """What a model predicts for examples of which the truth is known.

    Args:
        target: What the model is trained for.
        labels: The truth: for each example a class, or a row of labels or numbers.
        outputs: What the model gives, float array with one row per example.
        names: What each example is called. Defaults to none: by its index.
        unit: What an example is. Defaults to "image".
    """

    target: Any
    labels: np.ndarray
    outputs: np.ndarray
    names: Sequence[str] = ()
    unit: str = "image"

    each: ClassVar[str]  # what there are several of, as JSON calls it
    errors_are: ClassVar[str] = "most confident errors"

    @functools.cached_property
    def is_finite(self) -> np.ndarray:
        """Whether all that the model gives for an example is finite."""
        return np.isfinite(self.outputs).all(axis=1)

    @property
    def n_not_finite(self) -> int:
        """The number of examples for which the model gives something that is not finite."""
        return int((~self.is_finite).sum())

    def summary(self) -> str:
        """Return the most important scores in one line."""
        raise NotImplementedError

    def headline(self, name: str) -> str:
        """Return the first line of the scores."""
        return f"scores on {name}, of {len(self.labels)} {self.unit}s: {self.summary()}"

    def tiles(self) -> list[tuple[str, str]]:
        """Return the first numbers of the page."""
        raise NotImplementedError

    @property
    def columns(self) -> Sequence[str]:
        """What `rows` hold: a name, and then numbers."""
        raise NotImplementedError

    def rows(self) -> list[tuple[str, ...]]:
        """Return the scores of each class, label or column as text."""
        raise NotImplementedError

    def worst_errors(self) -> list[WorstError]:
        """Return the worst predictions, the worst one first.

        These are the wrong classes and labels of which the model is most sure, and the numbers with
        the largest errors, in relation to the spread of their column.
        """
        raise NotImplementedError

    def error_table(self) -> str:
        """Return the worst predictions as a table, empty if there are none."""
        raise NotImplementedError

    def text(self) -> str:
        """Return the scores and the worst predictions, as tables."""
        text = table(self.columns, self.rows(), numbers=len(self.columns) - 1)
        errors = self.error_table()
        return f"{text}\nthe {self.errors_are}:\n{errors}" if errors else text

    @property
    def scores(self) -> dict[str, float]:
        """The scores of all classes, labels or columns together."""
        raise NotImplementedError

    @property
    def scores_of_each(self) -> Sequence[Any]:
        """The scores of each class, label or column."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Return the scores for JSON."""
        return {
            "count": len(self.labels),
            "n_not_finite": self.n_not_finite,
            "scores": self.scores,
            self.each: [vars(score) for score in self.scores_of_each],
            self.errors_are.replace(" ", "_"): [e.as_dict() for e in self.worst_errors()],
        }

    def name(self, index: int) -> str:
        """Return what an example is called."""
        return str(self.names[index]) if len(self.names) else f"{self.unit} {index}"


def largest(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the ten rows with the largest values above 0, the largest first, with their columns.

    >>> largest(np.array([[1, 2], [0, 0], [5, 3]]))
    [(2, 0), (0, 1)]
    """
    order = np.argsort(-values.max(axis=1, initial=0), kind="stable")[:N_ERRORS]
    return [(row, int(values[row].argmax())) for row in order.tolist() if values[row].max() > 0]


def score_text(value: float) -> str:
    """Write a score, `-` if there is none.

    >>> score_text(0.25), score_text(math.nan)
    ('0.250', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3f}"
