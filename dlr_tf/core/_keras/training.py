"""What `compile` and `fit` store on a model, and how `fit` builds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend

from dlr_tf.core._keras.layers import all_layers

# What `fit` writes on a model beside its variables.
TRAINER_ATTRIBUTES = (
    "optimizer",
    "train_function",
    "steps_per_execution",
    "stop_training",
    "history",
    "_eval_epoch_iterator",
)


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Build the metrics and the loss of a compiled model without running a step.

    Args:
        model: A compiled model.
        batch: Nested `keras.KerasTensor`s: what a batch looks like.
    """
    model._symbolic_build(data_batch=batch)


def build_metrics_of_output(model: keras.Model, labels: Any) -> None:
    """Build the metrics of a compiled model from its output, which is known without a step.

    Keras builds them while it traces the first step. That makes variables, so TensorFlow traces the
    step a second time. Nothing is done for a model with a training step, a loss or metrics of its
    own making, and for one with several outputs.

    Args:
        model: A compiled model.
        labels: Something with the shape and the dtype of a batch of labels.
    """
    metrics: Any = model._compile_metrics
    outputs: Any = getattr(model, "outputs", None) or ()
    own = ("train_step", "compute_loss", "compute_metrics")
    is_plain = all(getattr(type(model), name) is getattr(keras.Model, name) for name in own)
    if metrics is None or metrics.built or len(outputs) != 1 or not is_plain:
        return
    dtype = tf.as_dtype(labels.dtype).name
    with model.distribute_strategy.scope():
        metrics.build(keras.KerasTensor(labels.shape, dtype), outputs[0])


@contextlib.contextmanager
def skip_symbolic_build(model: keras.Model) -> Iterator[None]:
    """In this block, `fit` does not build the model and its metrics from the first batch.

    Keras reduces that batch over the devices first, which fails under
    `MultiWorkerMirroredStrategy`, and under `MirroredStrategy` where the batch does not divide
    evenly.
    """
    with attribute_set(model, "_maybe_symbolic_build", lambda *args, **kwargs: None):
        yield


@contextlib.contextmanager
def attribute_set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object during a block, without Keras' tracking."""
    missing = object()
    before = vars(owner).get(name, missing)
    vars(owner)[name] = value
    try:
        yield
    finally:
        if before is missing:
            vars(owner).pop(name, None)
        else:
            vars(owner)[name] = before


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `compile` was called with, as the objects themselves; empty before.

    The public `get_compile_config` serialises them, which a loss function of the user's own does
    not survive, and `model.metrics` holds no more than what Keras made of the argument.
    """
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if model.compiled and config is not None else {}


def adds_losses(model: keras.Model, inputs: Any) -> bool:
    """Whether a call of a model calls `add_loss`, beside regularizers.

    Only a call tells: the public `losses` lists those of the last call, and of all regularizers.

    Args:
        model: A built model.
        inputs: Something with the shapes and dtypes of its inputs.
    """

    found: list[Any] = []

    def symbol(array: Any) -> keras.KerasTensor:
        return keras.KerasTensor(array.shape, tf.as_dtype(array.dtype).name)

    def call(symbols: Any) -> Any:
        with keras.StatelessScope(collect_losses=True):
            outputs = model(symbols, **({"training": True} if model._call_has_training_arg else {}))
            for layer in (model, *all_layers(model)):
                if layer.activity_regularizer is None:
                    found.extend(layer._get_own_losses())
        return outputs

    # Inputs that only the model's own `fit` can prepare, such as strings, are no inputs of a call.
    with contextlib.suppress(Exception):
        backend.compute_output_spec(call, keras.tree.map_structure(symbol, inputs))
    return bool(found)


def compile_token(model: keras.Model) -> Any:
    """An object that each `compile` of a model makes anew; `None` before the first."""
    return getattr(model, "_compile_config", None)


def flags_at_compile(model: keras.Model) -> list[bool] | None:
    """The flags `trainable` of a model's layers when it was compiled.

    `None` before the first `compile`, and in Keras 3.14 and below, which does not record them.
    """
    flags = getattr(model, "_compiled_trainable_state", None)
    return None if flags is None else list(flags.values())
