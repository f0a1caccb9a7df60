"""Fine-tuning a pretrained model with all groups at their own rates."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf._names import AUTO, BATCH_NORM, did_you_mean
from dlr_tf.core._validation import check_integer, check_model, warn_user
from dlr_tf.core.groups import LayerGroup, check_groups
from dlr_tf.core.learning_rates import Rate
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.auto_rates import sweep_groups
from dlr_tf.training.cached_features import cached_features
from dlr_tf.training.compiling import (
    OPTIMIZER_ARGUMENTS,
    accumulation_steps,
    compile_model,
    make_optimizer,
)
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.freezing import freeze_to, set_batch_norm
from dlr_tf.training.head_start import cut_at_head, start_head, why_not_by_default
from dlr_tf.training.losses import choose_loss
from dlr_tf.training.rate_choice import (
    HEAD_START_RATE,
    TYPICAL_ADAM_RATE,
    has_usual_rates,
    rates_from_sweep,
    relative_rates,
    typical_adam_rates,
)
from dlr_tf.training.scheduled_rates import (
    ScheduledRates,
    TrainingLength,
    is_list,
    rate_warnings,
)
from dlr_tf.training.training_data import FirstBatches, fit_arguments

_logger = logging.getLogger(__name__)


def fine_tune(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    train_data: Any,
    *,
    learning_rate: Any = AUTO,
    epochs: int,
    frozen_epochs: int = 0,
    head_start: bool | None = None,
    validation_data: Any = None,
    schedule: str | Callable[[float], Rate] | Sequence[LearningRateSchedule] = "onecycle",
    warmup: float = 0,
    optimizer: Any = None,
    loss: Any = None,
    metrics: Any = None,
    batch_norm: str = "frozen",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
    **others: Any,
) -> keras.callbacks.History:
    """Fine-tune a model with all groups at their own rates.

    In the first `frozen_epochs` epochs only the last group is trained, and then all groups. One
    `MultiGroupOptimizer` is used throughout. The defaults follow from `benchmarks/transfer`. The
    boundaries decide which layers are in the last group: see `groups[-1].layers`, or
    `model.optimizer.summary()` afterwards. With the peak rate `lr_g` of group `g` and the schedule
    `s`, the rate at step `k` is `s(lr_g)(k)`. Step 0 is the first step of the first epoch.

    The model gets a new optimizer, made after the one that it was compiled with: its class, its
    settings, its clipping, accumulation and moving average. Only its rate and its state are new.
    Nothing else that the model was compiled with changes, also if it has a `compile`, a
    `train_step`, a `compute_loss` or an `add_loss` of its own. What was frozen before stays frozen
    and is named: see `freeze_to`.

    A loss is chosen only for a model that has none, and only if the labels leave no doubt: class
    numbers, rows that sum to 1, or labels that are 0 and 1. For that choice the labels are read:
    all labels of arrays, and those in the first 3 batches of a data set. Reading a data set changes
    the order in which it shuffles later.

    A model built in the scope of a `tf.distribute.MirroredStrategy` or
    `MultiWorkerMirroredStrategy` is trained on all its devices.

    Use `fit` with a `MultiGroupOptimizer` for any other training, and `GradualUnfreezing` to
    unfreeze the groups one by one.

    Args:
        model: A built model. Afterwards its groups are trainable, also after an error, except what
            was frozen before and, with `batch_norm="frozen"`, batch normalization, which is saved
            so: `unfreeze_batch_norm(model)` makes it trainable again.
        groups: What `split_layers`, `split_evenly` or `split_layerwise` return. The last one is
            the head.
        train_data: A `tf.data.Dataset` or `keras.utils.PyDataset` of `(inputs, labels)` batches, or
            a tuple `(inputs, labels)` of arrays: dense, sparse or ragged. Inputs alone, where the
            model has a loss of its own. Anything else that `fit` takes as `x` works with
            `steps_per_epoch`, and with a loss of your own; a generator also needs rates.
        learning_rate: The peak rates: a float, `slice(lo, hi)`, `slice(hi)` or one float per
            group, as in `MultiGroupOptimizer`. A `LearningRateSchedule` instead of a float is used
            as it is. `"auto"`: with a head start, 1.8e-4 for all groups, which is usual for Adam,
            but at most 3 times what a range test of 60 steps suggests. Without one, 3.2e-4 on
            average, but at most 3 times higher or lower than the test suggests; the first group
            then has a tenth of the head's rate. If the loss falls at no rate in the test, these are
            the usual rates; with `verbose=0` a line in the log says so. The test leaves the model
            as it was. It reads the data, as `find_learning_rate` does. Unless `verbose=0`, one
            printed line says what was chosen. Defaults to `"auto"`.
        epochs: Int, 1 or more: all epochs, the frozen ones included.
        frozen_epochs: Int from 0 to `epochs`: first epochs in which only the head is trained. In
            two or more of them, what stands before the head is computed once for each example,
            where that gives the same result: for arrays and models of Keras' own layers. Defaults
            to 0.
        head_start: Whether the head is trained to convergence before the first epoch, on features
            that the body computes once for each example. The L2 penalty of its kernels is chosen on
            parts of the training data that are held out in turn. If the body trains in the first
            epoch, the logits of a classifier are divided by 3, so that it learns more. Needs SciPy,
            a Sequential or Functional model without a `fit` of its own, and a loss that `compile`
            takes. Unless `verbose=0`, one printed line says how good the head alone is. Defaults to
            `None`: with `learning_rate="auto"` and without frozen epochs, for a classifier with one
            class for each example and at most 5000 examples, whose head is one layer and that was
            not trained since it was compiled; where it is not possible, a printed line says why.
        validation_data: As in `fit`. Defaults to `None`.
        schedule: `"onecycle"` (a cosine rise and a longer cosine fall), `"sgdr"` (cosine with warm
            restarts; cycles double in length, and the last one ends with the last epoch),
            `"linear"` and `"cosine"` (one fall to 0), `"constant"`, a function from a group's peak
            rate to its schedule (`make_schedule` returns such functions), or, with
            `learning_rate=None`, a list with one `LearningRateSchedule` per group. It has ended
            after the last epoch: to train on, call `fine_tune` again. Defaults to `"onecycle"`.
        warmup: With a schedule by name: optimizer steps of a linear rise from 0 before it, an int,
            or a float below 1 as a share of all steps. Defaults to 0.
        optimizer: Template, its name such as `"adamw"`, or one optimizer per group, as in
            `MultiGroupOptimizer`. Its clipping, accumulation and moving average act on all groups.
            Defaults to the optimizer that the model was compiled with, or else to `FusedAdam()`.
            `compile` without an optimizer means Keras' default, RMSprop.
        loss: As in `compile`. Defaults to the loss that the model was compiled with, or has of its
            own, or else the cross-entropy that fits.
        metrics: As in `compile`. Defaults to the metrics that the model was compiled with, or else
            to accuracy if the loss is a cross-entropy.
        batch_norm: `"frozen"`: batch-normalization layers keep their weights and statistics, which
            is best for data sets much smaller than the one the model was pretrained on. `"train"`:
            they are trained with their group, also if `freeze_batch_norm` froze them before.
            Defaults to `"frozen"`.
        callbacks: As in `fit`. Defaults to none.
        verbose: As in `fit`.
        **others: The arguments of `MultiGroupOptimizer` that act on all groups: `clipnorm`,
            `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`, `weight_decay`,
            `decay_to_start`. And everything else that `fit` takes: `batch_size`, `class_weight`,
            `sample_weight`, `validation_split`, `initial_epoch`, `steps_per_epoch`, `shuffle`,
            `validation_steps`, `validation_batch_size`, `validation_freq`. The length of a schedule
            by name follows them. With `initial_epoch`, frozen epochs are counted by the number of
            the epoch; the optimizer and its schedule still start at step 0, and the schedule's
            length is that of the epochs left.

    Returns:
        The `History` of all epochs, the frozen ones included. It also has `learning_rates`, the
        peak rate of each group (`None` where a schedule's is not known), `schedule`, as given, and
        `seconds`, a dict: `"preparation"`, with `"auto"` the `"range_test"`, with `head_start` the
        `"head_start"`, and `"training"`. With `head_start` it also has `head_start`: the `penalty`,
        the `scores` on the held-out parts, a dict, and `n_examples`.

    Raises:
        TypeError: If an argument is of the wrong kind, or unknown.
        ValueError: If an argument is out of range, the groups are not the model's, a label does
            not fit the model's outputs, or the loss or the number of steps in an epoch cannot be
            determined. With `"auto"`, if the loss is not finite.

    Warns:
        UserWarning: If rates fall from the first group to the head, the training ends within
            a cycle of an `SGDR`, or only the head is trained.

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
    ...     learning_rate=slice(1e-4, 1e-2), epochs=3, batch_size=16, verbose=0,
    ... )
    >>> len(history.history["loss"])
    3

    Source: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146 (discriminative fine-tuning);
    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983 (warm restarts); Kumar et al.,
    2022, https://arxiv.org/abs/2202.10054 (the head first, then all).
    """
    seconds = _Seconds()
    check_model(model)
    groups = check_groups(groups)
    epochs = check_integer("epochs", epochs, minimum=1)
    frozen_epochs = check_integer("frozen_epochs", frozen_epochs, minimum=0)
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
    settings = {name: others.pop(name) for name in OPTIMIZER_ARGUMENTS if name in others}
    fit = others
    _check_names(fit)
    first_epoch = check_integer("initial_epoch", fit.get("initial_epoch", 0), minimum=0)
    if first_epoch >= epochs:
        raise ValueError(
            "Argument `initial_epoch` should be below `epochs`, which is the number of the last "
            f"epoch: nothing is left to train. Received: initial_epoch={first_epoch}, "
            f"epochs={epochs}"
        )
    _check_optimizers(model)
    callbacks = keras.tree.flatten(callbacks) if callbacks is not None else []
    arguments = fit_arguments(train_data, fit)
    batches_per_step = accumulation_steps(model, optimizer, **settings)
    length = TrainingLength(
        train_data, epochs - first_epoch, fit, validation_data, batches_per_step
    )
    is_auto = isinstance(learning_rate, str)
    ratios, typical = relative_rates(len(groups)), TYPICAL_ADAM_RATE
    if is_auto:
        _check_auto(learning_rate, optimizer)
        if not is_list(schedule):
            learning_rate = ratios
    rates = ScheduledRates(learning_rate, schedule, warmup, groups, length)
    # Everything that can be wrong is checked before the model is compiled.

    def make(learning_rate: Any) -> MultiGroupOptimizer:
        return make_optimizer(model, groups, learning_rate, optimizer, **settings)

    multi_group = make(rates.scheduled)
    first = FirstBatches(train_data)
    choice = choose_loss(model, first, loss, metrics)
    if choice.note and verbose != 0:
        print(choice.note)
    fit = {**fit, "validation_split": length.validation_split}
    if head_start is None:
        head_start = is_auto and not frozen_epochs and not first_epoch and first.are_known
        if head_start:
            count = length.n_examples(first)
            reason = why_not_by_default(model, groups, choice, multi_group, count, first.inputs)
            head_start = not reason
            if reason and verbose != 0:
                print(f"without a head start: {reason}")
    if head_start:
        ratios, typical = [1.0] * len(groups), HEAD_START_RATE
    cut = cut_at_head(model, groups, choice) if head_start else None
    if head_start and is_auto and not has_usual_rates(multi_group):
        raise ValueError(
            "With `head_start`, `learning_rate='auto'` takes a usual rate of Adam. Pass the "
            "learning rates for another optimizer. "
            f"Received: {type(multi_group.group_optimizers[-1]).__name__}"
        )
    if is_auto:
        if verbose != 0:
            print("Range test of the learning rate")
        seconds.end("preparation")
        # Rates that are usual, for the case that the test is interrupted.
        compile_model(model, make(typical_adam_rates(ratios, typical)), choice, first)
        sweep = sweep_groups(
            model,
            groups,
            train_data,
            first,
            batch_norm=batch_norm,
            head_only=frozen_epochs == epochs,
            fit=fit,
            verbose=verbose,
        )
        seconds.end("range_test")
        rate_choice = rates_from_sweep(sweep, ratios, typical, may_raise=not head_start)
        if verbose != 0:
            print(rate_choice.line())
        elif rate_choice.suggestion is None:
            _logger.warning("%s", rate_choice.line())
        rates = ScheduledRates(list(rate_choice.rates), schedule, warmup, groups, length)
        multi_group = make(rates.scheduled)
    compile_model(model, multi_group, choice, first)
    warnings = rate_warnings(rates.scheduled, length)
    if len(groups) > 1 and frozen_epochs == epochs:
        warnings.append(
            f"Only the head, group {groups[-1].name!r}, learns in this training: epochs={epochs}, "
            f"frozen_epochs={frozen_epochs}. Pass more epochs, or `frozen_epochs=0`."
        )
    for message in warnings:
        warn_user(message)
    set_batch_norm(model, batch_norm)
    started = None
    try:
        if cut is not None and first_epoch == 0:
            if verbose != 0:
                print("Head start: the head is trained on features")
            freeze_to(model, groups, -1 if frozen_epochs else 0)
            body_trains = bool(cut.body.trainable_variables)
            freeze_to(model, groups, -1)
            seconds.end("preparation")
            with model.distribute_strategy.scope():
                started = start_head(cut, train_data, choice, fit, body_trains=body_trains)
            seconds.end("head_start")
            if verbose != 0:
                print(started.line())
        freeze_to(model, groups, -1 if first_epoch < frozen_epochs else 0)
        _check_trainable(model)
        with model.distribute_strategy.scope():
            # Before `fit`, so that callbacks find an optimizer that knows its variables.
            model.optimizer.build(model.trainable_variables)
        seconds.end("preparation")
        arguments["validation_data"] = validation_data
        with (
            distributed_fit(model, first.example),
            cached_features(model, arguments, first_epoch, frozen_epochs) as (arguments, cache),
        ):
            history = model.fit(
                **arguments,
                epochs=epochs,
                callbacks=[*cache, _UnfreezeAfter(groups, frozen_epochs), *callbacks],
                verbose=verbose,
            )
        seconds.end("training")
    finally:  # also after an error, and if every epoch was a frozen one
        freeze_to(model, groups, 0)
    history.learning_rates = rates.peaks
    history.schedule = schedule
    history.seconds = seconds.parts
    if started is not None:
        history.head_start = started
    return history


class _Seconds:
    """The seconds of the parts of a training."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, part: str) -> None:
        """Count the time since the last part ended for this part."""
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._since
        self._since = now


