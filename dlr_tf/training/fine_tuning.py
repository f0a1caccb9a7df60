"""Fine-tuning a pretrained model: head first, then all groups at their own rates."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core.groups import LayerGroup, assign_variables
from dlr_tf.core.learning_rates import Rate, resolve_learning_rates
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR, OneCycle, cycle_length
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.freezing import freeze_batch_norm, freeze_to
from dlr_tf.training.losses import batch_of, cross_entropy_for

SCHEDULES = ("sgdr", "onecycle", "constant")
BATCH_NORM = ("frozen", "train")
ARRAY_BATCH_SIZE = 32  # what `fit` uses for arrays


def fine_tune(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    train_data: Any,
    *,
    learning_rate: Any,
    epochs: int,
    frozen_epochs: int = 1,
    validation_data: Any = None,
    schedule: str | Callable[[float], Rate] | Sequence[LearningRateSchedule] = "sgdr",
    optimizer: Any = None,
    loss: Any = None,
    metrics: Any = None,
    batch_norm: str = "frozen",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Fine-tunes a model: the head first, then all groups at their own rates.

    For the first `frozen_epochs` only the last group learns; then all do, with one
    `MultiGroupOptimizer` throughout. With the peak rate `lr_g` of group `g` and the schedule `s`,
    the rate at step `k`, counted from the first step of all, is `s(lr_g)(k)`.

    A model built in the scope of a `tf.distribute.MirroredStrategy` or
    `MultiWorkerMirroredStrategy` is trained on all its devices.

    Use `fit` with a `MultiGroupOptimizer` when the training needs another shape than this, and
    `GradualUnfreezing` to thaw the groups one by one.

    Args:
        model: A built model. It is compiled here; afterwards all its groups are trainable.
        groups: What `split_layers`, `split_evenly` or `split_layerwise` return. The last one is
            the head.
        train_data: A `tf.data.Dataset` or `keras.utils.PyDataset` of `(inputs, labels)` batches,
            or a tuple `(inputs, labels)` of arrays, taken in batches of 32.
        learning_rate: The peak rates: a float, `slice(lo, hi)`, `slice(hi)` or one float per
            group, as in `MultiGroupOptimizer`. A `LearningRateSchedule` in the place of a float is
            used as it is.
        epochs: Int, 1 or more: all epochs, `frozen_epochs` among them.
        frozen_epochs: Int from 0 to `epochs`: epochs in which only the head learns. Defaults to 1.
        validation_data: As in `fit`. Defaults to `None`.
        schedule: `"sgdr"` (cosine with warm restarts; cycles double in length, and the last one
            ends with the last epoch), `"onecycle"`, `"constant"`, a function from a group's peak
            rate to its schedule (`make_schedule` returns such functions), or, with
            `learning_rate=None`, a list with one `LearningRateSchedule` per group. Defaults to
            `"sgdr"`.
        optimizer: Template, or one optimizer per group, as in `MultiGroupOptimizer`. Defaults to
            `FusedAdam()`.
        loss: As in `compile`. Defaults to the cross-entropy that fits the labels and the last
            activation.
        metrics: As in `compile`. Defaults to accuracy.
        batch_norm: `"frozen"`: batch-normalisation layers keep their weights and statistics, which
            is best for data sets much smaller than the one the model was pretrained on. `"train"`:
            they learn with their group. Defaults to `"frozen"`.
        callbacks: As in `fit`.
        verbose: As in `fit`.

    Returns:
        The `History` of all epochs, those with a frozen body among them.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of range, the groups are not the model's, or the loss or
            the number of steps in an epoch cannot be found out.

    Example:

    >>> import keras, numpy as np
    >>> from dlr_tf import fine_tune, split_layers
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="body"),
    ...     keras.layers.Dense(3, activation="softmax", name="top"),
    ... ])
    >>> data = np.random.default_rng(0).random((64, 4)), np.arange(64) % 3
    >>> history = fine_tune(
    ...     model, split_layers(model, ["top"]), data,
    ...     learning_rate=slice(1e-4, 1e-2), epochs=3, verbose=0,
    ... )
    >>> len(history.history["loss"])
    3

    Source: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146 (discriminative fine-tuning);
    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983 (warm restarts).
    """
    epochs = _count("epochs", epochs, 1)
    frozen_epochs = _count("frozen_epochs", frozen_epochs, 0)
    if frozen_epochs > epochs:
        raise ValueError(
            "Argument `frozen_epochs` should not be above `epochs`, which counts all epochs. "
            f"Received: frozen_epochs={frozen_epochs}, epochs={epochs}"
        )
    if batch_norm not in BATCH_NORM:
        raise ValueError(
            f"Argument `batch_norm` should be one of {BATCH_NORM}. "
            f"Received: batch_norm={batch_norm!r}"
        )
    inputs = _fit_arguments(train_data)
    rates = _scheduled_rates(learning_rate, schedule, groups, train_data, epochs)
    compile_groups(
        model, groups, rates, train_data, optimizer=optimizer, loss=loss, metrics=metrics
    )
    if batch_norm == "frozen":
        freeze_batch_norm(model)
    freeze_to(model, groups, -1 if frozen_epochs else 0)
    with model.distribute_strategy.scope():
        # Before `fit`, so that callbacks find an optimizer that knows its variables.
        model.optimizer.build(model.trainable_variables)
    with distributed_fit(model, batch_of(train_data)):
        return model.fit(
            **inputs,
            validation_data=validation_data,
            epochs=epochs,
            callbacks=[_Thaw(groups, frozen_epochs), *callbacks],
            verbose=verbose,
        )


