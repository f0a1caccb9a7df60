"""The state of a `MultiGroupOptimizer` in files: by variable and by group, never by position.

What is small (steps, rates, which variable has state) is one JSON record, the *manifest*. Slots are
arrays under the name `"<variable key>.<slot>"`. A variable's key does not depend on automatic
names, and a group is known by the layers it holds, so the order of the groups does not matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core.assignment import AssignedVariable, GroupAssignment
from dlr_tf.core.group_rates import GroupRates
from dlr_tf.core.inner_optimizers import GroupOptimizers
from dlr_tf.core.variable_state import VariableState

# Format 1, of version 0.1.0, has no dtypes and no limits of rates.
_FORMAT = 2
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
# The name of the manifest beside the arrays; version 0.1.0 called it a ledger.
MANIFEST = "manifest"
MANIFEST_NAMES = (MANIFEST, "ledger")
# After a variable's key, the name under which a `tf.train.Checkpoint` holds the weight itself.
WEIGHT = "weight"
UNCHANGED = "The optimizer was left as it is."


def encode(manifest: Mapping[str, Any]) -> np.ndarray:
    """Return a manifest as an array of bytes."""
    return np.frombuffer(json.dumps(manifest).encode(), np.uint8)


def decode(data: Any, *, source: str = "The file") -> dict[str, Any]:
    """Read a manifest from an array of bytes.

    Raises:
        ValueError: If it is not one, or comes from a later version.
    """
    try:
        manifest = json.loads(bytes(np.asarray(data, np.uint8)))
        version = manifest["format"]
        if version in (1, _FORMAT):
            missing = sorted(_ENTRIES - manifest.keys())
            if missing:
                raise ValueError(f"it lacks {missing}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{source} holds no readable state of a `MultiGroupOptimizer`: it is damaged or was "
            f"made by something else ({error}). {UNCHANGED}"
        ) from error
    if version not in (1, _FORMAT):
        raise ValueError(
            f"{source} was written by a later version of dlr_tf (format {version}; this version "
            f"reads up to {_FORMAT}). Upgrade dlr_tf. {UNCHANGED}"
        )
    for group in manifest["groups"]:
        if "units" in group:  # their name in format 1
            group["layer_numbers"] = group.pop("units")
    return manifest


def match_groups(
    saved: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    layers: Sequence[Sequence[str]],
    layer_numbers: Sequence[tuple[int, ...]],
) -> list[int]:
    """Find the group with the same layers for each saved group.

    Args:
        saved: The groups of a manifest.
        names: The names of this optimizer's groups.
        layers: The layer paths of each.
        layer_numbers: The numbers of the layers with variables of each.

    Returns:
        For each saved group, the number of this optimizer's group.

    Raises:
        ValueError: If the groups differ.
    """
    own = {numbers: group for group, numbers in enumerate(layer_numbers)}
    theirs = {tuple(group["layer_numbers"]): group for group in saved}
    if set(own) != set(theirs):
        lines = [
            f"saved group {group['name']!r} ({_span(group['layers'])})"
            for numbers, group in theirs.items()
            if numbers not in own
        ] + [
            f"this optimizer's group {names[group]!r} ({_span(layers[group])})"
            for numbers, group in own.items()
            if numbers not in theirs
        ]
        raise ValueError(
            "The groups of the saved optimizer differ from this one's, so its state was not "
            f"loaded. Without a counterpart: {'; '.join(lines)}. Build the optimizer with the "
            f"groups it was saved with. {UNCHANGED}"
        )
    return [own[numbers] for numbers in theirs]


def match_variables(
    saved: Mapping[str, Mapping[str, Any]], current: Sequence[AssignedVariable]
) -> tuple[dict[str, str], list[str]]:
    """Find the variable of the model for each saved variable.

    It is the one with the same key. Where a layer has other variables than when it was saved (it
    was quantised, or LoRA was enabled), it is the one of the same layer with the same name.

    Args:
        saved: The variables of a manifest, by key.
        current: The variables of the model that the groups claim.

    Returns:
        The key now of each saved key, and the paths of the saved variables that are no longer
        there.

    Raises:
        ValueError: If a variable has another shape than the saved one.
    """
    by_key = {entry.key: entry for entry in current}
    keys: dict[str, str] = {}
    gone = []
    for key, record in saved.items():
        shape, name = record["shape"], record["path"].rsplit("/", 1)[-1]
        same = by_key.get(key)
        if same is not None and _fits(same, shape):
            other_name = same.path.rsplit("/", 1)[-1] != name
            if not other_name or not _named(current, key, name, shape):
                keys[key] = key
                continue
        named = _named(current, key, name, shape)
        if named:
            keys[key] = named[0].key
            continue
        layer = [entry for entry in current if _layer_of(entry.key) == _layer_of(key)]
        rivals = [e for e in layer if e.path.rsplit("/", 1)[-1] == name and _is_float(e.variable)]
        if not rivals and same is not None and len(layer) == 1 and _is_float(same.variable):
            rivals = [same]
        if rivals or not layer:
            now = f"{rivals[0].path!r} of shape {_shape(rivals[0].variable)}" if rivals else "none"
            raise ValueError(
                f"The saved optimizer trained {record['path']!r} of shape {shape}. The variable at "
                f"that position of this model: {now}. Load it into the model it was saved with. "
                f"{UNCHANGED}"
            )
        gone.append(record["path"])
    return keys, gone


def _named(
    current: Sequence[AssignedVariable], key: str, name: str, shape: Sequence[int]
) -> list[AssignedVariable]:
    """The variables of the layer of `key` with this name and shape."""
    return [
        entry
        for entry in current
        if _layer_of(entry.key) == _layer_of(key)
        and entry.path.rsplit("/", 1)[-1] == name
        and _fits(entry, shape)
    ]


def _layer_of(key: str) -> str:
    return key.split(".")[0]


def _fits(entry: AssignedVariable, shape: Sequence[int]) -> bool:
    return _shape(entry.variable) == list(shape) and _is_float(entry.variable)


def _is_float(variable: Any) -> bool:
    # A quantised variable is not trained, so state cannot belong to it.
    return tf.as_dtype(variable.dtype).is_floating


def _shape(variable: Any) -> list[int]:
    return [int(n) for n in variable.shape]


def _span(layers: Sequence[str]) -> str:
    return f"{layers[0]} ... {layers[-1]}" if len(layers) > 1 else layers[0]


def _slot_names(slots: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(slots.items())) or "nothing"


def _order(name: str) -> tuple[int, int, str]:
    layer, number, slot = name.split(".", 2)
    return int(layer), -1 if number == "group" else int(number), slot


@dataclasses.dataclass(frozen=True)
class RestorePlan:
    """How a checked manifest fits an optimizer.

    Args:
        manifest: The manifest.
        groups: For each saved group, the number of this optimizer's group.
        keys: For each key of a saved variable, its key in this model.
        names: For each name of a saved state, the name of this optimizer's state.
        gone: The paths of saved variables that the model no longer has.
    """

    manifest: dict[str, Any]
    groups: list[int]
    keys: dict[str, str]
    names: dict[str, str]
    gone: list[str]

    def renamed(self) -> dict[str, str | None]:
        """The names in the file that differ from this optimizer's; `None` for what is dropped."""
        renamed = {
            name: self.names.get(name)
            for name in self.manifest["state"]
            if self.names.get(name) != name
        }
        for saved, now in self.keys.items():
            if saved != now:
                renamed[f"{saved}.{WEIGHT}"] = f"{now}.{WEIGHT}"
        for key in self.manifest["variables"].keys() - self.keys.keys():
            renamed[f"{key}.{WEIGHT}"] = None
        return renamed

    def warn_of_gone(self) -> None:
        """Warn of the state that is dropped, if there is any."""
        if self.gone:
            warnings.warn(
                "The model no longer has these variables that the saved optimizer trained, so "
                f"their optimizer state was dropped: {self.gone}. All other state was restored.",
                stacklevel=4,
            )


