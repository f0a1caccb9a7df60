"""Examples to try a model on, whatever it takes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from dlr_tf.app.models.inputs import example_images
from dlr_tf.app.models.texts import example_texts, takes_texts


def example_inputs(model: keras.Model) -> list[Any]:
    """Return batches of images or of texts to try a model on.

    >>> model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    >>> [images.shape for images in example_inputs(model)]
    [(4, 8, 8, 1)]
    """
    if takes_texts(model):
        return [tf.constant(texts, tf.string) for texts in example_texts(model)]
    return example_images(model)
