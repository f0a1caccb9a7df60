"""Features of the frozen layers, computed once for each example while only the head is trained."""

from __future__ import annotations

import contextlib
import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.training.model_cut import Cut, cut_before
from dlr_tf.training.training_data import ARRAY_BATCH_SIZE, n_samples

MAX_BYTES = 2**30  # of all features together
# Layers that take the argument `training` and compute the same with and without it.
_SAME_IN_TRAINING = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Resizing,
    keras.layers.CenterCrop,
)
_STEPS = ("call", "train_step", "test_step", "compute_loss", "compute_metrics")


class Indexed(NamedTuple):
    """The inputs of a model, and the index of each example in the features."""

    inputs: Any
    index: Any


@contextlib.contextmanager
def cached_features(
    model: keras.Model, arguments: Mapping[str, Any], first_epoch: int, frozen_epochs: int
) -> Iterator[tuple[dict[str, Any], list[keras.callbacks.Callback]]]:
    """Let `fit` compute the features before the trainable layers once, where that is exact.

    The inputs that `fit` gets carry the index of each example. While the features are used, a step
    is that of Keras, but the model calls its tail on the features of these examples. So the loss,
    the metrics, the optimizer, the callbacks and the order of the batches are those of the model.

    It is exact for dense arrays and for models of Keras' own layers. Dropout, augmentation and
    other layers that work differently in training are not before the cut. In all other cases,
    and where it saves nothing, `fit` gets what it would get without this.

    Args:
        model: A compiled model in which only the head is trainable.
        arguments: The arguments for `fit`, the validation data among them.
        first_epoch: The first epoch.
        frozen_epochs: The first epoch in which more than the head is trained.

    Yields:
        The arguments and the callbacks for `fit`.
    """
    # The features of one epoch cost as much as the epoch.
    cut = _cut(model, arguments) if frozen_epochs - first_epoch > 1 else None
    if cut is None:
        yield dict(arguments), []
        return
    inputs = [arguments["x"]]
    changed: dict[str, Any] = {"x": Indexed(inputs[0], _indices(0, inputs[0]))}
    validation = arguments["validation_data"]
    if isinstance(validation, tuple) and _is_dense(validation[0]):
        inputs.append(validation[0])
        index = _indices(n_samples(inputs[0]), validation[0])
        changed["validation_data"] = (Indexed(validation[0], index), *validation[1:])
    batch_size = arguments.get("batch_size") or ARRAY_BATCH_SIZE
    cache = _Cache(model, cut, inputs, batch_size, frozen_epochs)
    if cache.n_bytes() > MAX_BYTES:
        yield dict(arguments), []
        return
    with (
        _keras.attribute_set(model, "train_step", cache.step_of(model.train_step)),
        _keras.attribute_set(model, "test_step", cache.step_of(model.test_step)),
    ):
        # Keras keeps the functions that it made of the steps.
        model.train_function = model.test_function = None
        try:
            yield {**arguments, **changed}, [cache]
        finally:
            model.train_function = model.test_function = None


def _cut(model: keras.Model, arguments: Mapping[str, Any]) -> Cut | None:
    """Return a model in two parts, if the features between them may be cached; else `None`."""
    if (
        not _is_of_keras(type(model))
        or any(name in vars(model) for name in _STEPS)
        or tf.distribute.has_strategy()
        or model.distribute_strategy is not tf.distribute.get_strategy()
        or not _is_dense(arguments["x"])
        or arguments.get("steps_per_epoch") is not None
        or arguments.get("validation_steps") is not None
    ):
        return None
    try:
        cut = cut_before(model, model.trainable_variables, _is_constant)
    except ValueError:  # there is nothing before the trainable layers
        return None
    # Without weights before the cut, there is nothing to save.
    return cut if cut.body.variables else None


def _is_dense(inputs: Any) -> bool:
    arrays = keras.tree.flatten(inputs)
    return bool(arrays) and all(
        isinstance(array, (np.ndarray, tf.Tensor)) and tf.as_dtype(array.dtype) != tf.string
        for array in arrays
    )


def _is_of_keras(kind: Any) -> bool:
    return bool(getattr(kind, "__module__", "").partition(".")[0] == "keras")


def _is_constant(operation: Any) -> bool:
    """Return whether an operation always gives the same output for the same input.

    In case of doubt it does not: custom layers, and all that take the argument `training`.
    """
    if not isinstance(operation, keras.layers.Layer):
        return _is_of_keras(type(operation))
    return all(map(_is_constant_layer, (operation, *_keras.all_layers(operation))))


