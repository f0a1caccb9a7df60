"""The scores of a classifier, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from dlr_tf.app.results.evaluation import Evaluation


def random_evaluation(n_classes: int = 4, count: int = 60) -> Evaluation:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(n_classes), count)
    labels = generator.integers(n_classes, size=count)
    return Evaluation(tuple("abcdefgh"[:n_classes]), labels, probabilities)


def test_scores_equal_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = random_evaluation()
    np.testing.assert_array_equal(
        found.confusion_matrix(), metrics.confusion_matrix(found.labels, found.predictions)
    )
    expected = metrics.precision_recall_fscore_support(found.labels, found.predictions)
    scores = [(s.precision, s.recall, s.f1, s.support) for s in found.class_scores()]
    np.testing.assert_allclose(np.transpose(scores), expected)
    assert found.accuracy == metrics.accuracy_score(found.labels, found.predictions)
    assert found.right == round(found.accuracy * 60)


def test_a_class_that_is_neither_there_nor_predicted_has_no_scores() -> None:
    found = Evaluation(("a", "b", "c"), np.array([0, 1]), np.eye(3)[[0, 0]])
    a, b, c = found.class_scores()
    assert (a.precision, a.recall, a.support) == (0.5, 1.0, 1)
    assert (b.recall, b.f1, b.support) == (0.0, 0.0, 1)
    assert np.isnan(b.precision)
    assert np.isnan([c.precision, c.recall, c.f1]).all()


def test_the_worst_mistakes_are_the_surest_ones() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    found = Evaluation(("a", "b"), np.array([0, 0, 0, 1]), probabilities)
    assert found.worst_mistakes() == [1, 2]
    assert found.worst_mistakes(1) == [1]
