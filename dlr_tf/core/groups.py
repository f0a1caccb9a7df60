"""Layer groups: named sets of layers that learn at one rate, and how a model is split into them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any, SupportsIndex

import keras
import numpy as np

from dlr_tf.core import _keras
from dlr_tf.core._validation import check_integer, did_you_mean, some_of
from dlr_tf.core.model_graph import is_normalisation, normalised_position, output_positions
from dlr_tf.core.model_tree import LayerVariables, check_built, variables_by_layer


@keras.saving.register_keras_serializable(package="dlr_tf")
@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """A named set of layers that learn at one rate.

    Holds no model and no variable, so it can be stored, compared and used for a copy of the model.

    Args:
        name: Name of the group, shown in tables, logs and plots; unique among the groups.
        layers: Paths of the layers relative to the model, such as `"backbone/block_6_expand"`. In a
            subclassed model a step of the path is the attribute, `"blocks/0"`. The path of a nested
            model means all its layers.

    Raises:
        ValueError: If the name or the layers are empty, or a path occurs twice.
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


class LayerGroups(tuple[LayerGroup, ...]):
    """The groups that `split_*` return: a tuple that remembers its model by a weak reference.

    A slice remembers it too. The reference is not saved or pickled.
    """

    _model: weakref.ref[keras.Model]

    def __new__(cls, groups: Sequence[LayerGroup], model: keras.Model) -> LayerGroups:
        made = super().__new__(cls, groups)
        made._model = weakref.ref(model)
        return made

    @property
    def model(self) -> keras.Model | None:
        """The model that was split, `None` once it was deleted."""
        return self._model()

    def __getitem__(self, index: Any) -> Any:
        item = super().__getitem__(index)
        model = self.model
        return LayerGroups(item, model) if isinstance(index, slice) and model is not None else item

    def __copy__(self) -> LayerGroups:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerGroups:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)


def model_of(groups: Sequence[LayerGroup]) -> keras.Model | None:
    """Return the model that groups were made from, `None` where that is not known."""
    return groups.model if isinstance(groups, LayerGroups) else None


def check_groups(groups: Any) -> tuple[LayerGroup, ...]:
    """Return groups as a tuple; one that remembers its model is returned as it is.

    Raises:
        TypeError: If they are not a sequence of `LayerGroup`.
        ValueError: If there is none, a name occurs twice, or two groups name one layer.
    """
    if not isinstance(groups, Sequence) or not all(isinstance(g, LayerGroup) for g in groups):
        raise TypeError(
            "Argument `groups` should be a sequence of `LayerGroup`, as `split_layers`, "
            f"`split_evenly` and `split_layerwise` return. Received: groups={groups!r}"
        )
    if not groups:
        raise ValueError("Argument `groups` should hold at least one group. Received: groups=()")
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError(f"Group names should be unique. Received: names={names}")
    claimed: dict[str, str] = {}
    for group in groups:
        for path in group.layers:
            if path in claimed:
                raise ValueError(
                    f"Layer {path!r} is claimed twice, by the groups "
                    f"{[claimed[path], group.name]}. Each layer should belong to one group."
                )
            claimed[path] = group.name
    return groups if isinstance(groups, LayerGroups) else tuple(groups)


def _splittable_layers(model: keras.Model) -> list[LayerVariables]:
    """The leaf layers of a model, each with its variables.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or has no weights.
    """
    check_built(model)
    layers = [entry for entry in variables_by_layer(model) if entry.leaf is not None]
    if not any(entry.variables for entry in layers):
        raise ValueError(f"Model {model.name!r} has no layer with weights: nothing to train.")
    return layers


def default_names(n_groups: int) -> tuple[str, ...]:
    """Return names for groups: `group_0`, `group_1`, ..., and `head` for the last."""
    return (*(f"group_{i}" for i in range(n_groups - 1)), "head")


def _cut(
    model: keras.Model,
    layers: Sequence[LayerVariables],
    starts: Sequence[int],
    names: Sequence[str],
) -> LayerGroups:
    """Cut the layers at `starts`; the first group begins at the first layer."""
    edges = [0, *starts, len(layers)]
    groups = [
        LayerGroup(name, tuple(entry.path for entry in layers[a:b]))
        for name, a, b in zip(names, edges[:-1], edges[1:])
    ]
    return LayerGroups(groups, model)


