"""Several labels: thresholds, the scores of each label, what is printed and what is stored."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
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
from dlr_tf.training.losses import LabelsAUC


@dataclasses.dataclass(frozen=True)
class SeveralLabels(Target):
    """Any number of labels for each example.

    Args:
        thresholds: The probability from which on each label counts. Defaults to 0.5 for each.
        label_smoothing: The probability that is shared with the opposite in the training.
        mixes: Whether the training has labels that are mixed.
    """

    thresholds: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    mixes: bool = False

    kind: ClassVar[str] = "labels"
    score: ClassVar[str] = "auc_pr"
    score_words: ClassVar[str] = "area under the precision-recall curve"

    @property
    def loss(self) -> Any:
        return keras.losses.BinaryCrossentropy(label_smoothing=self.label_smoothing)

    @property
    def metrics(self) -> Sequence[Any]:
        count = len(self.class_names)
        kind = LabelsAUC if self.mixes else keras.metrics.AUC
        area = kind(curve="PR", multi_label=True, num_labels=count, name="auc_pr")
        return [area]

    @property
    def levels(self) -> np.ndarray:
        """The threshold of each label."""
        return np.array(self.thresholds or [0.5] * len(self.class_names))

    def tuned(self, labels: np.ndarray, outputs: np.ndarray) -> SeveralLabels:
        """Return this target with the thresholds that fit examples that were not trained on."""
        found = [best_threshold(*columns) for columns in zip(labels.T, outputs.T, strict=True)]
        return dataclasses.replace(self, thresholds=tuple(found))

    def evaluate(
        self, labels: np.ndarray, outputs: np.ndarray, names: Sequence[str] = ()
    ) -> LabelsEvaluation:
        return LabelsEvaluation(self, labels, outputs, names)

    def above(self, row: np.ndarray) -> list[str]:
        """Return the labels above their threshold, the most probable first."""
        order = np.argsort(-row, kind="stable")
        return [self.class_names[index] for index in order if row[index] >= self.levels[index]]

    def text(self, row: np.ndarray, top: int) -> str:
        """Return the labels above their threshold with their probabilities.

        >>> SeveralLabels(("red", "blue"), (0.5, 0.1)).text(np.array([0.4, 0.2]), 3)
        'blue 0.200'
        """
        probabilities = dict(zip(self.class_names, row.tolist(), strict=True))
        cells = [f"{name} {probabilities[name]:.3f}" for name in self.above(row)]
        return "  ".join(cells) or "no label"

    def csv_header(self, top: int) -> list[str]:
        return ["labels", *self.class_names]

    def csv_cells(self, row: np.ndarray, top: int) -> list[str]:
        return ["|".join(self.above(row)), *(f"{value:.6f}" for value in row)]

    def json_item(self, row: np.ndarray, top: int) -> dict[str, Any]:
        values = (round(value, 6) for value in row.tolist())
        probabilities = dict(zip(self.class_names, values, strict=True))
        return {"labels": self.above(row), "probabilities": probabilities}


def best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the threshold with the highest F1; among several, the one nearest to 0.5.

    It is in the middle between two probabilities. Where the label is in all examples or in none,
    or a probability is not finite, it is 0.5.

    >>> best_threshold(np.array([0, 1, 1]), np.array([0.1, 0.3, 0.9]))
    0.2
    """
    wanted = truth > 0
    if wanted.all() or not wanted.any() or not np.isfinite(probabilities).all():
        return 0.5
    levels = np.unique(probabilities.astype(np.float64))
    candidates = [*((levels[1:] + levels[:-1]) / 2)]

    def quality(threshold: float) -> tuple[float, float]:
        found = probabilities >= threshold
        f1 = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
        return float(f1), -abs(threshold - 0.5)

    return round(float(max(candidates, key=quality, default=0.5)), 6)


@dataclasses.dataclass(frozen=True)
class LabelScore:
    """The scores of one label; NaN where there is none."""

    name: str
    average_precision: float
    threshold: float
    precision: float
    recall: float
    f1: float
    support: int