def _check_trainable(model: keras.Model) -> None:
    if not model.trainable_variables:
        raise ValueError(
            f"Nothing of the model {model.name!r} is left to train: its layers were frozen before, "
            "or `batch_norm='frozen'` froze them. Set `trainable = True` on those to train."
        )


def _check_optimizers(model: keras.Model) -> None:
    """Raise if the training step of a model has optimizers of its own, as a GAN has."""
    others = [
        name
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer) and name != "optimizer"
    ]
    if others and type(model).train_step is not keras.Model.train_step:
        raise ValueError(
            f"The model {model.name!r} has optimizers of its own: {others}. `fine_tune` gives "
            "rates to `model.optimizer` alone. Make each of them a `MultiGroupOptimizer` with "
            "groups of the part that it trains, such as `split_layers(model.generator, ...)`, and "
            "call `fit`."
        )


def _check_auto(learning_rate: str, optimizer: Any) -> None:
    if isinstance(optimizer, (list, tuple)):
        raise ValueError(
            "With one optimizer per group, pass the learning rates too. Received: "
            f"learning_rate={learning_rate!r}"
        )
    if learning_rate != AUTO:
        raise ValueError(
            f"Argument `learning_rate` should be {AUTO!r}, a float, a slice, or one float per "
            f"group. Received: learning_rate={learning_rate!r}"
        )


class _UnfreezeAfter(keras.callbacks.Callback):
    """Unfreeze all groups after the frozen epochs."""

    def __init__(self, groups: Sequence[LayerGroup], frozen_epochs: int) -> None:
        super().__init__()
        self.groups = groups
        self.frozen_epochs = frozen_epochs
        self.is_frozen = frozen_epochs > 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.is_frozen and epoch >= self.frozen_epochs:
            freeze_to(self.model, self.groups, 0)
            self.is_frozen = False


def _check_names(fit: Mapping[str, Any]) -> None:
    """Raise if neither `fine_tune` nor `fit` has an argument."""
    ours = [*[*inspect.signature(fine_tune).parameters][:-1], *OPTIMIZER_ARGUMENTS]
    known = [*inspect.signature(keras.Model.fit).parameters][1:]
    for name in fit:
        if name in ("x", "y"):
            raise TypeError(
                f"`fine_tune` takes the training data as `train_data`, not as `x` and `y`. "
                f"Received: {name}={fit[name]!r}"
            )
        if name not in known:
            raise TypeError(
                f"`fine_tune` and `fit` have no argument `{name}`. Received: {name}={fit[name]!r}."
                f"{did_you_mean(name, [*ours, *known])}"
            )
