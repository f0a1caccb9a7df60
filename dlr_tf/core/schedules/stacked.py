"""Schedules of several groups that are computed together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlr_tf.core.schedules.one_cycle import OneCycle
from dlr_tf.core.schedules.sgdr import SGDR
from dlr_tf.core.schedules.triangular import Triangular
from dlr_tf.core.schedules.warm_up import WarmUp

# The arguments that are rates. In each of them the formula is linear, so an array of rates gives an
# array of results. A subclass may have another formula, so it is not here.
_RATE_ARGUMENTS: dict[type, tuple[str, ...]] = {
    SGDR: ("initial_learning_rate",),
    OneCycle: ("max_learning_rate",),
    Triangular: ("base_learning_rate", "max_learning_rate"),
}


def stack_schedules(schedules: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Return which schedules to call in a step, so that nothing is computed twice.

    Schedules of one class of this package that differ only in their rates and names become one
    schedule, which computes the position in the cycle once.

    Args:
        schedules: One schedule, callable or `None` per group. The same one may be listed several
            times.

    Returns:
        Schedules, callables or `None`, each with the indices of its groups. The value of a schedule
        is one rate for all its groups, or, if it was stacked, a vector with one rate for each: the
        same bits as from the schedules themselves.

    >>> stacked = stack_schedules([SGDR(0.1, 5), None, SGDR(0.2, 5)])
    >>> [groups for _, groups in stacked]
    [[0, 2], [1]]
    >>> stacked[0][0](0).numpy().tolist() == [np.float32(0.1), np.float32(0.2)]
    True
    """
    by_key: dict[Any, list[int]] = {}
    for number, schedule in enumerate(schedules):
        by_key.setdefault(_stack_key(schedule), []).append(number)
    found = []
    for numbers in by_key.values():
        members = [schedules[number] for number in numbers]
        same = all(member is members[0] for member in members)
        found.append((members[0] if same else _stack(members), numbers))
    return found


def is_own(schedule: Any) -> bool:
    """Whether a schedule is one of this package, and not of a subclass with another formula.

    >>> import keras
    >>> is_own(SGDR(0.1, 5)), is_own(keras.optimizers.schedules.CosineDecay(0.1, 5))
    (True, False)
    """
    return type(schedule) is WarmUp or type(schedule) in _RATE_ARGUMENTS


def _stack_key(schedule: Any) -> Any:
    """Return a key that is equal for schedules which can be stacked."""
    if not is_own(schedule):
        return id(schedule)
    if isinstance(schedule, WarmUp):
        inner = schedule.schedule
        return WarmUp, schedule.warmup_steps, callable(inner) and _stack_key(inner)
    apart = (*_RATE_ARGUMENTS[type(schedule)], "name")
    shared = ((key, value) for key, value in schedule.get_config().items() if key not in apart)
    return (type(schedule), *shared)


def _stack(schedules: Sequence[Any]) -> Any:
    """Return one schedule of a scalar step with values of shape `(len(schedules),)`.

    If they are warm-ups of one schedule of another package, the value is one rate for all.
    """
    stacked = copy.copy(schedules[0])
    if isinstance(stacked, WarmUp):
        inner = [schedule.schedule for schedule in schedules]
        if not callable(inner[0]):
            stacked.schedule = np.array(inner, np.float64)
        elif is_own(inner[0]):
            stacked.schedule = _stack(inner)
        return stacked  # others have one key only if they are one object
    for name in _RATE_ARGUMENTS[type(stacked)]:
        setattr(stacked, name, np.array([getattr(s, name) for s in schedules], np.float64))
    return stacked
