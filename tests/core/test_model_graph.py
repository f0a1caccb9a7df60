"""The activation behind each output of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest

from dlr_tf.core.model_graph import logit_layers, output_activations

ops, layers = keras.ops, keras.layers


def dense(activation: Any = None, units: int = 3) -> Any:
    return layers.Dense(units, activation=activation)


class OwnLayer(layers.Layer):
    """A layer whose attribute `activation` is not the last step of its call."""

    activation = staticmethod(keras.activations.softmax)

    def call(self, x: Any) -> Any:
        return ops.relu(x)


# What leads from a vector to the output, and what is found.
ENDS: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "layer": (dense("softmax"), "softmax"),
    "logits": (dense(), "linear"),
    "sigmoid": (dense("sigmoid"), "sigmoid"),
    "relu": (dense("relu"), None),
    "operation as activation": (dense(ops.softmax), "softmax"),
    "layer as activation": (dense(layers.Softmax()), "softmax"),
    "softmax layer": (lambda x: layers.Softmax()(dense()(x)), "softmax"),
    "softmax over another axis": (lambda x: layers.Softmax(axis=1)(dense()(x[:, None])), None),
    "softmax operation": (lambda x: ops.softmax(dense()(x)), "softmax"),
    "softmax function": (lambda x: keras.activations.softmax(dense()(x)), "softmax"),
    "sigmoid operation": (lambda x: ops.sigmoid(dense()(x)), "sigmoid"),
    "log_softmax is a kind of logits": (lambda x: ops.log_softmax(dense()(x)), "linear"),
    "log_sigmoid is not": (lambda x: ops.log_sigmoid(dense()(x)), None),
    "cast": (lambda x: ops.cast(dense("softmax")(x), "float16"), "softmax"),
    "identity": (lambda x: layers.Identity()(ops.softmax(dense()(x))), "softmax"),
    "flatten": (lambda x: layers.Flatten()(dense("softmax")(x[:, None, None])), "softmax"),
    "flatten units of one": (lambda x: layers.Flatten()(dense("softmax", 1)(x[:, :, None])), None),
    "mean over positions": (
        lambda x: layers.GlobalAveragePooling1D()(dense("softmax")(x[:, None])),
        "softmax",
    ),
    "ensemble": (lambda x: layers.Average()([dense("softmax")(x), dense("softmax")(x)]), "softmax"),
    "mixed": (lambda x: layers.Average()([dense("softmax")(x), dense()(x)]), None),
    "logits by temperature": (lambda x: dense()(x) / 2.0, "linear"),
    "rescaled logits": (lambda x: layers.Rescaling(2.0)(dense()(x)), "linear"),
    "sum of logits": (lambda x: layers.Add()([dense()(x), dense()(x)]), "linear"),
    "percent": (lambda x: layers.Rescaling(100.0)(dense("softmax")(x)), None),
    "percent, as an operation": (lambda x: ops.softmax(dense()(x)) * 100.0, None),
    "softmax by hand": (lambda x: softmax_by_hand(dense()(x)), None),
    "lambda": (lambda x: layers.Lambda(lambda y: y)(dense("softmax")(x)), None),
    "own layer": (lambda x: OwnLayer()(dense()(x)), None),
    "clipped": (lambda x: ops.clip(dense("softmax")(x), 0.1, 0.2), None),
    "one of the units": (lambda x: dense("softmax")(x)[:, :1], None),
    "time distributed": (lambda x: layers.TimeDistributed(dense("softmax"))(x[:, None]), "softmax"),
    "nested": (lambda x: nested()(x), "softmax"),
    "second output of a nested model": (lambda x: two_outputs()(x)[1], "sigmoid"),
    "a call of its own": (lambda x: Own(nested().inputs, nested().outputs)(x), None),
}


def softmax_by_hand(logits: Any) -> Any:
    powers = ops.exp(logits)
    return powers / ops.sum(powers, axis=-1, keepdims=True)


def nested() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), dense(), layers.Activation("softmax")])


def two_outputs() -> keras.Model:
    inputs = keras.Input((3,))
    return keras.Model(inputs, [dense()(inputs), ops.sigmoid(dense(units=1)(inputs))])


class Own(keras.Model):
    """A model with a graph, which calls something else."""

    def __init__(self, inputs: Any, outputs: Any) -> None:
        graph = nested()
        super().__init__(graph.inputs, graph.outputs)

    def call(self, x: Any) -> Any:
        return 100.0 * super().call(x)


@pytest.mark.parametrize("kind", ENDS)
def test_the_activation_of_an_end(kind: str) -> None:
    end, expected = ENDS[kind]
    inputs = keras.Input((3,))
    assert output_activations(keras.Model(inputs, end(inputs))) == (expected,)


def test_several_outputs_and_none() -> None:
    assert output_activations(two_outputs()) == ("linear", "sigmoid")

    class Subclassed(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    assert output_activations(Subclassed()) == ()


def test_the_layers_of_the_logits() -> None:
    inputs = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(4, 1, name="conv")
    x = keras.layers.GlobalAveragePooling2D()(conv(inputs))
    inside = keras.Sequential([keras.layers.Dense(3, name="inside"), keras.layers.Softmax()])
    ends = {
        "conv": keras.ops.sigmoid(x),
        "inside": inside(keras.layers.Dense(2, "relu")(x)),
        "relu": keras.layers.Dense(3, "relu")(x),
        "sum": x + keras.layers.Dense(4)(x),
        "normalized": keras.layers.LayerNormalization()(x),
    }
    found = {
        name: [layer.name for layer in logit_layers(keras.Model(inputs, end))]
        for name, end in ends.items()
    }
    assert found == {name: [name] * (name in ("conv", "inside")) for name in ends}


def test_a_layer_that_gives_two_outputs_is_found_once() -> None:
    inputs = [keras.Input((3,)), keras.Input((3,))]
    shared = dense()
    model = keras.Model(inputs, [shared(one) for one in inputs])
    assert logit_layers(model) == [shared]


def test_a_saved_model_shows_the_same() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.activations.softmax(dense()(inputs)))
    again = keras.Model.from_config(model.get_config())
    assert output_activations(again) == ("softmax",)
