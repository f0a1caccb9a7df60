"""Suggestions from curves, without a model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlr_tf.training.lr_suggestions import SUGGESTIONS, minimum, slide, steep, valley


def fastai_curve() -> tuple[np.ndarray, np.ndarray]:
    rates = 1e-7 * 1e8 ** (np.arange(100) / 100)
    x = np.log10(rates)
    losses = np.where(x < -1.5, 2.3 - 1.8 / (1 + np.exp(-3 * (x + 3.5))), 0.5 + 2 * (x + 1.5) ** 2)
    return rates, losses


def quadratic_valley(rates, losses):
    """The longest falling subsequence by comparing every pair of points."""
    lengths = [1] * len(losses)
    last = 0
    for i in range(len(losses)):
        for j in range(i):
            if losses[i] < losses[j]:
                lengths[i] = max(lengths[i], lengths[j] + 1)
        if lengths[i] > lengths[last]:
            last = i
    section = lengths[last] / 3
    return rates[max(0, last - lengths[last] + int(section) + int(section / 2))]


@pytest.mark.parametrize("seed", range(20))
def test_valley_finds_the_longest_fall_of_a_noisy_curve(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 80))
    losses = generator.integers(0, 12, count) + np.linspace(3, 0, count).round(1)
    losses[0] = 20.0
    rates = np.geomspace(1e-6, 1, count)
    assert valley(rates, losses) == quadratic_valley(rates, losses)


FALLING = np.linspace(3, 1, 30)
CURVES = {
    "empty": [],
    "one point": [1.0],
    "all NaN": [math.nan] * 30,
    "all infinite": [math.inf] * 30,
    "all rising": FALLING[::-1],
    "flat": [1.0] * 30,
    # As of a trained model, whose first batch happens to be easy.
    "lowest at its start": [0.017, *(0.03 - 0.0001 * (n % 3) for n in range(29))],
}


@pytest.mark.parametrize("method", SUGGESTIONS)
@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_without_an_answer_says_so(method, curve):
    losses = CURVES[curve]
    rates = np.geomspace(1e-5, 1, len(losses))
    with pytest.raises(ValueError, match="points with a finite loss|never falls"):
        SUGGESTIONS[method](rates, losses)


@pytest.mark.parametrize("method", SUGGESTIONS)
def test_a_falling_curve_has_every_answer(method):
    rates = np.geomspace(1e-5, 1, 30)
    assert 1e-6 <= SUGGESTIONS[method](rates, FALLING) <= 1


def test_two_points_are_enough_where_no_window_is_needed():
    assert [f([1e-3, 1e-2], [2.0, 1.0]) for f in (valley, steep)] == [1e-3, 1e-3]
    assert minimum([1e-3, 1e-2], [2.0, 1.0]) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="at least 16 points"):
        slide([1e-3, 1e-2], [2.0, 1.0])


@pytest.mark.parametrize("method", SUGGESTIONS)
def test_points_that_are_not_finite_count_for_nothing(method):
    rates, losses = fastai_curve()
    bad = np.ones(100, bool)
    bad[[20, 97, 98, 99]] = False
    with_nan = np.where(bad, losses, np.nan)
    assert SUGGESTIONS[method](rates, with_nan) == SUGGESTIONS[method](rates[bad], losses[bad])


def test_slide_stops_at_the_left_end():
    x = np.arange(20.0)
    assert slide(np.geomspace(1e-5, 1, 20), np.exp(x) - 3 * x) == pytest.approx(1e-5)


def test_curves_that_are_none_are_refused():
    with pytest.raises(ValueError, match="should rise and be above 0"):
        steep([1e-2, 1e-3], [2.0, 1.0])
    with pytest.raises(ValueError, match="should rise and be above 0"):
        minimum([0.0, 1e-3], [2.0, 1.0])
