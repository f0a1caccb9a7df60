"""Peak rates chosen for the user: `learning_rate="auto"`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import keras
import numpy as np

from dlr_tf.core.learning_rates import resolve_learning_rates
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.lr_finder import LearningRateSweep

# What follows is measured in `benchmarks/transfer`.
RATIO = 10.0  # of the head's rate to that of the first group
TYPICAL_ADAM_RATE = 10**-3.5  # for Adam: on average over the groups, in the geometric sense
HEAD_START_RATE = 10**-3.75  # for Adam and all groups, after a head start
MAX_FACTOR = 3.0  # the rate that a range test suggests can be wrong by this factor


@dataclasses.dataclass(frozen=True)
class RateChoice:
    """Peak rates, and why they are these.

    Args:
        rates: The peak rate of each group, the head's last.
        suggestion: The head's rate that the sweep suggests; `None` if the loss falls at no rate.
        typical: As for `typical_adam_rates`.
        may_raise: As for `rates_near`. Defaults to `True`.
    """

    rates: tuple[float, ...]
    suggestion: float | None
    typical: float = TYPICAL_ADAM_RATE
    may_raise: bool = True

    def line(self) -> str:
        """Return one line that says what was chosen and why."""
        rates = sorted({*self.rates})
        shown = rates if len(rates) <= 4 else [rates[0], rates[-1]]
        each = (" / " if shown is rates else " to ").join(f"{rate:.2g}" for rate in shown)
        several = len(rates) > 1
        if self.suggestion is None:
            what = "the range test found no rate at which the loss falls: taking"
            return f"{what} {each}, which {'are' if several else 'is'} usual for Adam"
        low, high = self.suggestion / MAX_FACTOR, self.suggestion * MAX_FACTOR
        usual = typical_adam_rates(self.rates, self.typical)[-1]
        allowed = f"{low:.2g} to {high:.2g}" if self.may_raise else f"at most {high:.2g}"
        return (
            f"peak learning rate{'s' if several else ''} {each}: {'for the head, ' * several}"
            f"{usual:.2g} is usual for Adam, and a range test allows {allowed}"
        )


def typical_adam_rates(
    ratios: Sequence[float], typical: float = TYPICAL_ADAM_RATE
) -> tuple[float, ...]:
    """Return rates in these ratios whose geometric mean is the usual rate of Adam, 3.2e-4.

    Args:
        ratios: The rates of the groups in relation to each other, above 0.
        typical: Another usual rate, above 0.

    >>> [f"{rate:.1e}" for rate in typical_adam_rates([0.1, 1.0])]
    ['1.0e-04', '1.0e-03']
    """
    head = typical / statistics.geometric_mean(ratios)
    return tuple(head * ratio for ratio in ratios)


def has_usual_rates(optimizer: MultiGroupOptimizer) -> bool:
    """Return whether the usual rates of Adam are usual for the optimizers of all groups."""
    kinds = (keras.optimizers.Adam, keras.optimizers.Nadam)
    return all(isinstance(one, kinds) for one in optimizer.group_optimizers)


def rates_near(
    suggestion: float,
    ratios: Sequence[float],
    typical: float = TYPICAL_ADAM_RATE,
    *,
    may_raise: bool = True,
) -> tuple[float, ...]:
    """Return the rates that are nearest to the usual ones and near what a sweep suggests.

    The usual rates of Adam have the geometric mean 3.2e-4. The head's rate is at most 3 times and
    at least a third of the suggestion.

    Args:
        suggestion: Float above 0: the head's rate that a sweep suggests.
        ratios: The ratio of the rate of each group to that of the head.
        typical: As for `typical_adam_rates`.
        may_raise: Whether the usual rates can be raised. Without it, as after a head start, the
            suggestion is only a limit. Defaults to `True`.

    >>> [f"{rate:.1e}" for rate in rates_near(5e-4, [0.01, 0.1, 1.0])]
    ['1.5e-05', '1.5e-04', '1.5e-03']
    >>> [f"{rates_near(suggestion, [1.0])[0]:.1e}" for suggestion in (1e-5, 2e-4, 1.0)]
    ['3.0e-05', '3.2e-04', '3.3e-01']
    """
    usual = typical_adam_rates(ratios, typical)[-1] / ratios[-1]
    lowest = suggestion / MAX_FACTOR if may_raise else 0.0
    head = min(max(usual, lowest), suggestion * MAX_FACTOR)
    return tuple(head * ratio for ratio in ratios)


def rates_from_sweep(
    sweep: LearningRateSweep,
    ratios: Sequence[float],
    typical: float = TYPICAL_ADAM_RATE,
    *,
    may_raise: bool = True,
) -> RateChoice:
    """Choose the peak rates from a range test.

    It suggests a tenth of the head's rate with the lowest loss. Of the rates within a factor of 3
    of that, the one nearest to the usual rate is chosen: see `rates_near`. If the loss falls at no
    rate, as on noise or where everything is learned, these are the usual rates.

    Args:
        sweep: The sweep.
        ratios: The ratio of the rate of each group to that of the head.
        typical: As for `typical_adam_rates`.
        may_raise: As for `rates_near`.

    Raises:
        ValueError: If the loss is not finite at the usual rate, or below.
    """
    try:
        suggestion = sweep.suggest("minimum")
    except ValueError:
        rates = typical_adam_rates(ratios, typical)
        lost = sweep.learning_rates[~np.isfinite(sweep.losses)]
        if len(lost) and lost[0] <= rates[-1]:
            reason = f"The loss is not finite at the rate {lost[0]:.1e}."
            raise ValueError(
                "`learning_rate='auto'` finds no learning rate for this model and these data. "
                f"{reason} Check the data and the loss, or pass `learning_rate`."
            ) from ValueError(reason)
        return RateChoice(rates, None, typical, may_raise)
    rates = rates_near(suggestion, ratios, typical, may_raise=may_raise)
    return RateChoice(rates, suggestion, typical, may_raise)


def relative_rates(n_groups: int) -> list[float]:
    """Return the rates of the groups in the ratios that `"auto"` keeps; the head's is 1.

    >>> [f"{rate:.3f}" for rate in relative_rates(3)], relative_rates(1)
    (['0.100', '0.316', '1.000'], [1.0])
    """
    return [float(rate) for rate in resolve_learning_rates(slice(1.0 / RATIO, 1.0), n_groups)]
