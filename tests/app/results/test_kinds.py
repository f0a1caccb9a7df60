"""The scores of several labels and of numbers."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

metrics = pytest.importorskip("sklearn.metrics")

from dlr_tf.app.results import target_of
from dlr_tf.app.results.labels import best_threshold
from dlr_tf.training.losses import ScaledSquaredError

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32)
OUTPUTS = np.array([[0.9, 0.2, 0.1], [0.4, 0.8, 0.2], [0.6, 0.3, 0.1], [0.1, 0.1, 0.1]])


def test_the_scores_of_labels_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels, outputs = random.integers(0, 2, (50, 4)), random.uniform(size=(50, 4))
    target = target_of("labels", class_names=tuple("abcd"), thresholds=(0.3, 0.5, 0.6, 0.7))
    scores = target.evaluate(labels, outputs).scores
    found = outputs >= [0.3, 0.5, 0.6, 0.7]
    assert scores == {
        "mean_average_precision": pytest.approx(
            metrics.average_precision_score(labels, outputs, average="macro")
        ),
        "f1_micro": pytest.approx(metrics.f1_score(labels, found, average="micro")),
        "f1_macro": pytest.approx(metrics.f1_score(labels, found, average="macro")),
        "exact_match": pytest.approx(metrics.accuracy_score(labels, found)),
    }


def test_labels_in_words() -> None:
    target = target_of("labels", class_names=("red", "small", "rare"))
    found = target.evaluate(LABELS, OUTPUTS, ["a.png", "b.png", "c.png", "d.png"])
    assert found.headline("x.csv") == (
        "scores on x.csv, of 4 images: mean average precision 0.917, F1 micro 0.571 and macro "
        "0.583, all labels right 0.500"
    )
    assert found.text().splitlines() == [
        "label  images  average precision  threshold  precision  recall     F1",
        "red         2              0.833      0.500      0.500   0.500  0.500",
        "small       2              1.000      0.500      1.000   0.500  0.667",
        "rare        0                  -      0.500          -       -      -",
        "the most confident errors:",
        "image  error               true labels",
        "c.png  missed small (30%)  small",
        "b.png  missed red (40%)    red, small",
    ]
    assert found.as_dict()["most_confident_errors"][0] == {
        "index": 2,
        "name": "c.png",
        "missed": "small (30%)",
        "true": "small",
    }


def test_labels_that_are_not_finite() -> None:
    target = target_of("labels", class_names=("red", "small", "rare"))
    found = target.evaluate(LABELS, np.full((4, 3), np.nan))
    assert (found.n_not_finite, found.scores["exact_match"]) == (4, 0.25)
    assert found.worst_errors() == []


def test_one_label_alone() -> None:
    found = target_of("labels", class_names=("red",)).evaluate(LABELS[:, :1], OUTPUTS[:, :1])
    (score,) = found.scores_of_each
    assert (score.precision, score.recall, score.f1, score.support) == (0.5, 0.5, 0.5, 2)
    assert found.scores["f1_micro"] == found.scores["f1_macro"] == 0.5


def test_thresholds_are_chosen() -> None:
    target = target_of("labels", class_names=("red", "small", "rare"))
    tuned = target.tuned(LABELS, OUTPUTS)
    assert tuned.thresholds == (0.25, 0.25, 0.5)
    assert best_threshold(np.array([1, 1]), np.array([0.1, 0.2])) == 0.5
    assert best_threshold(np.array([1, 0]), np.array([np.nan, 0.2])) == 0.5
    assert tuned.json_item(OUTPUTS[2], 3) == {
        "labels": ["red", "small"],
        "probabilities": {"red": 0.6, "small": 0.3, "rare": 0.1},
    }
    assert tuned.text(OUTPUTS[3], 3) == "no label"
    assert tuned.csv_header(3) == ["labels", "red", "small", "rare"]
    assert tuned.csv_cells(OUTPUTS[2], 3) == ["red|small", "0.600000", "0.300000", "0.100000"]


def test_the_scores_of_numbers_stand_beside_those_of_the_mean() -> None:
    random = np.random.default_rng(0)
    truth = random.normal([100.0, 0.0], [10.0, 1.0], (30, 2))
    outputs = truth + random.normal(0, [2.0, 0.5], (30, 2))
    means = (98.0, 0.1)
    target = target_of("number", class_names=("price", "size"), means=means)
    scores = target.evaluate(truth, outputs).scores_of_each
    always = np.broadcast_to(means, truth.shape)
    for column, score in enumerate(scores):
        pair, mean = (truth[:, column], outputs[:, column]), (truth[:, column], always[:, column])
        assert vars(score) == {
            "name": target.class_names[column],
            "mean_absolute_error": pytest.approx(metrics.mean_absolute_error(*pair)),
            "mean_absolute_error_of_the_mean": pytest.approx(metrics.mean_absolute_error(*mean)),
            "root_mean_squared_error": pytest.approx(metrics.mean_squared_error(*pair) ** 0.5),
            "root_mean_squared_error_of_the_mean": pytest.approx(
                metrics.mean_squared_error(*mean) ** 0.5
            ),
            "r2": pytest.approx(metrics.r2_score(*pair)),
            "r2_of_the_mean": pytest.approx(metrics.r2_score(*mean)),
        }


def test_numbers_in_words() -> None:
    target = target_of("number", class_names=("price",), means=(2.0,))
    truth, outputs = np.array([[1.0], [2.0], [3.0]]), np.array([[1.5], [2.0], [np.nan]])
    found = target.evaluate(truth, outputs, ["a.png", "b.png", "c.png"])
    assert found.n_not_finite == 1
    assert found.summary() == "price: mean absolute error 0.25 (of the mean 0.5), R2 0.500"
    assert [error.as_dict() for error in found.worst_errors()] == [
        {"index": 0, "name": "a.png", "predicted": "1.5 price", "true": "1"}
    ]
    assert found.scatters() == [
        {"name": "price", "places": [[0.0, 50.0], [100.0, 100.0]], "low": 1.0, "high": 2.0}
    ]
    assert target.json_item(np.array([1234.5]), 3) == {"values": {"price": 1234.5}}
    assert target.csv_header(1) == ["price"]
    assert target.csv_cells(np.array([1234.5]), 3) == ["1234.5"]


def test_the_loss_of_numbers_has_no_unit() -> None:
    loss = ScaledSquaredError([10.0, 0.1])
    truth, outputs = np.array([[20.0, 1.0], [30.0, 1.0]]), np.array([[30.0, 1.2], [30.0, 1.0]])
    assert float(loss(truth, outputs)) == pytest.approx((1 + 4) / 2 / 2, rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(truth, outputs)) == float(loss(truth, outputs))


def test_two_classes_have_an_area_under_the_curve() -> None:
    outputs = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    labels = np.array([0, 1, 1])
    found = target_of("class", class_names=("no", "yes")).evaluate(labels, outputs)
    assert found.scores == {"accuracy": pytest.approx(2 / 3), "roc_auc": 1.0}
    one = target_of("class", class_names=("no", "yes")).evaluate(labels[1:], outputs[1:])
    assert math.isnan(one.scores["roc_auc"])
    three = target_of("class", class_names=("a", "b", "c")).evaluate(labels, np.eye(3)[labels])
    assert three.scores == {"accuracy": 1.0}
