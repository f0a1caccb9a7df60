"""`fine_tune` with models as Keras' examples write them: it trains, or says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.groups import split_evenly
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.fine_tuning import fine_tune

layers, ops = keras.layers, keras.ops
Case = tuple[keras.Model, Any, dict[str, Any]]


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random((16, *shape), "float32")


def classes(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, count, (16, *shape))


def eager(model: keras.Model, *arguments: Any, **others: Any) -> keras.Model:
    model.compile(*arguments, run_eagerly=True, **others)
    return model


def segmentation() -> Case:
    """A U-Net."""
    image = keras.Input((8, 8, 3))
    left = layers.Conv2D(2, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(3, 3, padding="same", name="bottom")(layers.MaxPooling2D()(left))
    x = layers.Conv2DTranspose(2, 3, strides=2, padding="same")(layers.BatchNormalization()(x))
    x = layers.Conv2D(3, 1, activation="softmax")(layers.Concatenate()([left, x]))
    return eager(keras.Model(image, x)), (inputs(8, 8, 3), classes(3, 8, 8, 1)), {}


def masks() -> Case:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(1, 1, activation="sigmoid")(layers.Conv2D(2, 3, padding="same")(image))
    return eager(keras.Model(image, x)), (inputs(8, 8, 3), classes(2, 8, 8).astype("uint8")), {}


def siamese() -> Case:
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)], name="tower")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    distance = ops.sum(ops.square(tower(left) - tower(right)), axis=1, keepdims=True)
    model = keras.Model([left, right], layers.Dense(1, activation="sigmoid")(distance))
    pairs = {"left": inputs(4), "right": inputs(4)[::-1]}
    return eager(model), (pairs, classes(2).astype("float32")), {}


def two_outputs() -> dict[str, Any]:
    x = keras.Input((4,))
    hidden = layers.Dense(3)(x)
    outputs = {"kind": layers.Dense(3, name="kind")(hidden), "value": layers.Dense(1)(hidden)}
    return {"inputs": x, "outputs": outputs}


TWO_LOSSES = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "value": "mse"}


def several_outputs() -> Case:
    labels = {"kind": classes(3), "value": inputs(1)}
    arguments = {"loss": TWO_LOSSES, "metrics": {"kind": ["accuracy"]}}
    return eager(keras.Model(**two_outputs())), (inputs(4), labels), arguments


def several_outputs_compiled() -> Case:
    labels = {"kind": classes(3), "value": inputs(1)}
    weights = {"kind": 1.0, "value": 0.5}
    model = eager(keras.Model(**two_outputs()), "sgd", TWO_LOSSES, loss_weights=weights)
    return model, (inputs(4), labels), {"validation_split": 0.25}


def recurrent() -> Case:
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 3, mask_zero=True)(words)
    x = layers.Bidirectional(layers.LSTM(2))(x)
    model = keras.Model(words, layers.Dense(1, activation="sigmoid")(x))
    return eager(model), (classes(9, 4), classes(2)), {}


def text() -> Case:
    words = layers.TextVectorization(max_tokens=9, output_sequence_length=4)
    words.adapt(["a b", "c d"])
    strings = keras.Input((), dtype="string")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 3)(words(strings)))
    model = keras.Model(strings, layers.Dense(2, activation="softmax")(x))
    return eager(model), (tf.constant(["a b", "c"] * 8), classes(2)), {"schedule": "linear"}


def forecast() -> Case:
    series = inputs(3)
    data = keras.utils.timeseries_dataset_from_array(series[:-2], series[4:, 0], 3, batch_size=4)
    steps = keras.Input((3, 3))
    model = keras.Model(steps, layers.Dense(1)(layers.GRU(2)(steps)))
    return eager(model), data, {"loss": "mse", "validation_data": data}


class Autoencoder(keras.Model):
    """A training step and metrics of its own, no labels, and a loss under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = layers.Dense(2), layers.Dense(4, activation="sigmoid")
        self.total_loss = keras.metrics.Mean(name="total_loss")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.total_loss]

    def call(self, x: Any) -> Any:
        return self.decoder(self.encoder(x))

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = ops.mean(keras.losses.binary_crossentropy(data, self(data)))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        self.total_loss.update_state(loss)
        return {"total_loss": self.total_loss.result()}


def own_step() -> Case:
    model = Autoencoder()
    model(inputs(4))
    return eager(model, keras.optimizers.Adam()), inputs(4), {}


