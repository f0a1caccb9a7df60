"""Layer groups: named sets of layers that learn at one rate, and how a model is split into them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, SupportsIndex

import keras
import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.core._validation import check_integer
from dlr_tf.core.model_graph import (
    is_normalization,
    n_first_embeddings,
    normalized_position,
    output_positions,
)
from dlr_tf.core.model_tree import (
    EVERYTHING,
    LayerVariables,
    check_built,
    leaf_layers,
    paths_above,
    variables_by_layer,
)


@keras.saving.register_keras_serializable(package="dlr_tf")
@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """A named set of layers that learn at one rate.

    Holds no model and no variable, so it can be stored, compared and used for a copy of the model.
    Groups that `split_*` return remember their model by a weak reference, which is neither saved
    nor compared.

    Args:
        name: Name of the group, shown in tables, logs and plots; unique among the groups.
        layers: Paths of the layers relative to the model, such as `"backbone/block_6_expand"`, or
            of single variables, such as `"backbone/block_6_expand/bias"`. In a subclassed model,
            and inside a composite layer, a step of the path is the attribute, `"blocks/0"`. The
            path of a nested model means all its layers. A path into a composite layer opens that
            layer: the layers directly inside it count as layers of their own.

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

    @property
    def model(self) -> keras.Model | None:
        """The model that was split; `None` if it is not known, or was deleted."""
        reference = vars(self).get("_model")
        return None if reference is None else reference()

    def with_model(self, model: keras.Model | None) -> LayerGroup:
        """Return an equal group that remembers a model, or none."""
        group = LayerGroup(self.name, self.layers)
        if model is not None:
            vars(group)["_model"] = weakref.ref(model)
        return group

    def __copy__(self) -> LayerGroup:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerGroup:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LayerGroup, (self.name, self.layers)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "layers": list(self.layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LayerGroup:
        return cls(config["name"], tuple(config["layers"]))


def model_of(groups: Sequence[LayerGroup]) -> keras.Model | None:
    """Return the one model that groups remember; `None` if they remember none or several."""
    models = {id(model): model for group in groups if (model := group.model) is not None}
    return next(iter(models.values())) if len(models) == 1 else None


def with_model(groups: Sequence[LayerGroup], model: keras.Model | None) -> tuple[LayerGroup, ...]:
    """Return equal groups that remember a model, or none."""
    return tuple(group.with_model(model) for group in groups)


def check_groups(groups: Any) -> tuple[LayerGroup, ...]:
    """Return groups as a tuple.

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
    return tuple(groups)


def splittable_layers(
    model: keras.Model, opened: frozenset[str] = frozenset()
) -> list[LayerVariables]:
    """The leaf layers of a model, each with its variables.

    Args:
        model: A model.
        opened: The paths of the composite layers to open.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or has no weights.
    """
    check_built(model)
    layers = [entry for entry in variables_by_layer(model, opened) if entry.leaf is not None]
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
) -> tuple[LayerGroup, ...]:
    """Cut the layers at `starts`; the first group begins at the first layer."""
    edges = [0, *starts, len(layers)]
    groups = [
        LayerGroup(name, tuple(entry.path for entry in layers[a:b]))
        for name, a, b in zip(names, edges[:-1], edges[1:])
    ]
    return with_model(groups, model)


def split_layers(
    model: keras.Model,
    boundaries: Sequence[keras.layers.Layer | str],
    names: Sequence[str] | None = None,
    *,
    expand: Sequence[keras.layers.Layer | str] = (),
) -> tuple[LayerGroup, ...]:
    """Split a model into contiguous groups, each beginning at a boundary.

    The layers of a subclassed model are in the order in which its `__init__` sets them.

    A layer that is not a model is not split, whatever it holds inside, unless a boundary is inside
    it, or `expand` names it.

    Args:
        model: A built model.
        boundaries: The first layer of every group but the first, in the model's order: layers, or
            their names, or their paths. `k` boundaries give `k + 1` groups. A nested model means
            its first layer. A layer inside a composite layer opens that composite layer.
        names: One name per group. Defaults to `group_0`, `group_1`, ..., `head`.
        expand: Composite layers to open: layers, or their names, or their paths. The layers
            directly inside an opened layer count as layers of their own; to open one of those,
            name it too. Defaults to none.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model, or `boundaries` or `expand` is not a sequence of
            layers or strings.
        ValueError: If the model is not built, a boundary is unknown, ambiguous or out of order, or
            leaves a group without weights, or a layer of `expand` is unknown, ambiguous, or holds
            no layers.

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
    splittable_layers(model)
    _check_layer_list("boundaries", boundaries)
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
    opened = _opened_layers(model, expand)
    seen, everywhere = _paths(model, opened), _all_paths(model)
    found = [_find(model, boundary, seen, everywhere, "Boundary") for boundary in boundaries]
    layers = splittable_layers(model, opened | paths_above(found))
    starts = [_position(layers, path) for path in found]
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


def _check_layer_list(name: str, layers: Any) -> None:
    if isinstance(layers, (str, keras.layers.Layer)) or not isinstance(layers, Sequence):
        raise TypeError(
            f"Argument `{name}` should be a list of layers, layer names or paths. "
            f"Received: {name}={layers!r}"
        )


def _label(layer: keras.layers.Layer | str) -> str:
    return layer if isinstance(layer, str) else layer.name


def _position(entries: Sequence[LayerVariables], path: str) -> int:
    """The position of a leaf layer, or of the first one inside a model or an opened layer."""
    return next(
        number
        for number, entry in enumerate(entries)
        if entry.leaf is not None and path in (entry.path, *(p for p, _ in entry.leaf.ancestors))
    )


def _opened_layers(
    model: keras.Model, expand: Sequence[keras.layers.Layer | str]
) -> frozenset[str]:
    """The paths of the layers that `expand` opens, and of those that contain them.

    Raises:
        TypeError: If `expand` is not a sequence of layers or strings.
        ValueError: If one is unknown, ambiguous, or holds no layers.
    """
    _check_layer_list("expand", expand)
    if not expand:
        return frozenset()
    seen, everywhere = _paths(model, ()), _all_paths(model)
    paths = [_find(model, layer, seen, everywhere, "Layer to expand") for layer in expand]
    opened = paths_above(paths).union(paths)
    for leaf in leaf_layers(model, opened):
        if leaf.path in paths:
            raise ValueError(
                f"Layer {leaf.path!r} cannot be expanded: it holds no layers, or only layers that "
                f"stand earlier in the model. Received: expand={[_label(item) for item in expand]}"
            )
    return opened


def _paths(model: keras.Model, opened: Container[str]) -> dict[str, keras.layers.Layer]:
    """The leaf layers and what contains them, by path, in the model's order."""
    layers: dict[str, keras.layers.Layer] = {}
    for leaf in leaf_layers(model, opened):
        for path, layer in (*leaf.ancestors, (leaf.path, leaf.layer)):
            layers.setdefault(path, layer)
    return layers


def _all_paths(model: keras.Model) -> Callable[[], Mapping[str, keras.layers.Layer]]:
    """A function that gives all layers by path, and looks for them once, when it is called."""
    return functools.cache(lambda: _paths(model, EVERYTHING))


def _find(
    model: keras.Model,
    wanted: keras.layers.Layer | str,
    layers: Mapping[str, keras.layers.Layer],
    everywhere: Callable[[], Mapping[str, keras.layers.Layer]],
    noun: str,
) -> str:
    """The path of a layer, which may be inside a composite layer that is not opened.

    Args:
        model: A built model.
        wanted: The layer, its name or its path.
        layers: The layers to look at first, by path.
        everywhere: Gives all layers by path, those inside composite layers too.
        noun: What to call it in an error.

    Raises:
        TypeError: If it is neither a layer nor a string.
        ValueError: If it is unknown or ambiguous, or the model itself.
    """
    if not isinstance(wanted, (str, keras.layers.Layer)):
        raise TypeError(
            f"A {noun.lower()} should be a layer, or its name or path. "
            f"Received: {wanted!r} of type {type(wanted).__name__}"
        )
    if wanted is model:
        raise ValueError(f"The model itself cannot be a {noun.lower()}. Give one of its layers.")
    matches = _matches(layers, wanted) or _matches(everywhere(), wanted)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(
            f"{noun} {_label(wanted)!r} is ambiguous: {len(matches)} layers have that name, at "
            f"{some_of(matches)}. Give the path, or the layer itself."
        )
    if not isinstance(wanted, str):
        raise ValueError(
            f"{noun} {wanted.name!r} is a layer object that model {model.name!r} does not hold. "
            "Give an object of this model, or the name or path of the layer. Layers of the model: "
            f"{some_of(list(layers))}."
        )
    known = [*layers, *everywhere(), *(layer.name for layer in everywhere().values())]
    raise ValueError(
        f"{noun} {wanted!r} is not a layer of model {model.name!r}."
        f"{did_you_mean(wanted, known)} Layers of the model: {some_of(list(layers))}."
    )


def _matches(
    layers: Mapping[str, keras.layers.Layer], wanted: keras.layers.Layer | str
) -> list[str]:
    """The paths of the layers that are meant; a path is exact."""
    if not isinstance(wanted, str):
        return [path for path, layer in layers.items() if layer is wanted]
    if wanted in layers:
        return [wanted]
    return [p for p, layer in layers.items() if wanted in (layer.name, p.rsplit("/", 1)[-1])]


def split_evenly(
    model: keras.Model,
    n_groups: SupportsIndex,
    *,
    expand: Sequence[keras.layers.Layer | str] = (),
) -> tuple[LayerGroup, ...]:
    """Split a model into contiguous groups of about equal numbers of parameters.

    The layers with weights that give the model's outputs are a group of their own, the head; in a
    subclassed model it is the last layer with weights. The others are cut so that the sum of
    squared group sizes is smallest. No layer is cut in two, a normalization layer stays with the
    layer that it normalizes, and the embeddings at the start of a model stay together.

    Args:
        model: A built model.
        n_groups: Integer from 1 to the number of pieces that the model can be cut into.
        expand: Composite layers to open, as in `split_layers`. Defaults to none.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model, `n_groups` is not an integer, or `expand` is not a
            sequence of layers or strings.
        ValueError: If the model is not built, or cannot be cut into that many groups, or a layer of
            `expand` is unknown, ambiguous, or holds no layers.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,))] + [
    ...     keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "d", "e")])
    >>> [group.layers for group in split_evenly(model, 3)]
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    splittable_layers(model)
    n_groups = check_integer("n_groups", n_groups, minimum=1)
    layers = splittable_layers(model, _opened_layers(model, expand))
    weighted = [entry for entry in layers if entry.variables]
    head, pieces = _head_and_pieces(model, weighted)
    if n_groups > len(pieces) + 1:
        raise ValueError(
            f"Model {model.name!r} has {len(weighted)} layers with weights and can be cut into at "
            f"most {len(pieces) + 1} groups: the layers of the outputs are one group, a "
            "normalization layer stays with the layer that it normalizes, and the embeddings at "
            f"the start stay together. Received: n_groups={n_groups}"
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
    return with_model(groups, model)


def _head_and_pieces(
    model: keras.Model, weighted: Sequence[LayerVariables]
) -> tuple[set[int], list[list[int]]]:
    """The positions of the layers of the head, and those of the rest in pieces that stay whole."""
    normalized = {
        position: before
        for position, entry in enumerate(weighted)
        if entry.leaf is not None
        and is_normalization(entry.leaf.layer)
        and (before := normalized_position(position, weighted)) is not None
    }
    head = set(output_positions(model, weighted))
    for position in sorted(head, reverse=True):
        while position in normalized:
            position = normalized[position]
            head.add(position)
    head.update(position for position, before in normalized.items() if before in head)
    body = [position for position in range(len(weighted)) if position not in head]
    # Never cut between embeddings, or between a normalization layer and what it normalizes.
    joined = set(range(1, n_first_embeddings(weighted))) | {
        cut
        for position, before in normalized.items()
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


def split_layerwise(
    model: keras.Model, *, expand: Sequence[keras.layers.Layer | str] = ()
) -> tuple[LayerGroup, ...]:
    """Make one group per layer with weights, for layer-wise learning-rate decay.

    A layer without weights belongs to the group of the layer before it. The embeddings that follow
    each other at the start of a model (`Embedding`, and classes with that word in their name) are
    one group, with the normalization right after them. Each group is named by the path of its first
    layer with weights.

    Args:
        model: A built model.
        expand: Composite layers to open, as in `split_layers`. Defaults to none.

    Returns:
        The groups, first to last; the last is the head.

    Raises:
        TypeError: If `model` is not a model, or `expand` is not a sequence of layers or strings.
        ValueError: If the model is not built or has no weights, or a layer of `expand` is unknown,
            ambiguous, or holds no layers.

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
    >>> [group.name for group in groups]
    ['body', 'top']
    """
    splittable_layers(model)
    layers = splittable_layers(model, _opened_layers(model, expand))
    weighted = [number for number, entry in enumerate(layers) if entry.variables]
    n_together = n_first_embeddings([layers[number] for number in weighted])
    firsts = [weighted[0], *weighted[max(n_together, 1) :]]
    return _cut(model, layers, firsts[1:], [layers[number].path for number in firsts])
