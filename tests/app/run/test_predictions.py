"""A model that is called on images and on image files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

Image = pytest.importorskip("PIL.Image")
from app_helpers import brightness_model, network, write_images

from dlr_tf.app.run import Classifier, predict_files


def test_predictions_are_those_of_the_model_on_the_raw_image() -> None:
    model = brightness_model()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)
    Path("a.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (found,) = predict_files(Classifier(model), ["a.png"])
    expected = model(pixels[np.newaxis].astype("float32"), training=False)[0]
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-6, atol=1e-7)


def test_a_model_for_grey_images_and_one_with_logits() -> None:
    (path,) = write_images(Path("white"), 1, size=9, value=255)
    classify = Classifier(brightness_model(channels=1))
    assert classify.read(str(path)).shape == (4, 4, 1)
    assert classify(np.full((1, 4, 4, 1), 255, "float32"))[0, 2] == pytest.approx(1, abs=1e-3)
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    logits = keras.Sequential([keras.Input((None, None, 3)), *layers])
    classify = Classifier(logits)
    assert classify.size is None  # every image as it is
    assert classify.read(str(path)).shape == (9, 9, 3)
    x = np.ones((2, 3, 3, 3), "float32")
    np.testing.assert_allclose(classify(x), keras.ops.softmax(logits(x)), rtol=1e-5)
    with pytest.raises(ValueError, match="should take images"):
        Classifier(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))


def test_an_image_and_its_mirror_image() -> None:
    x = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    left = keras.Sequential([keras.layers.Cropping2D(((0, 0), (0, 2))), keras.layers.Flatten()])
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(left(inputs / 255.0)))
    plain, mean = Classifier(model), Classifier(model, tta=True)
    assert not np.allclose(plain(x), mean(x), atol=1e-3)
    np.testing.assert_allclose(mean(x), (plain(x) + plain(x[:, :, ::-1])) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    "end",
    [
        keras.ops.softmax,
        keras.activations.softmax,
        # The graph does not show that these are probabilities.
        lambda x: keras.ops.clip(keras.ops.softmax(x), 1e-7, 1.0),
        lambda x: keras.ops.exp(x) / keras.ops.sum(keras.ops.exp(x), axis=-1, keepdims=True),
    ],
)
def test_probabilities_that_an_operation_gives(end: Callable[[Any], Any]) -> None:
    model = network(keras.layers.Rescaling(1 / 255), keras.layers.Dense(3), end)
    x = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(Classifier(model)(x), model(x), rtol=1e-5)


@pytest.mark.parametrize(
    "end",
    [
        lambda x: 100.0 * keras.ops.softmax(x),
        keras.ops.relu,
        lambda x: keras.layers.Dense(1, activation="relu")(x),
    ],
)
def test_outputs_that_are_no_probabilities(end: Callable[[Any], Any]) -> None:
    model = network(keras.layers.Dense(3), end)
    with pytest.raises(ValueError, match="should give probabilities .* or logits. .* Save it with"):
        Classifier(model)


def test_a_large_folder_is_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are taken, and images read, only a batch ahead of the predictions."""
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for number in range(100_000):
            taken += 1
            yield str(number)

    def read(path: str, *_: Any, **__: Any) -> np.ndarray:
        return np.full((4, 4, 3), int(path) % 256, np.uint8)

    monkeypatch.setattr(sys.modules[Classifier.__module__], "read_image", read)
    found = predict_files(Classifier(brightness_model()), paths(), batch_size=8)
    names = [next(found).path for _ in range(24)]
    assert names == [str(number) for number in range(24)]
    assert taken <= 24 + 2 * 8
    found.close()
