"""The record of an optimizer's small state, and how it is matched with an optimizer.

The *manifest* is one JSON record: steps, rates, groups, and which variable has which state. All
functions here are pure; `checkpointing.py` applies them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import warn_user
from dlr_tf.core.assignment import AssignedVariable, LayerNumbers, layer_number

# The format of version 1.0.0. A change that this version cannot read raises the number.
FORMAT = 1
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
# The name of the manifest beside the arrays.
MANIFEST = "manifest"
# After a variable's key, the name under which a `tf.train.Checkpoint` holds the weight itself.
WEIGHT = "weight"
UNCHANGED = "The optimizer was left as it is."
# How to load a file whose optimizer state does not fit.
WEIGHTS_ALONE = (
    "Keras loads the model's weights first, so they may be loaded already. To load the weights "
    "alone, call `model.load_weights(path, objects_to_skip=[model.optimizer])` with a "
    "`.weights.h5` file, or load them before `compile`."
)


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
        if version <= FORMAT:
            missing = sorted(_ENTRIES - manifest.keys())
            if missing:
                raise ValueError(f"it lacks {missing}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{source} has no readable state of a `MultiGroupOptimizer`: it is damaged or was "
            f"written by another program ({error}). {UNCHANGED}"
        ) from error
    if version > FORMAT:
        raise ValueError(
            f"{source} was written by a later version of dlr_tf (format {version}; this version "
            f"reads up to {FORMAT}). Upgrade dlr_tf. {UNCHANGED}"
        )
    return manifest


def read_arrays(manifest: Mapping[str, Any], contents: Mapping[str, Any]) -> dict[str, np.ndarray]:
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


def match_groups(
    saved: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    layers: Sequence[Sequence[str]],
    layer_numbers: Sequence[LayerNumbers],
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
            f"loaded. Groups that do not match: {'; '.join(lines)}. Build the optimizer with the "
            f"groups it was saved with. {UNCHANGED}"
        )
    return [own[numbers] for numbers in theirs]


def match_variables(
    saved: Mapping[str, Mapping[str, Any]], current: Sequence[AssignedVariable]
) -> tuple[dict[str, str], list[str]]:
    """Find the variable of the model for each saved variable.

    It is the one with the same key. Where a layer no longer has the saved variables at their
    positions (it was quantized since, or its LoRA was merged), it is the one with the same path, or
    the only one of that layer with the same name.

    Args:
        saved: The variables of a manifest, by key.
        current: The variables of the model that the groups claim.

    Returns:
        The key now of each saved key, and the paths of the saved variables that are no longer
        there.

    Raises:
        ValueError: If a variable has another shape than the saved one.
    """
    layers: dict[str, list[AssignedVariable]] = {}
    for entry in current:
        layers.setdefault(layer_of(entry.key), []).append(entry)
    by_key = {entry.key: entry for entry in current}
    # Automatic names may differ between processes, so names count only in layers that changed.
    changed = {
        layer_of(key)
        for key, record in saved.items()
        if key not in by_key or not _fits(by_key[key], record["shape"])
    }
    # How many saved variables of a layer have a name: a composite layer has several kernels.
    names = collections.Counter((layer_of(k), _name(r["path"])) for k, r in saved.items())
    keys: dict[str, str] = {}
    gone = []
    for key, record in saved.items():
        layer = layer_of(key)
        if layer not in changed:
            keys[key] = key
            continue
        inside = layers.get(layer, [])
        named = [e for e in inside if e.path == record["path"]]
        if not named and names[layer, _name(record["path"])] == 1:
            named = [e for e in inside if _name(e.path) == _name(record["path"])]
            named = named if len(named) == 1 else []
        fitting = [entry for entry in named if _fits(entry, record["shape"])]
        other_shape = [entry for entry in named if _is_float(entry.variable)]
        if fitting:
            keys[key] = fitting[0].key
        elif other_shape:
            now = other_shape[0]
            raise ValueError(
                f"The saved optimizer trained {record['path']!r} of shape {record['shape']}, and "
                f"in this model {now.path!r} has shape {shape_of(now.variable)}. Load it into the "
                f"model it was saved with. {UNCHANGED}"
            )
        else:
            gone.append(record["path"])
    return keys, gone


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _fits(entry: AssignedVariable, shape: Sequence[int]) -> bool:
    return shape_of(entry.variable) == list(shape) and _is_float(entry.variable)


def _is_float(variable: Any) -> bool:
    # A quantized variable is not trained, so state cannot belong to it.
    return tf.as_dtype(variable.dtype).is_floating


def shape_of(variable: Any) -> list[int]:
    """Return the shape of a variable as a list, for JSON."""
    return [int(n) for n in variable.shape]


def layer_of(key: str) -> str:
    """Return the number of the layer in a key, or in the name of a state."""
    return key.split(".")[0]


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a state into the key of its variable or group, and the slot.

    >>> split_name("3.0.momentums"), split_name("3.group.u_product")
    (('3.0', 'momentums'), ('3.group', 'u_product'))
    """
    layer, number, slot = name.split(".", 2)
    return f"{layer}.{number}", slot


