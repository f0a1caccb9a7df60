"""Which layer and which variable of a model belongs to which group."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.core import _keras
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.groups import LayerGroup, model_of, with_model
from dlr_tf.core.model_tree import (
    LayerVariables,
    LeafLayer,
    leaf_layers,
    nested_models,
    paths_above,
    variable_paths,
    variables_by_layer,
)

# An integer; a string for a layer inside an opened layer.
LayerNumber: TypeAlias = "int | str"
LayerNumbers: TypeAlias = "tuple[LayerNumber, ...]"


class AssignedVariable(NamedTuple):
    """A variable of a model and the group that claims it.

    Args:
        key: `"<layer>.<variable>"`: the number of its layer among the layers with variables, and
            its number in the layer. It does not depend on any name. `"3-0"` is the first layer in
            the opened layer 3, so the numbers of other layers do not depend on what is opened.
        path: The path of the innermost layer that holds it, and the variable's name.
        variable: The variable.
        group: Number of the group that claims it.
        by_itself: Whether the group names the variable, not its layer.
    """

    key: str
    path: str
    variable: Any
    group: int
    by_itself: bool = False

    @property
    def claimed(self) -> LayerNumber:
        """What the group claims: the number of the layer, or of the variable, such as `"3:0"`."""
        return self.key.replace(".", ":") if self.by_itself else layer_number(self.key)


def layer_number(key: str) -> LayerNumber:
    """Return the number of the layer in a key, or in the name of a state.

    Of the shared state of a group that claims single variables, it is the number of the first.

    >>> layer_number("3.0"), layer_number("3-0.1.momentums")
    (3, '3-0')
    """
    number = key.split(".")[0]
    return int(number) if number.isdigit() else number


# The attribute of a layer or a variable that `freeze_to` froze with its group.
FROZEN_WITH_GROUP = "dlr_tf_frozen_with_group"


def assign_layers(model: keras.Model, groups: Sequence[LayerGroup]) -> list[tuple[LeafLayer, int]]:
    """Return the group of each leaf layer of a model; layers that no group names are left out.

    Args:
        model: A built model.
        groups: The groups.

    Raises:
        ValueError: If a group names a layer that the model does not have, or two groups name one
            layer.
    """
    layers = variables_by_layer(model, _opened_by(groups))
    claims, _ = _claims(layers, groups)
    leaves = [entry.leaf for entry in layers if entry.leaf is not None]
    return [(leaf, claims[leaf.path]) for leaf in leaves if leaf.path in claims]


def layers_claimed_by_variable(model: keras.Model, groups: Sequence[LayerGroup]) -> list[LeafLayer]:
    """Return the leaf layers of which groups claim single variables, in order.

    Args:
        model: A built model.
        groups: The groups.

    Raises:
        ValueError: As `assign_layers`.
    """
    layers = variables_by_layer(model, _opened_by(groups))
    _, by_variable = _claims(layers, groups)
    return [
        entry.leaf
        for entry in layers
        if entry.leaf is not None and not by_variable.keys().isdisjoint(variable_paths(entry))
    ]


def assign_variables(model: keras.Model, groups: Sequence[LayerGroup]) -> list[AssignedVariable]:
    """Return the group of each variable of a model.

    The own variables of a model or of an opened layer belong to the group of the layer before it,
    the first group if there is none.

    Args:
        model: A built model.
        groups: The groups.

    Returns:
        Every variable that a group claims, in the model's order.

    Raises:
        ValueError: If a group names a layer that the model does not have, two groups name one
            layer, or a group claims no variable.
    """
    layers = variables_by_layer(model, _opened_by(groups))
    claims, by_variable = _claims(layers, groups)
    last_claimed = next(
        (claims[entry.path] for entry in layers if entry.leaf and entry.path in claims), 0
    )
    assigned: list[AssignedVariable] = []
    for entry, number in zip(layers, _numbers(layers)):
        group = claims.get(entry.path) if entry.leaf else last_claimed
        if group is not None:
            last_claimed = group
        if group is None and not by_variable:
            continue
        for index, (variable, path) in enumerate(zip(entry.variables, variable_paths(entry))):
            of = by_variable.get(path, group)
            if of is not None:
                key = f"{number}.{index}"
                assigned.append(AssignedVariable(key, path, variable, of, path in by_variable))
    for position, layer_group in enumerate(groups):
        if not any(entry.group == position for entry in assigned):
            raise ValueError(
                f"Group {layer_group.name!r} claims no variable of the model: its layers "
                f"{some_of(layer_group.layers)} have no weights. Give it a layer with weights, "
                "or leave the group out."
            )
    return assigned


def _numbers(entries: Sequence[LayerVariables]) -> list[str]:
    """Number layers with variables; those in opened layer 3 are `"3-0"`, `"3-1"`, ...

    A layer without variables has the empty string.
    """
    counts: dict[str, int] = {}
    opened: dict[str, str] = {}

    def next_number(prefix: str) -> str:
        counts[prefix] = counts.get(prefix, -1) + 1
        return f"{prefix}{counts[prefix]}"

    numbers = []
    for entry in entries:
        if not entry.variables:
            numbers.append("")
            continue
        prefix = ""
        for path in entry.opened:
            if path not in opened:
                opened[path] = next_number(prefix) + "-"
            prefix = opened[path]
        numbers.append(next_number(prefix))
    return numbers


def _opened_by(groups: Sequence[LayerGroup]) -> frozenset[str]:
    """The paths of the composite layers that groups open: a path of theirs goes through them."""
    return paths_above(path for group in groups for path in group.layers)


def _claims(
    layers: Sequence[LayerVariables], groups: Sequence[LayerGroup]
) -> tuple[dict[str, int], dict[str, int]]:
    """Map the paths of claimed layers, and of claimed variables, to the numbers of their groups.

    Raises:
        ValueError: If a group names what is not there, or something is claimed twice.
    """
    leaves = [entry.leaf for entry in layers if entry.leaf is not None]
    known = {leaf.path for leaf in leaves}
    known.update(path for leaf in leaves for path, _ in leaf.ancestors)
    others = {path: n for n, g in enumerate(groups) for path in g.layers if path not in known}
    by_variable: dict[str, int] = {}
    if others:
        paths = {path: entry for entry in layers for path in variable_paths(entry)}
        missing = [path for path in others if path not in paths]
        if missing:
            raise ValueError(
                f"Group {groups[others[missing[0]]].name!r} names the layer {missing[0]!r}, which "
                f"the model does not have.{did_you_mean(missing[0], [*known, *paths])} Layers "
                f"named and not found: {some_of(missing)}. Layers of the model: "
                f"{some_of(sorted(known))}. Make the groups with `split_layers`, `split_evenly`, "
                "`split_layerwise` or `split_by_pattern` from this model."
            )
        by_variable = others
    claims: dict[str, int] = {}
    for leaf in leaves:
        names = [leaf.path, *(path for path, _ in leaf.ancestors)]
        claimants = [number for number, g in enumerate(groups) for p in names if p in g.layers]
        if claimants and by_variable:
            inside = [p for p in by_variable if p.startswith(f"{leaf.path}/")]
            claimants += [by_variable[path] for path in inside]
        if len(claimants) > 1:
            raise ValueError(
                f"Layer {leaf.path!r} is claimed twice, by the groups "
                f"{[groups[number].name for number in claimants]}. Each layer should belong to one "
                "group, or each of its variables."
            )
        if claimants:
            claims[leaf.path] = claimants[0]
    return claims, by_variable


class GroupAssignment:
    """Which variable of the model belongs to which group.

    The model is known from the groups, which `split_*` made from it, or from `bind`. Keras never
    tells an optimizer which model it trains. But `load_model`, `fit` and other methods of a model
    build the optimizer that the model was compiled with, so the model is then found among the
    callers. There is only a weak reference to the model, and strong references to its variables.

    Args:
        groups: The groups, as `split_*` return them.
    """

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self.groups: tuple[LayerGroup, ...] = tuple(groups)
        # Path of the groups' model in the model that is compiled with the optimizer.
        self.model_path = ""
        self._entries: dict[Hashable, AssignedVariable] = {}
        self._model_name = ""
        model = model_of(groups)
        if model is not None:
            self.bind(model)

    @property
    def is_known(self) -> bool:
        """Whether the model is known, or was known and its variables still are."""
        return bool(self._entries)

    @property
    def model(self) -> keras.Model | None:
        """The model, `None` if it is not known or was deleted."""
        return model_of(self.groups)

    @property
    def model_name(self) -> str:
        return self._model_name

    def entries(self) -> list[AssignedVariable]:
        """All variables that a group claims, in the model's order."""
        return list(self._entries.values())

    def entry_of(self, variable: Any) -> AssignedVariable | None:
        """The entry of a variable; `None` if the model does not have it, or no longer has it."""
        return self._entries.get(_keras.variable_key(variable))

    def group_of(self, variable: Any) -> int:
        """The number of a variable's group."""
        return self._entries[_keras.variable_key(variable)].group

    def variables(self, group: int) -> list[Any]:
        """The variables of a group, in the model's order."""
        return [entry.variable for entry in self._entries.values() if entry.group == group]

    def layer_numbers(self) -> list[LayerNumbers]:
        """The numbers of the layers with variables of each group: they identify a group.

        Where a group claims single variables, these are `"<layer>:<variable>"`.
        """
        numbers: list[dict[LayerNumber, None]] = [{} for _ in self.groups]
        for entry in self._entries.values():  # in the model's order
            numbers[entry.group][entry.claimed] = None
        return [tuple(of_group) for of_group in numbers]

    def frozen_layers(self) -> frozenset[str]:
        """The paths of the layers that `freeze_to` froze."""
        model = self.model
        leaves = () if model is None else leaf_layers(model, _opened_by(self.groups))
        return frozenset(
            leaf.path
            for leaf in leaves
            if hasattr(leaf.layer, FROZEN_WITH_GROUP) and not leaf.layer.trainable
        )

    def bind(self, model: keras.Model) -> None:
        """Set the model and read its variables.

        Raises:
            ValueError: If the groups are not the model's.
        """
        entries = assign_variables(model, self.groups)
        self._entries = {_keras.variable_key(entry.variable): entry for entry in entries}
        self.groups = with_model(self.groups, model)
        self._model_name = model.name

    def forget(self) -> None:
        """Forget the model and its variables."""
        self.groups = with_model(self.groups, None)
        self._entries, self._model_name = {}, ""

    def refresh(self) -> None:
        """Read the variables of the model again, which may have changed (LoRA, quantization)."""
        model = self.model
        if model is not None and model.built:
            self.bind(model)

    def path_in_compiled_model(self, optimizer: Any) -> str:
        """Return where the groups' model is in the model that is compiled with the optimizer.

        It is `""` for that model itself, and where it is not known.
        """
        model = self.model
        if model is None:
            return self.model_path
        if _is_compiled_with(model, optimizer):
            return ""
        compiled = calling_model(optimizer)
        for path, inner in nested_models(compiled).items() if compiled is not None else ():
            if inner is model:
                self.model_path = path
        return self.model_path

    def _calling_model(self, optimizer: Any) -> keras.Model | None:
        """The model that `calling_model` finds, or the model inside it that is meant."""
        model = calling_model(optimizer)
        if model is not None and self.model_path:
            model = nested_models(model).get(self.model_path, model)
        return model if model is not None and model.built else None

    def locate(self, optimizer: Any, *, has_state: bool) -> bool:
        """Make sure the model is known.

        Args:
            optimizer: The optimizer.
            has_state: Whether it keeps state for variables of the model that is known.

        Returns:
            Whether the model is known now.

        Raises:
            ValueError: If the groups are not those of the model compiled with the optimizer.
        """
        model = self.model
        if not has_state and (model is None or not _is_compiled_with(model, optimizer)):
            caller = self._calling_model(optimizer)
            # The groups may come from another model of the same structure, or from a part of it.
            if caller is not None and not (
                self.is_known and _owned_keys(caller) >= _keys([e.variable for e in self.entries()])
            ):
                self.bind(caller)
        return self.is_known

    def resolve(self, variables: Sequence[Any], optimizer: Any, *, has_state: bool) -> None:
        """Make sure that every variable belongs to a group.

        Args:
            variables: The variables to be trained.
            optimizer: The optimizer.
            has_state: Whether it keeps state for variables of the model that is known.

        Raises:
            ValueError: If the model is not known, does not own a variable, or no group claims one;
                nothing is changed then.
        """
        if not self._missing(variables):
            return
        owned = self.is_known and self._owns(variables)
        if not owned and not has_state:
            # The groups may come from another model of the same structure.
            caller = self._calling_model(optimizer)
            if caller is not None and _owned_keys(caller) >= _keys(variables):
                self.bind(caller)
                owned = True
        elif owned:
            self.refresh()
        missing = self._missing(variables)
        if not missing:
            return
        if owned:
            raise self._unclaimed_error(missing)
        raise self._unknown_error(missing, has_state)

    def _missing(self, variables: Sequence[Any]) -> list[Any]:
        return [v for v in variables if _keras.variable_key(v) not in self._entries]

    def _owns(self, variables: Sequence[Any]) -> bool:
        model = self.model
        return model is not None and model.built and _owned_keys(model) >= _keys(variables)

    def _unknown_error(self, variables: Sequence[Any], has_state: bool) -> ValueError:
        names = some_of([getattr(v, "path", v.name) for v in variables])
        if not self.is_known:
            return ValueError(
                "The optimizer does not know the model of these variables. Call "
                "`optimizer.bind(model)`. (Groups made by hand or loaded do not know their model; "
                "those that `split_layers`, `split_evenly` and `split_layerwise` return do.) "
                f"Received: {names}"
            )
        if self.model is None:
            return ValueError(
                f"The model {self._model_name!r}, which the groups of this optimizer were made "
                "from, was deleted, and these variables are not among those it had. Keep the "
                "model, or call `optimizer.bind(model)` with a model that owns them. "
                f"Received: {names}"
            )
        if has_state:
            return ValueError(
                "Unknown variables. This optimizer was built for the variables of the model "
                f"{self._model_name!r}, and these belong to another model. Make a new optimizer "
                f"for the other model. Received: {names}"
            )
        return ValueError(
            f"These variables do not belong to the model {self._model_name!r}, which the groups of "
            "this optimizer were made from. Make the groups from the model that you train, or call "
            f"`optimizer.bind(model)`. Received: {names}"
        )

    def _unclaimed_error(self, variables: Sequence[Any]) -> ValueError:
        wanted = _keys(variables)
        model = self.model
        layers = [
            entry.path
            for entry in variables_by_layer(model, _opened_by(self.groups))
            if not wanted.isdisjoint(_keys(entry.variables))
        ]
        named = [path for group in self.groups for path in group.layers]
        return ValueError(
            f"{len(variables)} variables belong to no group. Layers that no group claims: "
            f"{some_of(layers)}. Layers the groups claim: {some_of(named)}."
            f"{did_you_mean(layers[0], named)} Name every trained layer in one group, or freeze it "
            "(`layer.trainable = False`)."
        )


def calling_model(optimizer: Any) -> keras.Model | None:
    """Return the model that is compiled with an optimizer, if one of its methods is running now.

    The innermost one counts. This costs nothing, whatever else lives: only the `self` of the
    functions that are running now is looked at, and in Keras' own functions `model`, which is what
    its loader of `.h5` files calls it.
    """
    frame = inspect.currentframe()
    while frame is not None:
        in_keras = frame.f_globals.get("__name__", "").startswith("keras.")
        for name in ("self", "model") if in_keras else ("self",):
            caller = frame.f_locals.get(name)
            if isinstance(caller, keras.Model) and _is_compiled_with(caller, optimizer):
                return caller
        frame = frame.f_back
    return None


def _is_compiled_with(model: keras.Model, optimizer: Any) -> bool:
    return unwrap_optimizer(vars(model).get("optimizer")) is optimizer


def _keys(variables: Sequence[Any]) -> set[Hashable]:
    return {_keras.variable_key(v) for v in variables}


def _owned_keys(model: keras.Model) -> set[Hashable]:
    return _keys([v for entry in variables_by_layer(model) for v in entry.variables])
