"""Networks in `.keras` files, and their heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from app_helpers import write_class_names
from model_helpers import (
    NAMES,
    POOL,
    SIZE,
    body,
    dense,
    functional,
    images,
    nested,
    opened,
    two_branches,
)

from dlr_tf.app import models
from dlr_tf.app.models.heads import features_of
from dlr_tf.app.models.inputs import raw_images
from dlr_tf.app.run.tasks import split_task
from dlr_tf.core.model_tree import leaf_layers

# Each with the head that should be replaced, and with what stands before it.
WITH_HEAD: dict[str, Callable[[], keras.Model]] = {
    "sequential": lambda: keras.Sequential([*body(), POOL(), dense()], name="net"),
    "functional": lambda: functional([*body(), POOL(), dense()]),
    "logits": lambda: functional([*body(), POOL(), dense(None)]),
    "sigmoid": lambda: functional([*body(), POOL(), dense("sigmoid", units=1)]),
    "softmax layer": lambda: functional([*body(), POOL(), dense(None), keras.layers.Softmax()]),
    "dropout": lambda: functional([*body(), POOL(), keras.layers.Dropout(0.5), dense()]),
    "convolution": lambda: functional(
        [*body(), keras.layers.Conv2D(5, 1, name="old_head"), POOL(), keras.layers.Softmax()]
    ),
    "nested": lambda: nested([dense()]),
    "nested logits": lambda: nested([dense(None), keras.layers.Activation("softmax")]),
    "backbone and head": lambda: keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), functional(body(), "body"), POOL(), dense()]
    ),
    "head in a model of its own": lambda: keras.Sequential(
        [
            functional([*body(), POOL()], "body"),
            keras.Sequential([keras.Input((6,)), keras.layers.Dense(7, name="mid"), dense()]),
        ]
    ),
}


WITHOUT_HEAD: dict[str, Callable[[], keras.Model]] = {
    "feature maps": lambda: functional(body()),
    "pooled": lambda: functional([*body(), POOL()]),
    "relu": lambda: functional([*body(), POOL(), keras.layers.Dense(7, "relu", name="embedding")]),
    "sum": lambda: two_branches(),
}


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_a_head_is_replaced(kind: str) -> None:
    model = WITH_HEAD[kind]()
    x = images(2, SIZE, SIZE, 3)
    source = opened(model)
    assert (
        source.note
        == "the head of 'net.keras', layer 'old_head', is replaced (--keep-head keeps it)"
    )
    assert (source.image_size, source.weights) == (SIZE, "of the file")
    built = source.build(NAMES)
    assert built.input_shape == (None, None, None, 3)
    assert built.output_shape == (None, 3)
    assert not any("old_head" in leaf.path for leaf in leaf_layers(built))
    assert models.head_paths(built) == ["probabilities"]
    # What stands before the head is the same, weights too.
    found = keras.Model(built.inputs, built.get_layer("probabilities").input)
    np.testing.assert_allclose(found(x), features_before_head(model, x), rtol=1e-5, atol=1e-5)
    assert split_task(built, 2)[-1].layers[-1] == "probabilities"
    assert built(images(1, 30, 20, 3)).shape == (1, 3)


def features_before_head(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What the layer `old_head` is called on, written down while the model runs."""
    head = next(leaf for leaf in leaf_layers(model) if leaf.layer.name == "old_head").layer
    seen: list[np.ndarray] = []
    call = head.call

    def record(features: Any, **options: Any) -> Any:
        seen.append(np.asarray(features))
        return call(features, **options)

    head.call = record
    model(x, training=False)
    (features,) = seen
    return features if features.ndim == 2 else features.mean(axis=(1, 2))


@pytest.mark.parametrize("kind", WITHOUT_HEAD)
def test_a_network_without_a_head_gets_one(kind: str) -> None:
    model = WITHOUT_HEAD[kind]()
    source = opened(model)
    assert source.note == "The model 'net.keras' ends with features: it gets a head"
    built = source.build(NAMES)
    assert built.output_shape == (None, 3)
    assert len(built.weights) == len(model.weights) + 2
    assert models.head_paths(built) == ["probabilities"]


def test_a_model_of_this_command_keeps_the_paths_of_its_layers() -> None:
    first = models.classifier(functional(body(), "body"), 5)
    built = opened(first).build(NAMES)
    assert [leaf.path for leaf in leaf_layers(built)] == [leaf.path for leaf in leaf_layers(first)]
    assert built.get_layer("resizing").height == SIZE
    assert built.output_shape == (None, 3)
    for name in ("body/stem", "body/top"):
        ours, theirs = (
            next(leaf.layer for leaf in leaf_layers(m) if leaf.path == name) for m in (built, first)
        )
        np.testing.assert_array_equal(ours.kernel, theirs.kernel)
    again = opened(built).build(NAMES)
    assert [leaf.path for leaf in leaf_layers(again)] == [leaf.path for leaf in leaf_layers(first)]


def test_a_kept_head_of_raw_logits_gets_a_softmax() -> None:
    inputs, resized = raw_images((SIZE, SIZE, 3))
    network = functional([*body(), POOL(), dense(None, units=3)])
    model = keras.Model(inputs, network(resized), name="own")
    write_class_names(Path("classes.json"), NAMES)
    built = opened(model, keep_head=True).build(NAMES)
    x = images(2, SIZE + 3, SIZE, 3)
    expected = keras.ops.softmax(model(x, training=False))
    np.testing.assert_allclose(built(x, training=False), expected, rtol=1e-5)
    assert built.name == "own"
    paths = [leaf.path for leaf in leaf_layers(model)]
    assert [leaf.path for leaf in leaf_layers(built)] == [*paths, "softmax"]


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.pool, self.top = POOL(), keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.top(self.pool(x))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, SIZE, SIZE, 3), "float32"))
    return model


def several_outputs() -> keras.Model:
    model = functional([*body(), POOL()])
    return keras.Model(model.inputs, [model.output, model.output])


def several_inputs() -> keras.Model:
    inputs = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (several_outputs, {}, "should have one output. Received: 2 outputs"),
        (several_inputs, {}, "'net.keras' should take images, .* Received: input shape"),
        (
            lambda: functional(body(channels=1)),
            {},
            r"keras.Input.* input shape \(None, .*, 1\)",
        ),
        (lambda: functional(body(size=None)), {}, "images of any size. Give --image-size"),
        (lambda: functional(body()), {"weights": "none"}, "--weights is not for a .keras file"),
        (lambda: functional(body()), {"keep_head": True}, "has no head to keep"),
        (lambda: two_branches("softmax"), {}, "from 'sum', which is not one layer with one input"),
        (
            lambda: functional([*body(), POOL(), dense("sigmoid")]),
            {"keep_head": True},
            "a head that cannot be kept: .* activation 'sigmoid'",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 9, 3)), keras.layers.Flatten()]),
            {},
            "images of 8 x 9 pixels, and images are resized to squares",
        ),
    ],
)
def test_files_that_cannot_be_used(
    model: Callable[[], keras.Model], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(model(), **arguments)


def test_a_subclassed_model() -> None:
    model = subclassed()
    with pytest.raises(ValueError, match="is a subclassed model, whose head cannot be replaced"):
        features_of(model)
