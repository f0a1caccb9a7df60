"""What the outputs of a classifier mean: the number of its classes, and their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from dlr_tf.core.model_graph import output_activations

# Largest difference from 1 of the sum of the probabilities of an image.
_TOLERANCE = 1e-3


def class_count(model: keras.Model) -> int | None:
    """Return the number of classes that a model tells apart; `None` if it is no classifier.

    A model with one unit tells two classes apart.

    >>> class_count(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
    2
    """
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        return None
    return max(shape[1], 2)


def to_probabilities(model: keras.Model, label: str, images: np.ndarray) -> Callable[[Any], Any]:
    """Return the function from the outputs of a classifier to the probabilities of its classes.

    The classifier gives one unit per class, or one for two classes. If its graph does not tell the
    last activation, it is called on `images`.

    Raises:
        ValueError: If the outputs are neither probabilities nor logits.
    """
    activations = output_activations(model)
    activation = activations[0] if len(activations) == 1 else None
    is_one_unit = model.output_shape[-1] == 1
    if activation == "linear":
        return _of_logit if is_one_unit else keras.ops.softmax
    if activation == "sigmoid" and is_one_unit:
        return _of_probability
    if activation is None and not is_one_unit:
        found = np.asarray(model(images, training=False))
        is_distribution = (found >= 0).all() and np.allclose(found.sum(-1), 1.0, atol=_TOLERANCE)
        activation = "softmax" if is_distribution else None
    if activation is None or is_one_unit:
        raise ValueError(
            f"{label} should give probabilities that sum to 1, one sigmoid unit, or logits. "
            f"Received: outputs of shape {model.output_shape} that are none of these. Save it with "
            "a softmax at its end."
        )
    return _as_they_are


def to_scores(model: keras.Model) -> Callable[[Any], Any]:
    """Return the function from the outputs of a model for several labels to their probabilities."""
    is_linear = output_activations(model) == ("linear",)
    return keras.ops.sigmoid if is_linear else _as_they_are


def _as_they_are(outputs: Any) -> Any:
    return outputs


def _of_probability(outputs: Any) -> Any:
    return keras.ops.concatenate([1.0 - outputs, outputs], axis=-1)


def _of_logit(outputs: Any) -> Any:
    return keras.ops.sigmoid(keras.ops.concatenate([-outputs, outputs], axis=-1))
