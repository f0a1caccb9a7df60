"""The state of a `MultiGroupOptimizer`, keyed by variable and by group, never by position.

What is small (steps, rates, which variable has state) is one JSON record, the *ledger*; slots are
arrays under the name `"<place>.<slot>"`. A variable's place does not depend on automatic names, and
a group is known by the layers it holds, so state finds its way whatever order the groups are in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._keras import copy_optimizer, shared_state_of, slots_of

if TYPE_CHECKING:
    from dlr_tf.core.optimizer import MultiGroupOptimizer

_FORMAT = 1
_ENTRIES = frozenset(
    (
        "format",
        "iterations",
        "gradient_accumulation_steps",
        "rate_scale",
        "groups",
        "variables",
        "state",
    )
)
# Under this name the ledger is stored beside the arrays.
LEDGER = "ledger"
# Under this name, after its place, a `tf.train.Checkpoint` holds the weight itself.
WEIGHT = "weight"


def units_of_groups(optimizer: MultiGroupOptimizer) -> list[tuple[int, ...]]:
    """The numbers of the layers with weights that each group holds: what a group is known by."""
    units: list[set[int]] = [set() for _ in optimizer.groups]
    for place in optimizer._routes.places.values():
        units[place.group].add(int(place.key.split(".")[0]))
    return [tuple(sorted(numbers)) for numbers in units]


def state_variables(optimizer: MultiGroupOptimizer) -> dict[str, keras.Variable]:
    """The variables kept for trained variables and for groups, in the model's order.

    The order does not depend on the order of the groups, nor on the order in which variables came
    to be trained.
    """
    named: dict[str, keras.Variable] = {}
    for units, member in zip(units_of_groups(optimizer), optimizer.group_optimizers):
        if not member.built:
            continue
        for name, variable in shared_state_of(member).items():
            named[f"{units[0]}.group.{name}"] = variable
        for name, slots in slots_of(member).items():
            for variable, slot in zip(member._trainable_variables, slots):
                if slot is not None:
                    named[f"{optimizer._place(variable).key}.{name}"] = slot
    for number, variable in enumerate(optimizer._trainable_variables):
        key = optimizer._place(variable).key
        for name, values in spanning_state(optimizer).items():
            slot = values[number]
            if slot is not None:
                named[f"{key}.{name}"] = slot
    return dict(sorted(named.items(), key=lambda item: _order(item[0])))


def spanning_state(optimizer: MultiGroupOptimizer) -> dict[str, list[keras.Variable | None]]:
    """What the wrapper itself keeps for each variable, parallel to `_trainable_variables`."""
    kept: dict[str, list[keras.Variable | None]] = {}
    if optimizer.use_ema:
        kept["average"] = optimizer._model_variables_moving_average
    if optimizer.gradient_accumulation_steps:
        kept["accumulator"] = optimizer._accumulated_gradients
    return kept


def _order(name: str) -> tuple[int, int, str]:
    unit, number, slot = name.split(".", 2)
    return int(unit), -1 if number == "group" else int(number), slot


def read_ledger(optimizer: MultiGroupOptimizer) -> dict[str, Any]:
    """The small state, as JSON-able values; exact, since JSON keeps every float64."""
    steps, factors = optimizer._group_steps.numpy(), optimizer._rate_factors.numpy()
    groups = []
    units = units_of_groups(optimizer)
    for number, (group, member) in enumerate(zip(optimizer.groups, optimizer.group_optimizers)):
        groups.append(
            {
                "name": group.name,
                "layers": list(group.layers),
                "units": list(units[number]),
                "optimizer": type(member).__name__,
                "steps": int(steps[number]),
                "rate_factor": float(factors[number]),
            }
        )
    return {
        "format": _FORMAT,
        "iterations": int(optimizer._iterations.numpy()),
        "gradient_accumulation_steps": optimizer.gradient_accumulation_steps or 1,
        "rate_scale": float(optimizer._rate_scale.numpy()),
        "groups": groups,
        "variables": {
            place.key: {"path": place.path, "shape": [int(n) for n in place.variable.shape]}
            for place in map(optimizer._place, optimizer._trainable_variables)
        },
        "state": {
            name: [int(n) for n in variable.shape]
            for name, variable in state_variables(optimizer).items()
        },
    }


def encode(ledger: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(ledger).encode(), np.uint8)


def decode(data: Any, *, source: str = "The file") -> dict[str, Any]:
    """Reads a ledger.

    Raises:
        ValueError: If it is not one, or comes from a later version.
    """
    try:
        ledger = json.loads(bytes(np.asarray(data, np.uint8)))
        version = ledger["format"]
        if version == _FORMAT:
            missing = sorted(_ENTRIES - ledger.keys())
            if missing:
                raise ValueError(f"it lacks {missing}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{source} holds no readable state of a `MultiGroupOptimizer`: it is damaged or was "
            f"made by something else ({error}). The optimizer was left as it is."
        ) from error
    if version != _FORMAT:
        raise ValueError(
            f"{source} was written by a later version of dlr_tf (format {version}, this one reads "
            f"{_FORMAT}). Upgrade dlr_tf. The optimizer was left as it is."
        )
    return ledger


def match(optimizer: MultiGroupOptimizer, ledger: Mapping[str, Any]) -> list[int]:
    """Compares a ledger with an optimizer that knows its model.

    Returns:
        For each group of the ledger, the number of the optimizer's group with the same layers.

    Raises:
        ValueError: If the groups, the variables or what is kept for them differ.
    """
    own = {units: number for number, units in enumerate(units_of_groups(optimizer))}
    theirs = {tuple(group["units"]): group for group in ledger["groups"]}
    if set(own) != set(theirs):
        lines = [
            f"saved group {group['name']!r} ({_span(group['layers'])})"
            for units, group in theirs.items()
            if units not in own
        ] + [
            f"this optimizer's group {optimizer.groups[n].name!r} "
            f"({_span(optimizer.groups[n].layers)})"
            for units, n in own.items()
            if units not in theirs
        ]
        raise ValueError(
            "The groups of the saved optimizer differ from this one's, so its state was not "
            f"loaded. Without a counterpart: {'; '.join(lines)}. Build the optimizer with the "
            "groups it was saved with. The optimizer was left as it is."
        )
    places = {place.key: place for place in optimizer._routes.places.values()}
    for key, saved in ledger["variables"].items():
        place = places.get(key)
        shape = None if place is None else [int(n) for n in place.variable.shape]
        if shape != saved["shape"]:
            raise ValueError(
                f"The saved optimizer trained {saved['path']!r} of shape {saved['shape']}; in this "
                f"model {'nothing' if place is None else f'{place.path!r} of shape {shape}'} "
                "stands in its place. Load it into the model it was saved with. The optimizer was "
                "left as it is."
            )
    cycle = ledger["gradient_accumulation_steps"]
    if cycle != (optimizer.gradient_accumulation_steps or 1) and ledger["iterations"] % cycle:
        raise ValueError(
            f"The optimizer was saved amid the accumulation of {cycle} gradients, and this one has "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}. Build it with "
            f"{cycle}, or save at the end of an accumulation. The optimizer was left as it is."
        )
    return [own[units] for units in theirs]


def match_slots(optimizer: MultiGroupOptimizer, ledger: Mapping[str, Any]) -> None:
    """Compares what is kept for each variable.

    Raises:
        ValueError: If an inner optimizer, or `use_ema`, differs from the saved one.
    """
    own = {name: [int(n) for n in v.shape] for name, v in state_variables(optimizer).items()}
    for key, variable in ledger["variables"].items():
        # Accumulators are empty between two steps; `match` has looked at the rest.
        kept, saved = (
            {
                name.split(".", 2)[2]: tuple(shape)
                for name, shape in shapes.items()
                if name.startswith(key + ".") and name != f"{key}.accumulator"
            }
            for shapes in (own, ledger["state"])
        )
        if kept != saved:
            raise ValueError(
                f"For {variable['path']!r} the saved optimizer kept {_slot_names(saved)}, and this "
                f"one keeps {_slot_names(kept)}. Build it with the inner optimizers and the "
                "`use_ema` it was saved with. The optimizer was left as it is."
            )


def _slot_names(slots: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(slots.items())) or "nothing"


def _span(layers: Sequence[str]) -> str:
    return f"{layers[0]} ... {layers[-1]}" if len(layers) > 1 else layers[0]


def fresh_state(optimizer: MultiGroupOptimizer, place: Any) -> dict[str, np.ndarray]:
    """The state a variable, and its group, would begin with, by name."""
    with tf.init_scope(), optimizer._creation_scope():
        scratch = copy_optimizer(optimizer.group_optimizers[place.group])
        scratch.build([place.variable])
    first_unit = units_of_groups(optimizer)[place.group][0]
    named = {f"{first_unit}.group.{name}": v for name, v in shared_state_of(scratch).items()}
    named.update({f"{place.key}.{name}": slots[0] for name, slots in slots_of(scratch).items()})
    values = {name: keras.ops.convert_to_numpy(v) for name, v in named.items() if v is not None}
    value = keras.ops.convert_to_numpy(place.variable)
    for name, kept in spanning_state(optimizer).items():
        if any(item is not None for item in kept):
            values[f"{place.key}.{name}"] = value if name == "average" else np.zeros_like(value)
    return values


def write_ledger(
    optimizer: MultiGroupOptimizer, ledger: Mapping[str, Any], mapping: Sequence[int]
) -> None:
    """Takes over the small state, and gives fresh state to variables that have none saved.

    Args:
        optimizer: An optimizer that keeps state for every variable of the ledger.
        ledger: The ledger, checked by `match`.
        mapping: What `match` returned.
    """
    steps, factors = optimizer._group_steps.numpy(), optimizer._rate_factors.numpy()
    for group, number in zip(ledger["groups"], mapping):
        steps[number], factors[number] = group["steps"], group["rate_factor"]
    optimizer._group_steps.assign(steps)
    optimizer._rate_factors.assign(factors)
    optimizer._rate_scale.assign(ledger["rate_scale"])
    n_steps, rest = divmod(ledger["iterations"], ledger["gradient_accumulation_steps"])
    cycle = optimizer.gradient_accumulation_steps or 1
    optimizer._iterations.assign(n_steps * cycle + rest)
    missing = {
        name: variable
        for name, variable in state_variables(optimizer).items()
        if name not in ledger["state"]
    }
    fresh: dict[str, np.ndarray] = {}
    for place in map(optimizer._place, optimizer._trainable_variables):
        if place.key not in ledger["variables"]:
            fresh.update(fresh_state(optimizer, place))
    for name, variable in missing.items():
        if name in fresh:
            variable.assign(fresh[name])


class GroupingGuard(keras.Variable):
    """Holds a digest of each group's layers, and refuses to become those of other groups.

    Keras' `LossScaleOptimizer` loads the wrapped optimizer's variables by position before it asks
    the optimizer itself. The guard stands first among them, so that the state of other groups is
    refused before the first of them is written.
    """

    def assign(self, value: Any) -> Any:
        if sorted(np.asarray(value).tolist()) != sorted(self.numpy().tolist()):
            raise ValueError(
                "The groups of the saved optimizer differ from this one's, so its state was not "
                "loaded. Build the optimizer with the groups it was saved with. The optimizer was "
                "left as it is."
            )
        return self.value

    def order_of(self, value: Any) -> list[int]:
        """For each group, its number in the order of the guard that `value` was read from."""
        return [np.asarray(value).tolist().index(digest) for digest in self.numpy().tolist()]


def grouping_digests(optimizer: MultiGroupOptimizer) -> list[int]:
    return [
        int.from_bytes(hashlib.sha256(json.dumps(units).encode()).digest()[:7], "big")
        for units in units_of_groups(optimizer)
    ]


class LedgerState(tf.train.experimental.PythonState):
    """The ledger as part of a `tf.train.Checkpoint`: restored before any variable is."""

    def __init__(self, optimizer: MultiGroupOptimizer) -> None:
        self._optimizer = optimizer

    def serialize(self) -> str:
        return json.dumps(read_ledger(self._optimizer))

    def deserialize(self, string_value: bytes) -> None:
        data = np.frombuffer(tf.compat.as_bytes(string_value), np.uint8)
        self._optimizer._restore_ledger(decode(data, source="The checkpoint"))
