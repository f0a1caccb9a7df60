"""What the argument `learning_rate` means: one rate or schedule per group, and layer-wise decay."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.core._validation import check_number, warn_user
from dlr_tf.core.groups import LayerGroup, check_groups
from dlr_tf.core.schedules import LARGEST_RATE, known_peak

Rate: TypeAlias = "float | LearningRateSchedule"


class SavedRates(list[Any]):
    """One rate per group from a configuration: nobody typed them, so no warning is given."""


def resolve_learning_rates(
    learning_rate: Any, n_groups: int, names: Sequence[str] = ()
) -> list[Rate]:
    """Return the rate or schedule of every group.

    Args:
        learning_rate: As in `MultiGroupOptimizer`.
        n_groups: Number of groups, at least 1.
        names: The names of the groups, for a dict.

    Raises:
        TypeError: If a rate is neither a number nor a schedule.
        ValueError: If a rate is negative or not finite, an end of a geometric range is 0, the
            sequence does not have one rate per group, or the dict does not name each group.

    Example:

    >>> resolve_learning_rates(slice(1e-3), 3)
    [0.0001, 0.0001, 0.001]
    >>> [f"{rate:.0e}" for rate in resolve_learning_rates(slice(1e-5, 1e-3), 3)]
    ['1e-05', '1e-04', '1e-03']
    """
    if isinstance(learning_rate, slice):
        return list(_from_slice(learning_rate, n_groups))
    if isinstance(learning_rate, np.ndarray):
        learning_rate = learning_rate.tolist()
    if isinstance(learning_rate, Mapping):
        learning_rate = in_group_order("learning_rate", learning_rate, names)
    if isinstance(learning_rate, (LearningRateSchedule, numbers.Real)):
        return [check_rate(learning_rate)] * n_groups
    if isinstance(learning_rate, Sequence) and not isinstance(learning_rate, str):
        rates = [check_rate(rate) for rate in learning_rate]
        if len(rates) != n_groups:
            raise ValueError(
                f"Argument `learning_rate` should hold one rate per group: {n_groups} groups, "
                f"{n_groups} rates. Received {len(rates)} rates: learning_rate={learning_rate}"
            )
        return rates
    raise TypeError(
        "Argument `learning_rate` should be a float, a `LearningRateSchedule`, a `slice`, or a "
        "list, or a dict by the groups' names, with one of the first two per group. "
        f"Received: learning_rate={learning_rate!r}"
    )


def in_group_order(argument: str, by_name: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return the values of a dict by group name, in the order of the groups.

    Args:
        argument: Name of the argument, for the message.
        by_name: The value of each group, by its name.
        names: The names of the groups.

    Raises:
        ValueError: If a group is missing, or a name is not that of a group.

    >>> in_group_order("learning_rate", {"head": 0.1, "body": 0.01}, ["body", "head"])
    [0.01, 0.1]
    """
    missing = [name for name in names if name not in by_name]
    unknown = [name for name in by_name if name not in names]
    if missing or unknown:
        hint = did_you_mean(str(unknown[0]), missing or names) if unknown else ""
        raise ValueError(
            f"Argument `{argument}` should be a dict with one value for each of the groups "
            f"{some_of(names)}. Missing: {some_of(missing)}. Not a group: {some_of(unknown)}.{hint}"
        )
    return [by_name[name] for name in names]


def warn_if_rates_fall(names: Sequence[str], rates: Sequence[Any]) -> None:
    """Warn of rates that fall from the first group to the head, which is often a mistake.

    Args:
        names: The names of the groups.
        rates: The rate, schedule or function of each group. The peak of a schedule counts, where
            it is known.
    """
    peaks = [known_peak(rate) if callable(rate) else rate for rate in rates]
    for number in range(1, len(peaks)):
        before, after = peaks[number - 1 : number + 1]
        if before is not None and after is not None and before > after:
            warn_user(
                f"The learning rates fall from group {names[number - 1]!r} ({before:g}) to "
                f"group {names[number]!r} ({after:g}), but early layers usually need the "
                "lowest rate. Give the rates from the first group to the head."
            )
            return


def layerwise_rates(groups: Sequence[LayerGroup], head: float, decay: float) -> list[float]:
    """Return rates that fall by one factor from each group to the group before it.

    The rate of group `i` of `n` is `head * decay**(n - 1 - i)`.

    Use it with `split_layerwise`. With few large groups, `slice(lo, hi)` is easier to choose.

    Args:
        groups: The groups, first to last, as `split_*` return them.
        head: Rate of the last group, above 0.
        decay: Factor from a group to the one before it, above 0 and at most 1. For transformers,
            0.65 to 0.9 is usual.

    Returns:
        One float per group, first to last: what `MultiGroupOptimizer` takes as `learning_rate`.

    Raises:
        TypeError: If `groups` is not a sequence of `LayerGroup`, or `head` or `decay` not a number.
        ValueError: If `head` or `decay` is out of range.

    Example:

    >>> import keras
    >>> from dlr_tf import split_layerwise
    >>> model = keras.Sequential([keras.Input((4,))] + [
    ...     keras.layers.Dense(4, name=name) for name in ("a", "b", "c")])
    >>> layerwise_rates(split_layerwise(model), head=0.5, decay=0.5)
    [0.125, 0.25, 0.5]

    Source: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146, section 3.2 (discriminative
    fine-tuning); Clark et al., 2020, https://arxiv.org/abs/2003.10555, fine-tuning details (a decay
    of 0.8 or 0.9 per layer of a transformer).
    """
    count = len(check_groups(groups))
    head = check_number("head", head, maximum=LARGEST_RATE)
    if not head:
        raise ValueError(f"Argument `head` should be above 0. Received: head={head}")
    decay = check_number("decay", decay)
    if not 0 < decay <= 1:
        raise ValueError(
            f"Argument `decay` should be above 0 and at most 1. Received: decay={decay}"
        )
    return [head * decay ** (count - 1 - number) for number in range(count)]


def check_rate(rate: Any) -> Rate:
    """Return a rate as a float, or the schedule as it is.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is negative or not finite.
    """
    if isinstance(rate, LearningRateSchedule):
        return rate
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(
            "A learning rate should be a float or a `LearningRateSchedule`. "
            f"Received: {rate!r} of type {type(rate).__name__}"
        )
    value = float(rate)
    # Every comparison with NaN is false.
    if not 0 <= value <= LARGEST_RATE:
        raise ValueError(
            f"A learning rate should be finite and not negative. Received: learning_rate={value}"
        )
    return value


def _from_slice(bounds: slice, n_groups: int) -> Sequence[float]:
    low, high = bounds.start, bounds.stop
    if bounds.step is not None or high is None:
        raise ValueError(
            "A slice of learning rates should be `slice(lo, hi)` or `slice(hi)`. "
            f"Received: learning_rate={bounds}"
        )
    if isinstance(low, LearningRateSchedule) or isinstance(high, LearningRateSchedule):
        raise TypeError(
            "The ends of a slice of learning rates should be floats; give schedules as a list, one "
            f"per group. Received: learning_rate={bounds}"
        )
    high = check_rate(high)
    if low is None:
        return [high / 10] * (n_groups - 1) + [high]
    low = check_rate(low)
    if low <= 0 or high <= 0:
        raise ValueError(
            "Rates between the ends of `slice(lo, hi)` are geometric, so both should be above 0. "
            f"Received: learning_rate={bounds}"
        )
    if n_groups == 1:
        return [high]
    ratio = high / low
    rates = [low * ratio ** (number / (n_groups - 1)) for number in range(n_groups)]
    return [*rates[:-1], high]