def _is_constant_layer(layer: keras.layers.Layer) -> bool:
    if _keras.is_graph_model(layer):
        return _keras.calls_only_its_graph(layer)  # its layers are checked one by one
    if (
        not _is_of_keras(type(layer))
        or not _is_of_keras(getattr(layer, "activation", None) or type(layer))
        or getattr(layer, "activity_regularizer", None) is not None
        # Keras evaluates with the penalties of the weights that were trainable at the first time.
        or any(getattr(variable, "regularizer", None) for variable in layer.variables)
        or layer.quantization_mode is not None
        # A mask goes on to later layers beside the features.
        or isinstance(layer, keras.layers.Masking)
        or getattr(layer, "mask_zero", False)
    ):
        return False
    if isinstance(layer, keras.layers.BatchNormalization):
        return not layer.trainable
    takes_training = "training" in inspect.signature(layer.call).parameters
    return not takes_training or isinstance(layer, _SAME_IN_TRAINING)


def _indices(start: int, inputs: Any) -> np.ndarray:
    return np.arange(start, start + n_samples(inputs), dtype="int32")


def _rows(inputs: Any, rows: slice) -> Any:
    return keras.tree.map_structure(lambda array: tf.convert_to_tensor(array[rows]), inputs)


class _Cache(keras.callbacks.Callback):
    """The features of all examples, from the first frozen epoch to the last one.

    They are computed when an epoch begins, since a callback may load weights before. If the body
    is changed after that, they are no longer used.
    """

    def __init__(
        self,
        model: keras.Model,
        cut: Cut,
        inputs: list[Any],
        batch_size: int,
        frozen_epochs: int,
    ) -> None:
        super().__init__()
        self._trained = model
        self.cut = cut
        self._inputs = inputs
        self._batch_size = batch_size
        self._frozen_epochs = frozen_epochs
        self._features: list[tf.Tensor] | None = None
        self._is_over = False
        self._state: list[int] = []

    def n_bytes(self) -> float:
        """Return the size of the features; infinite if it is not known."""
        count = sum(map(n_samples, self._inputs))
        return sum(
            count
            * tf.as_dtype(tensor.dtype).size
            * math.prod(math.inf if size is None else size for size in tensor.shape[1:])
            for tensor in self.cut.body.outputs
        )

    def step_of(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a step of Keras that takes `Indexed` inputs too, and uses the features."""

        def cached_step(data: Any) -> Any:
            x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
            if not isinstance(x, Indexed):
                return step(data)
            data = (x.inputs, y, weights)
            if self._features is None or self._is_trainable():
                return step(data)
            features = [tf.gather(table, x.index) for table in self._features]

            def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
                return self.cut.tail(features, training=training)

            with _keras.attribute_set(self._trained, "call", call):
                return step(data)

        return cached_step

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch >= self._frozen_epochs:
            self._stop()
        elif self._features is None and not self._is_over and not self._is_trainable():
            batches = [batch for inputs in self._inputs for batch in self._batches(inputs)]
            self._features = [tf.concat(parts, axis=0) for parts in zip(*batches)]
            self._state = self._state_now()
        else:
            self._check()

    def _batches(self, inputs: Any) -> Iterator[list[tf.Tensor]]:
        """Compute the features of some examples, batch by batch."""
        spec = keras.tree.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), inputs
        )
        run = tf.function(
            lambda x: keras.tree.flatten(self.cut.body(x, training=False)), input_signature=[spec]
        )
        for start in range(0, n_samples(inputs), self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield run(_rows(inputs, rows))

    def on_test_begin(self, logs: Any = None) -> None:
        self._check()

    def _check(self) -> None:
        if not self._is_over and (self._is_trainable() or self._state != self._state_now()):
            self._stop()

    def _stop(self) -> None:
        if not self._is_over:
            self._features, self._is_over = None, True
            self._trained.make_train_function(force=True)
            self._trained.make_test_function(force=True)

    def _is_trainable(self) -> bool:
        """Return whether something in the body is trainable."""
        body = {id(variable) for variable in self.cut.body.variables}
        return any(id(variable) in body for variable in self._trained.trainable_variables)

    def _state_now(self) -> list[int]:
        return [zlib.crc32(np.asarray(v).tobytes()) for v in self.cut.body.variables]
