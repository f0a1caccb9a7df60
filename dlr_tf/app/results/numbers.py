"""Numbers: their scores beside those of the mean, what is printed and what is stored of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dlr_tf.app.results.target import (
    ErrorLine,
    Target,
    TargetEvaluation,
    WorstError,
    largest,
    score_text,
)
from dlr_tf.app.terminal import table
from dlr_tf.training.losses import ScaledSquaredError

_POINTS = 500  # of a plot


@dataclasses.dataclass(frozen=True)
class Numbers(Target):
    """One number or more for each example, in the unit of the person.

    Args:
        means: What each number is on average over the training data.
        deviations: The standard deviation of each number there. Only a training needs them.
    """

    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()

    kind: ClassVar[str] = "number"
    # Errors of several columns have no common unit but that of the loss.
    score: ClassVar[str] = "loss"
    score_words: ClassVar[str] = "loss"

    @property
    def loss(self) -> Any:
        return ScaledSquaredError(self.deviations)

    @property
    def metrics(self) -> Sequence[Any]:
        return ["mae"] if len(self.class_names) == 1 else []

    def evaluate(
        self, labels: np.ndarray, outputs: np.ndarray, names: Sequence[str] = ()
    ) -> NumbersEvaluation:
        return NumbersEvaluation(self, labels, outputs, names)

    def text(self, row: np.ndarray, top: int) -> str:
        """Return the numbers with the names of their columns.

        >>> Numbers(("price", "size")).text(np.array([1234.5678, 0.5]), 3)
        'price 1234.57  size 0.5'
        """
        return "  ".join(f"{name} {value:.6g}" for name, value in zip(self.class_names, row))

    def csv_header(self, top: int) -> list[str]:
        return [*self.class_names]

    def csv_cells(self, row: np.ndarray, top: int) -> list[str]:
        return [f"{value:.7g}" for value in row]

    def json_item(self, row: np.ndarray, top: int) -> dict[str, Any]:
        values = (float(f"{value:.7g}") for value in row)
        return {"values": dict(zip(self.class_names, values, strict=True))}


@dataclasses.dataclass(frozen=True)
class NumberScore:
    """The scores of one column, and those of always answering the mean of the training data."""

    name: str
    mean_absolute_error: float
    mean_absolute_error_of_the_mean: float
    root_mean_squared_error: float
    root_mean_squared_error_of_the_mean: float
    r2: float
    r2_of_the_mean: float


class NumbersEvaluation(TargetEvaluation):
    """What a model predicts for examples whose numbers, one or more for each, are known.

    Predictions that are not finite are left out of the scores.
    """

    each: ClassVar[str] = "columns"
    errors_are: ClassVar[str] = "largest errors"

    @functools.cached_property
    def scores_of_each(self) -> list[NumberScore]:
        truth = self.labels[self.is_finite].astype(np.float64)
        found = self.outputs[self.is_finite].astype(np.float64)
        means = np.broadcast_to(self.target.means or truth.mean(axis=0), truth.shape)
        scores = []
        for column, name in enumerate(self.target.class_names):
            ours = _errors(truth[:, column], found[:, column])
            mean = _errors(truth[:, column], means[:, column])
            both = [value for pair in zip(ours, mean, strict=True) for value in pair]
            scores.append(NumberScore(name, *both))
        return scores

    @property
    def scores(self) -> dict[str, float]:
        """The scores, on average over the columns."""
        names = [field.name for field in dataclasses.fields(NumberScore)][1:]
        return {
            name: float(np.mean([getattr(score, name) for score in self.scores_of_each]))
            for name in names
        }

    def summary(self) -> str:
        return "; ".join(
            f"{s.name}: mean absolute error {s.mean_absolute_error:.4g} "
            f"(of the mean {s.mean_absolute_error_of_the_mean:.4g}), R2 {score_text(s.r2)}"
            for s in self.scores_of_each
        )

    def tiles(self) -> list[tuple[str, str]]:
        tiles = [
            (
                f"{s.mean_absolute_error:.4g}",
                f"mean absolute error of {s.name}; of the mean "
                f"{s.mean_absolute_error_of_the_mean:.4g}",
            )
            for s in self.scores_of_each[:3]
        ]
        return [*tiles, (score_text(self.scores["r2"]), "R2")]

    def worst_errors(self) -> list[WorstError]:
        spread = np.maximum(self.labels.std(axis=0), 1e-12)
        distance = np.where(self.is_finite[:, None], abs(self.outputs - self.labels) / spread, -1.0)
        found = []
        for index, column in largest(distance):
            name = self.target.class_names[column]
            lines = [
                ErrorLine("predicted", f"{self.outputs[index, column]:.6g}", f" {name}"),
                ErrorLine("true", f"{self.labels[index, column]:.6g}"),
            ]
            found.append(WorstError(index, self.name(index), lines))
        return found

    @property
    def columns(self) -> Sequence[str]:
        scores = ("mean absolute error", "root mean squared error", "R2")
        return "number", *(column for score in scores for column in (score, "of the mean"))

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                s.name,
                f"{s.mean_absolute_error:.4g}",
                f"{s.mean_absolute_error_of_the_mean:.4g}",
                f"{s.root_mean_squared_error:.4g}",
                f"{s.root_mean_squared_error_of_the_mean:.4g}",
                score_text(s.r2),
                score_text(s.r2_of_the_mean),
            )
            for s in self.scores_of_each
        ]

    def error_table(self) -> str:
        errors = [
            (e.name, e.lines[0].rest.strip(), e.lines[0].value, e.lines[1].value)
            for e in self.worst_errors()
        ]
        columns = (self.unit, "number", "predicted", "true")
        return table(columns, errors, numbers=2) if errors else ""

    def scatters(self) -> list[dict[str, Any]]:
        """Return for each column the predicted and the true numbers, as places from 0 to 100."""
        truth, found = self.labels[self.is_finite], self.outputs[self.is_finite]
        plots = []
        for column, name in enumerate(self.target.class_names):
            pairs = np.stack([truth[:, column], found[:, column]], axis=1)[:_POINTS]
            if not len(pairs):
                continue
            low, high = float(pairs.min()), float(pairs.max())
            places = np.round(100 * (pairs - low) / max(high - low, 1e-12), 2).tolist()
            plots.append({"name": name, "places": places, "low": low, "high": high})
        return plots


def _errors(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Return mean absolute error, root mean squared error, and R2.

    >>> _errors(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    (0.5, 0.7071067811865476, 0.5)
    """
    if not len(truth):
        return (np.nan,) * 3
    errors, variance = found - truth, float(np.mean((truth - truth.mean()) ** 2))
    square = float(np.mean(errors**2))
    r2 = 1 - square / variance if variance else np.nan
    return float(np.abs(errors).mean()), square**0.5, r2
