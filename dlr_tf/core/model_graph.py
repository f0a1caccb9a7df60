"""What the graph of a model shows: which layers give its outputs, and what a layer normalises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        found = _positions_behind(model.outputs, layers)
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


def _positions_behind(tensors: Iterable[Any], layers: Sequence[LayerVariables]) -> set[int]:
    """The positions of the nearest layers with weights that compute tensors."""
    position_of = {id(entry.leaf.layer): n for n, entry in enumerate(layers) if entry.leaf}
    found: set[int] = set()
    waiting, seen = list(tensors), set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, inputs = _keras.tensor_source(tensor)
        if id(operation) in position_of:
            found.add(position_of[id(operation)])
        elif isinstance(operation, keras.Model) and operation.weights:
            if _keras.is_graph_model(operation):
                waiting += operation.outputs
            else:
                found.add(
                    max(
                        n
                        for n, entry in enumerate(layers)
                        if entry.leaf and any(m is operation for _, m in entry.leaf.ancestors)
                    )
                )
        else:
            waiting += inputs
    return found