def added_loss_beside_another() -> Case:
    """A variational autoencoder."""

    class Sampling(layers.Layer):
        def call(self, mean: Any, log_variance: Any) -> Any:
            divergence = ops.square(mean) + ops.exp(log_variance) - 1 - log_variance
            self.add_loss(0.5 * ops.mean(divergence))
            return mean + ops.exp(0.5 * log_variance)

    x = keras.Input((4,))
    code = Sampling()(layers.Dense(2)(x), layers.Dense(2)(x))
    model = keras.Model(x, layers.Dense(4, activation="sigmoid")(code))
    return eager(model, "adam", "mse"), (inputs(4), inputs(4)), {}


def added_loss_alone() -> Case:
    """The labels are inputs of a layer that adds the loss, as for CTC."""

    class Distance(layers.Layer):
        def call(self, labels: Any, outputs: Any) -> Any:
            self.add_loss(ops.mean(ops.square(labels - outputs)))
            return outputs

    x, labels = keras.Input((4,), name="x"), keras.Input((2,), name="labels")
    model = keras.Model([x, labels], Distance()(labels, layers.Dense(2)(layers.Dense(3)(x))))
    return eager(model, keras.optimizers.Adam()), {"x": inputs(4), "labels": inputs(2)}, {}


@pytest.mark.parametrize(
    "make",
    [
        segmentation,
        pytest.param(masks, marks=pytest.mark.slow),
        siamese,
        pytest.param(several_outputs, marks=pytest.mark.slow),
        several_outputs_compiled,
        pytest.param(recurrent, marks=pytest.mark.slow),
        text,
        pytest.param(forecast, marks=pytest.mark.slow),
        pytest.param(own_step, marks=pytest.mark.slow),
        added_loss_beside_another,
        pytest.param(added_loss_alone, marks=pytest.mark.slow),
    ],
)
def test_it_trains(make: Callable[[], Case]) -> None:
    keras.utils.set_random_seed(0)
    model, data, arguments = make()
    before = [variable.numpy() for variable in model.trainable_variables]
    if not isinstance(data, tf.data.Dataset):
        arguments["batch_size"] = 8
    history = fine_tune(
        model,
        split_evenly(model, 2),
        data,
        learning_rate=slice(1e-3, 1e-2),
        epochs=4,
        batch_norm="train",
        verbose=0,
        **arguments,
    ).history
    losses = history["total_loss" if make is own_step else "loss"]
    assert losses[-1] < losses[0]
    for variable, known in zip(model.trainable_variables, before, strict=True):
        if variable.name == "kernel":
            assert np.any(variable.numpy() != known), variable.path
    assert isinstance(unwrap(model.optimizer), MultiGroupOptimizer)


def plain() -> keras.Model:
    x = keras.Input((4,))
    return eager(keras.Model(x, layers.Dense(3, activation="softmax")(layers.Dense(3)(x))))


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (plain, lambda: inputs(4), r"the data have no labels. Pass a tuple `\(inputs, labels\)`"),
        (plain, lambda: [inputs(4), classes(3)], "the data have no labels. Pass a tuple"),
        (plain, lambda: (inputs(4), [0, 1] * 8), r"but a list. Pass one, such as `np.asarray\("),
        (plain, lambda: (inputs(4), inputs(3)), "rows of labels that sum to 1, .*`loss='mse'`"),
        (
            lambda: eager(keras.Model(**two_outputs())),
            lambda: (inputs(4), {"kind": classes(3), "value": inputs(1)}),
            "the model has 2 outputs. Pass `loss=...` with one loss per output",
        ),
    ],
)
def test_it_says_what_to_do(make: Any, data: Any, message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=message):
        fine_tune(model, split_evenly(model, 2), data(), learning_rate=0.1, epochs=1, verbose=0)


def test_a_generator_needs_rates_and_a_loss() -> None:
    def batches() -> Any:
        while True:
            yield inputs(4), classes(3)

    model = plain()
    arguments: Any = {"epochs": 1, "steps_per_epoch": 2, "verbose": 0}
    with pytest.raises(ValueError, match="are not read before training. Pass `loss=...`"):
        fine_tune(model, split_evenly(model, 2), batches(), learning_rate=0.1, **arguments)
    arguments |= {"loss": "sparse_categorical_crossentropy"}
    fine_tune(model, split_evenly(model, 2), batches(), learning_rate=0.1, **arguments)
    assert int(model.optimizer.iterations) == 2


def test_auto_needs_the_loss_of_a_training_step_by_its_name() -> None:
    model, data, _ = own_step()
    with pytest.raises(ValueError, match=r"none under the name 'loss'. .*\['total_loss'\]. Return"):
        fine_tune(model, split_evenly(model, 2), data, epochs=1, verbose=0)
