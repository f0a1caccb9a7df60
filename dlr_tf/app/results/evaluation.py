"""One class of several: the scores of a classifier, what is printed and what is stored of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dlr_tf.app.terminal import table


@dataclasses.dataclass(frozen=True)
class OneClass:
    """The kind of target: what a model is trained for, and how it is scored.

    Args:
        class_names: The classes, in the order of the labels.
    """

    class_names: tuple[str, ...]

    loss: ClassVar[str] = "sparse_categorical_crossentropy"
    metrics: ClassVar[Sequence[str]] = ("accuracy",)
    score: ClassVar[str] = "accuracy"  # the metric by which epochs are compared: higher is better

    def evaluate(
        self, labels: np.ndarray, outputs: np.ndarray, names: Sequence[str] = ()
    ) -> Evaluation:
        """Return the scores of a model whose outputs are known."""
        return Evaluation(self.class_names, labels, outputs, names)


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """The scores of one class, as scikit-learn defines them; NaN where there is none."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclasses.dataclass(frozen=True)
class ConfidentError:
    """A wrong prediction: the example, its class, and the class with the highest probability."""

    index: int
    name: str
    true_class: str
    predicted_class: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a classifier predicts for examples whose classes are known.

    Where a probability is not finite, the classifier predicts no class, which counts as wrong.

    Args:
        class_names: The classes, in the order of the labels.
        labels: The true classes, int array of shape `(examples,)`.
        probabilities: What the classifier gives, float array of shape `(examples, classes)`.
        names: What each example is called. Defaults to none: by its index.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str] = ()

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The class with the highest probability, int array of shape `(examples,)`; -1 if none."""
        finite = np.isfinite(self.probabilities).all(axis=1)
        return np.where(finite, self.probabilities.argmax(axis=1), -1)

    @property
    def n_not_finite(self) -> int:
        """The number of examples for which a probability is not finite."""
        return int((self.predictions < 0).sum())

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

    def class_scores(self) -> list[ClassScore]:
        """Return the scores of every class, in the order of the labels."""
        from sklearn.metrics import precision_recall_fscore_support

        scores = precision_recall_fscore_support(
            self.labels,
            self.predictions,
            labels=range(len(self.class_names)),
            zero_division=np.nan,
        )
        columns = (column.tolist() for column in scores)
        return [ClassScore(*row) for row in zip(self.class_names, *columns, strict=True)]

    def most_confident_errors(self, count: int = 10) -> list[ConfidentError]:
        """Return the wrong predictions with the highest probability, the highest first."""
        predictions = self.predictions
        wrong = np.flatnonzero((predictions != self.labels) & (predictions >= 0))
        confidence = self.probabilities[wrong].max(axis=1)
        indices = wrong[np.argsort(-confidence, kind="stable")][:count].tolist()
        return [
            ConfidentError(
                index,
                str(self.names[index]) if len(self.names) else f"image {index}",
                self.class_names[self.labels[index]],
                self.class_names[predictions[index]],
                float(self.probabilities[index].max()),
            )
            for index in indices
        ]

    def text(self) -> str:
        """Return the scores of each class and the most confident errors, as tables.

        >>> labels, probabilities = np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])
        >>> print(Evaluation(("a", "b"), labels, probabilities).text())
        class  precision  recall     F1  images
        a          0.500   1.000  0.667       1
        b              -   0.000  0.000       1
        the most confident errors:
        image    true class  predicted class  probability
        image 1  b           a                      0.800
        """
        scores = [
            (s.name, _score(s.precision), _score(s.recall), _score(s.f1), f"{s.support:,}")
            for s in self.class_scores()
        ]
        text = table(("class", "precision", "recall", "F1", "images"), scores, numbers=4)
        errors = [
            (e.name, e.true_class, e.predicted_class, f"{e.probability:.3f}")
            for e in self.most_confident_errors()
        ]
        if errors:
            columns = ("image", "true class", "predicted class", "probability")
            text += f"\nthe most confident errors:\n{table(columns, errors, numbers=1)}"
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return the scores for JSON."""
        return {
            "n_correct": self.n_correct,
            "count": len(self.labels),
            "accuracy": self.accuracy,
            "n_not_finite": self.n_not_finite,
            "classes": [vars(score) for score in self.class_scores()],
            "confusion_matrix": self.confusion_matrix().tolist(),
            "most_confident_errors": [vars(e) for e in self.most_confident_errors()],
        }


def _score(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
