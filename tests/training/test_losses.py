"""The loss that fits the labels and the last activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from dlr_tf.core.groups import split_layers
from dlr_tf.training import losses, training_data
from dlr_tf.training.compiling import compile_model, make_optimizer
from dlr_tf.training.training_data import FirstBatches
from tests.training.test_fine_tuning import N_INPUTS, small_model

WHOLE = np.arange(4) % 2
SOFT = np.array([[0.1, 0.2, 0.7], [1, 0, 0], [0.3, 0.3, 0.4], [0, 0.5, 0.5]], "float32")
SEVERAL = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]], "float32")
ONE_HOT = np.eye(3, dtype="float32")[[0, 1, 2, 0]]


def compile_with_loss(model: keras.Model, data: Any, **options: Any) -> None:
    first = FirstBatches(data)
    choice = losses.choose_loss(model, first, **options)
    compile_model(model, make_optimizer(model, split_layers(model, []), 1e-3), choice, first)


@pytest.mark.parametrize(
    ("activation", "units", "labels", "loss", "from_logits"),
    [
        ("softmax", 3, WHOLE, keras.losses.SparseCategoricalCrossentropy, False),
        (None, 3, WHOLE, keras.losses.SparseCategoricalCrossentropy, True),
        ("softmax", 3, WHOLE[:, None], keras.losses.SparseCategoricalCrossentropy, False),
        ("softmax", 3, ONE_HOT, keras.losses.CategoricalCrossentropy, False),
        (None, 3, ONE_HOT, keras.losses.CategoricalCrossentropy, True),
        ("sigmoid", 3, ONE_HOT, keras.losses.BinaryCrossentropy, False),
        ("softmax", 3, SOFT, keras.losses.CategoricalCrossentropy, False),
        (None, 3, SOFT, keras.losses.CategoricalCrossentropy, True),
        (None, 3, SEVERAL, keras.losses.BinaryCrossentropy, True),
        ("sigmoid", 3, SEVERAL.astype(int), keras.losses.BinaryCrossentropy, False),
        ("sigmoid", 1, WHOLE, keras.losses.BinaryCrossentropy, False),
        ("sigmoid", 1, WHOLE.astype("float32"), keras.losses.BinaryCrossentropy, False),
        (None, 1, WHOLE, keras.losses.BinaryCrossentropy, True),
    ],
)
def test_default_loss(
    activation: str | None, units: int, labels: np.ndarray, loss: type, from_logits: bool
) -> None:
    model = small_model(activation, units)
    data = (np.ones((4, N_INPUTS), "float32"), labels)
    compile_with_loss(model, data)
    assert type(model.loss) is loss
    assert model.loss.get_config()["from_logits"] is from_logits


@pytest.mark.parametrize(
    ("end", "units", "from_logits"),
    [
        (keras.ops.softmax, 3, False),
        (keras.activations.softmax, 3, False),
        (keras.ops.log_softmax, 3, True),
        (keras.ops.sigmoid, 1, False),
        (lambda x: x / 2.0, 3, True),
    ],
)
def test_the_loss_fits_an_operation_at_the_end(
    end: Callable[[Any], Any], units: int, from_logits: bool
) -> None:
    base = small_model(None, units)
    model = keras.Model(base.inputs, end(base.outputs[0]))
    data = (np.ones((4, N_INPUTS), "float32"), WHOLE)
    compile_with_loss(model, data)
    assert model.loss.get_config()["from_logits"] is from_logits


def test_probabilities_in_percent_ask_for_a_loss() -> None:
    base = small_model("softmax", 3)
    model = keras.Model(base.inputs, base.outputs[0] * 100.0)
    data = (np.ones((4, N_INPUTS), "float32"), WHOLE)
    with pytest.raises(ValueError, match=r"output is not known. Pass `loss=\.\.\.`"):
        compile_with_loss(model, data)


def test_default_accuracy_of_a_binary_logit_counts_from_zero() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="top")])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    x = np.array([[-2.0], [0.3], [0.3], [2.0]], "float32")  # 0.3 is above even chance
    data = (x, np.array([0, 1, 1, 1]))
    compile_with_loss(model, data)
    assert model.evaluate(*data, verbose=0, return_dict=True)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("activation", "units", "labels"),
    [
        # Numbers: boxes, forecasts, images, counts.
        (None, 3, np.random.default_rng(0).normal(size=(4, 3))),
        (None, 3, np.arange(12).reshape(4, 3)),
        ("sigmoid", 3, np.arange(12).reshape(4, 3) / 12),
        ("sigmoid", 3, 30.0 * np.arange(12).reshape(4, 3)),
        ("softmax", 3, np.eye(3)[[0, 1, 2, 0]] + np.eye(3)[[1, 2, 0, 1]]),
        (None, 3, np.array([[2.0, -1.0, 0.0]] * 4)),
        ("sigmoid", 1, np.array([0.1, 0.9, 0.5, 0.0])),
        (None, 1, np.ones((4, 2), int)),
        (None, 1, WHOLE.astype("float32")),  # as likely a regression
        ("softmax", 1, WHOLE),
        ("sigmoid", 3, WHOLE),
        ("tanh", 3, WHOLE),
        ("softmax", 3, WHOLE.astype("float32")),
        ("softmax", 3, np.ones((4, 2), "float32")),
    ],
)
def test_a_loss_that_is_not_clear_is_asked_for(
    activation: str | None, units: int, labels: np.ndarray
) -> None:
    model = small_model(activation, units)
    data = (np.ones((4, N_INPUTS), "float32"), labels)
    with pytest.raises(ValueError, match=r"cannot be found out: .* Pass `loss=\.\.\.`"):
        compile_with_loss(model, data)
    compile_with_loss(model, data, loss="mse", metrics=["mae"])
    assert model.loss == "mse"


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_several_labels_of_0_and_1_are_said_in_one_line(activation: str | None) -> None:
    model = small_model(activation, 3)
    first = FirstBatches((np.ones((4, N_INPUTS), "float32"), SEVERAL))
    choice = losses.choose_loss(model, first)
    assert choice.note.startswith("the loss is binary cross-entropy: the labels are 0 and 1, and ")
    logits = np.array([[2.0, 0.3, -1.0]], "float32")  # 0.3 is above even chance
    accuracy = choice.metrics[0]
    if activation is None:
        accuracy.update_state([[1, 1, 0]], logits)
        assert float(accuracy.result()) == 1.0


def test_accuracy_is_a_metric_of_cross_entropies_alone() -> None:
    model = small_model("softmax", 3)
    first = FirstBatches((np.ones((4, N_INPUTS), "float32"), WHOLE))
    for loss, metrics in (
        ("sparse_categorical_crossentropy", ["accuracy"]),
        (keras.losses.SparseCategoricalCrossentropy(), ["accuracy"]),
        (keras.losses.sparse_categorical_crossentropy, ["accuracy"]),
        ("mse", None),
    ):
        assert losses.choose_loss(model, first, loss).metrics == metrics


def test_the_values_of_all_labels_count() -> None:
    labels = np.eye(3, dtype="float32")[np.arange(10_000) % 3]
    assert training_data.label_values([labels]).sum_to_one
    labels[9_000] = 1.0
    values = training_data.label_values([labels])
    assert (values.sum_to_one, values.are_binary) == (False, True)