def compile_groups(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    learning_rate: Any,
    train_data: Any,
    *,
    optimizer: Any = None,
    loss: Any = None,
    metrics: Any = None,
) -> None:
    """Compiles a model with a `MultiGroupOptimizer` and, by default, the loss that fits the labels.

    Args:
        model: A built model.
        groups: Its groups.
        learning_rate: As in `MultiGroupOptimizer`.
        train_data: What the labels are taken from, as in `fine_tune`.
        optimizer: As in `MultiGroupOptimizer`.
        loss: As in `compile`; `None` for the cross-entropy that fits.
        metrics: As in `compile`; `None` for accuracy.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the groups are not the model's, or the loss cannot be found out.
    """
    with model.distribute_strategy.scope():
        multi_group = MultiGroupOptimizer(groups, learning_rate, optimizer)
        assign_variables(model, groups)
        accuracy: Any = "accuracy"
        if loss is None:
            loss, accuracy = cross_entropy_for(model, train_data)
        model.compile(multi_group, loss=loss, metrics=[accuracy] if metrics is None else metrics)


class _Thaw(keras.callbacks.Callback):
    """Lets all groups learn once the frozen epochs are over."""

    def __init__(self, groups: Sequence[LayerGroup], frozen_epochs: int) -> None:
        super().__init__()
        self.groups = groups
        self.frozen_epochs = frozen_epochs
        self.is_frozen = frozen_epochs > 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.is_frozen and epoch >= self.frozen_epochs:
            self._thaw()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Also where every epoch was a frozen one: the caller gets a model that can train on.
        if self.is_frozen:
            self._thaw()

    def _thaw(self) -> None:
        freeze_to(self.model, self.groups, 0)
        self.is_frozen = False