class LabelsEvaluation(TargetEvaluation):
    """What a model predicts for examples whose labels, 0 or 1 for each, are known.

    Where a probability is not finite, the model predicts no label.
    """

    each: ClassVar[str] = "labels"

    @functools.cached_property
    def finite(self) -> np.ndarray:
        """The probabilities, 0 where an example has one that is not finite."""
        return np.where(self.is_finite[:, None], self.outputs, 0.0)

    @property
    def predictions(self) -> np.ndarray:
        """The labels above their threshold, bool array."""
        return self.finite >= self.target.levels

    @functools.cached_property
    def scores_of_each(self) -> list[LabelScore]:
        from sklearn.metrics import average_precision_score, precision_recall_fscore_support

        scores = []
        truth, predictions, levels = self.labels > 0, self.predictions, self.target.levels.tolist()
        for column, name in enumerate(self.target.class_names):
            wanted = truth[:, column]
            area = np.nan
            if wanted.any():
                area = float(average_precision_score(wanted, self.finite[:, column]))
            precision, recall, f1, _ = precision_recall_fscore_support(
                wanted, predictions[:, column], average="binary", zero_division=np.nan
            )
            quality = (float(precision), float(recall), float(f1))
            scores.append(LabelScore(name, area, levels[column], *quality, int(wanted.sum())))
        return scores

    @functools.cached_property
    def scores(self) -> dict[str, float]:
        truth, found = self.labels > 0, self.predictions
        size = truth.sum() + found.sum()
        return {
            "mean_average_precision": _mean([s.average_precision for s in self.scores_of_each]),
            "f1_micro": float(2 * (truth & found).sum() / size) if size else np.nan,
            "f1_macro": _mean([s.f1 for s in self.scores_of_each]),
            "exact_match": float((truth == found).all(axis=1).mean()),
        }

    def summary(self) -> str:
        s = self.scores
        return (
            f"mean average precision {score_text(s['mean_average_precision'])}, "
            f"F1 micro {score_text(s['f1_micro'])} and macro {score_text(s['f1_macro'])}, "
            f"all labels right {s['exact_match']:.3f}"
        )

    def tiles(self) -> list[tuple[str, str]]:
        s = self.scores
        return [
            (score_text(s["mean_average_precision"]), "mean average precision"),
            (score_text(s["f1_micro"]), f"F1 micro (macro {score_text(s['f1_macro'])})"),
            (f"{s['exact_match']:.3f}", f"of the test {self.unit}s have all labels right"),
        ]

    def worst_errors(self) -> list[WorstError]:
        wrong = (self.predictions != (self.labels > 0)) & np.isfinite(self.outputs)
        distance = np.where(wrong, abs(self.labels - self.finite), -1.0)
        found = []
        for index, label in largest(distance):
            is_missed = bool(self.labels[index, label])
            word = "missed" if is_missed else "wrong"
            share = f" ({self.finite[index, label]:.0%})"
            truth = [n for n, has in zip(self.target.class_names, self.labels[index]) if has]
            lines = [
                ErrorLine(word, self.target.class_names[label], share),
                ErrorLine("true", ", ".join(truth) or "no label"),
            ]
            found.append(WorstError(index, self.name(index), lines))
        return found

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                s.name,
                f"{s.support:,}",
                score_text(s.average_precision),
                f"{s.threshold:.3f}",
                *map(score_text, (s.precision, s.recall, s.f1)),
            )
            for s in self.scores_of_each
        ]

    @property
    def columns(self) -> Sequence[str]:
        area = "average precision"
        return "label", f"{self.unit}s", area, "threshold", "precision", "recall", "F1"

    def error_table(self) -> str:
        errors = [
            (e.name, f"{e.lines[0].word} {e.lines[0].value}{e.lines[0].rest}", e.lines[1].value)
            for e in self.worst_errors()
        ]
        return table((self.unit, "error", "true labels"), errors) if errors else ""


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
