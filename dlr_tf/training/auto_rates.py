"""The range test of `learning_rate="auto"`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from dlr_tf.core.groups import LayerGroup
from dlr_tf.training.compiling import compile_model, make_optimizer
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.freezing import freeze_to, set_batch_norm
from dlr_tf.training.losses import choose_loss
from dlr_tf.training.lr_finder import LearningRateSweep, find_learning_rate
from dlr_tf.training.rate_choice import typical_adam_rates
from dlr_tf.training.training_data import FirstBatches, fit_arguments, is_in_batches, trained_on
from dlr_tf.training.workers import Workers


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


def auto_sweep(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    ratios: Sequence[float],
    train_data: Any,
    *,
    optimizer: Any = None,
    **options: Any,
) -> LearningRateSweep:
    """Compile a model as `fine_tune` does, and make the range test of `learning_rate="auto"`.

    The model's batch normalization is set, and its groups become trainable, or the head alone. Its
    variables are as they were.

    Args:
        model: A built model.
        groups: Its groups.
        ratios: The ratio of the rate of each group to that of the head.
        train_data: As in `fine_tune`, but not a generator.
        optimizer: As in `make_optimizer`.
        **options: As in `sweep_groups`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the groups are not the model's, the loss cannot be determined, or for the
            reasons of `sweep_groups`.
    """
    # Rates that are usual, for the case that the test is interrupted.
    made = make_optimizer(model, groups, typical_adam_rates(ratios), optimizer)
    first = FirstBatches(train_data)
    compile_model(model, made, choose_loss(model, first), first)
    return sweep_groups(model, groups, train_data, first, **options)


def sweep_groups(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    train_data: Any,
    first: FirstBatches,
    *,
    batch_norm: str = "frozen",
    head_only: bool = False,
    fit: Mapping[str, Any] = types.MappingProxyType({}),
    verbose: int | str = 0,
    settings: SweepSettings = SWEEP,
) -> LearningRateSweep:
    """Make the range test of a model that is compiled, frozen as it will be in training.

    Args:
        model: A model that is compiled with a `MultiGroupOptimizer`. Its rates keep their ratios.
        groups: Its groups.
        train_data: As in `fine_tune`, but not a generator.
        first: The first batches.
        batch_norm: As in `fine_tune`.
        head_only: Whether only the head is trained. Defaults to `False`.
        fit: The arguments for `fit`. The test takes the batch size, the weights and the validation
            split from them.
        verbose: As in `find_learning_rate`. Defaults to 0: no progress bar.
        settings: The settings of the range test.

    Raises:
        TypeError: If the data can be read only once.
        ValueError: If the data have no batch.

    Source: `benchmarks/transfer`, which compares the rates that follow with tuned rates.
    """
    if isinstance(train_data, types.GeneratorType):
        raise TypeError(
            "`learning_rate='auto'` reads the data before the training, and a generator can be "
            "read only once. Pass a `tf.data.Dataset`, a `keras.utils.PyDataset` or arrays, or "
            f"pass the learning rates. Received: {train_data!r}"
        )
    arguments = fit_arguments(train_data, fit)
    data: dict[str, Any] = {name: arguments.get(name) for name in ("x", "y", "sample_weight")}
    if not is_in_batches(data["x"]):
        if fit.get("validation_split"):
            data = trained_on(data, fit["validation_split"])
        data["batch_size"] = fit.get("batch_size")
    set_batch_norm(model, batch_norm)
    freeze_to(model, groups, -1 if head_only else 0)
    with distributed_fit(model, first.example):
        sweep = find_learning_rate(
            model,
            **data,
            class_weight=fit.get("class_weight"),
            verbose=verbose,
            **dataclasses.asdict(settings),
        )
    columns = [sweep.learning_rates.tolist(), sweep.losses.tolist()]
    rates, losses = Workers(model.distribute_strategy).of_chief(columns)
    return LearningRateSweep(np.array(rates), np.array(losses))
