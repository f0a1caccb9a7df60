"""The loss that fits a model's last activation and the labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def cross_entropy_for(model: keras.Model, train_data: Any) -> tuple[keras.losses.Loss, Any]:
    """The cross-entropy, and the accuracy, that fit the labels and the last activation."""
    labels = _labels(train_data)
    outputs = getattr(model, "outputs", None)
    activation = _last_activation(model)
    if labels is None or not outputs or len(outputs) != 1 or activation is None:
        raise _unknown_loss(model, "one output with a known last activation", activation, labels)
    # Without the batch axis, which is of no known size in some of them.
    shape, label_shape = tuple(outputs[0].shape)[1:], tuple(labels.shape)[1:]
    whole = tf.as_dtype(labels.dtype).is_integer or tf.as_dtype(labels.dtype).is_bool
    logits = activation == "linear"
    if shape[-1] == 1 and (whole or activation == "sigmoid"):
        if activation == "softmax":
            raise _unknown_loss(model, "two or more units under softmax", activation, labels)
        binary = keras.losses.BinaryCrossentropy(from_logits=logits)
        # Keras compares with 0.5 by default, which as a logit is no even chance.
        threshold = 0.0 if logits else 0.5
        return binary, keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)
    if shape[-1] != 1 and whole and label_shape in (shape[:-1], (*shape[:-1], 1)):
        if activation == "sigmoid":
            raise _unknown_loss(model, "softmax or no activation", activation, labels)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=logits), "accuracy"
    if label_shape == shape and shape[-1] != 1:
        if activation == "sigmoid":
            return keras.losses.BinaryCrossentropy(), keras.metrics.BinaryAccuracy("accuracy")
        return keras.losses.CategoricalCrossentropy(from_logits=logits), "accuracy"
    raise _unknown_loss(model, "class numbers or one-hot labels", activation, labels)


def _labels(train_data: Any) -> Any:
    """Something with the shape, batch axis included, and dtype of the labels; `None` if unknown."""
    batch = batch_of(train_data)
    if not isinstance(batch, tuple) or len(batch) < 2:
        return None
    return batch[1] if hasattr(batch[1], "dtype") else np.asarray(batch[1])


def batch_of(train_data: Any) -> Any:
    """What a batch looks like: `tf.TensorSpec`s or arrays."""
    if isinstance(train_data, tf.data.Dataset):
        return train_data.element_spec
    if isinstance(train_data, keras.utils.PyDataset):
        return train_data[0]
    return train_data


def _unknown_loss(
    model: keras.Model, expected: str, activation: str | None, labels: Any
) -> ValueError:
    found = "none" if labels is None else f"shape {tuple(labels.shape)}, dtype {labels.dtype}"
    return ValueError(
        f"The loss that fits model {model.name!r} cannot be found out: expected {expected}. "
        f"Received: last activation {activation!r}, labels of {found}. Pass `loss=...`"
    )


def _last_activation(model: keras.Model) -> str | None:
    """`"softmax"`, `"sigmoid"` or `"linear"`; `None` where it cannot be told."""
    if not model.layers:
        return None
    layer = model.layers[-1]
    if isinstance(layer, keras.Model):
        return _last_activation(layer)
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return name if name in ("softmax", "sigmoid", "linear") else None
