"""The layers of a model that are never split, in order, and the variables of each.

The order is the model's own, depth first into nested models. A layer that is not a `keras.Model` is
a *leaf layer*, whatever it holds inside, unless it is *opened*: then it is treated as a nested
model, and the layers directly inside it are leaf layers. A layer that is used twice counts once, at
its first use; a layer inside a leaf layer counts there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dlr_tf._names import some_of
from dlr_tf.core import _keras
from dlr_tf.core._validation import check_model


class LeafLayer(NamedTuple):
    """A layer that is never split.

    Args:
        path: Steps from the model to the layer, joined by `/`.
        layer: The layer itself.
        ancestors: The nested models and opened layers that contain it, outermost first, each with
            its path.
        parts: The layer and the layers inside it, without those that stand earlier in the model.
    """

    path: str
    layer: keras.layers.Layer
    ancestors: tuple[tuple[str, keras.layers.Layer], ...]
    parts: tuple[keras.layers.Layer, ...]


class LayerVariables(NamedTuple):
    """The variables of one leaf layer, or those that a model has in addition to its layers'.

    Args:
        leaf: The leaf layer; `None` for the own variables of a model or of an opened layer.
        path: Path of the layer or of the model, `""` for the model itself.
        variables: The variables, without those that an earlier layer shares.
        opened: The paths of the opened layers that contain the variables, outermost first.
    """

    leaf: LeafLayer | None
    path: str
    variables: list[Any]
    opened: tuple[str, ...]


class _Everything:
    """Contains every path."""

    def __contains__(self, path: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()


def check_built(model: keras.Model) -> None:
    """Raise if the variables of a model do not exist yet.

    A layer without variables inside a built layer may stay unbuilt: the lookup of a
    `TextVectorization`, or a layer that its block never calls.

    Raises:
        TypeError: If it is not a `keras.Model`.
        ValueError: If a layer of it is not built.
    """
    check_model(model)
    seen: set[int] = set()
    unbuilt: list[str] = []

    def visit(layer: keras.layers.Layer, *, in_built_layer: bool) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if not layer.built and (layer.weights or not in_built_layer):
            unbuilt.append(layer.name)
        in_built_layer |= layer.built and not isinstance(layer, keras.Model)
        for child in _children(layer):
            visit(child, in_built_layer=in_built_layer)

    visit(model, in_built_layer=False)
    if unbuilt:
        raise ValueError(
            f"Model {model.name!r} is not built, so its variables do not exist yet. Call it on a "
            f"batch, or `model.build(input_shape)`, first. Not built: {some_of(unbuilt)}"
        )


def paths_above(paths: Iterable[str]) -> frozenset[str]:
    """Return the paths of all that contains one of these layers.

    A layer among them that is not a model is opened: a path goes through it.

    >>> sorted(paths_above(["bert/encoder/layer/0", "head"]))
    ['bert', 'bert/encoder', 'bert/encoder/layer']
    """
    steps = [path.split("/") for path in paths]
    return frozenset("/".join(s[:end]) for s in steps for end in range(1, len(s)))


def leaf_layers(model: keras.Model, opened: Container[str] = ()) -> list[LeafLayer]:
    """List the layers of a model that are never split, in order, each once.

    Args:
        model: A built model.
        opened: The paths of the opened layers; other paths among them change nothing. `EVERYTHING`
            opens all layers that hold layers. Defaults to none.

    Returns:
        One `LeafLayer` per layer, without input layers.
    """
    return [entry for entry in _walk(model, opened) if entry.parts]


def nested_models(model: keras.Model) -> dict[str, keras.Model]:
    """Return a model, under the path `""`, and the models inside it by their paths."""
    inside = {e.path: e.layer for e in _walk(model) if isinstance(e.layer, keras.Model)}
    return {"": model} | inside


def variables_by_layer(model: keras.Model, opened: Container[str] = ()) -> list[LayerVariables]:
    """List every variable of a model once, by layer, in order.

    The variables that a model or an opened layer holds itself come before those of its layers.

    Args:
        model: A built model.
        opened: The paths of the opened layers, as in `leaf_layers`.
    """
    seen: set[int] = set()

    def take(variables: Sequence[Any]) -> list[Any]:
        fresh = [v for v in variables if id(v) not in seen]
        seen.update(id(v) for v in fresh)
        return fresh

    def own(parent: keras.layers.Layer) -> list[Any]:
        inside = {id(v) for _, child in _named_children(parent) for v in child.weights}
        return take([v for v in _variables_of(parent) if id(v) not in inside])

    found = [LayerVariables(None, "", own(model), ())]
    for entry in _walk(model, opened):
        holders = entry.ancestors if entry.parts else (*entry.ancestors, (entry.path, entry.layer))
        through = tuple(path for path, layer in holders if not isinstance(layer, keras.Model))
        variables = take(_variables_of(*entry.parts)) if entry.parts else own(entry.layer)
        leaf = entry if entry.parts else None
        found.append(LayerVariables(leaf, entry.path, variables, through))
    return found


def variable_paths(entry: LayerVariables) -> list[str]:
    """Return the path of each variable of a layer: that of the innermost layer, and its name."""
    inside = inner_paths(entry.leaf.layer) if entry.leaf else {}
    names = [inside.get(id(variable), variable.name) for variable in entry.variables]
    return ["/".join(filter(None, (entry.path, name))) for name in names]


def inner_paths(layer: keras.layers.Layer) -> dict[int, str]:
    """Return the path inside a layer of each of its variables, by the variable's identity."""
    found: dict[int, str] = {}
    for step, child in _named_children(layer, names_last=False):
        for variable, path in inner_paths(child).items():
            found.setdefault(variable, f"{step}/{path}")
    for variable in _variables_of(layer):
        found.setdefault(id(variable), variable.name)
    return found


