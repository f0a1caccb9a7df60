"""How good a classifier is: scores per class, the confusion matrix, the most confident errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """The scores of one class, as scikit-learn defines them.

    Args:
        name: The class.
        precision: Fraction of the predictions of this class that are correct. NaN without any.
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
class ConfidentError:
    """A wrong prediction.

    Args:
        index: The index of the example.
        name: What the example is called.
        true_class: Its class.
        predicted_class: The class with the highest probability.
        probability: That probability.
    """

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

    @property
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
        """Return the wrong predictions with the highest probability, the highest first.

        Args:
            count: Int, 0 or more: how many to return at most. Defaults to 10.
        """
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


def evaluate_batches(
    predict: Callable[[Any], np.ndarray],
    batches: Iterable[Any],
    class_names: Sequence[str],
    names: Sequence[str] = (),
) -> Evaluation:
    """Return the evaluation of a classifier on batches, in one pass.

    Args:
        predict: Gives the probabilities for a batch of images.
        batches: Batches of images and labels.
        class_names: The classes, in the order of the labels.
        names: What each image is called. Defaults to none.
    """
    labels, probabilities = [], []
    for images, some_labels in batches:
        labels.append(np.asarray(some_labels))
        probabilities.append(predict(images))
    return Evaluation(
        tuple(class_names), np.concatenate(labels), np.concatenate(probabilities), names
    )