def name_order(name: str) -> tuple[list[int], int, str]:
    """Return a sort key for names of state: by layer, then by variable, then by slot.

    >>> sorted(["10.0.m", "2-10.0.m", "2-9.0.m", "2-9.group.n"], key=name_order)
    ['2-9.group.n', '2-9.0.m', '2-10.0.m', '10.0.m']
    """
    layer, number, slot = name.split(".", 2)
    steps = [int(step) for step in layer.replace(":", "-").split("-")]
    return steps, -1 if number == "group" else int(number), slot


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
            warn_user(
                "The model no longer has these variables that the saved optimizer trained, so "
                f"their optimizer state was dropped: {self.gone}. All other state was restored."
            )


def check_slots(
    plan: RestorePlan,
    own: Mapping[str, Sequence[int]],
    kinds: Mapping[LayerNumbers, str],
    paths: Mapping[str, str],
) -> None:
    """Compare the state that was saved for each variable with the state kept now.

    Args:
        plan: A plan.
        own: The shape of each state of this optimizer, by name.
        kinds: The class name of the inner optimizer of each group, by its layer numbers.
        paths: The path of each variable, by key.

    Raises:
        ValueError: If an inner optimizer, or `use_ema`, differs from the saved one. State that
            only this optimizer keeps is no error.
    """
    saved = {
        plan.names[name]: shape
        for name, shape in plan.manifest["state"].items()
        if name in plan.names
    }
    for group in plan.manifest["groups"]:
        now = kinds[tuple(group["layer_numbers"])]
        layers = set(group["layer_numbers"])
        keys = {key for key in map(_key_of, saved) if not layers.isdisjoint(_claimed_by(key))}
        for key in sorted(keys, key=lambda k: name_order(f"{k}.")):
            theirs, ours = (_slots_at(key, shapes) for shapes in (saved, own))
            differ = any(ours.get(slot) != shape for slot, shape in theirs.items())
            other_kind = not _same_state(now, group["optimizer"])
            if differ or other_kind:
                path = paths.get(key, f"group {group['name']}")
                raise ValueError(
                    f"For {path!r} the saved optimizer ({group['optimizer']}) kept "
                    f"{_slot_names(theirs)}, and this one ({now}) keeps {_slot_names(ours)}. "
                    "Build it with the inner optimizers, `use_ema` and `decay_to_start` that it "
                    "was saved with. "
                    f"{UNCHANGED}"
                )


def _key_of(name: str) -> str:
    return split_name(name)[0]


def _claimed_by(key: str) -> set[Any]:
    """The numbers by which a group can claim the variable of a key: its layer's and its own."""
    return {layer_number(key), key.replace(".", ":")}


def _slots_at(key: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The slots of a variable without the accumulator, which is empty between two steps."""
    return {
        name.split(".", 2)[2]: list(shape)
        for name, shape in shapes.items()
        if name.startswith(key + ".") and name != f"{key}.accumulator"
    }


def _same_state(one: str, other: str) -> bool:
    """Whether two kinds of optimizer use slots of the same names in the same way."""
    adams = ("Adam", "AdamW", "FusedAdam")
    return one == other or (one in adams and other in adams)


def _span(layers: Sequence[str]) -> str:
    return f"{layers[0]} ... {layers[-1]}" if len(layers) > 1 else layers[0]


def _slot_names(slots: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(slots.items())) or "nothing"
