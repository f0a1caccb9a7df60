"""The state that the wrapper keeps for every trained variable, in addition to the slots."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from dlr_tf.core import _keras


@dataclasses.dataclass(frozen=True)
class StateKind:
    """One kind of per-variable state.

    Args:
        name: Its name in files, such as `"average"`.
        create: Returns the state of a trained variable, or `None` where it needs none.
        fresh: Returns the value that the state begins with, from that of the trained variable.
        values: Returns the list of the state of each variable, in the order in which they were
            added.
    """

    name: str
    create: Callable[[Any], keras.Variable | None]
    fresh: Callable[[np.ndarray], np.ndarray]
    values: Callable[[], list[Any]]


def state_kinds(
    optimizer: keras.optimizers.Optimizer, decays_to_start: Callable[[Any], bool] | None
) -> list[StateKind]:
    """Return what is kept for every trained variable: the one place where a new kind is added.

    Args:
        optimizer: The wrapper, for its arguments.
        decays_to_start: Returns whether a variable decays toward its start; `None` if none does.
    """

    def create_copy(name: str, variable: Any) -> keras.Variable | None:
        if _keras.is_overwritten_by_gradient(optimizer, variable):
            return None
        copied = optimizer.add_variable_from_reference(variable, name=name)
        copied.assign(variable)
        return copied

    kinds = []
    if optimizer.use_ema:
        create = functools.partial(create_copy, "average")
        averages = functools.partial(_keras.moving_averages, optimizer)
        kinds.append(StateKind("average", create, np.copy, averages))
    if optimizer.gradient_accumulation_steps:
        create = functools.partial(
            optimizer.add_variable_from_reference, name="gradient_accumulator"
        )
        accumulators = functools.partial(_keras.accumulators, optimizer)
        kinds.append(StateKind("accumulator", create, np.zeros_like, accumulators))
    if decays_to_start is not None:
        starts: list[Any] = []

        def create_start(variable: Any) -> keras.Variable | None:
            return create_copy("start", variable) if decays_to_start(variable) else None

        kinds.append(StateKind("start", create_start, np.copy, lambda: starts))
    return kinds


class VariableState:
    """The per-variable state of all kinds.

    Args:
        kinds: The kinds that this optimizer keeps.
    """

    def __init__(self, kinds: Sequence[StateKind]) -> None:
        self._kinds = tuple(kinds)

    def add(self, variable: Any) -> None:
        """Create the state of one more trained variable."""
        for kind in self._kinds:
            kind.values().append(kind.create(variable))

    def of(self, index: int) -> dict[str, keras.Variable]:
        """Return the state of a variable by name.

        Args:
            index: Position of the variable among those that were added.
        """
        states = {kind.name: kind.values()[index] for kind in self._kinds}
        return {name: state for name, state in states.items() if state is not None}

    def fresh(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values that the state of a variable begins with.

        Args:
            value: Value of the variable.
        """
        return {kind.name: kind.fresh(value) for kind in self._kinds}