def split_layers(
    model: keras.Model,
    boundaries: Sequence[keras.layers.Layer | str],
    names: Sequence[str] | None = None,
) -> tuple[LayerGroup, ...]:
    """Split a model into contiguous groups, each beginning at a boundary.

    Args:
        model: A built model.
        boundaries: The first layer of every group but the first, in the model's order: layers, or
            their names, or their paths. `k` boundaries give `k + 1` groups. A nested model means
            its first layer.
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
    layers = _splittable_layers(model)
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
    starts = [_position(model, layers, boundary) for boundary in boundaries]
    for before, after in itertools.pairwise(starts):
        if after < before:
            raise ValueError(
                f"Boundaries are out of order: {layers[after].path!r} comes before "
                f"{layers[before].path!r} in the model. Give them in the model's order: "
                f"{[layers[start].path for start in sorted(starts)]}."
            )
    edges = [0, *starts, len(layers)]
    for name, a, b in zip(names, edges[:-1], edges[1:]):
        if not any(entry.variables for entry in layers[a:b]):
            paths = [entry.path for entry in layers[a:b]]
            raise ValueError(
                f"Group {name!r} would have no weights of its own: between its boundaries there "
                f"are {'no layers' if not paths else 'only ' + some_of(paths)}. Move or remove a "
                f"boundary. Received: boundaries={[_label(boundary) for boundary in boundaries]}"
            )
    return _cut(model, layers, starts, names)


def _label(boundary: keras.layers.Layer | str) -> str:
    return boundary if isinstance(boundary, str) else boundary.name


def _position(
    model: keras.Model,
    entries: Sequence[LayerVariables],
    boundary: keras.layers.Layer | str,
) -> int:
    """The position of the leaf layer at which a group begins."""
    leaves = [entry.leaf for entry in entries if entry.leaf is not None]
    positions: dict[str, int] = {}
    layers: dict[str, keras.layers.Layer] = {}
    for number, leaf in enumerate(leaves):
        for path, layer in (*leaf.ancestors, (leaf.path, leaf.layer)):
            positions.setdefault(path, number)
            layers.setdefault(path, layer)
    if isinstance(boundary, keras.layers.Layer):
        matches = [path for path, layer in layers.items() if layer is boundary]
    elif isinstance(boundary, str):
        matches = (
            [boundary]
            if boundary in positions
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
        return positions[matches[0]]
    if matches:
        raise ValueError(
            f"Boundary {_label(boundary)!r} is ambiguous: {len(matches)} layers have that name, at "
            f"{some_of(matches)}. "
            "Give the path, or the layer itself."
        )
    for leaf in leaves:
        if any(
            inner is boundary or inner.name == boundary for inner in _keras.all_layers(leaf.layer)
        ):
            raise ValueError(
                f"Boundary {_label(boundary)!r} is inside the layer {leaf.path!r}, which is "
                f"never split. Use {leaf.path!r} as the boundary."
            )
    if boundary is model:
        raise ValueError("The model itself cannot be a boundary. Give one of its layers.")
    known = [*positions, *(layer.name for layer in layers.values())]
    raise ValueError(
        f"Boundary {_label(boundary)!r} is not a layer of model {model.name!r}."
        f"{did_you_mean(_label(boundary), known)} "
        f"Layers of the model: {some_of(list(positions))}."
    )


def split_evenly(model: keras.Model, n_groups: SupportsIndex) -> tuple[LayerGroup, ...]:
    """Split a model into contiguous groups of about equal numbers of parameters.

    The layers with weights that give the model's outputs are a group of their own, the head; in a
    subclassed model it is the last layer with weights. The others are cut so that the sum of
    squared group sizes is smallest. No layer is cut in two, and a normalisation layer stays with
    the layer that it normalises.

    Args:
        model: A built model.
        n_groups: Integer from 1 to the number of pieces that the model can be cut into.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model or `n_groups` is not an integer.
        ValueError: If the model is not built, or cannot be cut into that many groups.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,))] + [
    ...     keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "d", "e")])
    >>> [group.layers for group in split_evenly(model, 3)]
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    layers = _splittable_layers(model)
    n_groups = check_integer("n_groups", n_groups, minimum=1)
    weighted = [entry for entry in layers if entry.variables]
    head, pieces = _head_and_pieces(model, weighted)
    if n_groups > len(pieces) + 1:
        raise ValueError(
            f"Model {model.name!r} has {len(weighted)} layers with weights and can be cut into at "
            f"most {len(pieces) + 1} groups: the layers of the outputs are one group, and a "
            "normalisation layer stays with the layer that it normalises. "
            f"Received: n_groups={n_groups}"
        )
    if n_groups == 1:
        return _cut(model, layers, [], default_names(1))
    sizes = [
        sum(math.prod(v.shape) for position in piece for v in weighted[position].variables)
        for piece in pieces
    ]
    edges = [0, *_even_cuts(sizes, n_groups - 1), len(pieces)]
    group_of = {id(weighted[position]): n_groups - 1 for position in head}
    for group, (a, b) in enumerate(itertools.pairwise(edges)):
        for piece in pieces[a:b]:
            group_of.update({id(weighted[position]): group for position in piece})
    paths: list[list[str]] = [[] for _ in range(n_groups)]
    group = 0
    for entry in layers:  # a layer without weights belongs to the group before it
        group = group_of.get(id(entry), group)
        paths[group].append(entry.path)
    groups = [LayerGroup(name, tuple(p)) for name, p in zip(default_names(n_groups), paths)]
    return LayerGroups(groups, model)


def _head_and_pieces(
    model: keras.Model, weighted: Sequence[LayerVariables]
) -> tuple[set[int], list[list[int]]]:
    """The positions of the layers of the head, and those of the rest in pieces that stay whole."""
    normalised = {
        position: before
        for position, entry in enumerate(weighted)
        if entry.leaf is not None
        and is_normalisation(entry.leaf.layer)
        and (before := normalised_position(position, weighted)) is not None
    }
    head = set(output_positions(model, weighted))
    for position in sorted(head, reverse=True):
        while position in normalised:
            position = normalised[position]
            head.add(position)
    head.update(position for position, before in normalised.items() if before in head)
    body = [position for position in range(len(weighted)) if position not in head]
    # Never cut between a normalisation layer and the layer that it normalises.
    joined = {
        cut
        for position, before in normalised.items()
        if position not in head
        for cut in range(before + 1, position + 1)
    }
    pieces: list[list[int]] = []
    for position in body:
        if pieces and position in joined:
            pieces[-1].append(position)
        else:
            pieces.append([position])
    return head, pieces


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
    """Make one group per layer with weights, for layer-wise learning-rate decay.

    A layer without weights belongs to the group of the layer before it. Each group is named by its
    layer's path.

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
    layers = _splittable_layers(model)
    weighted = [number for number, entry in enumerate(layers) if entry.variables]
    names = [layers[number].path for number in weighted]
    return _cut(model, layers, weighted[1:], names)
