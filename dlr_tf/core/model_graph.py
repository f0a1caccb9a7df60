"""What the graph of a model shows: its outputs, their activations, what a layer normalizes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import keras

from dlr_tf.core import _keras
from dlr_tf.core.model_tree import LayerVariables

# A custom normalization layer, such as KerasHub's `RMSNormalization`, is recognized by its name.
_NORMALIZATION_NAMES = ("Norm", "Normalization", "Normalisation")
# Keras' operations and layers after which each value means what it meant before, as long as the
# last axis stays: the mean of probabilities is a probability, and the mean of logits a logit.
_KEEP_MEANING = frozenset(
    ("ActivityRegularization", "Average", "Cast", "ExpandDims", "Flatten", "Identity", "Reshape")
    + ("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
    + ("Squeeze", "StopGradient")
)
_LINEAR_LAYERS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
# Those that give logits if all their inputs are logits.
_ARITHMETIC = frozenset(("Add", "Divide", "Multiply", "Rescaling", "Subtract", "TrueDivide"))


def is_normalization(layer: keras.layers.Layer) -> bool:
    """Whether a layer normalizes the output of the layer before it.

    >>> is_normalization(keras.layers.BatchNormalization()), is_normalization(keras.layers.ReLU())
    (True, False)
    """
    return type(layer).__name__.endswith(_NORMALIZATION_NAMES)


def is_embedding(layer: keras.layers.Layer) -> bool:
    """Whether a layer is an embedding, by its class or the name of its class.

    >>> is_embedding(keras.layers.Embedding(5, 2)), is_embedding(keras.layers.Dense(2))
    (True, False)
    """
    return isinstance(layer, keras.layers.Embedding) or "Embedding" in type(layer).__name__


def n_first_embeddings(layers: Sequence[LayerVariables]) -> int:
    """Return how many layers at the start of a model are embeddings, with their normalization.

    Args:
        layers: The leaf layers with weights of a model, in order.
    """
    leaves = [entry.leaf for entry in layers if entry.leaf is not None]
    count = 0
    while count < len(leaves) and is_embedding(leaves[count].layer):
        count += 1
    # A normalization layer inside the next block is part of that block.
    if (
        0 < count < len(leaves)
        and is_normalization(leaves[count].layer)
        and leaves[count].ancestors == leaves[count - 1].ancestors
    ):
        count += 1
    return count


def output_positions(model: keras.Model, layers: Sequence[LayerVariables]) -> list[int]:
    """Return the positions of the layers with weights that give the outputs of a model.

    An output that a layer without weights computes belongs to the layers with weights before it.
    In a model without a graph (a subclassed one), the last layer with weights counts.

    Args:
        model: A built model.
        layers: Its leaf layers with weights, in order; at least one.
    """
    found: set[int] = set()
    if _keras.is_graph_model(model):
        # An embedding that also computes the logits (tied weights) counts where it stands first.
        tied = {
            id(entry.leaf.layer) for entry in layers[: n_first_embeddings(layers)] if entry.leaf
        }
        found = _positions_behind(model.outputs, layers, tied)
    return sorted(found) or [len(layers) - 1]


def normalized_position(position: int, layers: Sequence[LayerVariables]) -> int | None:
    """Return the position of the layer that a normalization layer normalizes.

    If the model has no graph, it is the layer with weights before it.

    Args:
        position: Position of the normalization layer in `layers`.
        layers: The leaf layers with weights of a model, in order.

    Returns:
        The position, `None` for the first layer.
    """
    tensors = _keras.first_inputs(layers[position].leaf.layer)  # type: ignore[union-attr]
    before = [found for found in _positions_behind(tensors, layers) if found < position]
    if before:
        return max(before)
    return position - 1 if position else None


def _positions_behind(
    tensors: Iterable[Any], layers: Sequence[LayerVariables], tied: Container[int] = ()
) -> set[int]:
    """The positions of the nearest layers with weights that compute tensors.

    Args:
        tensors: Symbolic tensors.
        layers: The leaf layers with weights of a model, in order.
        tied: Identities of layers of which only the first call counts.
    """
    leaves = [(n, entry.leaf) for n, entry in enumerate(layers) if entry.leaf]
    position_of = {id(leaf.layer): n for n, leaf in leaves}
    # Of a model without a graph, or an opened layer, the last layer inside.
    last_in = {id(holder): n for n, leaf in leaves for _, holder in leaf.ancestors}
    found: set[int] = set()
    waiting, seen = list(tensors), set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, inputs = _keras.tensor_source(tensor)
        if id(operation) in position_of:
            if id(operation) in tied and not _keras.is_from_first_call(tensor):
                waiting += inputs
            else:
                found.add(position_of[id(operation)])
        elif _keras.is_graph_model(operation) and operation.weights:
            waiting += operation.outputs
        elif id(operation) in last_in:
            found.add(last_in[id(operation)])
        else:
            waiting += inputs
    return found


def logit_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the dense or convolutional layers that give the logits of the outputs of a model.

    Args:
        model: A built model.

    Returns:
        Each layer once, also if it gives several outputs. Only softmax, sigmoid and what keeps the
        meaning of a value can stand between it and an output.

    >>> inputs = keras.Input((2,))
    >>> x = keras.layers.Dense(3, name="logits")(inputs)
    >>> [layer.name for layer in logit_layers(keras.Model(inputs, keras.layers.Softmax()(x)))]
    ['logits']
    """
    if not _keras.is_graph_model(model) or not _keras.calls_only_its_graph(model):
        return []
    found = map(_logit_layer, model.outputs)
    return [*dict.fromkeys(layer for layer in found if layer is not None)]


