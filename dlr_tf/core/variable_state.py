"""The state that the wrapper keeps for every trained variable, in addition to the slots.

A new kind of state is one entry here: build, save, load and reset all use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


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
