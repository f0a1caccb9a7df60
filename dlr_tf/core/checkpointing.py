"""The state of a `MultiGroupOptimizer` in files: by variable and by group, never by position.

What is small is in the manifest (`manifest.py`). Slots are arrays under the name
`"<variable key>.<slot>"`. A variable's key does not depend on automatic names, and a group is known
by the layers it holds, so the order of the groups does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core._validation import warn_user
from dlr_tf.core.assignment import AssignedVariable, GroupAssignment, layer_number
from dlr_tf.core.group_rates import GroupRates
from dlr_tf.core.inner_optimizers import GroupOptimizers
from dlr_tf.core.manifest import (
    FORMAT,
    MANIFEST,
    UNCHANGED,
    WEIGHT,
    WEIGHTS_ALONE,
    RestorePlan,
    check_slots,
    decode,
    encode,
    match_groups,
    match_variables,
    name_order,
    read_arrays,
    shape_of,
    split_name,
)
from dlr_tf.core.optimizer_copies import copy_optimizer
from dlr_tf.core.variable_state import VariableState

# A manifest and its arrays.
SavedState: TypeAlias = "tuple[dict[str, Any], dict[str, np.ndarray]]"


class GroupFingerprint(keras.Variable):
    """Hold one integer per group, computed from its layers; reject those of other groups.

    Keras' `LossScaleOptimizer` loads the wrapped optimizer's variables by position before it asks
    the optimizer itself. This variable is the first of them, so that the state of other groups is
    refused before anything is written.
    """

    def assign(self, value: Any) -> Any:
        if sorted(np.asarray(value).tolist()) != sorted(self.numpy().tolist()):
            raise ValueError(
                "The groups of the saved optimizer differ from this one's, so its state was not "
                f"loaded. Build the optimizer with the groups it was saved with. {UNCHANGED} "
                f"{WEIGHTS_ALONE}"
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


class OptimizerState:
    """The state of an optimizer that is saved, with its names and its checks before loading.

    Args:
        optimizer: The wrapper, for the variables it knows.
        assignment: The group and the key of each variable.
        rates: The rates of the groups.
        inner_optimizers: One optimizer per group.
        variable_state: What the wrapper keeps for each variable.
        group_steps: The number of steps that each group made.
        build: Creates the state of variables.
        creation_scope: Returns a scope in which variables are created.
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
        build: Callable[[Sequence[Any]], None],
        creation_scope: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        self._optimizer = optimizer
        self._assignment = assignment
        self._rates = rates
        self._inner_optimizers = inner_optimizers
        self._variable_state = variable_state
        self._group_steps = group_steps
        self._build = build
        self._creation_scope = creation_scope
        # Whether state is being created for what a file or a checkpoint holds.
        self.is_loading = False
        self._fingerprint: GroupFingerprint | None = None
        # State to load when the model is known: the manifest of a checkpoint that was read, and the
        # state of the optimizer that this one is a copy of.
        self._checkpoint: dict[str, Any] | None = None
        self._copy: SavedState | None = None
        # The names in that checkpoint that differ from this optimizer's; `None`: no longer there.
        self._renamed: dict[str, str | None] = {}

    @property
    def _steps_per_update(self) -> int:
        return self._optimizer.gradient_accumulation_steps or 1

    def variables(self) -> dict[str, keras.Variable]:
        """The variables kept for trained variables and for groups, in the model's order.

        The order does not depend on the order of the groups, or on when a variable was first
        trained. State of a variable that the model no longer has is left out.
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
        return dict(sorted(named.items(), key=lambda item: name_order(item[0])))

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
            "format": FORMAT,
            "iterations": int(_keras.step_counter_of(self._optimizer).numpy()),
            "gradient_accumulation_steps": self._steps_per_update,
            "rate_scale": self._rates.scale(),
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
                    "shape": shape_of(entry.variable),
                }
                # Not in the order of the training, so that equal states give equal files.
                for entry in sorted(self._trained(), key=lambda entry: entry.key)
            },
            "state": {name: shape_of(variable) for name, variable in self.variables().items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state of `variables` as arrays."""
        return {name: keras.ops.convert_to_numpy(v) for name, v in self.variables().items()}

    def save(self, store: Any) -> None:
        """Write all state to what `save_own_variables` is given."""
        orphans = self._orphans()
        if orphans:
            warn_user(
                "The model no longer has these variables that the optimizer trained, so their "
                f"optimizer state is not saved: {[v.path for v in orphans]}."
            )
        store[MANIFEST] = encode(self.manifest())
        for name, array in self.arrays().items():
            store[name] = array

    def fingerprint(self) -> GroupFingerprint:
        """Return the variable that identifies the groups' layers, the same in every process."""
        values = [
            int.from_bytes(hashlib.sha256(json.dumps(numbers).encode()).digest()[:7], "big")
            for numbers in self._assignment.layer_numbers()
        ]
        if self._fingerprint is None or self._fingerprint.numpy().tolist() != values:
            name = self._optimizer.name
            with self._creation_scope(), keras.name_scope(name, caller=self._optimizer):
                self._fingerprint = GroupFingerprint(
                    values, dtype="int64", trainable=False, name="groups"
                )
        return self._fingerprint

    def _orphans(self) -> list[Any]:
        """Return the variables that have state but are no longer in the model."""
        if not self._assignment.is_known:
            return []
        known = _keras.known_variables(self._optimizer)
        return [v for v in known if self._assignment.entry_of(v) is None]

    # --- Loading

    def load_file(self, store: Any, locate: Callable[[], bool]) -> None:
        """Restore all state from what `load_own_variables` is given.

        Without a model, the state of variables is loaded when the model is known.

        Args:
            store: The optimizer's own part of a file.
            locate: Makes sure that the model is known, and returns whether it is.

        Raises:
            ValueError: If the state is damaged or does not fit; nothing is written then.
        """
        for contents in (store, *_keras.related_stores(store, "inner_optimizer")):
            if MANIFEST in [*contents.keys()]:
                break
        else:
            what = "the state of another optimizer" if list(store.keys()) else "no optimizer state"
            warn_user(
                f"Skipping variable loading for optimizer '{self._optimizer.name}', because the "
                f"file holds {what}. The optimizer starts with fresh state."
            )
            return
        try:
            manifest = decode(contents[MANIFEST])
            if not _had_state(manifest):
                return
            arrays = read_arrays(manifest, contents)
            if locate():
                self.load(manifest, arrays)
            else:
                self.load_copy((manifest, arrays))
        except ValueError as error:
            raise ValueError(f"{error} {WEIGHTS_ALONE}") from error

    def load(self, manifest: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Restore all state from a manifest and arrays.

        Raises:
            ValueError: If they do not fit; nothing is written then.
        """
        plan = self._prepare(manifest)
        with self._creation_scope():
            self._restore_manifest(plan)
            variables = self.variables()
            for saved, name in plan.names.items():
                if name in variables:
                    variables[name].assign(arrays[saved])

    def load_checkpoint(self, manifest: dict[str, Any]) -> None:
        """Restore the manifest of a checkpoint, whose arrays TensorFlow restores afterwards.

        Raises:
            ValueError: If it does not fit; nothing is written then.
        """
        if not _had_state(manifest):
            return
        if not self._assignment.is_known:
            self._checkpoint = manifest
            return
        plan = self._prepare(manifest)
        self._renamed = plan.renamed()
        with self._creation_scope():
            self._restore_manifest(plan)

    def load_copy(self, saved: SavedState | None) -> None:
        """Take the state of another optimizer with the same groups.

        Steps and rates are taken now, the state of variables when the model is known.
        """
        self._copy = saved
        if saved is not None:
            layers = [list(group.layers) for group in self._assignment.groups]
            named = [list(group["layers"]) for group in saved[0]["groups"]]
            if sorted(named) == sorted(layers):
                self._restore_small(saved[0], [layers.index(paths) for paths in named])

    def copy(self) -> SavedState | None:
        """Return all state, `None` if there is none because the model is not known."""
        if self._copy is not None or not self._assignment.is_known:
            return self._copy
        return self.manifest(), self.arrays()

    @property
    def waits(self) -> bool:
        """Whether state of variables waits until the model is known."""
        return self._copy is not None

    def load_waiting(self, *, checkpoint: bool = False) -> None:
        """Restore what was given before the model was known.

        Args:
            checkpoint: Whether to restore a checkpoint too, once state is built.
        """
        copy, self._copy = self._copy, None  # first, since loading builds, which comes here again
        if copy is not None:
            try:
                self.load(*copy)
            except ValueError:
                self._copy = copy
                raise
        if checkpoint and self._checkpoint is not None:
            manifest, self._checkpoint = self._checkpoint, None
            try:
                self.load_checkpoint(manifest)
            except ValueError:
                self._checkpoint = manifest
                raise

    def checkpoint_parts(self) -> dict[str, Any]:
        """The variables of a `tf.train.Checkpoint`, by name.

        The weights are among them, by key: TensorFlow does not track the layers that a Keras model
        holds in lists.
        """
        weights = {f"{e.key}.{WEIGHT}": e.variable for e in self._assignment.entries()}
        return {**self.variables(), **weights}

    def parts_to_restore(self) -> dict[str, Any]:
        """The same, under their own names and under the names in the checkpoint that was read."""
        parts = self.checkpoint_parts()
        renamed = {
            saved: None if name is None else parts.get(name)
            for saved, name in self._renamed.items()
        }
        return {name: part for name, part in {**parts, **renamed}.items() if part is not None}

    def _prepare(self, manifest: dict[str, Any]) -> RestorePlan:
        """Check a manifest, and create the state that it names."""
        self._assignment.refresh()
        plan = self._check(manifest)
        self.is_loading = True
        try:
            self._build(self._variables_to_build(plan))
        finally:
            self.is_loading = False
        check_slots(
            plan,
            {name: shape_of(variable) for name, variable in self.variables().items()},
            {
                numbers: type(inner).__name__
                for numbers, inner in zip(self._assignment.layer_numbers(), self._inner_optimizers)
            },
            {entry.key: entry.path for entry in self._assignment.entries()},
        )
        plan.warn_of_gone()
        return plan

    def _check(self, manifest: dict[str, Any]) -> RestorePlan:
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
            key, slot = split_name(name)
            if key.endswith(".group"):
                names[name] = name
            elif key in keys:
                names[name] = f"{keys[key]}.{slot}"
        return RestorePlan(manifest, order, keys, names, gone)

    def _variables_to_build(self, plan: RestorePlan) -> list[Any]:
        """Return the variables that need state before a plan can be carried out."""
        wanted = set(plan.keys.values())
        known = {entry.key for entry in self._trained()}
        return [
            entry.variable
            for entry in self._assignment.entries()
            if entry.key in wanted and entry.key not in known
        ]

    def _restore_manifest(self, plan: RestorePlan) -> None:
        """Load the small state, and give fresh state to what the file lacks."""
        manifest, order = plan.manifest, plan.groups
        self._restore_small(manifest, order)
        fresh: dict[str, np.ndarray] = {}
        restored = set(plan.names.values())
        missing = {n: v for n, v in self.variables().items() if n not in restored}
        for name, variable in missing.items():
            if name not in fresh:
                fresh.update(self._fresh(name))
            if name in fresh:
                variable.assign(fresh[name])

    def _restore_small(self, manifest: Mapping[str, Any], order: Sequence[int]) -> None:
        """Load steps and rates.

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
        key, _ = split_name(name)
        groups = [numbers[:1] for numbers in self._assignment.layer_numbers()]
        of_group = groups.index((layer_number(key),)) if key.endswith(".group") else None
        entry = next(
            (e for e in self._trained() if e.key == key or e.group == of_group),
            None,
        )
        if entry is None:
            return {}
        scratch = copy_optimizer(self._inner_optimizers[entry.group])
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


def _had_state(manifest: Mapping[str, Any]) -> bool:
    """Whether the optimizer knew a model when it was saved: without one it has no state."""
    return any(group["layer_numbers"] for group in manifest["groups"])
