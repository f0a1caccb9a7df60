"""`weight_decay` and `decay_to_start` of `MultiGroupOptimizer`: one value per group."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core._validation import check_number
from dlr_tf.core.learning_rates import in_group_order
from dlr_tf.core.scheduled_values import ScheduledValues

Decay: TypeAlias = "float | LearningRateSchedule"


@dataclasses.dataclass(frozen=True)
class Decays:
    """The decays of the groups, `None` where an argument was not given.

    Keras and TensorFlow do not track the lists in a dataclass.
    """

    weight_decay: list[Decay] | None
    decay_to_start: list[float] | None

    def lists(self) -> dict[str, list[Any] | None]:
        """Return both by name, as lists that may be changed."""
        both = {"weight_decay": self.weight_decay, "decay_to_start": self.decay_to_start}
        return {name: None if values is None else [*values] for name, values in both.items()}


def weight_decays(value: Any, names: Sequence[str]) -> list[Decay] | None:
    """Return the weight decay of each group, `None` for no argument; raise if it is not valid.

    >>> weight_decays(0.01, ["body", "head"])
    [0.01, 0.01]
    >>> weight_decays({"head": 0, "body": 0.1}, ["body", "head"])
    [0.1, 0.0]
    """
    if isinstance(value, (numbers.Real, LearningRateSchedule)):
        value = [value] * len(names)
    return _checked("weight_decay", value, names, may_be_schedule=True)


def start_decays(value: Any, names: Sequence[str]) -> list[float] | None:
    """Return the decay toward the start of each group, `None` for no argument; raise as above.

    >>> start_decays(0.01, ["body", "head"])
    [0.01, 0.0]
    """
    if isinstance(value, numbers.Real):
        if len(names) == 1 and value:
            raise ValueError(
                "A float for `decay_to_start` leaves out the head, and there is no other group. "
                f"Give a list with one float. Received: decay_to_start={value!r}"
            )
        value = [value] * (len(names) - 1) + [0.0]
    return _checked("decay_to_start", value, names, may_be_schedule=False)


def _checked(
    argument: str, values: Any, names: Sequence[str], *, may_be_schedule: bool
) -> list[Any] | None:
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, Mapping):
        values = in_group_order(argument, values, names)
    if isinstance(values, str) or not isinstance(values, Sequence):
        schedule = ", a `LearningRateSchedule`" if may_be_schedule else ""
        raise TypeError(
            f"Argument `{argument}` should be a float{schedule}, or one per group, as a list or a "
            f"dict by group name. Received: {argument}={values!r}"
        )
    if len(values) != len(names):
        raise ValueError(
            f"Argument `{argument}` should hold one value for each of the {len(names)} groups. "
            f"Received {len(values)}: {argument}={values!r}"
        )
    return [
        value
        if may_be_schedule and isinstance(value, LearningRateSchedule)
        else check_number(argument, value)
        for value in values
    ]


def set_weight_decays(
    inner: Sequence[keras.optimizers.Optimizer],
    decays: Sequence[Decay],
    scheduled: ScheduledValues,
    *,
    replace: bool,
) -> None:
    """Give each inner optimizer the weight decay of its group.

    Args:
        inner: The inner optimizers.
        decays: One per group; an inner optimizer applies it at the group's own rate.
        scheduled: Makes views of schedules.
        replace: Whether a decay that an inner optimizer has already is replaced.

    Raises:
        ValueError: If an inner optimizer has a decay already, and it is not to be replaced.
    """
    for one in inner:
        if one.weight_decay and not replace:
            raise ValueError(
                f"Optimizer {one.name!r} has weight_decay={one.weight_decay!r}, and "
                "`MultiGroupOptimizer` was given `weight_decay` too. Give it once."
            )
    for one, decay in zip(inner, decays):
        is_schedule = isinstance(decay, LearningRateSchedule)
        one.weight_decay = scheduled.view(decay) if is_schedule else decay or None