def _walk(model: keras.Model, opened: Container[str] = ()) -> Iterator[LeafLayer]:
    """Yield nested models, opened layers and leaf layers, depth first, parents first.

    Those that are no leaf layers have no `parts`.

    Args:
        model: A model.
        opened: The paths of the opened layers.
    """
    seen: set[int] = {id(model)}

    def visit(
        parent: keras.layers.Layer,
        prefix: str,
        ancestors: tuple[tuple[str, keras.layers.Layer], ...],
    ) -> Iterator[LeafLayer]:
        # Names are the same after loading only where no user's code creates the layers again.
        names_last = all(
            map(_keras.saves_layer_names, (model, *(holder for _, holder in ancestors)))
        )
        for step, layer in _named_children(parent, names_last=names_last):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = prefix + step
            opens = isinstance(layer, keras.Model) or (
                path in opened
                and any(id(child) not in seen for child in _keras.direct_layers(layer))
            )
            parts = () if opens else (layer, *_unseen(_keras.all_layers(layer), seen))
            seen.update(map(id, parts))
            yield LeafLayer(path, layer, ancestors, parts)
            if opens:
                yield from visit(layer, path + "/", (*ancestors, (path, layer)))

    yield from visit(model, "", ())


def _unseen(layers: Iterable[keras.layers.Layer], seen: set[int]) -> list[keras.layers.Layer]:
    return [layer for layer in layers if id(layer) not in seen]


def _named_children(
    model: keras.layers.Layer, *, names_last: bool = True
) -> list[tuple[str, keras.layers.Layer]]:
    """The layers a model or a layer holds directly, in its own order, each with its step.

    Args:
        model: The model or layer.
        names_last: Whether all names of its layers are the same after saving and loading. If not,
            a layer that no attribute holds and that has an automatic name is identified by its
            number. So is a layer whose name another one has too.
    """
    layers = _children(model)
    steps: dict[int, str] = {}
    if not _keras.saves_layer_names(model):
        for attribute, value in _keras.layer_attributes(model).items():
            for step, layer in _layers_in(attribute, value):
                steps.setdefault(id(layer), step)
    taken = set(steps.values())
    named = []
    for number, layer in enumerate(layers):
        step = steps.get(id(layer), "")
        if not step:
            has_name = names_last or not _keras.is_named_by_keras(layer)
            step = layer.name if has_name and layer.name not in taken else str(number)
            taken.add(step)
        named.append((step, layer))
    return named


def _children(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers a model or a layer holds directly, in its own order.

    Layers that a model keeps beside its graph and that have no weights are left out, such as the
    preprocessor of a task of KerasHub, which is never built, unless the model calls others than
    the layers of its graph.
    """
    direct = _keras.direct_layers(model)
    if not isinstance(model, keras.Model):
        return direct
    layers = list(model.layers)
    if _keras.is_graph_model(model):
        known = {id(layer) for layer in layers}
        calls_others = not _keras.calls_only_its_graph(model)
        layers += [
            layer for layer in direct if id(layer) not in known and (calls_others or layer.weights)
        ]
    return layers


def _layers_in(step: str, value: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
    if isinstance(value, keras.layers.Layer):
        yield step, value
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _layers_in(f"{step}/{number}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _layers_in(f"{step}/{key}", item)


def _variables_of(layer: keras.layers.Layer, *inner: keras.layers.Layer) -> list[Any]:
    """The variables of a layer, and those of the layers inside it that Keras does not know.

    Keras does not track a raw `tf.Variable` that is an attribute.
    """
    raw = [v for part in (layer, *inner) for v in vars(part).values() if isinstance(v, tf.Variable)]
    return [*layer.weights, *raw]