class OptimizerState:
    """What of an optimizer is saved, under which names, and checked before it is written.

    Args:
        optimizer: The wrapper, for the variables it knows.
        assignment: The group and the key of each variable.
        rates: The rates of the groups.
        inner_optimizers: One optimizer per group.
        variable_state: What the wrapper keeps for each variable.
        group_steps: The number of steps that each group made.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        assignment: GroupAssignment,
        rates: GroupRates,
        inner_optimizers: GroupOptimizers,
        variable_state: VariableState,
        group_steps: keras.Variable,
    ) -> None:
        self._optimizer = optimizer
        self._assignment = assignment
        self._rates = rates
        self._inner_optimizers = inner_optimizers
        self._variable_state = variable_state
        self._group_steps = group_steps

    @property
    def _steps_per_update(self) -> int:
        return self._optimizer.gradient_accumulation_steps or 1

    def variables(self) -> dict[str, keras.Variable]:
        """The variables kept for trained variables and for groups, in the model's order.

        The order depends neither on the order of the groups nor on that in which variables came to
        be trained. State of a variable that the model no longer has is left out.
        """
        named: dict[str, keras.Variable] = {}
        numbers = self._assignment.layer_numbers()
        for of_group, inner in zip(numbers, self._inner_optimizers):
            if inner.built and of_group:
                for name, variable in _keras.shared_state_of(inner).items():
                    named[f"{of_group[0]}.group.{name}"] = variable
                for name, slots in _keras.slots_of(inner).items():
                    for variable, slot in zip(_keras.known_variables(inner), slots):
                        entry = self._assignment.entry_of(variable)
                        if slot is not None and entry is not None:
                            named[f"{entry.key}.{name}"] = slot
        for index, variable in enumerate(_keras.known_variables(self._optimizer)):
            entry = self._assignment.entry_of(variable)
            if entry is not None:
                for name, state in self._variable_state.of(index).items():
                    named[f"{entry.key}.{name}"] = state
        return dict(sorted(named.items(), key=lambda item: _order(item[0])))

    def _trained(self) -> list[AssignedVariable]:
        known = _keras.known_variables(self._optimizer)
        entries = [self._assignment.entry_of(v) for v in known]
        return [entry for entry in entries if entry is not None]

    def manifest(self) -> dict[str, Any]:
        """Return the small state, as JSON values; exact, since JSON keeps every float64."""
        steps = self._group_steps.numpy()
        rates = self._rates.state()
        numbers = self._assignment.layer_numbers()
        return {
            "format": _FORMAT,
            "iterations": int(_keras.step_counter_of(self._optimizer).numpy()),
            "gradient_accumulation_steps": self._steps_per_update,
            "rate_scale": float(self._rates.scale.numpy()),
            "groups": [
                {
                    "name": group.name,
                    "layers": list(group.layers),
                    "layer_numbers": list(numbers[n]),
                    "optimizer": type(inner).__name__,
                    "steps": int(steps[n]),
                    **rates[n],
                }
                for n, (group, inner) in enumerate(
                    zip(self._assignment.groups, self._inner_optimizers)
                )
            ],
            "variables": {
                entry.key: {
                    "path": entry.path,
                    "shape": _shape(entry.variable),
                    "dtype": tf.as_dtype(entry.variable.dtype).name,
                }
                for entry in self._trained()
            },
            "state": {name: _shape(variable) for name, variable in self.variables().items()},
        }

    def check(self, manifest: dict[str, Any]) -> RestorePlan:
        """Compare a manifest with the optimizer, which knows its model. Nothing is written.

        Raises:
            ValueError: If the groups or the variables differ, or it was saved in the middle of an
                accumulation that this optimizer does not make.
        """
        groups = self._assignment.groups
        order = match_groups(
            manifest["groups"],
            [group.name for group in groups],
            [group.layers for group in groups],
            self._assignment.layer_numbers(),
        )
        keys, gone = match_variables(manifest["variables"], self._assignment.entries())
        count = manifest["gradient_accumulation_steps"]
        if count != self._steps_per_update and manifest["iterations"] % count:
            raise ValueError(
                "The optimizer was saved in the middle of gradient accumulation (step "
                f"{manifest['iterations'] % count} of {count}), and this one has "
                "gradient_accumulation_steps="
                f"{self._optimizer.gradient_accumulation_steps}. Build it with {count}, or save at "
                f"the end of an accumulation. {UNCHANGED}"
            )
        names = {}
        for name in manifest["state"]:
            key, slot = self._split(name)
            if key.endswith(".group"):
                names[name] = name
            elif key in keys:
                names[name] = f"{keys[key]}.{slot}"
        return RestorePlan(manifest, order, keys, names, gone)

    @staticmethod
    def _split(name: str) -> tuple[str, str]:
        layer, number, slot = name.split(".", 2)
        return f"{layer}.{number}", slot

    def variables_to_build(self, plan: RestorePlan) -> list[Any]:
        """Return the variables that need state before a plan can be carried out."""
        wanted = set(plan.keys.values())
        known = {entry.key for entry in self._trained()}
        return [
            entry.variable
            for entry in self._assignment.entries()
            if entry.key in wanted and entry.key not in known
        ]

    def check_slots(self, plan: RestorePlan) -> None:
        """Compare the state kept for each variable, once `variables_to_build` are built.

        Raises:
            ValueError: If an inner optimizer, or `use_ema`, differs from the saved one.
        """
        own = {name: _shape(variable) for name, variable in self.variables().items()}
        saved = {
            plan.names[name]: shape
            for name, shape in plan.manifest["state"].items()
            if name in plan.names
        }
        paths = {entry.key: entry.path for entry in self._assignment.entries()}
        kinds = {
            numbers: type(inner).__name__
            for numbers, inner in zip(self._assignment.layer_numbers(), self._inner_optimizers)
        }
        for group in plan.manifest["groups"]:
            now = kinds[tuple(group["layer_numbers"])]
            same_kind = _same_state(now, group["optimizer"])
            layers = set(group["layer_numbers"])
            keys = {self._split(name)[0] for name in saved if int(_layer_of(name)) in layers}
            for key in sorted(keys, key=lambda k: _order(f"{k}.")):
                theirs, ours = (_slots_at(key, shapes) for shapes in (saved, own))
                extra = theirs.keys() - ours.keys()
                differ = [n for n in theirs.keys() & ours.keys() if theirs[n] != ours[n]]
                inner_differs = not same_kind and theirs.keys() != ours.keys()
                if extra or differ or inner_differs:
                    path = paths.get(key, f"group {group['name']}")
                    raise ValueError(
                        f"For {path!r} the saved optimizer ({group['optimizer']}) kept "
                        f"{_slot_names(theirs)}, and this one ({now}) keeps {_slot_names(ours)}. "
                        "Build it with the inner optimizers and the `use_ema` it was saved with. "
                        f"{UNCHANGED}"
                    )

    def restore_manifest(self, plan: RestorePlan) -> None:
        """Take the small state, and give fresh state to what the file lacks."""
        manifest, order = plan.manifest, plan.groups
        self.restore_small(manifest, order)
        fresh: dict[str, np.ndarray] = {}
        restored = set(plan.names.values())
        missing = {n: v for n, v in self.variables().items() if n not in restored}
        for name, variable in missing.items():
            if name not in fresh:
                fresh.update(self._fresh(name))
            if name in fresh:
                variable.assign(fresh[name])

    def restore_small(self, manifest: Mapping[str, Any], order: Sequence[int]) -> None:
        """Take steps and rates.

        Args:
            manifest: A manifest.
            order: For each group of the manifest, the number of this optimizer's group.
        """
        by_group: list[Any] = [None] * len(order)
        for group, number in zip(manifest["groups"], order):
            by_group[number] = group
        self._group_steps.assign([group["steps"] for group in by_group])
        self._rates.restore_state(by_group, manifest["rate_scale"])
        n_steps, rest = divmod(manifest["iterations"], manifest["gradient_accumulation_steps"])
        counter = _keras.step_counter_of(self._optimizer)
        counter.assign(n_steps * self._steps_per_update + rest)

    def _fresh(self, name: str) -> dict[str, np.ndarray]:
        """The values that the state of the variable, or group, of this name begins with."""
        key, _ = self._split(name)
        layer = int(_layer_of(key))
        entries = [
            entry
            for entry in self._trained()
            if entry.key == key or (key.endswith(".group") and int(_layer_of(entry.key)) == layer)
        ]
        if not entries:
            return {}
        entry = entries[0]
        scratch = _keras.copy_optimizer(self._inner_optimizers[entry.group])
        scratch.build([entry.variable])
        first_layer = self._assignment.layer_numbers()[entry.group][0]
        named = {
            f"{first_layer}.group.{slot}": v for slot, v in _keras.shared_state_of(scratch).items()
        }
        named.update({f"{entry.key}.{slot}": v[0] for slot, v in _keras.slots_of(scratch).items()})
        values = {n: keras.ops.convert_to_numpy(v) for n, v in named.items() if v is not None}
        value = keras.ops.convert_to_numpy(entry.variable)
        for slot, array in self._variable_state.fresh(value).items():
            values[f"{entry.key}.{slot}"] = array
        return values

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state of `variables` as arrays."""
        return {name: keras.ops.convert_to_numpy(v) for name, v in self.variables().items()}

    def read_arrays(
        self, manifest: Mapping[str, Any], contents: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Read the arrays that a manifest names.

        Raises:
            ValueError: If one is missing or of another shape.
        """
        arrays = {}
        for name, shape in manifest["state"].items():
            try:
                arrays[name] = np.asarray(contents[name])
            except (KeyError, OSError) as error:
                raise ValueError(
                    f"The state in the file is incomplete: {name!r} cannot be read ({error}). "
                    f"{UNCHANGED}"
                ) from error
            if list(arrays[name].shape) != shape:
                raise ValueError(
                    f"The state in the file is damaged: {name!r} should have shape {shape}. "
                    f"Received shape {list(arrays[name].shape)}. {UNCHANGED}"
                )
        return arrays

    def write_arrays(self, plan: RestorePlan, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of a file into the variables they belong to."""
        variables = self.variables()
        for saved, name in plan.names.items():
            if name in variables:
                variables[name].assign(arrays[saved])

    def fingerprints(self) -> list[int]:
        """Return one integer per group that tells its layers, the same in every process."""
        return [
            int.from_bytes(hashlib.sha256(json.dumps(numbers).encode()).digest()[:7], "big")
            for numbers in self._assignment.layer_numbers()
        ]


def _slots_at(key: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The slots of a variable without the accumulator, which is empty between two steps."""
    return {
        name.split(".", 2)[2]: list(shape)
        for name, shape in shapes.items()
        if name.startswith(key + ".") and name != f"{key}.accumulator"
    }


def _same_state(one: str, other: str) -> bool:
    """Whether two kinds of optimizer mean the same by slots of the same names."""
    adams = ("Adam", "AdamW", "FusedAdam")
    return one == other or (one in adams and other in adams)


class GroupFingerprint(keras.Variable):
    """Holds one integer per group that tells its layers, and refuses those of other groups.

    Keras' `LossScaleOptimizer` loads the wrapped optimizer's variables by position before it asks
    the optimizer itself. This variable is the first of them, so that the state of other groups is
    refused before anything is written.
    """

    def assign(self, value: Any) -> Any:
        if sorted(np.asarray(value).tolist()) != sorted(self.numpy().tolist()):
            raise ValueError(
                "The groups of the saved optimizer differ from this one's, so its state was not "
                f"loaded. Build the optimizer with the groups it was saved with. {UNCHANGED}"
            )
        return self.value

    def order_of(self, value: Any) -> list[int]:
        """For each group, its number in the order of the fingerprint that `value` comes from."""
        return [np.asarray(value).tolist().index(number) for number in self.numpy().tolist()]


class CheckpointManifest(tf.train.experimental.PythonState):
    """The manifest as part of a `tf.train.Checkpoint`: restored before any variable is.

    Args:
        write: Returns the manifest.
        read: Takes a manifest.
    """

    def __init__(
        self, write: Callable[[], dict[str, Any]], read: Callable[[dict[str, Any]], None]
    ) -> None:
        self._write = write
        self._read = read

    def serialize(self) -> str:
        return json.dumps(self._write())

    def deserialize(self, string_value: bytes) -> None:
        data = np.frombuffer(tf.compat.as_bytes(string_value), np.uint8)
        self._read(decode(data, source="The checkpoint"))
