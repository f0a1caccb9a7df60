"""Examples to try a model on, whatever it takes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.models.inputs import image_shape
from dlr_tf.app.models.texts import takes_texts, text_columns

_TEXTS = ("A short text.", "Another text, which is a little longer than that!", "", "déjà vu 3.5")


def example_inputs(model: keras.Model) -> list[Any]:
    """Return batches of images or of texts to try a model on, of two sizes if it takes any size.

    >>> model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    >>> [images.shape for images in example_inputs(model)]
    [(4, 8, 8, 1)]
    """
    if takes_texts(model):
        pairs = [[text, other] for text, other in zip(_TEXTS, _TEXTS[::-1], strict=True)]
        return [tf.constant(_TEXTS if text_columns(model) == 1 else pairs, tf.string)]
    height, width, channels = image_shape(model)
    height, width = height or 64, width or 64
    sizes = [(height, width)]
    if model.input_shape[1:3] == (None, None):
        sizes.append((height + height // 2 + 1, width - width // 4))
    random = np.random.default_rng(0)
    # Coarse patterns have more of a real image than noise of single pixels.
    patterns = [random.uniform(0, 255, (4, 5, 5, channels)) for _ in sizes]
    return [
        np.asarray(tf.image.resize(pattern, size), "float32")
        for pattern, size in zip(patterns, sizes, strict=True)
    ]
