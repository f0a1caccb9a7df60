"""The scores of a classifier, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from dlr_tf.app.results.evaluation import OneClass


def test_scores_are_shares_of_what_is_counted() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(4, size=60)
    found = OneClass(tuple("abcd")).evaluate(labels, generator.dirichlet(np.ones(4), 60))
    pairs = list(zip(labels.tolist(), found.predictions.tolist()))
    matrix = found.confusion_matrix()
    for index, score in enumerate(found.scores_of_each):
        assert [pairs.count((index, other)) for other in range(4)] == matrix[index].tolist()
        n_predicted = sum(predicted == index for _, predicted in pairs)
        n_found = pairs.count((index, index))
        assert score.name == "abcd"[index]
        assert score.support == sum(label == index for label, _ in pairs)
        assert score.precision == pytest.approx(n_found / n_predicted)
        assert score.recall == pytest.approx(n_found / score.support)
        assert score.f1 == pytest.approx(2 * n_found / (n_predicted + score.support))
    assert found.n_correct == np.trace(matrix)
    assert found.accuracy == found.n_correct / 60


def test_a_class_that_is_neither_there_nor_predicted_has_no_scores() -> None:
    found = OneClass(("a", "b", "c")).evaluate(np.array([0, 1]), np.eye(3)[[0, 0]])
    a, b, c = found.scores_of_each
    assert (a.precision, a.recall, a.support) == (0.5, 1.0, 1)
    assert (b.recall, b.f1, b.support) == (0.0, 0.0, 1)
    assert np.isnan(b.precision)
    assert np.isnan([c.precision, c.recall, c.f1]).all()


def test_an_example_without_finite_probabilities_counts_as_wrong() -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, 0.2], [0.4, np.inf], [0.8, 0.2]])
    found = OneClass(("a", "b")).evaluate(np.array([0, 0, 1, 1]), probabilities)
    assert found.predictions.tolist() == [0, -1, -1, 0]
    assert (found.n_not_finite, found.n_correct, found.accuracy) == (2, 1, 0.25)
    assert found.confusion_matrix().tolist() == [[1, 0], [1, 0]]
    assert [score.support for score in found.scores_of_each] == [2, 2]
    assert [score.recall for score in found.scores_of_each] == [0.5, 0.0]
    assert [error.index for error in found.worst_errors()] == [3]
    broken = OneClass(("a", "b")).evaluate(np.array([0, 1]), np.full((2, 2), np.nan))
    assert (broken.accuracy, broken.worst_errors()) == (0.0, [])
    assert broken.confusion_matrix().tolist() == [[0, 0], [0, 0]]


def test_the_most_confident_errors_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.25, 0.75], [0.4, 0.6], [0.1, 0.9]])
    found = OneClass(("a", "b")).evaluate(np.array([1, 0, 0, 1]), probabilities)
    first, second, third = found.worst_errors()
    assert first.as_dict() == {
        "index": 0,
        "name": "image 0",
        "true_class": "b",
        "predicted_class": "a",
        "probability": 0.9,
    }
    assert [error.values["probability"] for error in (second, third)] == [0.75, 0.6]


def test_what_is_printed_and_stored() -> None:
    found = OneClass(("a", "b")).evaluate(np.array([1, 0]), np.eye(2)[[0, 0]], ["x.png", "y.png"])
    lines = found.text().splitlines()
    assert lines[1].split() == ["a", "0.500", "1.000", "0.667", "1"]
    assert lines[2].split() == ["b", "-", "0.000", "0.000", "1"]
    assert lines[-1].split() == ["x.png", "b", "a", "1.000"]
    stored = found.as_dict()
    assert (stored["n_correct"], stored["count"], stored["accuracy"]) == (1, 2, 0.5)
    assert stored["confusion_matrix"] == [[1, 0], [1, 0]]
    assert [score["name"] for score in stored["classes"]] == ["a", "b"]
    assert [error["name"] for error in stored["most_confident_errors"]] == ["x.png"]
