"""How good a classifier is: scores per class, the confusion matrix, the worst mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """The scores of one class.

    Args:
        name: The class.
        precision: Fraction of the predictions of this class that are right. NaN without any.
        recall: Fraction of the examples of this class that are found. NaN without any.
        f1: Harmonic mean of precision and recall; 0 if both are 0. NaN without examples and
            predictions.
        support: Number of examples of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a classifier does on examples whose classes are known.

    Where a probability is not finite, the classifier predicts no class, which counts as wrong.

    Args:
        class_names: The classes, in the order of the labels.
        labels: The right classes, int array of shape `(examples,)`.
        probabilities: What the classifier says, float array of shape `(examples, classes)`.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The class with the highest probability, int array of shape `(examples,)`; -1 if none."""
        finite = np.isfinite(self.probabilities).all(axis=1)
        return np.where(finite, self.probabilities.argmax(axis=1), -1)

    @property
    def not_finite(self) -> int:
        """The number of examples for which a probability is not finite."""
        return int((self.predictions < 0).sum())

    @property
    def right(self) -> int:
        """The number of right predictions."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """The fraction of right predictions."""
        return self.right / len(self.labels)

    def confusion_matrix(self) -> np.ndarray:
        """Return the numbers of examples, int array `[right class, predicted class]`.

        Examples without a predicted class are left out.
        """
        n_classes = len(self.class_names)
        matrix = np.zeros((n_classes, n_classes), np.int64)
        predicted = self.predictions >= 0
        np.add.at(matrix, (self.labels[predicted], self.predictions[predicted]), 1)
        return matrix

    def class_scores(self) -> list[ClassScore]:
        """Return the scores of every class, in the order of the labels."""
        matrix = self.confusion_matrix()
        support = np.bincount(self.labels, minlength=len(self.class_names))
        with np.errstate(invalid="ignore"):
            precision = matrix.diagonal() / matrix.sum(axis=0)
            recall = matrix.diagonal() / support
            f1 = 2 * matrix.diagonal() / (matrix.sum(axis=0) + support)
        columns = zip(self.class_names, precision, recall, f1, support, strict=True)
        return [
            ClassScore(name, float(of_predicted), float(of_class), float(mean), int(count))
            for name, of_predicted, of_class, mean, count in columns
        ]

    def worst_mistakes(self, count: int = 10) -> Sequence[int]:
        """Return the wrong predictions with the highest probability, the worst one first.

        Args:
            count: Int, 0 or more: how many to return at most. Defaults to 10.

        Returns:
            Indices of the examples.
        """
        wrong = np.flatnonzero((self.predictions != self.labels) & (self.predictions >= 0))
        confidence = self.probabilities[wrong].max(axis=1)
        return wrong[np.argsort(-confidence, kind="stable")][:count].tolist()
