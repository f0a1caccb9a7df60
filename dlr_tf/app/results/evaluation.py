"""One class of several: the scores of a classifier, what is printed and what is stored of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dlr_tf.app.results.target import (
    N_ERRORS,
    ErrorLine,
    Target,
    TargetEvaluation,
    WorstError,
    score_text,
)
from dlr_tf.app.terminal import table
from dlr_tf.training.losses import ClassAccuracy, ClassCrossentropy


@dataclasses.dataclass(frozen=True)
class OneClass(Target):
    """One class of several for each example.

    Args:
        label_smoothing: The share of the probability that all classes share in the training.
        mixes: Whether the training has images of two classes.
    """

    label_smoothing: float = 0.0
    mixes: bool = False

    kind: ClassVar[str] = "class"
    score: ClassVar[str] = "accuracy"
    score_words: ClassVar[str] = "accuracy"

    @property
    def loss(self) -> Any:
        if not (self.label_smoothing or self.mixes):
            return "sparse_categorical_crossentropy"
        return ClassCrossentropy(self.label_smoothing)

    @property
    def metrics(self) -> Sequence[Any]:
        return [ClassAccuracy("accuracy") if self.mixes else "accuracy"]

    def result_line(self, score: float, total: int, label: str, unit: str = "image") -> str:
        return f"test accuracy {score:.4f} ({round(score * total)} of {total}) with {label}"

    def evaluate(
        self, labels: np.ndarray, outputs: np.ndarray, names: Sequence[str] = ()
    ) -> Evaluation:
        return Evaluation(self, labels, outputs, names)

    def best(self, row: np.ndarray, top: int) -> list[tuple[str, float]]:
        """Return the most probable classes, the best one first.

        >>> OneClass(("a", "b", "c")).best(np.array([0.25, 0.5, 0.25]), 2)
        [('b', 0.5), ('a', 0.25)]
        """
        order = np.argsort(-row, kind="stable")[:top]
        return [(self.class_names[index], float(row[index])) for index in order]

    def text(self, row: np.ndarray, top: int) -> str:
        width = max(map(len, self.class_names))
        return "  ".join(f"{name:{width}} {p:.3f}" for name, p in self.best(row, top))

    def csv_header(self, top: int) -> list[str]:
        every = range(1, min(top, len(self.class_names)) + 1)
        return [f"{word}_{n}" for n in every for word in ("class", "probability")]

    def csv_cells(self, row: np.ndarray, top: int) -> list[str]:
        return [cell for name, p in self.best(row, top) for cell in (name, f"{p:.6f}")]

    def json_item(self, row: np.ndarray, top: int) -> dict[str, Any]:
        return {
            "classes": [{"class": n, "probability": round(p, 6)} for n, p in self.best(row, top)]
        }


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """The scores of one class, as scikit-learn defines them; NaN where there is none."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class Evaluation(TargetEvaluation):
    """What a classifier predicts for examples whose classes are known.

    Where a probability is not finite, the classifier predicts no class, which counts as wrong.
    """

    each: ClassVar[str] = "classes"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the labels."""
        return tuple(self.target.class_names)

    @property
    def scores(self) -> dict[str, float]:
        """The scores of all classes together. Two classes also have an area under the ROC curve."""
        scores = {"accuracy": self.accuracy}
        if len(self.class_names) == 2:
            scores["roc_auc"] = self._roc_auc()
        return scores

    def _roc_auc(self) -> float:
        from sklearn.metrics import roc_auc_score

        if len(set(self.labels.tolist())) < 2 or self.n_not_finite:
            return float("nan")
        return float(roc_auc_score(self.labels, self.outputs[:, 1]))

    def headline(self, name: str) -> str:
        total = len(self.labels)
        line = f"accuracy on {name}: {self.n_correct} of {total}, {self.accuracy:.3f}"
        if "roc_auc" in self.scores:
            line += f"; area under the ROC curve {score_text(self.scores['roc_auc'])}"
        return line

    def tiles(self) -> list[tuple[str, str]]:
        counts = f"{self.n_correct:,} of {len(self.labels):,}"
        return [(f"{self.accuracy:.3f}", f"test accuracy: {counts}")]

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The class with the highest probability, int array of shape `(examples,)`; -1 if none."""
        return np.where(self.is_finite, self.outputs.argmax(axis=1), -1)

    @property
    def n_correct(self) -> int:
        """The number of correct predictions."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return self.n_correct / len(self.labels)

    def confusion_matrix(self) -> np.ndarray:
        """Return the numbers of examples, int array `[true class, predicted class]`.

        Examples without a predicted class are left out.
        """
        from sklearn.metrics import confusion_matrix

        every_class = range(len(self.class_names))
        matrix: np.ndarray = confusion_matrix(self.labels, self.predictions, labels=every_class)
        return matrix

    @functools.cached_property
    def scores_of_each(self) -> list[ClassScore]:
        from sklearn.metrics import precision_recall_fscore_support

        scores = precision_recall_fscore_support(
            self.labels,
            self.predictions,
            labels=range(len(self.class_names)),
            zero_division=np.nan,
        )
        columns = (column.tolist() for column in scores)
        return [ClassScore(*row) for row in zip(self.class_names, *columns, strict=True)]

    def worst_errors(self) -> list[WorstError]:
        wrong = np.flatnonzero((self.predictions != self.labels) & self.is_finite)
        confidence = self.outputs[wrong].max(axis=1)
        found = []
        for index in wrong[np.argsort(-confidence, kind="stable")][:N_ERRORS].tolist():
            true = self.class_names[self.labels[index]]
            predicted = self.class_names[self.predictions[index]]
            probability = float(self.outputs[index].max())
            lines = [
                ErrorLine("predicted", predicted, f" ({probability:.0%})"),
                ErrorLine("true", true),
            ]
            values = {"true_class": true, "predicted_class": predicted, "probability": probability}
            found.append(WorstError(index, self.name(index), lines, values))
        return found

    @property
    def columns(self) -> Sequence[str]:
        return "class", "precision", "recall", "F1", f"{self.unit}s"

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (s.name, *map(score_text, (s.precision, s.recall, s.f1)), f"{s.support:,}")
            for s in self.scores_of_each
        ]

    def error_table(self) -> str:
        """Return the most confident errors as a table, empty if there are none.

        >>> labels, probabilities = np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])
        >>> print(OneClass(("a", "b")).evaluate(labels, probabilities).text())
        class  precision  recall     F1  images
        a          0.500   1.000  0.667       1
        b              -   0.000  0.000       1
        the most confident errors:
        image    true class  predicted class  probability
        image 1  b           a                      0.800
        """
        errors = []
        for error in self.worst_errors():
            true, predicted, probability = error.values.values()
            errors.append((error.name, true, predicted, f"{probability:.3f}"))
        columns = (self.unit, "true class", "predicted class", "probability")
        return table(columns, errors, numbers=1) if errors else ""

    def as_dict(self) -> dict[str, Any]:
        return {
            **super().as_dict(),
            "n_correct": self.n_correct,
            "accuracy": self.accuracy,
            "confusion_matrix": self.confusion_matrix().tolist(),
        }
