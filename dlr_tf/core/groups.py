"""Layer groups: named sets of layers that learn at one rate, and which variable belongs to which.

The order of layers is the model's own, depth first into nested models. A layer that is not a
`keras.Model` is one *unit*, whatever it holds inside; a unit that is used twice counts once, where
it first stands. A variable is identified by its *place*: the number of its unit among the units
with weights, and its number inside the unit. Neither depends on automatic names.
"""

from __future__ import annotations

import dataclasses
import difflib
import gc
import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Sequential and Functional models number their layers by name, which they save; every other model
# is told apart only by its class. Keras has no public name for the Functional class.
from keras.src.models.functional import Functional

# What Keras itself names a layer with, to tell its names from those a person gave.
from keras.src.utils.naming import to_snake_case


@keras.saving.register_keras_serializable(package="dlr_tf")
@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """A named set of layers that learn at one rate.

    Holds no model and no variable, so it can be stored, compared and used for a copy of the model.

    Args:
        name: Name of the group, shown in tables, logs and plots; unique among the groups.
        layers: Paths of the layers relative to the model, such as `"backbone/block_6_expand"`. In a
            subclassed model a step of the path is the attribute, `"blocks/0"`. The path of a nested
            model stands for all its layers.

    Raises:
        ValueError: If the name or the layers are empty, or a path stands twice.
        TypeError: If the name or a path is not a string.

    Example:

    >>> LayerGroup("head", ("pool", "probabilities"))
    LayerGroup(name='head', layers=('pool', 'probabilities'))
    """

    name: str
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not isinstance(self.layers, Sequence):
            raise TypeError(
                "Argument `layers` should be a tuple of layer paths. "
                f"Received: layers={self.layers!r}"
            )
        object.__setattr__(self, "layers", tuple(self.layers))
        for text in (self.name, *self.layers):
            if not isinstance(text, str):
                raise TypeError(
                    "The name of a `LayerGroup` and the paths of its layers should be strings. "
                    f"Received: name={self.name!r}, layers={self.layers!r}"
                )
        if not self.name:
            raise ValueError("Argument `name` should not be empty. Received: name=''")
        if not self.layers:
            raise ValueError(
                f"Group {self.name!r} has no layers. Give it at least one layer path. "
                "Received: layers=()"
            )
        repeated = sorted({path for path in self.layers if self.layers.count(path) > 1})
        if repeated:
            raise ValueError(
                f"Group {self.name!r} names {repeated} more than once. Name each layer once."
            )

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "layers": list(self.layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LayerGroup:
        return cls(config["name"], tuple(config["layers"]))


class Unit(NamedTuple):
    """A layer that is never split.

    Args:
        path: Steps from the model to the layer, joined by `/`.
        layer: The layer itself.
        ancestors: The nested models it stands in, outermost first, each with its path.
    """

    path: str
    layer: keras.layers.Layer
    ancestors: tuple[tuple[str, keras.Model], ...]


class Place(NamedTuple):
    """Where a variable stands in its model.

    Args:
        key: `"<unit>.<variable>"`: numbers that do not depend on any name.
        path: The unit's path and the variable's name, for people to read.
        variable: The variable.
        group: Number of the group that claims it.
    """

    key: str
    path: str
    variable: Any
    group: int


def layer_units(model: keras.Model) -> list[Unit]:
    """Lists the layers of a model that are never split, in order, each once.

    Args:
        model: A built model.

    Returns:
        One `Unit` per layer, input layers left out.
    """
    return [entry for entry in _walk(model) if not isinstance(entry.layer, keras.Model)]


def _walk(model: keras.Model) -> Iterator[Unit]:
    """Yields nested models and layers, depth first, a model before what it holds."""
    seen: set[int] = {id(model)}

    def visit(
        parent: keras.Model, prefix: str, ancestors: tuple[tuple[str, keras.Model], ...]
    ) -> Iterator[Unit]:
        # Names come back on reload only where no code of a person builds the layers anew.
        names_last = all(map(_saves_names, (model, *(nested for _, nested in ancestors))))
        for step, layer in _named_children(parent, names_last=names_last):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = prefix + step
            yield Unit(path, layer, ancestors)
            if isinstance(layer, keras.Model):
                yield from visit(layer, path + "/", (*ancestors, (path, layer)))

    yield from visit(model, "", ())


def _saves_names(model: keras.Model) -> bool:
    return type(model) in (keras.Sequential, Functional)


def _named_children(
    model: keras.Model, *, names_last: bool = True
) -> list[tuple[str, keras.layers.Layer]]:
    """The layers a model holds directly, in its own order, each with its step of the path.

    Args:
        model: The model.
        names_last: Whether all names of its layers last when it is saved and loaded. If not, a
            layer that no attribute holds and that was named automatically goes by its number.
    """
    layers = list(model.layers)
    has_graph = isinstance(model, (keras.Sequential, Functional))
    if has_graph:
        # Layers kept as attributes beside the graph are not in `layers` but own weights.
        known = {id(layer) for layer in layers}
        direct = model._flatten_layers(include_self=False, recursive=False)
        layers += [layer for layer in direct if id(layer) not in known]
    steps: dict[int, str] = {}
    if not _saves_names(model):
        # Keras and TensorFlow keep records of all layers in private attributes of their own.
        records = "_" if has_graph else ("_layers", "_self_")
        for attribute, value in vars(model).items():
            if not attribute.startswith(records):
                for step, layer in _layers_in(attribute, value):
                    steps.setdefault(id(layer), step)
    return [
        (
            steps.get(id(layer))
            or (layer.name if names_last or not _named_by_keras(layer) else str(number)),
            layer,
        )
        for number, layer in enumerate(layers)
    ]


def _named_by_keras(layer: keras.layers.Layer) -> bool:
    stem = to_snake_case(type(layer).__name__)
    return re.fullmatch(rf"{re.escape(stem)}(_\d+)?", layer.name) is not None


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
    """A layer's weights, and the raw `tf.Variable`s in its attributes, which Keras passes by."""
    raw = [value for value in vars(layer).values() if isinstance(value, tf.Variable)]
    return [*layer.weights, *raw]


class _Holding(NamedTuple):
    """The variables that stand first in one unit, or beside the layers of one model."""

    unit: Unit | None
    path: str
    variables: list[Any]


def _holdings(model: keras.Model) -> list[_Holding]:
    """Every variable of a model once, in order; a model's own weights come before its layers."""
    seen: set[int] = set()

    def take(variables: Sequence[Any]) -> list[Any]:
        fresh = [v for v in variables if id(v) not in seen]
        seen.update(id(v) for v in fresh)
        return fresh

    def own(parent: keras.Model) -> list[Any]:
        inside = {id(v) for _, child in _named_children(parent) for v in child.weights}
        return take([v for v in _variables_of(parent) if id(v) not in inside])

    holdings = [_Holding(None, "", own(model))]
    for entry in _walk(model):
        if isinstance(entry.layer, keras.Model):
            holdings.append(_Holding(None, entry.path, own(entry.layer)))
        else:
            holdings.append(_Holding(entry, entry.path, take(_variables_of(entry.layer))))
    return holdings


def _claims(units: Sequence[Unit], groups: Sequence[LayerGroup]) -> dict[str, int]:
    """Maps each claimed unit's path to its group's number.

    Raises:
        ValueError: If a group names a layer that is not there, or a layer is claimed twice.
    """
    known = {unit.path for unit in units}
    known.update(path for unit in units for path, _ in unit.ancestors)
    missing = [(g.name, path) for g in groups for path in g.layers if path not in known]
    if missing:
        name, path = missing[0]
        raise ValueError(
            f"Group {name!r} names the layer {path!r}, which the model does not have."
            f"{_did_you_mean(path, known)} Layers named and not found: "
            f"{_some([path for _, path in missing])}. Layers of the model: {_some(sorted(known))}. "
            "Make the groups with `split_layers`, `split_evenly` or `split_layerwise` from this "
            "model."
        )
    claims: dict[str, int] = {}
    for unit in units:
        names = [unit.path, *(path for path, _ in unit.ancestors)]
        claimants = [number for number, g in enumerate(groups) for p in names if p in g.layers]
        if len(claimants) > 1:
            raise ValueError(
                f"Layer {unit.path!r} is claimed twice, by the groups "
                f"{[groups[number].name for number in claimants]}. Each layer should stand in one "
                "group."
            )
        if claimants:
            claims[unit.path] = claimants[0]
    return claims


def assign_units(model: keras.Model, groups: Sequence[LayerGroup]) -> list[tuple[Unit, int]]:
    """Says which group each layer of a model belongs to; layers no group names are left out.

    Args:
        model: A built model.
        groups: The groups.

    Raises:
        ValueError: If a group names a layer that is not there, or a layer is claimed twice.
    """
    units = layer_units(model)
    claims = _claims(units, groups)
    return [(unit, claims[unit.path]) for unit in units if unit.path in claims]


def assign_variables(model: keras.Model, groups: Sequence[LayerGroup]) -> list[Place]:
    """Says which group each variable of a model belongs to.

    Args:
        model: A built model.
        groups: The groups.

    Returns:
        The place of every variable that a group claims, in the model's order.

    Raises:
        ValueError: If a group names a layer that the model does not have, two groups name one
            layer, or a group claims no variable.
    """
    holdings = _holdings(model)
    claims = _claims([h.unit for h in holdings if h.unit is not None], groups)
    # Weights beside the layers go with the layer before them, or with the first one.
    last_claimed = next((claims[h.path] for h in holdings if h.unit and h.path in claims), 0)
    places: list[Place] = []
    number = 0
    for holding in holdings:
        group = claims.get(holding.path) if holding.unit else last_claimed
        if group is not None:
            last_claimed = group
            for index, variable in enumerate(holding.variables):
                path = "/".join(filter(None, (holding.path, variable.name)))
                places.append(Place(f"{number}.{index}", path, variable, group))
        number += bool(holding.variables)
    for number, layer_group in enumerate(groups):
        if not any(place.group == number for place in places):
            raise ValueError(
                f"Group {layer_group.name!r} claims no variable of the model: its layers "
                f"{_some(list(layer_group.layers))} have no weights. Give it a layer with weights, "
                "or leave the group out."
            )
    return places


def find_model(
    variables: Sequence[Any],
    groups: Sequence[LayerGroup],
    *,
    key: Callable[[Any], Hashable],
    optimizer: Any = None,
) -> list[Place]:
    """Finds the places of variables in the model that owns them and has the groups' layers.

    Keras never tells an optimizer which model it trains, and `load_model` builds the optimizer
    before a person can. So the living models are asked: the one compiled with the optimizer comes
    first, then the smallest that owns all the variables.

    Args:
        variables: The variables to be trained; at least one.
        groups: The groups.
        key: Gives a variable's identity.
        optimizer: The optimizer that asks.

    Returns:
        The place of every variable of that model that a group claims.

    Raises:
        ValueError: If no living model owns all the variables, none of those that do has the
            groups' layers, or a variable belongs to no group.
    """
    wanted = {key(v) for v in variables}
    owners = []
    for model in _living_models():
        owned = {key(v) for holding in _holdings(model) for v in holding.variables}
        if wanted <= owned:
            owners.append((not _is_compiled_with(model, optimizer), len(owned), model))
    if not owners:
        names = _some([getattr(v, "path", v.name) for v in variables])
        raise ValueError(
            "No model was found that owns all the variables the optimizer was asked to train. "
            "Pass variables of one built `keras.Model`, and keep the model alive. "
            f"Received: {names}"
        )
    owners.sort(key=lambda owner: owner[:2])
    errors = []
    for _, _, model in owners:
        try:
            places = assign_variables(model, groups)
        except ValueError as error:
            errors.append(error)
            continue
        claimed = {key(place.variable) for place in places}
        unclaimed = [v for v in variables if key(v) not in claimed]
        if not unclaimed:
            return places
        errors.append(_unclaimed_error(model, unclaimed, groups, key))
    raise errors[0]


def compiled_model(optimizer: Any) -> keras.Model | None:
    """Returns the built model that was compiled with an optimizer, if there is one."""
    return next((m for m in _living_models() if _is_compiled_with(m, optimizer)), None)


def _living_models() -> list[keras.Model]:
    # By type, since `isinstance` asks an object for its `__class__`, which lazy modules answer by
    # importing themselves.
    models = [item for item in gc.get_objects() if issubclass(type(item), keras.Model)]
    return [model for model in models if getattr(model, "built", False)]


def _unclaimed_error(
    model: keras.Model,
    unclaimed: Sequence[Any],
    groups: Sequence[LayerGroup],
    key: Callable[[Any], Hashable],
) -> ValueError:
    wanted = {key(v) for v in unclaimed}
    layers = [h.path for h in _holdings(model) if any(key(v) in wanted for v in h.variables)]
    named = [path for group in groups for path in group.layers]
    return ValueError(
        f"{len(unclaimed)} variables belong to no group. Layers that no group claims: "
        f"{_some(layers)}. Layers the groups claim: {_some(named)}."
        f"{_did_you_mean(layers[0], named)} Name every trained layer in one group, or freeze it "
        "(`layer.trainable = False`)."
    )


def _is_compiled_with(model: keras.Model, optimizer: Any) -> bool:
    own = getattr(model, "optimizer", None)
    return optimizer is not None and (
        own is optimizer or getattr(own, "inner_optimizer", None) is optimizer
    )


def _did_you_mean(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _some(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return f"[{shown}{f', and {len(names) - limit} more' if len(names) > limit else ''}]"


def _units_with_variables(model: keras.Model) -> list[tuple[Unit, list[Any]]]:
    """The units of a model, each with the variables that stand first in it.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or has no weights.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` should be a `keras.Model`. Received: model={model!r}")
    unbuilt = [layer.name for layer in model._flatten_layers() if not layer.built]
    if unbuilt:
        raise ValueError(
            f"Model {model.name!r} is not built, so its variables do not exist yet. Call it on a "
            "batch, or `model.build(input_shape)`, before splitting it into groups. Not built: "
            f"{_some(unbuilt)}"
        )
    held = [(h.unit, h.variables) for h in _holdings(model) if h.unit is not None]
    if not any(variables for _, variables in held):
        raise ValueError(f"Model {model.name!r} has no layer with weights: nothing to train.")
    return held


def default_names(n_groups: int) -> tuple[str, ...]:
    """Names for groups nobody named: `group_0`, `group_1`, ..., and `head` for the last."""
    return (*(f"group_{i}" for i in range(n_groups - 1)), "head")


def _cut(
    units: Sequence[Unit], starts: Sequence[int], names: Sequence[str]
) -> tuple[LayerGroup, ...]:
    """Cuts the units at `starts`; the first group begins at the first unit."""
    edges = [0, *starts, len(units)]
    return tuple(
        LayerGroup(name, tuple(unit.path for unit in units[a:b]))
        for name, a, b in zip(names, edges[:-1], edges[1:])
    )


def split_layers(
    model: keras.Model,
    boundaries: Sequence[keras.layers.Layer | str],
    names: Sequence[str] | None = None,
) -> tuple[LayerGroup, ...]:
    """Splits a model into contiguous groups, each beginning at a boundary.

    Args:
        model: A built model.
        boundaries: The first layer of every group but the first, in the model's order: layers, or
            their names, or their paths. `k` boundaries give `k + 1` groups. A nested model stands
            for its first layer.
        names: One name per group. Defaults to `group_0`, `group_1`, ..., `head`.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model, or `boundaries` is not a sequence of layers or
            strings.
        ValueError: If the model is not built, a boundary is unknown, ambiguous, inside a layer
            that is never split, or out of order, or leaves a group without weights.

    Example:

    >>> import keras
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, name="body"),
    ...         keras.layers.Dense(2, name="top"),
    ...     ]
    ... )
    >>> split_layers(model, ["top"])
    (LayerGroup(name='group_0', layers=('body',)), LayerGroup(name='head', layers=('top',)))
    """
    held = _units_with_variables(model)
    units = [unit for unit, _ in held]
    if isinstance(boundaries, (str, keras.layers.Layer)) or not isinstance(boundaries, Sequence):
        raise TypeError(
            "Argument `boundaries` should be a list of layers, layer names or paths. "
            f"Received: boundaries={boundaries!r}"
        )
    if isinstance(names, str):
        raise TypeError(f"Argument `names` should be a list of strings. Received: names={names!r}")
    names = tuple(names) if names is not None else default_names(len(boundaries) + 1)
    if len(names) != len(boundaries) + 1:
        raise ValueError(
            f"{len(boundaries)} boundaries make {len(boundaries) + 1} groups, so "
            f"{len(boundaries) + 1} names were expected. Received: names={list(names)}"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"Group names should be unique. Received: names={list(names)}")
    starts = [_position(model, units, boundary) for boundary in boundaries]
    for before, after in itertools.pairwise(starts):
        if after < before:
            raise ValueError(
                f"Boundaries are out of order: {units[after].path!r} stands before "
                f"{units[before].path!r} in the model. Give them in the model's order: "
                f"{[units[start].path for start in sorted(starts)]}."
            )
    edges = [0, *starts, len(units)]
    for name, a, b in zip(names, edges[:-1], edges[1:]):
        if not any(variables for _, variables in held[a:b]):
            paths = [unit.path for unit in units[a:b]]
            raise ValueError(
                f"Group {name!r} would have no weights of its own: between its boundaries stand "
                f"{'no layers' if not paths else 'only ' + _some(paths)}. Move or drop a boundary. "
                f"Received: boundaries={[_label(boundary) for boundary in boundaries]}"
            )
    return _cut(units, starts, names)


def _label(boundary: keras.layers.Layer | str) -> str:
    return boundary if isinstance(boundary, str) else boundary.name


def _position(model: keras.Model, units: Sequence[Unit], boundary: keras.layers.Layer | str) -> int:
    """The number of the unit at which a boundary stands."""
    spots: dict[str, int] = {}
    layers: dict[str, keras.layers.Layer] = {}
    for number, unit in enumerate(units):
        for path, layer in (*unit.ancestors, (unit.path, unit.layer)):
            spots.setdefault(path, number)
            layers.setdefault(path, layer)
    if isinstance(boundary, keras.layers.Layer):
        matches = [path for path, layer in layers.items() if layer is boundary]
    elif isinstance(boundary, str):
        matches = (
            [boundary]
            if boundary in spots
            else [
                path
                for path, layer in layers.items()
                if boundary in (layer.name, path.rsplit("/", 1)[-1])
            ]
        )
    else:
        raise TypeError(
            "A boundary should be a layer, or its name or path. "
            f"Received: {boundary!r} of type {type(boundary).__name__}"
        )
    if len(matches) == 1:
        return spots[matches[0]]
    if matches:
        raise ValueError(
            f"Boundary {_label(boundary)!r} is ambiguous: layers of that name stand at {matches}. "
            "Give the path, or the layer itself."
        )
    for unit in units:
        if any(
            inner is boundary or inner.name == boundary
            for inner in unit.layer._flatten_layers(include_self=False)
        ):
            raise ValueError(
                f"Boundary {_label(boundary)!r} stands inside the layer {unit.path!r}, which is "
                f"never split. Use {unit.path!r} as the boundary."
            )
    if boundary is model:
        raise ValueError("The model itself cannot be a boundary. Give one of its layers.")
    raise ValueError(
        f"Boundary {_label(boundary)!r} is not a layer of model {model.name!r}."
        f"{_did_you_mean(_label(boundary), [*spots, *(layer.name for layer in layers.values())])} "
        f"Layers of the model: {_some(list(spots))}."
    )


def split_evenly(model: keras.Model, n_groups: int) -> tuple[LayerGroup, ...]:
    """Splits a model into contiguous groups of about equal numbers of parameters.

    The model's last layer with weights is always a group of its own, the head. The others are cut
    so that the sum of squared group sizes is smallest; no layer is cut in two.

    Args:
        model: A built model.
        n_groups: Number of groups, from 1 to the number of layers with weights.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model or `n_groups` not an integer.
        ValueError: If the model is not built, or cannot be cut into that many groups.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,))] + [
    ...     keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "d", "e")])
    >>> [group.layers for group in split_evenly(model, 3)]
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    held = _units_with_variables(model)
    units = [unit for unit, _ in held]
    if isinstance(n_groups, bool) or not isinstance(n_groups, (int, np.integer)):
        raise TypeError(
            f"Argument `n_groups` should be an integer. Received: n_groups={n_groups!r}"
        )
    weighted = [number for number, (_, variables) in enumerate(held) if variables]
    if not 1 <= n_groups <= len(weighted):
        raise ValueError(
            f"Model {model.name!r} has {len(weighted)} layers with weights, so `n_groups` should "
            f"be from 1 to {len(weighted)}. Received: n_groups={n_groups}"
        )
    if n_groups == 1:
        return _cut(units, [], default_names(1))
    sizes = [sum(math.prod(v.shape) for v in held[number][1]) for number in weighted[:-1]]
    starts = [weighted[cut] for cut in _even_cuts(sizes, n_groups - 1)] + [weighted[-1]]
    return _cut(units, starts, default_names(n_groups))