def make_schedule(
    name: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    cycle_epochs: float | None = None,
    t_mul: float = 2.0,
) -> Callable[[float], Rate]:
    """Makes the function from a group's peak rate to its schedule over a training.

    Args:
        name: `"sgdr"`, `"onecycle"` or `"constant"`.
        steps_per_epoch: Int, 1 or more: steps in an epoch.
        epochs: Int, 1 or more: all epochs of the training.
        cycle_epochs: Float above 0, for `"sgdr"`: length of the first cycle in epochs. Defaults to
            the length of at least one epoch with which the last cycle ends with the training.
        t_mul: Float, 1 or more, for `"sgdr"`: each cycle is this many times longer than the one
            before. Defaults to 2.

    Returns:
        A function that takes a rate and returns a `LearningRateSchedule`, or the rate itself.

    Raises:
        ValueError: If the name is unknown or a number is out of range.

    Example:

    >>> rate = make_schedule("sgdr", steps_per_epoch=10, epochs=7)(1e-3)
    >>> rate.restart_steps(71)
    [0, 10, 30, 70]
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"Argument `schedule` should be one of {SCHEDULES}, a function from a rate to a "
            f"`LearningRateSchedule`, or a list with one per group. Received: schedule={name!r}"
        )
    total = _count("steps_per_epoch", steps_per_epoch, 1) * _count("epochs", epochs, 1)
    if name == "constant":
        return lambda rate: rate
    if name == "onecycle":
        return lambda rate: OneCycle(rate, max(2, total))
    if not (isinstance(t_mul, numbers.Real) and 1 <= t_mul < math.inf):
        raise ValueError(f"Argument `t_mul` should be at least 1. Received: t_mul={t_mul!r}")
    if cycle_epochs is None:
        first = first_cycle_steps(total, epochs, t_mul)
    elif isinstance(cycle_epochs, numbers.Real) and 0 < cycle_epochs < math.inf:
        first = max(1, round(cycle_epochs * steps_per_epoch))
    else:
        raise ValueError(
            "Argument `cycle_epochs` should be a number of epochs above 0. "
            f"Received: cycle_epochs={cycle_epochs!r}"
        )
    return lambda rate: SGDR(rate, first, t_mul=t_mul)


def first_cycle_steps(total_steps: int, epochs: int, t_mul: float) -> int:
    """Length of the first SGDR cycle with which the last one ends at the last step.

    With as many cycles `n` as the epochs hold when the first lasts one epoch, it is the least
    length whose `n` cycles reach `total_steps`; so no restart falls into the last few steps.

    >>> first_cycle_steps(70, 7, 2.0), first_cycle_steps(100, 10, 2.0)
    (10, 15)
    """
    cycles = 1
    while sum(t_mul**i for i in range(cycles + 1)) <= epochs:
        cycles += 1
    first = math.ceil(total_steps / sum(t_mul**i for i in range(cycles)))
    while sum(cycle_length(i, first, t_mul) for i in range(cycles)) < total_steps:
        first += 1
    return first


def _scheduled_rates(
    learning_rate: Any, schedule: Any, groups: Sequence[LayerGroup], train_data: Any, epochs: int
) -> list[Rate]:
    """One rate or schedule per group."""
    if isinstance(schedule, Sequence) and not isinstance(schedule, str):
        if learning_rate is not None:
            raise ValueError(
                "A list of schedules holds every rate already: pass `learning_rate=None` with it. "
                f"Received: learning_rate={learning_rate!r}"
            )
        return resolve_learning_rates(schedule, len(groups))
    if isinstance(schedule, LearningRateSchedule):
        raise TypeError(
            "Argument `schedule` should be a name, a function from a rate to a schedule, or a list "
            "with one schedule per group. To use one schedule for all groups, pass it as "
            f"`learning_rate`. Received: schedule={schedule!r}"
        )
    rates = resolve_learning_rates(learning_rate, len(groups))
    if isinstance(schedule, str):
        known = schedule == "constant" or schedule not in SCHEDULES
        steps = 1 if known else steps_in_epoch(train_data)
        schedule = make_schedule(schedule, steps_per_epoch=steps, epochs=epochs)
    elif not callable(schedule):
        raise TypeError(
            f"Argument `schedule` should be one of {SCHEDULES}, a function from a rate to a "
            f"`LearningRateSchedule`, or a list with one per group. Received: schedule={schedule!r}"
        )
    return [rate if isinstance(rate, LearningRateSchedule) else schedule(rate) for rate in rates]


def steps_in_epoch(train_data: Any) -> int:
    """Number of batches in the training data.

    Args:
        train_data: As in `fine_tune`.

    Raises:
        ValueError: If it is unknown, infinite or 0.
        TypeError: If the data are of a kind whose batches cannot be counted.

    >>> steps_in_epoch((np.zeros((65, 2)), np.zeros(65)))
    3
    """
    if isinstance(train_data, tf.data.Dataset):
        steps = int(train_data.cardinality())
    elif isinstance(train_data, tuple) and train_data:
        steps = math.ceil(len(keras.tree.flatten(train_data[0])[0]) / ARRAY_BATCH_SIZE)
    elif isinstance(train_data, keras.utils.PyDataset):
        steps = -1 if train_data.num_batches is None else int(train_data.num_batches)
    else:
        raise TypeError(
            "Argument `train_data` should be a `tf.data.Dataset`, a `keras.utils.PyDataset` or a "
            f"tuple of arrays. Received: {train_data!r} of type {type(train_data).__name__}"
        )
    if steps == 0:
        raise ValueError("Argument `train_data` holds no batches. Give it some data.")
    if steps < 0:
        raise ValueError(
            "The number of batches in `train_data` is not known or not finite, and the schedule "
            "needs it. Tell it with `train_data.take(n)` or "
            "`train_data.apply(tf.data.experimental.assert_cardinality(n))`, or pass `schedule` as "
            "a function from a rate to a schedule."
        )
    return steps


def _fit_arguments(train_data: Any) -> dict[str, Any]:
    if isinstance(train_data, tuple):
        if not 2 <= len(train_data) <= 3:
            raise ValueError(
                "A tuple of training data should be `(inputs, labels)` or `(inputs, labels, "
                f"sample_weights)`. Received {len(train_data)} entries"
            )
        return dict(zip(("x", "y", "sample_weight"), train_data, strict=False))
    if isinstance(train_data, tf.data.Dataset):
        # Keras warns that it cannot shuffle one, even when nobody asked for it.
        return {"x": train_data, "shuffle": False}
    return {"x": train_data}


def _count(name: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"Argument `{name}` should be an integer. "
            f"Received: {name}={value!r} of type {type(value).__name__}"
        )
    if value < minimum:
        raise ValueError(
            f"Argument `{name}` should be at least {minimum}. Received: {name}={value}"
        )
    return int(value)
