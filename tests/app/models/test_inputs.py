"""The shape of the images that a network takes, and resizing before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from app_helpers import write_class_names
from model_helpers import NAMES, POOL, SIZE, body, dense, functional, images, opened

from dlr_tf.app import models
from dlr_tf.app.models.inputs import raw_images
from dlr_tf.core.model_tree import leaf_layers


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.classifier(functional(body(), "body"), 3),
        lambda: functional([*body(), POOL(), dense(units=3)]),
        lambda: keras.Sequential([*body(), POOL(), dense(units=3)], name="net"),
        lambda: keras.Sequential(
            [functional(body(), "body"), keras.Sequential([POOL(), dense(units=3)])], name="net"
        ),
    ],
)
@pytest.mark.parametrize("size", [9, 20])
def test_a_convolutional_network_takes_another_size(
    make: Callable[[], keras.Model], size: int
) -> None:
    write_class_names(Path("classes.json"), NAMES)
    model = make()
    source = opened(model, image_size=size, keep_head=True)
    assert source.image_size == size
    assert f"images of 12 x 12 pixels, and is built for {size} x {size} now" in source.note
    built = source.build(NAMES)
    assert models.image_shape(built) == (size, size, 3)
    stem = next(leaf.layer for leaf in leaf_layers(built) if leaf.layer.name == "stem")
    assert stem.output.shape[1:3] == ((size - 1) // 2,) * 2
    for ours, theirs in zip(built.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The layers are the same as before, at another size.
    x = images(2, size, size, 3)
    stem, norm, top, head = (
        next(leaf.layer for leaf in leaf_layers(model) if leaf.layer.name in names)
        for names in (["stem"], ["norm"], ["top"], ["probabilities", "old_head"])
    )
    features = top(norm(stem(x / 255.0), training=False))
    expected = head(keras.ops.mean(features, axis=(1, 2)))
    np.testing.assert_allclose(built(x, training=False), expected, rtol=1e-4)
    replaced = opened(model, image_size=size).build(NAMES[:2])
    assert replaced(x).shape == (2, 2)


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Flatten(), dense()],
        [keras.layers.Reshape((9, 6)), keras.layers.GlobalAveragePooling1D(), dense()],
    ],
)
def test_a_network_that_takes_one_size_only(layers: list[Any]) -> None:
    with pytest.raises(ValueError, match="12 x 12 pixels alone: .* Leave --image-size out"):
        opened(functional([*body(), *layers]), image_size=20)


def test_a_size_for_a_model_that_takes_any() -> None:
    source = opened(functional([*body(size=None), POOL(), dense()]), image_size=20)
    built = source.build(NAMES)
    assert (source.image_size, built.get_layer("resizing").height) == (20, 20)


def test_the_numbers_are_those_of_training_on_resized_images() -> None:
    model = models.classifier(functional(body(), "body"), 3)
    for shape in ((2, 7, 5, 3), (2, 40, 31, 3), (2, SIZE, SIZE, 3)):
        raw = images(*shape)
        resized = tf.image.resize(raw, (SIZE, SIZE))
        found = keras.Model(model.inputs, model.get_layer("resizing").output)(raw)
        np.testing.assert_array_equal(found, resized)
        np.testing.assert_allclose(model(raw), model(resized), rtol=1e-6)
    whole = images(1, 9, 9, 3).round()
    np.testing.assert_array_equal(model(whole.astype("uint8")), model(whole))


def test_a_call_without_a_word_on_training_is_no_training() -> None:
    model = models.classifier(functional([*body(), POOL()], "body"), 3)
    model.save("net.keras")
    raw = images(4, 30, 30, 3)
    for one in (model, keras.models.load_model("net.keras"), opened(model).build(NAMES)):
        before = one.get_weights()
        np.testing.assert_array_equal(one(raw), one(raw, training=False))
        for ours, theirs in zip(one.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        one(raw, training=True)
        assert not all(
            np.array_equal(ours, theirs)
            for ours, theirs in zip(one.get_weights(), before, strict=True)
        )


def test_resizing_is_exact_under_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs, resized = raw_images((SIZE, SIZE, 3))
        assert resized.dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
    raw = images(1, 30, 30, 3)
    found = keras.Model(inputs, resized)(raw)
    np.testing.assert_array_equal(found, tf.image.resize(raw, (SIZE, SIZE)))