def _logit_layer(tensor: Any) -> keras.layers.Layer | None:
    operation, inputs = _keras.tensor_source(tensor)
    if _keras.is_graph_model(operation):
        if not _keras.calls_only_its_graph(operation):
            return None
        return _logit_layer(operation.outputs[_keras.output_index(tensor)])
    is_known = operation_activation(operation, n_axes=len(tensor.shape)) is not None
    if is_known and isinstance(operation, _LINEAR_LAYERS):
        return operation
    keeps = type(operation).__name__ in _KEEP_MEANING and _is_of_keras(operation)
    has_weights = bool(getattr(operation, "weights", ()))
    if (is_known or keeps) and not has_weights and len(inputs) == 1:
        return _logit_layer(inputs[0])
    return None


def output_activations(model: keras.Model) -> tuple[str | None, ...]:
    """Return the activation behind each output of a model.

    It is found in the graph, so an operation, such as `keras.ops.softmax`, counts as a layer does.

    Returns:
        For each output `"softmax"` (over the last axis), `"sigmoid"`, or `"linear"`: logits, of
        which `log_softmax` gives a kind. `None` for any other activation, and where the graph does
        not tell, as after a `Lambda` layer. Empty for a model without a graph (a subclassed one).

    >>> inputs = keras.Input((2,))
    >>> x = keras.layers.Dense(3)(inputs)
    >>> output_activations(keras.Model(inputs, [x, keras.ops.softmax(x)]))
    ('linear', 'softmax')
    """
    if not _keras.is_graph_model(model):
        return ()
    if not _keras.calls_only_its_graph(model):
        return (None,) * len(model.outputs)
    return tuple(_activation_behind(tensor) for tensor in model.outputs)


def _activation_behind(tensor: Any) -> str | None:
    operation, inputs = _keras.tensor_source(tensor)
    if _keras.is_graph_model(operation):
        inside = output_activations(operation)
        return inside[_keras.output_index(tensor)]
    kind = type(operation).__name__
    if kind in _KEEP_MEANING | _ARITHMETIC and _is_of_keras(operation):
        if any(before.shape[-1] != tensor.shape[-1] for before in inputs):
            return None
        found = {_activation_behind(before) for before in inputs}
        if len(found) != 1 or (kind in _ARITHMETIC and found != {"linear"}):
            return None
        return found.pop()
    return operation_activation(operation, n_axes=len(tensor.shape))


def operation_activation(operation: Any, n_axes: int) -> str | None:
    """Return the activation that an operation or a layer applies to its output.

    Args:
        operation: An operation of Keras, which a layer is too.
        n_axes: The number of axes of its output.

    Returns:
        As in `output_activations`.

    >>> operation_activation(keras.layers.Dense(3, activation=keras.ops.softmax), 2)
    'softmax'
    """
    if isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    # The attribute of a user's own class may mean something else than the last step of its call.
    if not _is_of_keras(operation):
        return None
    activation = getattr(operation, "activation", operation)
    name = getattr(activation, "__name__", type(activation).__name__).lower()
    if getattr(activation, "axis", -1) not in (-1, n_axes - 1):
        return None
    if name in ("logsoftmax", "log_softmax"):
        return "linear"
    return name if name in ("softmax", "sigmoid", "linear") else None


def _is_of_keras(operation: Any) -> bool:
    call = getattr(type(operation), "call", None)
    return getattr(call, "__module__", "").partition(".")[0] in ("keras", "keras_hub")
