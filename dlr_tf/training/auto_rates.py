"""The range test of `learning_rate="auto"`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core.groups import LayerGroup
from dlr_tf.training.compiling import compile_groups
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.freezing import freeze_to, set_batch_norm
from dlr_tf.training.lr_finder import LearningRateSweep, find_learning_rate
from dlr_tf.training.rate_choice import RateChoice, rates_from_sweep, usual_rates
from dlr_tf.training.training_data import FirstBatches, fit_arguments, is_in_batches, trained_on


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
    >>> from dlr_tf.training.rate_choice import relative_rates
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


def sweep_groups(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    train_data: Any,
    first: FirstBatches,
    *,
    batch_norm: str,
    head_only: bool,
    fit: Mapping[str, Any],
    verbose: int | str,
    settings: SweepSettings = SWEEP,
) -> LearningRateSweep:
    """Make the range test of a model that is compiled, frozen as it will be in training.

    Args:
        model: A model that is compiled with a `MultiGroupOptimizer`.
        groups: Its groups.
        train_data: As in `fine_tune`, but not a generator.
        first: The first batches.
        batch_norm: As in `fine_tune`.
        head_only: Whether only the head is trained.
        fit: The arguments for `fit`, as in `range_test`.
        verbose: As in `find_learning_rate`.
        settings: The settings of the range test.

    Raises:
        ValueError: If the model is trained on several machines.
    """
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "`learning_rate='auto'` does not work on several machines, since each would choose its "
            "own rates. Pass the learning rates, for example those that one machine chooses."
        )
    set_batch_norm(model, batch_norm)
    freeze_to(model, groups, -1 if head_only else 0)
    with distributed_fit(model, first.example):
        return range_test(model, train_data, fit, verbose, settings)


def auto_sweep(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    ratios: Sequence[float],
    train_data: Any,
    *,
    batch_norm: str = "frozen",
    head_only: bool = False,
    fit: Mapping[str, Any] = types.MappingProxyType({}),
    verbose: int | str = 0,
    settings: SweepSettings = SWEEP,
    optimizer: Any = None,
) -> LearningRateSweep:
    """Make the range test of `fine_tune(..., learning_rate="auto")`.

    The model is compiled, its batch normalization is set, and its groups become trainable, or the
    head alone. Its variables are as they were.

    Args:
        model: A built model.
        groups: Its groups.
        ratios: The ratio of the rate of each group to that of the head.
        train_data: As in `fine_tune`, but not a generator.
        batch_norm: As in `fine_tune`.
        head_only: Whether only the head is trained. Defaults to `False`.
        fit: The arguments for `fit`, as in `range_test`.
        verbose: As in `find_learning_rate`. Defaults to 0: no progress bar.
        settings: The settings of the range test.
        optimizer: As in `make_optimizer`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the model is trained on several machines, or for the reasons of
            `compile_groups`.
    """
    # Rates that are usual, for the case that the test is interrupted.
    compile_groups(model, groups, usual_rates(ratios), train_data, optimizer=optimizer)
    return sweep_groups(
        model,
        groups,
        train_data,
        FirstBatches(train_data),
        batch_norm=batch_norm,
        head_only=head_only,
        fit=fit,
        verbose=verbose,
        settings=settings,
    )


def auto_rates(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    ratios: Sequence[float],
    train_data: Any,
    **options: Any,
) -> RateChoice:
    """Choose the peak rates as `fine_tune(..., learning_rate="auto")` does.

    The arguments are those of `auto_sweep`.

    Raises:
        ValueError: If no rate can be suggested, or for the reasons of `auto_sweep`.
    """
    return rates_from_sweep(auto_sweep(model, groups, ratios, train_data, **options), ratios)
