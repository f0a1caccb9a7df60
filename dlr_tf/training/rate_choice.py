"""Peak rates chosen for the user: `learning_rate="auto"`."""

from __future__ import annotations

import dataclasses
import statistics
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from dlr_tf.core.learning_rates import resolve_learning_rates
from dlr_tf.training.lr_finder import LearningRateSweep, find_learning_rate
from dlr_tf.training.training_data import fit_arguments, is_in_batches, trained_on

# What follows is measured in `benchmarks/transfer`.
RATIO = 10.0  # of the head's rate to that of the first group
USUAL = 10**-3.5  # for Adam: on average over the groups, in the geometric sense
WITHIN = 3.0  # the rate that a range test suggests can be wrong by this factor


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """The settings of a range test.

    Args:
        steps: Int: number of optimizer steps.
        start: Float: the head's rate in the first step.
        end: Float: its rate in the last step.
        smoothing: Float: weight of the past in the smoothed loss.
        stop_factor: Float: the test ends when the smoothed loss exceeds its lowest value so many
            times.
    """

    steps: int = 60
    start: float = 1e-5
    end: float = 10.0
    smoothing: float = 0.968  # over a factor of 10 of the rate, the weight of `find_learning_rate`
    stop_factor: float = 4.0

    def rates(self) -> np.ndarray:
        """Return the head's rate in each step, float64 of shape `(steps,)`."""
        return np.geomspace(self.start, self.end, self.steps)


SWEEP = SweepSettings()


@dataclasses.dataclass(frozen=True, eq=False)
class RateChoice:
    """Peak rates, and the sweep that they come from.

    Args:
        rates: The peak rate of each group, the head's last.
        suggestion: The head's rate that the sweep suggests.
        sweep: The sweep.
    """

    rates: tuple[float, ...]
    suggestion: float
    sweep: LearningRateSweep

    def line(self) -> str:
        """Return one line that says what was chosen and why."""
        rates = sorted({*self.rates})
        shown = rates if len(rates) <= 4 else [rates[0], rates[-1]]
        each = (" / " if shown is rates else " to ").join(f"{rate:.2g}" for rate in shown)
        low, high = self.suggestion / WITHIN, self.suggestion * WITHIN
        usual = usual_rates(self.rates)[-1]
        several = len(rates) > 1
        return (
            f"peak learning rate{'s' if several else ''} {each}: {'for the head, ' * several}"
            f"{usual:.2g} is usual for Adam, and a range test allows {low:.2g} to {high:.2g}"
        )


def usual_rates(ratios: Sequence[float]) -> tuple[float, ...]:
    """Return rates in these ratios whose geometric mean is the usual rate of Adam, 3.2e-4.

    Args:
        ratios: The rates of the groups in relation to each other, above 0.

    >>> [f"{rate:.1e}" for rate in usual_rates([0.1, 1.0])]
    ['1.0e-04', '1.0e-03']
    """
    head = USUAL / statistics.geometric_mean(ratios)
    return tuple(head * ratio for ratio in ratios)


def rates_near(suggestion: float, ratios: Sequence[float]) -> tuple[float, ...]:
    """Return the rates that are nearest to the usual ones and near what a sweep suggests.

    The usual rates of Adam have the geometric mean 3.2e-4. The head's rate is at most 3 times and
    at least a third of the suggestion.

    Args:
        suggestion: Float above 0: the head's rate that a sweep suggests.
        ratios: The ratio of the rate of each group to that of the head.

    >>> [f"{rate:.1e}" for rate in rates_near(5e-4, [0.01, 0.1, 1.0])]
    ['1.5e-05', '1.5e-04', '1.5e-03']
    >>> [f"{rates_near(suggestion, [1.0])[0]:.1e}" for suggestion in (1e-5, 2e-4, 1.0)]
    ['3.0e-05', '3.2e-04', '3.3e-01']
    """
    usual = usual_rates(ratios)[-1] / ratios[-1]
    head = min(max(usual, suggestion / WITHIN), suggestion * WITHIN)
    return tuple(head * ratio for ratio in ratios)


def range_test(
    model: keras.Model,
    train_data: Any,
    fit: Mapping[str, Any],
    verbose: int | str = 0,
    settings: SweepSettings = SWEEP,
) -> LearningRateSweep:
    """Sweep the rate of the head for `rates_from_sweep`, and leave the model as it was.

    What is trained in the test is what is trainable now.

    Args:
        model: A model that is compiled with a `MultiGroupOptimizer`. Its rates keep their ratios.
        train_data: As in `fine_tune`, but not a generator.
        fit: The arguments for `fit`. The test takes the batch size, the weights and the validation
            split from them.
        verbose: As in `find_learning_rate`. Defaults to 0: no progress bar.
        settings: The settings of the range test.

    Raises:
        TypeError: If the data can be read only once.
        ValueError: If the data have no batch.

    Example:

    >>> import keras
    >>> from dlr_tf import MultiGroupOptimizer, split_layers
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu"),
    ...     keras.layers.Dense(1, name="top"),
    ... ])
    >>> ratios = relative_rates(2)
    >>> model.compile(MultiGroupOptimizer(split_layers(model, ["top"]), ratios), loss="mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> sweep = range_test(model, (x, x.sum(axis=1)), {"batch_size": 16})
    >>> choice = rates_from_sweep(sweep, ratios)
    >>> [round(rate / choice.rates[-1], 6) for rate in choice.rates]
    [0.1, 1.0]

    Source: `benchmarks/transfer`, which compares this choice with tuned rates.
    """
    if isinstance(train_data, types.GeneratorType):
        raise TypeError(
            "`learning_rate='auto'` reads the data before the training, and a generator can be "
            "read only once. Pass a `tf.data.Dataset`, a `keras.utils.PyDataset` or arrays, or "
            f"pass the learning rates. Received: {train_data!r}"
        )
    arguments = fit_arguments(train_data, fit)
    names = ("x", "y", "sample_weight")
    data: dict[str, Any] = {name: arguments.get(name) for name in names}
    if not is_in_batches(data["x"]):
        if fit.get("validation_split"):
            data = trained_on(data, fit["validation_split"])
        data["batch_size"] = fit.get("batch_size")
    return find_learning_rate(
        model,
        **data,
        class_weight=fit.get("class_weight"),
        verbose=verbose,
        **dataclasses.asdict(settings),
    )


def rates_from_sweep(sweep: LearningRateSweep, ratios: Sequence[float]) -> RateChoice:
    """Choose the peak rates from a range test.

    It suggests a tenth of the head's rate with the lowest loss. Of the rates within a factor of 3
    of that, the one nearest to the usual rate is chosen: see `rates_near`.

    Args:
        sweep: The sweep.
        ratios: The ratio of the rate of each group to that of the head.

    Raises:
        ValueError: If no rate can be suggested.
    """
    try:
        suggestion = sweep.suggest("minimum")
    except ValueError as error:
        raise ValueError(
            "`learning_rate='auto'` finds no learning rate for this model and these data. Check "
            f"that the loss is finite, or pass `learning_rate`. {error.__cause__ or error}"
        ) from error
    return RateChoice(rates_near(suggestion, ratios), suggestion, sweep)


def relative_rates(n_groups: int) -> list[float]:
    """Return the rates of the groups in the ratios that `"auto"` keeps; the head's is 1.

    >>> [f"{rate:.3f}" for rate in relative_rates(3)], relative_rates(1)
    (['0.100', '0.316', '1.000'], [1.0])
    """
    return [float(rate) for rate in resolve_learning_rates(slice(1.0 / RATIO, 1.0), n_groups)]
