"""Means over seeds, and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of a sample and its confidence interval, for values that are about normal.

        mean +- t * s / sqrt(n)

    with the sample's standard deviation `s` and the quantile `t` of Student's distribution with
    `n - 1` degrees of freedom. The interval of one value is infinite.

    Args:
        values: The sample, at least one value.
        confidence: Float between 0 and 1. Defaults to 0.95.

    Raises:
        ValueError: If there is no value.

    Example:

    >>> [round(end, 4) for end in t_interval([1.0, 2.0, 3.0])]  # t = 4.3027, s = 1
    [2.0, -0.4841, 4.4841]

    Source: Student, 1908, https://doi.org/10.1093/biomet/6.1.1.
    """
    if not values:
        raise ValueError("Argument `values` should have at least one value. Received: values=[]")
    mean = statistics.mean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    from scipy import stats

    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Return the mean of the differences between two samples, pair by pair, and its interval.

    Args:
        ours: One value per seed.
        theirs: The values of the same seeds, in the same order.
        confidence: Float between 0 and 1. Defaults to 0.95.

    Raises:
        ValueError: If there is no pair, or the lengths differ.

    Example:

    >>> paired_interval([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]).mean > 0.09
    True
    """
    if len(ours) != len(theirs):
        raise ValueError(
            "Both samples should have one value per seed. "
            f"Received: {len(ours)} and {len(theirs)} values"
        )
    return t_interval([one - other for one, other in zip(ours, theirs)], confidence)


def average_interval(samples: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval:
    """Return the average of the means of several samples, each with the same weight.

        mean +- t * sqrt(sum(s_i^2 / n_i)) / k

    with the degrees of freedom of Welch and Satterthwaite.

    Args:
        samples: One sample per task, each with at least two values.
        confidence: Float between 0 and 1. Defaults to 0.95.

    Example:

    >>> [round(end, 4) for end in average_interval([[1.0, 2.0, 3.0]])]  # that of one sample
    [2.0, -0.4841, 4.4841]

    Source: Welch, 1947, https://doi.org/10.1093/biomet/34.1-2.28.
    """
    from scipy import stats

    squares = [statistics.variance(values) / len(values) for values in samples]
    total = sum(squares)
    mean = statistics.mean(statistics.mean(values) for values in samples)
    if total == 0.0:
        return Interval(mean, mean, mean)
    parts = [square**2 / (len(values) - 1) for square, values in zip(squares, samples)]
    quantile = float(stats.t.ppf((1 + confidence) / 2, total**2 / sum(parts)))
    half = quantile * math.sqrt(total) / len(samples)
    return Interval(mean, mean - half, mean + half)


def first_at_least(values: Sequence[float], goal: float) -> int | None:
    """Return the number, counted from 1, of the first value that reaches a goal; `None` if none.

    >>> first_at_least([0.5, 0.8, 0.7, 0.9], 0.8), first_at_least([0.5], 0.8)
    (2, None)
    """
    return next((number for number, value in enumerate(values, 1) if value >= goal), None)
