"""Peak rates chosen for the user: `learning_rate="auto"`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from dlr_tf.core.learning_rates import resolve_learning_rates
from dlr_tf.training.lr_finder import LearningRateSweep, find_learning_rate
from dlr_tf.training.lr_suggestions import MEANINGS
from dlr_tf.training.training_data import fit_arguments, trained_on

AUTO = "auto"
# What follows is measured in `benchmarks/transfer`.
RATIO = 10.0  # of the head's rate to that of the first group
METHOD = "minimum"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The range test that a choice is made by.

    Args:
        steps: Int: number of optimizer steps.
        start: Float: the head's rate in the first step.
        end: Float: its rate in the last step.
        smoothing: Float: weight of the past in the smoothed loss.
        stop_factor: Float: the test ends when the smoothed loss exceeds its lowest value so many
            times.
    """

    steps: int = 100
    start: float = 1e-6
    end: float = 1.0
    smoothing: float = 0.98
    stop_factor: float = 4.0

    def rates(self) -> np.ndarray:
        """Return the head's rate in each step, float64 of shape `(steps,)`."""
        return np.geomspace(self.start, self.end, self.steps)


SWEEP = Sweep()


@dataclasses.dataclass(frozen=True, eq=False)
class RateChoice:
    """Peak rates, and the sweep that they come from.

    Args:
        rates: The peak rate of each group, the head's last.
        sweep: The sweep.
    """

    rates: tuple[float, ...]
    sweep: LearningRateSweep

    def line(self) -> str:
        """Return one line that says what was chosen and why."""
        each = " / ".join(f"{rate:.2g}" for rate in self.rates)
        one_group = len(self.rates) == 1
        return (
            f"learning rate{'' if one_group else 's'} {each}: "
            f"{'' if one_group else 'the head has '}{MEANINGS[METHOD]} in a range test of "
            f"{len(self.sweep.losses)} steps{'' if one_group else ', the others keep their ratio'}"
        )


def choose_rates(
    model: keras.Model, n_groups: int, train_data: Any, fit: Mapping[str, Any]
) -> RateChoice:
    """Choose the peak rates by a range test, and leave the model as it was.

    The rates of all groups keep the ratios of `relative_rates`. What is trained in the test is what
    is trainable now.

    Args:
        model: A model that is compiled with a `MultiGroupOptimizer` at these relative rates.
        n_groups: Int, 1 or more: the number of its groups.
        train_data: As in `fine_tune`, but not a generator.
        fit: The arguments for `fit`. The test takes the batch size, the weights and the validation
            split from them.

    Raises:
        TypeError: If the data can be read only once.
        ValueError: If no rate can be suggested.

    Example:

    >>> import keras
    >>> from dlr_tf import MultiGroupOptimizer, split_layers
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu"),
    ...     keras.layers.Dense(1, name="top"),
    ... ])
    >>> model.compile(
    ...     MultiGroupOptimizer(split_layers(model, ["top"]), relative_rates(2)), loss="mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> choice = choose_rates(model, 2, (x, x.sum(axis=1)), {"batch_size": 16})
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
    x, y, weights = (arguments.get(name) for name in ("x", "y", "sample_weight"))
    if isinstance(train_data, tuple):
        x, y, weights = trained_on(x, y, weights, fit.get("validation_split", 0.0))
    sweep = find_learning_rate(
        model,
        x,
        y,
        start=SWEEP.start,
        end=SWEEP.end,
        steps=SWEEP.steps,
        smoothing=SWEEP.smoothing,
        stop_factor=SWEEP.stop_factor,
        batch_size=fit.get("batch_size"),
        sample_weight=weights,
        class_weight=fit.get("class_weight"),
        verbose=0,
    )
    try:
        head = sweep.suggest(METHOD)
    except ValueError as error:
        raise ValueError(
            f"`learning_rate='auto'` finds no learning rate for this model and these data: {error} "
            "Or pass the learning rates."
        ) from error
    return RateChoice(tuple(head * ratio for ratio in relative_rates(n_groups)), sweep)


def relative_rates(n_groups: int) -> list[float]:
    """Return the rates of the groups in the ratios that `"auto"` keeps; the head's is 1.

    >>> [f"{rate:.3f}" for rate in relative_rates(3)], relative_rates(1)
    (['0.100', '0.316', '1.000'], [1.0])
    """
    return [float(rate) for rate in resolve_learning_rates(slice(1.0 / RATIO, 1.0), n_groups)]
