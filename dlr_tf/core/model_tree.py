"""The layers of a model that are never split, in order, and the variables of each.

The order is the model's own, depth first into nested models. A layer that is not a `keras.Model` is
a *leaf layer*, whatever it holds inside. A layer that is used twice counts once, at its first
use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core._validation import check_model, some_of


class LeafLayer(NamedTuple):
    """A layer that is never split.

    Args:
        path: Steps from the model to the layer, joined by `/`.
        layer: The layer itself.
        ancestors: The nested models that contain it, outermost first, each with its path.
    """

    path: str
    layer: keras.layers.Layer
    ancestors: tuple[tuple[str, keras.Model], ...]


class LayerVariables(NamedTuple):
    """The variables of one leaf layer, or those that a model has in addition to its layers'.

    Args:
        leaf: The leaf layer; `None` for a model's own variables.
        path: Path of the layer or of the model, `""` for the model itself.
        variables: The variables, without those that an earlier layer shares.
    """

    leaf: LeafLayer | None
    path: str
    variables: list[Any]


def check_built(model: keras.Model) -> None:
    """Refuse a model whose variables do not exist yet.

    Raises:
        TypeError: If it is not a `keras.Model`.
        ValueError: If a layer of it is not built.
    """
    check_model(model)
    unbuilt = [layer.name for layer in (model, *_keras.all_layers(model)) if not layer.built]
    if unbuilt:
        raise ValueError(
            f"Model {model.name!r} is not built, so its variables do not exist yet. Call it on a "
            f"batch, or `model.build(input_shape)`, first. Not built: {some_of(unbuilt)}"
        )


def leaf_layers(model: keras.Model) -> list[LeafLayer]:
    """List the layers of a model that are never split, in order, each once.

    Args:
        model: A built model.

    Returns:
        One `LeafLayer` per layer, without input layers.
    """
    return [entry for entry in _walk(model) if not isinstance(entry.layer, keras.Model)]


def nested_models(model: keras.Model) -> dict[str, keras.Model]:
    """Return a model, under the path `""`, and the models inside it by their paths."""
    inside = {e.path: e.layer for e in _walk(model) if isinstance(e.layer, keras.Model)}
    return {"": model, **inside}


def variables_by_layer(model: keras.Model) -> list[LayerVariables]:
    """List every variable of a model once, by layer, in order.

    The variables that a model holds itself come before those of its layers.

    Args:
        model: A built model.
    """
    seen: set[int] = set()

    def take(variables: Sequence[Any]) -> list[Any]:
        fresh = [v for v in variables if id(v) not in seen]
        seen.update(id(v) for v in fresh)
        return fresh

    def own(parent: keras.Model) -> list[Any]:
        inside = {id(v) for _, child in _named_children(parent) for v in child.weights}
        return take([v for v in _variables_of(parent) if id(v) not in inside])

    found = [LayerVariables(None, "", own(model))]
    for entry in _walk(model):
        if isinstance(entry.layer, keras.Model):
            found.append(LayerVariables(None, entry.path, own(entry.layer)))
        else:
            found.append(LayerVariables(entry, entry.path, take(_variables_of(entry.layer))))
    return found


def _walk(model: keras.Model) -> Iterator[LeafLayer]:
    """Yield nested models and layers, depth first, a model before what it holds."""
    seen: set[int] = {id(model)}

    def visit(
        parent: keras.Model, prefix: str, ancestors: tuple[tuple[str, keras.Model], ...]
    ) -> Iterator[LeafLayer]:
        # Names are the same after loading only where no user's code creates the layers again.
        names_last = all(
            map(_keras.saves_layer_names, (model, *(nested for _, nested in ancestors)))
        )
        for step, layer in _named_children(parent, names_last=names_last):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = prefix + step
            yield LeafLayer(path, layer, ancestors)
            if isinstance(layer, keras.Model):
                yield from visit(layer, path + "/", (*ancestors, (path, layer)))

    yield from visit(model, "", ())


def _named_children(
    model: keras.Model, *, names_last: bool = True
) -> list[tuple[str, keras.layers.Layer]]:
    """The layers a model holds directly, in its own order, each with its step of the path.

    Args:
        model: The model.
        names_last: Whether all names of its layers are the same after saving and loading. If not,
            a layer that no attribute holds and that has an automatic name is identified by its
            number.
    """
    layers = list(model.layers)
    if _keras.is_graph_model(model):
        # Layers kept as attributes beside the graph are not in `layers` but have weights.
        known = {id(layer) for layer in layers}
        layers += [layer for layer in _keras.direct_layers(model) if id(layer) not in known]
    steps: dict[int, str] = {}
    if not _keras.saves_layer_names(model):
        for attribute, value in _keras.layer_attributes(model).items():
            for step, layer in _layers_in(attribute, value):
                steps.setdefault(id(layer), step)
    return [
        (
            steps.get(id(layer))
            or (layer.name if names_last or not _keras.is_named_by_keras(layer) else str(number)),
            layer,
        )
        for number, layer in enumerate(layers)
    ]


def _layers_in(step: str, value: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
    if isinstance(value, keras.layers.Layer):
        yield step, value
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _layers_in(f"{step}/{number}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _layers_in(f"{step}/{key}", item)


def _variables_of(layer: keras.layers.Layer) -> list[Any]:
    # Keras does not track a raw `tf.Variable` that is an attribute.
    raw = [value for value in vars(layer).values() if isinstance(value, tf.Variable)]
    return [*layer.weights, *raw]
