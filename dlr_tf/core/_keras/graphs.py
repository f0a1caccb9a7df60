"""Models with a graph, and what the graph says of a tensor."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.models.functional import Functional


def saves_layer_names(model: keras.layers.Layer) -> bool:
    """Whether the names of a model's layers are the same after `load_model`.

    Sequential and Functional models save them. In any other model or layer, the user's code creates
    the layers again, and automatic names change. Keras has no public name for the Functional class.
    """
    return type(model) in (keras.Sequential, Functional)


def is_graph_model(model: keras.layers.Layer) -> bool:
    """Whether a model is Sequential or Functional, or a subclass of one of them."""
    return isinstance(model, (keras.Sequential, Functional))


def calls_only_its_graph(model: keras.Model) -> bool:
    """Whether a model with a graph calls the layers of its graph and no others.

    A subclass may call further layers in a `call` of its own. Keras has no public name for the
    Functional class.
    """
    return type(model).call in (Functional.call, keras.Sequential.call)


def tensor_source(tensor: Any) -> tuple[Any, list[Any]]:
    """Return the operation that gives a symbolic tensor, and the tensors it was called on.

    `layer.input` is public, but fails for a layer that is called several times.
    """
    operation, node, _ = tensor._keras_history
    return operation, list(operation._inbound_nodes[node].input_tensors)


def output_index(tensor: Any) -> int:
    """Return which of the outputs of its operation a symbolic tensor is.

    No public attribute tells the outputs of a nested model apart.
    """
    return tensor._keras_history.tensor_index


def first_inputs(layer: keras.layers.Layer) -> list[Any]:
    """Return the symbolic tensors that a layer was first called on; empty without a graph."""
    nodes = layer._inbound_nodes
    return list(nodes[0].input_tensors) if nodes else []


def is_from_first_call(tensor: Any) -> bool:
    """Whether a symbolic tensor comes from the first call of its operation.

    A layer that is called several times has one node per call; no public attribute tells which of
    them gave a tensor.
    """
    return tensor._keras_history.node_index == 0
