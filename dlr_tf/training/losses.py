"""The loss that fits a model's last activation and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dlr_tf.core.model_graph import output_activations
from dlr_tf.training.training_data import label_range, labels_of


class LossChoice(NamedTuple):
    """A loss, its accuracy, and the labels that it allows.

    Args:
        loss: The loss.
        accuracy: The accuracy that fits it, as `compile` takes it.
        last_label: The labels are numbers from 0 to this one; `None` for labels of another kind.
    """

    loss: keras.losses.Loss
    accuracy: Any
    last_label: int | None


def choose_cross_entropy(
    activation: str, output_shape: Sequence[int], label_shape: Sequence[int | None], dtype: Any
) -> LossChoice | str:
    """Choose the cross-entropy that fits the last activation and the labels.

    Args:
        activation: `"softmax"`, `"sigmoid"` or `"linear"`.
        output_shape: Shape of one output, without the batch axis.
        label_shape: Shape of one label, without the batch axis.
        dtype: Dtype of the labels.

    Returns:
        The choice, or, where none fits, what was expected instead.

    Example:

    >>> choose_cross_entropy("softmax", (3,), (), "int64").loss.name
    'sparse_categorical_crossentropy'
    >>> choose_cross_entropy("softmax", (1,), (), "int64")
    'two or more units under softmax'
    """
    shape, label_shape = tuple(output_shape), tuple(label_shape)
    units = shape[-1]
    is_integer = tf.as_dtype(dtype).is_integer or tf.as_dtype(dtype).is_bool
    logits = activation == "linear"
    if units == 1 and (is_integer or activation == "sigmoid"):
        if activation == "softmax":
            return "two or more units under softmax"
        binary = keras.losses.BinaryCrossentropy(from_logits=logits)
        # Keras compares with 0.5 by default. The logit of the probability 0.5 is 0.
        threshold = 0.0 if logits else 0.5
        return LossChoice(binary, keras.metrics.BinaryAccuracy("accuracy", threshold=threshold), 1)
    if units != 1 and is_integer and label_shape in (shape[:-1], (*shape[:-1], 1)):
        if activation == "sigmoid":
            return "softmax or no activation"
        sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
        return LossChoice(sparse, "accuracy", units - 1)
    if label_shape == shape and units != 1:
        if activation == "sigmoid":
            accuracy = keras.metrics.BinaryAccuracy("accuracy")
            return LossChoice(keras.losses.BinaryCrossentropy(), accuracy, None)
        return LossChoice(
            keras.losses.CategoricalCrossentropy(from_logits=logits), "accuracy", None
        )
    return "class numbers or one-hot labels"


def cross_entropy_for(model: keras.Model, train_data: Any) -> LossChoice:
    """Return the cross-entropy that fits a model and its training data.

    The labels are read: all labels of arrays, and those in the first 3 batches of a data set.

    Args:
        model: A built model.
        train_data: As in `fine_tune`.

    Raises:
        ValueError: If no loss fits, or a label is not one of those that the loss needs.
    """
    labels = labels_of(train_data)
    activations = output_activations(model)
    activation = activations[0] if len(activations) == 1 else None
    if labels is None or activation is None:
        choice: LossChoice | str = "one output with a known last activation, and labels for it"
    else:
        # Without the batch axis, whose size is not always known.
        shape, label_shape = model.outputs[0].shape[1:], labels.shape[1:]
        choice = choose_cross_entropy(activation, shape, label_shape, labels.dtype)
    if isinstance(choice, str):
        found = "none" if labels is None else f"shape {tuple(labels.shape)}, dtype {labels.dtype}"
        raise ValueError(
            f"The loss that fits model {model.name!r} cannot be found out: expected {choice}. "
            f"Received: last activation {activation!r}, labels of {found}. Pass `loss=...`"
        )
    if choice.last_label is not None:
        check_labels(choice.last_label, train_data, model.outputs[0].shape[-1])
    return choice


def check_labels(last_label: int, train_data: Any, units: int) -> None:
    """Check that labels are numbers from 0 to `last_label`.

    Args:
        last_label: The largest label that is allowed.
        train_data: As in `fine_tune`. All labels of arrays are checked, and those in the first 3
            batches of a data set.
        units: Number of units of the model's output, for the message.

    Raises:
        ValueError: If a label is below 0 or above `last_label`.
    """
    found = label_range(train_data)
    if found is None or (found[0] >= 0 and found[1] <= last_label):
        return
    if units == 1:
        expected = "0 and 1, since the model's output has one unit"
        remedy = "Pass `loss=...`, such as `loss='mse'` for a regression."
    else:
        expected = f"from 0 to {last_label}, since the model's output has {units} units"
        remedy = "Correct the labels, give the model one unit for each class, or pass `loss=...`."
    raise ValueError(
        f"The labels should be {expected}. Received: labels from {found[0]:g} to {found[1]:g}. "
        f"{remedy}"
    )


def last_label_of(loss: Any, model: keras.Model) -> int | None:
    """Return the largest label that a sparse cross-entropy allows; `None` for any other loss."""
    outputs: Any = getattr(model, "outputs", None) or ()
    is_sparse = loss == "sparse_categorical_crossentropy" or (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        and loss.get_config().get("ignore_class") is None
    )
    return outputs[0].shape[-1] - 1 if is_sparse and len(outputs) == 1 else None
