"""A model in two parts: the frozen body, which is computed once, and the part that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras

from dlr_tf.core import _keras


class Cut(NamedTuple):
    """A model in two parts. They share its layers and its variables.

    Args:
        body: From the inputs of the model to the features.
        tail: From the features to the outputs of the model.
    """

    body: keras.Model
    tail: keras.Model


def cut_before(
    model: keras.Model,
    variables: Iterable[Any],
    may_be_in_body: Callable[[Any], bool] = lambda operation: True,
) -> Cut:
    """Cut a model at the latest place before some of its variables.

    A layer that holds one of them, and all that is computed from its output, is in the tail. A
    nested model is not cut inside.

    Args:
        model: A model with a graph, a `Sequential` or a Functional one.
        variables: The variables that the tail should hold.
        may_be_in_body: Whether a layer or another operation may be in the body. Defaults to any.

    Raises:
        ValueError: If the model has no graph, or the variables stand before all its features.

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.ReLU(), keras.layers.Dense(3)
    ... ])
    >>> body, tail = cut_before(model, model.layers[-1].variables)
    >>> [layer.name for layer in body.layers[1:]] == [layer.name for layer in model.layers[:2]]
    True
    >>> tail.output_shape
    (None, 3)
    """
    if not _keras.is_graph_model(model) or not _keras.calls_only_its_graph(model):
        raise ValueError(
            f"The model {model.name!r} cannot be cut before its head: it has no graph of layers, "
            "as a `Sequential` or a Functional model has."
        )
    wanted = {id(variable) for variable in variables}

    def starts_tail(operation: Any) -> bool:
        own = getattr(operation, "variables", ())
        return any(id(variable) in wanted for variable in own) or not may_be_in_body(operation)

    in_tail = _computed_from(model.outputs, starts_tail)
    features: dict[int, Any] = {}
    waiting, seen = [*model.outputs], set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if in_tail[id(tensor)]:
            waiting += _keras.tensor_source(tensor)[1]
        else:
            features[id(tensor)] = tensor
    found = [*features.values()]
    if any(tensor is first for tensor in found for first in model.inputs):
        raise ValueError(
            f"The model {model.name!r} cannot be cut before its head: nothing stands between an "
            "input and the layer that holds the head. If that is a nested model, build the head "
            "outside of it."
        )
    if isinstance(model, keras.Sequential):
        return Cut(keras.Model(model.inputs, found), keras.Model(found, model.outputs))
    # Inputs and outputs in the structure that they have, such as a dict.
    return Cut(keras.Model(model.input, found), keras.Model(found, model.output))


def _computed_from(outputs: Iterable[Any], starts_tail: Callable[[Any], bool]) -> dict[int, bool]:
    """Return whether each tensor behind outputs is computed by some operations, by identity."""
    found: dict[int, bool] = {}
    waiting = [*outputs]
    while waiting:
        tensor = waiting[-1]
        operation, inputs = _keras.tensor_source(tensor)
        unknown = [before for before in inputs if id(before) not in found]
        if unknown:
            waiting += unknown
            continue
        waiting.pop()
        found[id(tensor)] = any(found[id(before)] for before in inputs) or starts_tail(operation)
    return found
