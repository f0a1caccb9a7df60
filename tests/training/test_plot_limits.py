"""Which losses a plot shows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlr_tf.training.plotting.limits import highest_shown_loss, highest_shown_step_loss

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("curves", "highest"),
    [
        ([[2.3, 0.9, 0.1, 0.05], [0.8, 0.5, 0.1, 0.1]], 2.3),  # an ordinary training, all of it
        ([[0.9, 0.5, 0.2, 0.1], [0.6, 0.5, 1.0, 2.0]], 2.0),  # overfitting, all of it
        ([[1.0, 0.8, 8.0, 0.7]], 1.0),  # a late outlier
        ([[50.0, 0.5, 0.4], [40.0, 0.5, 0.4]], 0.5),  # an early one
        ([[7.4, 1.6, 1.4], [1.6, 1.5, 1.0]], 1.6),
        ([[1.8, 1.7, 1e6, INF, NAN]], 1.8),
        ([[1.8, 1.0], [1.5, 0.9], [1e6, 1e7], [1e6, NAN]], 1.8),  # the other run diverged
        ([[1e6, 1e7]], 1e7),  # nothing else to see
        ([[-1.0, -5.0, 3.0]], 3.0),
        ([[NAN, NAN, 3.0]], 3.0),
        ([[1.5]], 1.5),
    ],
)
def test_losses_of_epochs(curves: list[list[float]], highest: float) -> None:
    assert highest_shown_loss(curves) == highest


@pytest.mark.parametrize(
    ("losses", "highest"),
    [
        (np.linspace(2.0, 1.0, 50), 2.0),
        ([*np.linspace(2.0, 1.0, 50), 90.0], 2 - 2 / 49),
        ([*[1.0] * 20, 90.0, INF, NAN], 1.0),
        ([2.3, 1.9, 4.0], 4.0),  # too few to call one an outlier
        ([1.0] * 12, 1.0),
    ],
)
def test_losses_of_steps(losses: list[float], highest: float) -> None:
    assert highest_shown_step_loss(losses) == pytest.approx(highest)


def test_no_finite_loss() -> None:
    assert math.isnan(highest_shown_loss([[NAN], []]))
    assert math.isnan(highest_shown_loss([]))
    assert math.isnan(highest_shown_step_loss([INF]))
