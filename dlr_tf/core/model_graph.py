"""What the graph of a model shows: which layers give its outputs, and what a layer normalises."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import keras

from dlr_tf.core import _keras
from dlr_tf.core.model_tree import LayerVariables

# A custom normalisation layer, such as KerasHub's `RMSNormalization`, is recognised by its name.
_NORMALISATION_NAMES = ("Norm", "Normalization", "Normalisation")


def is_normalisation(layer: keras.layers.Layer) -> bool:
    """Whether a layer normalises the output of the layer before it.

    >>> is_normalisation(keras.layers.BatchNormalization()), is_normalisation(keras.layers.ReLU())
    (True, False)
    """
    return type(layer).__name__.endswith(_NORMALISATION_NAMES)


def is_embedding(layer: keras.layers.Layer) -> bool:
    """Whether a layer is an embedding, by its class or the name of its class.

    >>> is_embedding(keras.layers.Embedding(5, 2)), is_embedding(keras.layers.Dense(2))
    (True, False)
    """
    return isinstance(layer, keras.layers.Embedding) or "Embedding" in type(layer).__name__


def n_first_embeddings(layers: Sequence[LayerVariables]) -> int:
    """Return how many layers at the start of a model are embeddings, with their normalisation.

    Args:
        layers: The leaf layers with weights of a model, in order.
    """
    leaves = [entry.leaf for entry in layers if entry.leaf is not None]
    count = 0
    while count < len(leaves) and is_embedding(leaves[count].layer):
        count += 1
    # A normalisation layer inside the next block is part of that block.
    if (
        0 < count < len(leaves)
        and is_normalisation(leaves[count].layer)
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


def normalised_position(position: int, layers: Sequence[LayerVariables]) -> int | None:
    """Return the position of the layer that a normalisation layer normalises.

    If the model has no graph, it is the layer with weights before it.

    Args:
        position: Position of the normalisation layer in `layers`.
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
