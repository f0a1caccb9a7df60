"""What `exclude_from_weight_decay` excluded in each group, and how it is saved.

Keras does not store it in an optimizer's configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlr_tf.core import _keras
from dlr_tf.core.assignment import AssignedVariable
from dlr_tf.core.inner_optimizers import GroupOptimizers


class Exclusions:
    """The variables that the inner optimizers exclude from weight decay.

    Args:
        inner_optimizers: One optimizer per group.
    """

    def __init__(self, inner_optimizers: GroupOptimizers) -> None:
        self._inner_optimizers = inner_optimizers
        # What `config` returned, until the variables are known.
        self._waiting: list[dict[str, Any] | None] = []

    @property
    def are_of_variables(self) -> bool:
        """Whether `config` needs the variables of the model."""
        excluded = (_keras.weight_decay_exclusions(one)[1] for one in self._inner_optimizers)
        return not self._waiting and any(excluded)

    def config(self, entries: Sequence[AssignedVariable]) -> list[dict[str, Any] | None]:
        """Return the exclusions of each inner optimizer, by the variables' keys in the model.

        Args:
            entries: The variables of the model.

        Raises:
            ValueError: If a variable that is excluded is not among them.
        """
        if self._waiting:
            return self._waiting
        key_of = {_keras.variable_key(entry.variable): entry.key for entry in entries}
        configs: list[dict[str, Any] | None] = []
        for inner in self._inner_optimizers:
            pattern, excluded = _keras.weight_decay_exclusions(inner)
            unknown = [identity for identity in excluded if identity not in key_of]
            if unknown:
                raise ValueError(
                    f"Optimizer {inner.name!r} excludes {len(unknown)} variables from weight decay "
                    "that belong to no model it knows, so they cannot be stored. Build the "
                    "optimizer on the model first, or exclude them by `var_names`."
                )
            keys = sorted(key_of[identity] for identity in excluded)
            configs.append(
                {"pattern": pattern, "variables": keys} if pattern is not None or keys else None
            )
        return configs

    def restore_later(self, configs: Sequence[dict[str, Any] | None]) -> None:
        """Keep what `config` returned for `restore`."""
        self._waiting = list(configs) if any(configs) else []

    def restore(self, entries: Sequence[AssignedVariable]) -> None:
        """Exclude what `restore_later` was given.

        Args:
            entries: The variables of the model.
        """
        waiting, self._waiting = self._waiting, []
        for inner, config in zip(self._inner_optimizers, waiting):
            if config is not None:
                keys = set(config["variables"])
                named = [_keras.variable_key(e.variable) for e in entries if e.key in keys]
                _keras.set_weight_decay_exclusions(inner, config["pattern"], named)
