"""Small pictures inside a page."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from dlr_tf.app.results import thumbnails


def test_images_of_a_data_set_in_one_pass() -> None:
    pixels = 30 * np.arange(10, dtype="float32").reshape(10, 1, 1, 1)
    dataset = tf.data.Dataset.from_tensor_slices((pixels, np.arange(10))).batch(4)
    found = thumbnails.examples_at(dataset, [9, 2])
    assert {index: image.item() for index, image in found.items()} == {2: 60, 9: 255}
    assert found[2].dtype == np.uint8
    assert thumbnails.examples_at(dataset, []) == {}
    assert set(thumbnails.examples_at(dataset, [1])) == {1}


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((8, 6, 3), (8, 6, 3)), ((400, 200, 3), (160, 80, 3)), ((8, 8), (8, 8, 1)), ((2, 2, 4),) * 2],
)
def test_a_thumbnail(shape: tuple[int, ...], shown: tuple[int, ...]) -> None:
    image = np.full(shape, 200, np.uint8)
    kind, _, data = thumbnails.picture_uri(image).partition(",")
    assert kind == "data:image/png;base64"
    png = tf.io.decode_base64(data.replace("+", "-").replace("/", "_").rstrip("="))
    decoded = tf.io.decode_png(png).numpy()
    np.testing.assert_array_equal(decoded, np.full(shown, 200))


def test_texts_at_indices() -> None:
    texts = tf.data.Dataset.from_tensor_slices((["one", "zwei é", "three"], [0, 1, 2])).batch(2)
    assert thumbnails.examples_at(texts, [1, 2]) == {1: "zwei é", 2: "three"}
    pairs = tf.data.Dataset.from_tensor_slices(([["a", "b"]], [0])).batch(1)
    assert thumbnails.examples_at(pairs, [0]) == {0: "a\nb"}
