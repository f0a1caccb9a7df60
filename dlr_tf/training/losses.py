"""The loss that fits a model's last activation and the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf.core._keras import adds_losses, compile_arguments
from dlr_tf.core.model_graph import output_activations
from dlr_tf.training.training_data import FirstBatches, LabelValues


@dataclasses.dataclass(frozen=True)
class LossChoice:
    """A loss, and the metrics that fit it, as `compile` takes them.

    Args:
        loss: The loss; `None` for the one that the model has of its own.
        metrics: The metrics.
        last_label: The labels are numbers from 0 to this one; `None` for labels of another kind.
        note: A line for the user about a choice that is not obvious; `""` for none.
    """

    loss: Any
    metrics: Any
    last_label: int | None = None
    note: str = ""


def choose_cross_entropy(
    activation: str,
    output_shape: Sequence[Any],
    label_shape: Sequence[Any],
    dtype: Any,
    values: LabelValues | None = None,
) -> LossChoice | str:
    """Choose the cross-entropy that fits the last activation and the labels.

    Args:
        activation: `"softmax"`, `"sigmoid"` or `"linear"`.
        output_shape: Shape of one output, without the batch axis.
        label_shape: Shape of one label, without the batch axis.
        dtype: Dtype of the labels.
        values: What the labels look like. Defaults to `None`: not known.

    Returns:
        The choice, or, where none fits, what was expected instead.

    Example:

    >>> choose_cross_entropy("softmax", (3,), (), "int64").loss.name
    'sparse_categorical_crossentropy'
    >>> choose_cross_entropy("softmax", (1,), (), "int64")
    'two or more units under softmax'
    """
    units = output_shape[-1]
    is_integer = tf.as_dtype(dtype).is_integer or tf.as_dtype(dtype).is_bool
    logits = activation == "linear"
    as_class_numbers = _fits(label_shape, output_shape[:-1])
    as_outputs = _fits(label_shape, output_shape)
    # Keras compares with 0.5 by default. The logit of the probability 0.5 is 0.
    accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if logits else 0.5)
    binary = LossChoice(keras.losses.BinaryCrossentropy(from_logits=logits), [accuracy])
    if units == 1 and (as_class_numbers or as_outputs) and (is_integer or activation == "sigmoid"):
        if activation == "softmax":
            return "two or more units under softmax"
        if is_integer or values is None or values.are_binary:
            return dataclasses.replace(binary, last_label=1)
    elif (
        units != 1
        and is_integer
        and (as_class_numbers or _fits(label_shape, (*output_shape[:-1], 1)))
    ):
        if activation == "sigmoid":
            return "softmax or no activation"
        sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
        return LossChoice(sparse, ["accuracy"], units - 1)
    elif units != 1 and as_outputs and values is not None:
        sum_to_one = values.sum_to_one and values.lowest >= 0
        if values.are_binary and (activation == "sigmoid" or (logits and not sum_to_one)):
            return dataclasses.replace(
                binary,
                note="the loss is binary cross-entropy: the labels are 0 and 1, and "
                + ("each unit has a sigmoid" if not logits else "their rows do not sum to 1"),
            )
        if sum_to_one and activation != "sigmoid":
            return LossChoice(
                keras.losses.CategoricalCrossentropy(from_logits=logits), ["accuracy"]
            )
    return "class numbers, or rows of labels that sum to 1, or labels that are 0 and 1"


def _fits(label_shape: Sequence[Any], shape: Sequence[Any]) -> bool:
    """Return whether shapes are equal where both are known."""
    return len(label_shape) == len(shape) and all(
        one == other or one is None or other is None for one, other in zip(label_shape, shape)
    )


def choose_loss(
    model: keras.Model, first: FirstBatches, loss: Any = None, metrics: Any = None
) -> LossChoice:
    """Choose the loss and the metrics to train a model with, and check the labels.

    Args:
        model: A built model.
        first: The first batches. All labels of arrays are read, and those in the first 3 batches of
            a data set.
        loss: As in `compile`. Defaults to the loss that the model was compiled with, or computes
            in a `train_step`, a `compute_loss` or with `add_loss`, or else the cross-entropy that
            fits.
        metrics: As in `compile`. Defaults to those that the model was compiled with, or else to
            accuracy under a cross-entropy.

    Raises:
        ValueError: If no loss fits, or a label is not one of those that the loss needs.
    """
    compiled = compile_arguments(model)
    metrics = compiled.get("metrics") if metrics is None else metrics
    has_own = loss is None and compiled.get("loss") is not None
    loss = compiled.get("loss") if has_own else loss
    if loss is not None:
        last_label = last_label_of(loss, model)
        if last_label is not None:
            check_labels(last_label, first, last_label + 1)
        if metrics is None and not has_own and is_cross_entropy(loss):
            metrics = ["accuracy"]
        return LossChoice(loss, metrics)
    computes = any(
        getattr(type(model), name) is not getattr(keras.Model, name)
        for name in ("train_step", "compute_loss")
    )
    if compiled and (computes or adds_losses(model, first.inputs)):
        return LossChoice(None, metrics)
    choice = cross_entropy_for(model, first)
    if isinstance(choice, LossChoice):
        return choice if metrics is None else dataclasses.replace(choice, metrics=metrics)
    # Labels that a model is trained with need a loss, also beside one that it adds.
    if computes or (not first.has_labels and adds_losses(model, first.inputs)):
        return LossChoice(None, metrics)
    raise ValueError(choice)


def cross_entropy_for(model: keras.Model, first: FirstBatches) -> LossChoice | str:
    """Return the cross-entropy that fits a model and its labels, or why there is none.

    Raises:
        ValueError: If a label is not one of those that the loss needs.
    """
    labels = first.labels
    activations = output_activations(model)
    cannot = f"The loss that fits model {model.name!r} cannot be found out"
    if not first.are_known:
        return f"{cannot}: the labels of such data are not read before training. Pass `loss=...`."
    if not first.has_labels:
        return (
            f"{cannot}: the data have no labels. Pass a tuple `(inputs, labels)`, or give the "
            "model a loss of its own (`add_loss`, `compute_loss`, `train_step`)."
        )
    if len(activations) > 1:
        return (
            f"{cannot}: the model has {len(activations)} outputs. Pass `loss=...` with one loss "
            "per output, as in `compile`."
        )
    if labels is None:
        return (
            f"{cannot}: the labels are not one array, but a {type(first.example[1]).__name__}. "
            "Pass one, such as `np.asarray(labels)`, or `loss=...`."
        )
    activation = activations[0] if activations else None
    if activation is None:
        return f"{cannot}: the activation of its output is not known. Pass `loss=...`."
    # Without the batch axis, whose size is not always known.
    shapes = tuple(model.outputs[0].shape[1:]), tuple(labels.shape[1:])
    choice = choose_cross_entropy(activation, *shapes, labels.dtype, first.label_values)
    if isinstance(choice, str):
        values = first.label_values
        found = f"shape {tuple(labels.shape)}, dtype {tf.as_dtype(labels.dtype).name}"
        if values is not None:
            found += f", from {values.lowest:g} to {values.highest:g}"
        return (
            f"{cannot}: expected {choice}. Received: last activation {activation!r}, labels of "
            f"{found}. Pass `loss=...`, such as `loss='mse'` for numbers."
        )
    if choice.last_label is not None:
        check_labels(choice.last_label, first, model.outputs[0].shape[-1])
    return choice


def is_cross_entropy(loss: Any) -> bool:
    """Return whether a loss, as `compile` takes it, is a cross-entropy, by its name."""
    return loss_name(loss).endswith("crossentropy")


def loss_name(loss: Any) -> str:
    """Return the name of a loss, as `compile` takes it.

    >>> loss_name("mse"), loss_name(keras.losses.MeanSquaredError())
    ('mse', 'mean_squared_error')
    """
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", getattr(loss, "__name__", "")))


def check_labels(last_label: int, first: FirstBatches, units: int) -> None:
    """Check that labels are numbers from 0 to `last_label`.

    Args:
        last_label: The largest label that is allowed.
        first: The first batches.
        units: Number of units of the model's output, for the message.

    Raises:
        ValueError: If a label is below 0 or above `last_label`.
    """
    found = first.label_values
    if found is None or (found.lowest >= 0 and found.highest <= last_label):
        return
    if units == 1:
        expected = "0 and 1, since the model's output has one unit"
        remedy = "Pass `loss=...`, such as `loss='mse'` for a regression."
    else:
        expected = f"from 0 to {last_label}, since the model's output has {units} units"
        remedy = "Correct the labels, give the model one unit for each class, or pass `loss=...`."
    raise ValueError(
        f"The labels should be {expected}. "
        f"Received: labels from {found.lowest:g} to {found.highest:g}. {remedy}"
    )


def last_label_of(loss: Any, model: keras.Model) -> int | None:
    """Return the largest label that a sparse cross-entropy allows; `None` for any other loss."""
    outputs: Any = getattr(model, "outputs", None) or ()
    is_sparse = loss == "sparse_categorical_crossentropy" or (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        and loss.get_config().get("ignore_class") is None
    )
    return outputs[0].shape[-1] - 1 if is_sparse and len(outputs) == 1 else None


@keras.saving.register_keras_serializable("dlr_tf")
class ClassCrossentropy(keras.losses.Loss):
    """The cross-entropy of class numbers, or of the shares of all classes, with label smoothing.

    Of Keras' own, the one for class numbers has no label smoothing.

    Args:
        label_smoothing: Float in [0, 1): the share that all classes get in equal parts.

    Example:

    >>> loss = ClassCrossentropy(0.2)
    >>> numbers, shares = (float(loss(y, [[0.7, 0.3]])) for y in ([0], [[1.0, 0.0]]))
    >>> numbers == shares, round(numbers, 4)  # -(0.9 * log(0.7) + 0.1 * log(0.3))
    (True, 0.4414)
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str = "sum_over_batch_size",
        name: str = "class_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example."""
        found = keras.ops.convert_to_tensor(y_pred)
        truth = keras.ops.convert_to_tensor(y_true)
        if truth.shape[-1:] != found.shape[-1:] or len(truth.shape) < 2:
            truth = keras.ops.one_hot(
                keras.ops.cast(keras.ops.reshape(truth, [-1]), "int32"), found.shape[-1]
            )
        return keras.losses.categorical_crossentropy(
            truth, found, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("dlr_tf")
class ClassAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The accuracy for class numbers, or for the shares of classes, of which the largest counts.

    Example:

    >>> accuracy = ClassAccuracy("accuracy")
    >>> for labels in ([1], [[0.4, 0.6]]):
    ...     accuracy.update_state(labels, [[0.2, 0.8]])
    >>> float(accuracy.result())
    1.0
    """

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add the examples of a batch."""
        truth = keras.ops.convert_to_tensor(y_true)
        if len(truth.shape) > 1 and truth.shape[-1] != 1:
            truth = keras.ops.argmax(truth, axis=-1)
        return super().update_state(truth, y_pred, sample_weight)


@keras.saving.register_keras_serializable("dlr_tf")
class LabelsAUC(keras.metrics.AUC):
    """The area under the curve for labels that are mixed: a share of half or more counts as 1."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add the examples of a batch."""
        truth = keras.ops.convert_to_tensor(y_true) >= 0.5
        return super().update_state(truth, y_pred, sample_weight)


@keras.saving.register_keras_serializable("dlr_tf")
class ScaledSquaredError(keras.losses.Loss):
    """The squared error of numbers of different units, each in relation to its spread.

    For one example it is the mean over the numbers of `((y_true - y_pred) / scale) ** 2`.

    Args:
        scale: Floats above 0, one per number: its standard deviation in the training data.

    Example:

    >>> loss = ScaledSquaredError([10.0, 0.1])
    >>> round(float(loss([[20.0, 1.0]], [[30.0, 1.2]])), 4)  # (1 ** 2 + 2 ** 2) / 2
    2.5
    """

    def __init__(
        self,
        scale: Sequence[float],
        reduction: str = "sum_over_batch_size",
        name: str = "scaled_squared_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.scale = tuple(scale)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example."""
        found = keras.ops.convert_to_tensor(y_pred)
        truth, scale = (keras.ops.cast(value, found.dtype) for value in (y_true, self.scale))
        errors = (truth - found) / scale
        return keras.ops.mean(keras.ops.square(errors), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "scale": list(self.scale)}
