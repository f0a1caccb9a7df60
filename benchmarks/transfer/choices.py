"""Ways to choose the peak rates from the training part alone, without tuning."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.transfer.arms import Arm, peak_rates
from benchmarks.transfer.tasks import Part, choose, take
from benchmarks.transfer.training import Trainer
from dlr_tf.training import rate_choice
from dlr_tf.training.auto_rates import SWEEP, SweepSettings
from dlr_tf.training.loss_curve import LossCurve
from dlr_tf.training.lr_finder import LearningRateSweep

LONG = SweepSettings(steps=100, start=1e-6, end=1.0, smoothing=0.98)
SHORT = SweepSettings(steps=50, start=1e-5, end=1.0)
TRIAL_RATES = (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2)
TRIAL_EPOCHS = 2
HELD_OUT = 0.1


def by_auto(trainer: Trainer, arm: Arm, seed: int) -> Sequence[float]:
    """Choose as `learning_rate="auto"` does: the usual rates, if a short sweep allows them."""
    ratios = _ratios(trainer, arm)
    return rate_choice.rates_near(_sweep(trainer, arm, ratios, seed, SWEEP), ratios)


def by_usual(trainer: Trainer, arm: Arm, seed: int) -> Sequence[float]:
    """Take the usual rates, without a sweep."""
    return rate_choice.typical_adam_rates(_ratios(trainer, arm), arm.mean_rate)


def by_sweep(trainer: Trainer, arm: Arm, seed: int, sweep: SweepSettings = LONG) -> Sequence[float]:
    """Sweep the head's rate; the other groups keep their ratio to it."""
    ratios = _ratios(trainer, arm)
    return _sweep(trainer, arm, ratios, seed, sweep) * ratios


def by_sweeps(trainer: Trainer, arm: Arm, seed: int) -> Sequence[float]:
    """Sweep the rate of each group, while the others do not move."""
    each = np.eye(trainer.n_groups(arm))
    return [_sweep(trainer, arm, alone, seed, LONG) for alone in each]


def by_trials(trainer: Trainer, arm: Arm, seed: int) -> Sequence[float]:
    """Train for a few epochs at each of several rates, on nine tenths of the training part.

    The rate with the lowest loss on the last tenth is chosen.
    """
    held_out, rest = _held_out(trainer.task.split(seed).train, seed)
    losses = []
    for rate in TRIAL_RATES:
        peaks = peak_rates(arm, rate, trainer.n_groups(arm))
        trainer.train(arm, peaks, rest, seed, TRIAL_EPOCHS)
        probabilities = trainer.predict(held_out)
        right = probabilities[np.arange(len(held_out.y)), held_out.y]
        loss = float(-np.mean(np.log(np.maximum(right, 1e-7))))
        losses.append(loss if math.isfinite(loss) else math.inf)
    rate = TRIAL_RATES[int(np.argmin(losses))]
    return peak_rates(arm, rate, trainer.n_groups(arm))


def without_training(trainer: Trainer, arm: Arm, seed: int) -> Sequence[float]:
    """Give rates of 0, for an arm that has no training steps."""
    return [0.0] * trainer.n_groups(arm)


Choice = Callable[[Trainer, Arm, int], Sequence[float]]
CHOICES: dict[str, Choice] = {
    "auto": by_auto,
    "usual": by_usual,
    "sweep": by_sweep,
    "short sweep": functools.partial(by_sweep, sweep=SHORT),
    "sweeps": by_sweeps,
    "trials": by_trials,
    "none": without_training,
}


def _ratios(trainer: Trainer, arm: Arm) -> np.ndarray:
    return np.array(peak_rates(arm, 1.0, trainer.n_groups(arm)))


def _sweep(
    trainer: Trainer, arm: Arm, ratios: np.ndarray, seed: int, sweep: SweepSettings
) -> float:
    """Return the rate that the product's range test suggests for the head."""
    rates = sweep.rates()
    curve = LossCurve(sweep.smoothing, sweep.stop_factor)
    for loss in trainer.losses_at(arm, rates[:, None] * ratios, seed):
        if not curve.add(loss):
            break
    result = LearningRateSweep(rates[: len(curve.losses)], curve.losses)
    return result.suggest("minimum")


def _held_out(part: Part, seed: int) -> tuple[Part, Part]:
    """Return a tenth of the examples of each class, at least one, and the others."""
    smallest = min(np.bincount(part.y))
    return take(part, choose(part.y, max(1, round(HELD_OUT * smallest)), seed))
