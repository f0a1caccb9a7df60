"""The schedules that fine-tuning knows by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from dlr_tf._names import SCHEDULES, did_you_mean
from dlr_tf.core._validation import check_integer, check_number
from dlr_tf.core.learning_rates import Rate
from dlr_tf.core.schedules import SGDR, OneCycle, WarmUp, cycle_length


def make_schedule(
    name: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    cycle_epochs: float | None = None,
    t_mul: float = 2.0,
    warmup: float = 0,
) -> Callable[[float], Rate]:
    """Make the function from a group's peak rate to its schedule over a training.

    Args:
        name: `"sgdr"`, `"onecycle"`, `"linear"` (a straight fall to 0, as most recipes for
            transformers use with a warm-up), `"cosine"` (half a cosine to 0) or `"constant"`.
        steps_per_epoch: Int, 1 or more: steps in an epoch.
        epochs: Int, 1 or more: all epochs of the training.
        cycle_epochs: Float above 0, for `"sgdr"`: length of the first cycle in epochs. Defaults to
            the length, at least one epoch, for which the last cycle ends with the training.
        t_mul: Float, 1 or more, for `"sgdr"`: each cycle is this many times longer than the one
            before. Defaults to 2.
        warmup: Steps of a linear rise from 0 before the schedule, which then fills the rest of the
            training: an int, or a float below 1 as a share of all steps. Defaults to 0.

    Returns:
        A function that takes a rate and returns a `LearningRateSchedule`, or the rate itself.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the name is unknown, a number is out of range, or the warm-up leaves no step.

    Example:

    >>> rate = make_schedule("sgdr", steps_per_epoch=10, epochs=7)(1e-3)
    >>> rate.restart_steps(71)
    [0, 10, 30, 70]
    >>> rate = make_schedule("linear", steps_per_epoch=10, epochs=2, warmup=0.2)(1.0)
    >>> [float(rate(step)) for step in (0, 2, 4, 12, 20)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    check_name(name)
    steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, minimum=1)
    epochs = check_integer("epochs", epochs, minimum=1)
    return schedule_over(
        name,
        steps_per_epoch * epochs,
        epochs,
        cycle_epochs=cycle_epochs,
        t_mul=t_mul,
        warmup=warmup,
    )


def check_name(name: str) -> None:
    """Raise if there is no schedule of this name."""
    if name not in SCHEDULES:
        raise ValueError(
            f"Argument `schedule` should be one of {SCHEDULES}, a function from a rate to a "
            "`LearningRateSchedule`, or a list with one per group. "
            f"Received: schedule={name!r}.{did_you_mean(str(name), SCHEDULES)}"
        )


def schedule_over(
    name: str,
    total: int,
    epochs: int,
    *,
    cycle_epochs: float | None = None,
    t_mul: float = 2.0,
    warmup: float = 0,
) -> Callable[[float], Rate]:
    """Make what `make_schedule` makes, for a training of `total` steps, from checked arguments."""
    warmup_steps = _warmup_steps(warmup, total)
    steps = total - warmup_steps
    if name == "sgdr":
        first = _first_cycle(steps, total / epochs, epochs, cycle_epochs, t_mul)
        return lambda rate: SGDR(rate, first, t_mul=t_mul, warmup_steps=warmup_steps)
    decays = keras.optimizers.schedules
    after: dict[str, Callable[[float], Rate]] = {
        "constant": lambda rate: rate,
        "onecycle": lambda rate: OneCycle(rate, max(2, steps)),
        "linear": lambda rate: decays.PolynomialDecay(rate, steps, end_learning_rate=0.0),
        "cosine": lambda rate: decays.CosineDecay(rate, steps),
    }
    if not warmup_steps:
        return after[name]
    return lambda rate: WarmUp(after[name](rate), warmup_steps)


def _warmup_steps(warmup: float, total: int) -> int:
    share = check_number("warmup", warmup)
    steps = round(share * total) if share < 1 else check_integer("warmup", warmup)
    if steps >= total:
        raise ValueError(
            f"Argument `warmup` should leave steps of the training, which has {total}. Give fewer "
            f"steps, or a share below 1. Received: warmup={warmup!r}"
        )
    return steps


def _first_cycle(
    total: int, steps_per_epoch: float, epochs: int, cycle_epochs: float | None, t_mul: float
) -> int:
    if check_number("t_mul", t_mul) < 1:
        raise ValueError(f"Argument `t_mul` should be at least 1. Received: t_mul={t_mul!r}")
    if cycle_epochs is None:
        return first_cycle_steps(total, epochs, t_mul)
    if not check_number("cycle_epochs", cycle_epochs) > 0:
        raise ValueError(
            "Argument `cycle_epochs` should be a number of epochs above 0. "
            f"Received: cycle_epochs={cycle_epochs!r}"
        )
    return max(1, round(cycle_epochs * steps_per_epoch))


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