def _even_cuts(sizes: Sequence[int], n_parts: int) -> list[int]:
    """Where to cut a row of sizes into non-empty parts with the least sum of squares.

    >>> _even_cuts([1, 1, 1, 1, 4], 2)
    [4]
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(sizes, np.float64))])
    count = len(sizes)
    # cost[a, b]: squared size of the part from a to b; a part holds at least one item.
    cost = np.square(total[None, :] - total[:, None])
    cost[np.tril_indices(count + 1)] = np.inf
    best, came_from = cost[0], []
    for _ in range(n_parts - 1):
        candidates = best[:, None] + cost
        came_from.append(np.argmin(candidates, axis=0))
        best = np.min(candidates, axis=0)
    cuts, end = [], count
    for origin in reversed(came_from):
        end = int(origin[end])
        cuts.append(end)
    return cuts[::-1]


def split_layerwise(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Makes one group per layer with weights, for layer-wise learning-rate decay.

    A layer without weights goes with the layer before it. Each group is named by its layer's path.

    Args:
        model: A built model.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model.
        ValueError: If the model is not built or has no weights.

    Example:

    >>> import keras
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, name="body"),
    ...         keras.layers.Dense(2, name="top"),
    ...     ]
    ... )
    >>> groups = split_layerwise(model)
    >>> [1e-3 * 0.75 ** i for i in reversed(range(len(groups)))]  # a rate for every group
    [0.00075, 0.001]
    """
    held = _units_with_variables(model)
    units = [unit for unit, _ in held]
    weighted = [number for number, (_, variables) in enumerate(held) if variables]
    return _cut(units, weighted[1:], [units[number].path for number in weighted])
