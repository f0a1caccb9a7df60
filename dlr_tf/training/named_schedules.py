"""The schedules that fine-tuning knows by name."""

from __future__ import annotations

import math
from collections.abc import Callable

from dlr_tf._names import SCHEDULES, did_you_mean
from dlr_tf.core._validation import check_integer, check_number
from dlr_tf.core.learning_rates import Rate
from dlr_tf.core.schedule_formulas import cycle_length
from dlr_tf.core.schedules import SGDR, OneCycle


def make_schedule(
    name: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    cycle_epochs: float | None = None,
    t_mul: float = 2.0,
) -> Callable[[float], Rate]:
    """Make the function from a group's peak rate to its schedule over a training.

    Args:
        name: `"sgdr"`, `"onecycle"` or `"constant"`.
        steps_per_epoch: Int, 1 or more: steps in an epoch.
        epochs: Int, 1 or more: all epochs of the training.
        cycle_epochs: Float above 0, for `"sgdr"`: length of the first cycle in epochs. Defaults to
            the length, at least one epoch, for which the last cycle ends with the training.
        t_mul: Float, 1 or more, for `"sgdr"`: each cycle is this many times longer than the one
            before. Defaults to 2.

    Returns:
        A function that takes a rate and returns a `LearningRateSchedule`, or the rate itself.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the name is unknown or a number is out of range.

    Example:

    >>> rate = make_schedule("sgdr", steps_per_epoch=10, epochs=7)(1e-3)
    >>> rate.restart_steps(71)
    [0, 10, 30, 70]
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"Argument `schedule` should be one of {SCHEDULES}, a function from a rate to a "
            "`LearningRateSchedule`, or a list with one per group. "
            f"Received: schedule={name!r}.{did_you_mean(str(name), SCHEDULES)}"
        )
    steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, minimum=1)
    epochs = check_integer("epochs", epochs, minimum=1)
    total = steps_per_epoch * epochs
    if name == "constant":
        return lambda rate: rate
    if name == "onecycle":
        return lambda rate: OneCycle(rate, max(2, total))
    if check_number("t_mul", t_mul) < 1:
        raise ValueError(f"Argument `t_mul` should be at least 1. Received: t_mul={t_mul!r}")
    if cycle_epochs is None:
        first = first_cycle_steps(total, epochs, t_mul)
    elif check_number("cycle_epochs", cycle_epochs) > 0:
        first = max(1, round(cycle_epochs * steps_per_epoch))
    else:
        raise ValueError(
            "Argument `cycle_epochs` should be a number of epochs above 0. "
            f"Received: cycle_epochs={cycle_epochs!r}"
        )
    return lambda rate: SGDR(rate, first, t_mul=t_mul)


def first_cycle_steps(total_steps: int, epochs: int, t_mul: float) -> int:
    """Return the length of the first SGDR cycle for which the last cycle ends at the last step.

    The number `n` of cycles is the number that fits into the epochs if the first cycle lasts one
    epoch. The result is the smallest length whose `n` cycles reach `total_steps`, so no cycle
    starts in the last few steps.

    Args:
        total_steps: Int, 1 or more: steps of the training.
        epochs: Int, 1 or more: epochs of the training.
        t_mul: Float, 1 or more: each cycle is this many times longer than the one before.

    >>> first_cycle_steps(70, 7, 2.0), first_cycle_steps(100, 10, 2.0)
    (10, 15)
    """
    cycles = 1
    while sum(t_mul**i for i in range(cycles + 1)) <= epochs:
        cycles += 1
    first = math.ceil(total_steps / sum(t_mul**i for i in range(cycles)))
    while sum(cycle_length(i, first, t_mul) for i in range(cycles)) < total_steps:
        first += 1
    return first


def ends_within_a_cycle(schedule: SGDR, total_steps: int) -> bool:
    """Return whether a training ends in the first nine tenths of a cycle, at a high rate.

    Args:
        schedule: The schedule.
        total_steps: Int, 1 or more: steps of the training.

    >>> [ends_within_a_cycle(SGDR(0.1, 10), steps) for steps in (29, 30, 31)]
    [False, False, True]
    """
    starts = schedule.restart_steps(total_steps)
    if not starts:
        return True  # within the warm-up
    length = cycle_length(len(starts) - 1, schedule.first_decay_steps, schedule.t_mul)
    return total_steps - starts[-1] < 0.9 * length
