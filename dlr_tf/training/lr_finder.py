"""The learning-rate range test: a sweep of rates on a model that is left as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import numbers
import os
import types
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.lr_suggestions import SUGGESTIONS
from dlr_tf.training.restoring import (
    restore_attributes_on_exit,
    restore_generators_on_exit,
    restore_on_exit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH_SIZE = 32
# What `fit` writes on a model beside its variables.
_TRAINER_ATTRIBUTES = (
    "optimizer",
    "train_function",
    "steps_per_execution",
    "stop_training",
    "history",
    "_eval_epoch_iterator",
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LearningRateSweep:
    """What a learning-rate range test saw.

    Args:
        learning_rates: The head's rate at each step, rising; float64, read-only.
        losses: The smoothed loss at each of them; float64, read-only. The last one is not finite
            where the model diverged that far.

    Raises:
        ValueError: If there is not one loss per rate.

    Example:

    >>> sweep = LearningRateSweep([1e-4, 1e-3, 1e-2], [2.3, 1.9, 4.0])
    >>> sweep
    <LearningRateSweep of 3 steps from 0.0001 to 0.01>
    """

    learning_rates: np.ndarray
    losses: np.ndarray

    def __post_init__(self) -> None:
        for name in ("learning_rates", "losses"):
            values = np.array(getattr(self, name), np.float64)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        if self.learning_rates.ndim != 1 or self.learning_rates.shape != self.losses.shape:
            raise ValueError(
                "A sweep should have one loss per learning rate. Received: learning_rates of shape "
                f"{self.learning_rates.shape} and losses of shape {self.losses.shape}."
            )

    def __repr__(self) -> str:
        if not len(self.learning_rates):
            return "<LearningRateSweep of 0 steps>"
        count, first, last = len(self.losses), self.learning_rates[0], self.learning_rates[-1]
        return f"<LearningRateSweep of {count} steps from {first:.3g} to {last:.3g}>"

    def suggestion(self, method: str = "valley") -> float:
        """A rate for the head.

        The first tenth of the sweep and its last 5 points are left out.

        Args:
            method: `"valley"` (the middle of the longest fall of the loss: a safe choice, the
                default), `"slide"` (before the loss diverges), `"steep"` (where it falls fastest)
                or `"minimum"` (a tenth of the rate with the lowest loss).

        Raises:
            ValueError: If there is no such method, or the curve has no answer to it: too few
                points, no finite loss, or none that falls.

        Example:

        >>> import numpy as np
        >>> x = np.linspace(-6.0, 0.0, 100)
        >>> sweep = LearningRateSweep(10**x, (x + 2) ** 2)
        >>> f"{sweep.suggestion():.1e}", f"{sweep.suggestion('minimum'):.1e}"
        ('1.7e-04', '1.0e-03')
        """
        if method not in SUGGESTIONS:
            raise ValueError(
                f"Argument `method` should be one of {list(SUGGESTIONS)}. "
                f"Received: method={method!r}"
            )
        count = len(self.losses)
        kept = slice(count // 10, max(count - 5, 0))
        try:
            return SUGGESTIONS[method](self.learning_rates[kept], self.losses[kept])
        except ValueError as error:
            raise ValueError(
                f"The sweep of {count} points, without its first tenth and its last 5, has no "
                f"{method!r} suggestion. {error} Sweep again with more `steps` or from a lower "
                "`start`, or choose another method."
            ) from error

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the loss over the rate and marks every suggestion that the curve has.

        Args:
            path: File to write, `.png` or `.svg`. Defaults to `None`: none is written.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from dlr_tf.training import plotting

        suggestions = {}
        for method in SUGGESTIONS:
            with contextlib.suppress(ValueError):
                suggestions[method] = self.suggestion(method)
        return plotting.plot_sweep(self.learning_rates, self.losses, suggestions, path)


def find_learning_rate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    verbose: int | str = "auto",
) -> LearningRateSweep:
    """Trains a model for some steps at rising rates, to see which rate suits it, and undoes it all.

    At step `i` of `n` the head learns at the rate

        start * (end / start)**(i / (n - 1))

    and every other group keeps its ratio to the head. With the loss `l_i` of step `i`, the smoothed
    loss is `a_i / (1 - smoothing**(i + 1))`, where `a_i = smoothing * a_(i - 1) + (1 - smoothing) *
    l_i`. The sweep ends early when it exceeds `stop_factor` times its lowest value (for a lowest
    value `b` below 0: `b + (stop_factor - 1) * |b|`), or the loss is not finite.

    Whatever happens, an exception or Ctrl-C included, the model is left as it was, bit for bit:
    weights, batch-norm statistics, seeds, metrics, the optimizer's state and rates, what `compile`
    and `fit` stored on it; and so are the random generators of `random`, NumPy, TensorFlow and
    Keras and the shuffling of a `tf.data.Dataset`. A Python generator cannot be rewound, and what
    the model's own code writes elsewhere stays.

    The suggestion depends on batch size, data and what is frozen: sweep again after a change. It
    says nothing about long runs, and little about models whose first steps are not typical.

    Args:
        model: A built and compiled model: with a `MultiGroupOptimizer`, or with a Keras optimizer
            whose rate is a number.
        x: What `fit` takes. Arrays run in shuffled batches of 32. Data that end early start again.
            A data set is copied for the sweep, with the tensors it holds in memory.
        y: Targets, where `x` holds arrays.
        start: Rate of the first step, above 0. Defaults to `1e-7`.
        end: Rate of the last step, above `start`. Defaults to `10.0`.
        steps: Number of optimizer steps, at least 1. Defaults to `100`: about 12 rates per factor
            of 10.
        smoothing: Weight of the past in the smoothed loss, in [0, 1). Defaults to `0.98`.
        stop_factor: Above 1. Defaults to `4.0`.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.
        verbose: `"auto"` or `1` for a progress bar, `2` for one line, `0` for silence, as in `fit`.

    Returns:
        A `LearningRateSweep`: rates, smoothed losses, suggestions and a plot.

    Raises:
        TypeError: If the optimizer's rate cannot be set.
        ValueError: If an argument is out of range, the model is not built or not compiled, or the
            data hold no batch.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from dlr_tf import MultiGroupOptimizer, split_layers
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1, name="top")]
    ... )
    >>> groups = split_layers(model, ["top"])
    >>> model.compile(MultiGroupOptimizer(groups, [1e-4, 1e-3]), loss="mse")
    >>> x = np.random.normal(size=(64, 4))
    >>> sweep = find_learning_rate(model, x, x.sum(axis=1), verbose=0)
    >>> 1e-4 < sweep.suggestion() < 1.0
    True
    >>> model.optimizer.learning_rates == [np.float32(1e-4), np.float32(1e-3)]
    True

    Source: Smith, "Cyclical learning rates for training neural networks", 2017,
    https://arxiv.org/abs/1506.01186, section 3.3 (the range test); smoothing, stop and suggestions
    as in fastai's `lr_find`.
    """
    _check_arguments(start, end, steps, smoothing, stop_factor)
    _check_model(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(restore_generators_on_exit())
        stack.enter_context(restore_attributes_on_exit(model, _TRAINER_ATTRIBUTES))
        optimizer = _optimizer_for_sweep(model)
        stack.enter_context(
            restore_on_exit(
                [*model.variables, *model.metrics_variables, *_variables_of(model.optimizer)]
            )
        )
        # Metrics that had no variables yet are left in their first state.
        stack.callback(model.reset_metrics)
        # A step of its own: stateful operations inside the compiled one are not moved on, and one
        # execution is one step.
        model.train_function = None
        model.steps_per_execution = 1
        sweep = _Sweep(optimizer, np.geomspace(start, end, steps), smoothing, stop_factor, verbose)
        batches = steps * sweep.batches_per_step
        endless = isinstance(x, (tf.data.Dataset, types.GeneratorType))
        if isinstance(x, tf.data.Dataset):
            x = _independent_copy(x).repeat()
        elif isinstance(x, types.GeneratorType):
            x = (batch for batch in itertools.islice(itertools.cycle(x), batches))
        # `fit`, not `train_on_batch`: it spreads batches over the devices of a strategy, takes
        # class weights beside a data set, and runs a model's own `train_step` as training will.
        model.fit(
            x,
            y,
            batch_size=_BATCH_SIZE,
            sample_weight=sample_weight,
            class_weight=class_weight,
            # Other data start again with each epoch; the callback ends the last one.
            epochs=2**31,
            steps_per_epoch=batches if endless else None,
            shuffle=not (endless or isinstance(x, tf.distribute.DistributedDataset)),
            callbacks=[sweep],
            verbose=0,
        )
    return LearningRateSweep(sweep.learning_rates[: len(sweep.losses)], np.array(sweep.losses))


class _Sweep(keras.callbacks.Callback):
    """Sets the rate before each step, reads the loss after it, and ends `fit`."""

    def __init__(
        self,
        optimizer: Any,
        learning_rates: np.ndarray,
        smoothing: float,
        stop_factor: float,
        verbose: int | str,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.learning_rates = learning_rates
        self.smoothing = smoothing
        self.stop_factor = stop_factor
        self.batches_per_step = optimizer.gradient_accumulation_steps or 1
        self.losses: list[float] = []
        self._average = 0.0
        self._batches = self._batches_before_epoch = 0
        self._bar = keras.utils.Progbar(
            len(learning_rates),
            verbose=1 if verbose == "auto" else verbose,
            stateful_metrics=["learning_rate", "loss"],
        )

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batches_before_epoch = self._batches

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._batches % self.batches_per_step == 0:
            # `fit` logs the mean of an epoch; a step's own loss is wanted.
            self.model.reset_metrics()
            self._set_rate(float(self.learning_rates[len(self.losses)]))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batches += 1
        if self._batches % self.batches_per_step == 0:
            self._record(logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._batches == self._batches_before_epoch:
            raise ValueError(
                "The sweep needs batches to train on, but the data gave none. Received: "
                f"{self._batches} batches for {len(self.learning_rates)} steps."
            )

    def _set_rate(self, rate: float) -> None:
        if not float(self.optimizer.learning_rate):
            # A warm-up starts at rate 0, which no factor turns into another one: skip that step.
            self.optimizer._iterations.assign_add(self.batches_per_step)
        self.optimizer.learning_rate = rate

    def _record(self, logs: Mapping[str, Any]) -> None:
        if "loss" not in logs:
            raise ValueError(
                "The sweep needs the loss of every step, but the model's `train_step` returns none "
                f"under the name 'loss'. Received: {sorted(logs)}"
            )
        loss = float(logs["loss"])
        self._average = self.smoothing * self._average + (1 - self.smoothing) * loss
        smoothed = self._average / (1 - self.smoothing ** (len(self.losses) + 1))
        self.losses.append(smoothed)
        done = len(self.losses)
        lowest = min(self.losses)
        if (
            done == len(self.learning_rates)
            or not math.isfinite(loss)
            or smoothed > lowest + (self.stop_factor - 1) * abs(lowest)
        ):
            self._end()
        else:
            self._show()

    def _show(self, finalize: bool = False) -> None:
        done = len(self.losses)
        if done:
            values = [("learning_rate", self.learning_rates[done - 1]), ("loss", self.losses[-1])]
            self._bar.update(done, values, finalize=finalize)

    def _end(self) -> None:
        self.model.stop_training = True
        self._show(finalize=True)


def _check_arguments(
    start: float, end: float, steps: int, smoothing: float, stop_factor: float
) -> None:
    for name, value in (
        ("start", start),
        ("end", end),
        ("smoothing", smoothing),
        ("stop_factor", stop_factor),
    ):
        if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.generic)):
            raise TypeError(f"Argument `{name}` should be a number. Received: {name}={value!r}")
    if not 0 < start < end < math.inf:
        raise ValueError(
            "The sweep should go from a rate above 0 to a higher, finite one. "
            f"Received: start={start}, end={end}"
        )
    if isinstance(steps, bool) or not isinstance(steps, (numbers.Integral, np.integer)):
        raise TypeError(f"Argument `steps` should be an integer. Received: steps={steps!r}")
    if steps < 1:
        raise ValueError(f"Argument `steps` should be at least 1. Received: steps={steps}")
    if not 0 <= smoothing < 1:
        raise ValueError(
            "Argument `smoothing` should be at least 0 and below 1. "
            f"Received: smoothing={smoothing}"
        )
    if not stop_factor > 1:
        raise ValueError(
            f"Argument `stop_factor` should be above 1. Received: stop_factor={stop_factor}"
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` should be a `keras.Model`. Received: model={model!r}")
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"The model {model.name!r} is not compiled, so there is no rate to sweep. Call "
            "`model.compile(optimizer, loss)` first."
        )
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights to put back. Give it a "
            "`keras.Input`, or call it on a batch first."
        )
    if not model.trainable_variables:
        raise ValueError(
            f"The model {model.name!r} has nothing to train. Let some layers be trainable."
        )


def _optimizer_for_sweep(model: keras.Model) -> Any:
    """Gives the model an optimizer it may train with, and returns what has the rate."""
    if not model.optimizer.built:
        # Being built cannot be undone, so a copy is.
        with model.distribute_strategy.scope():
            model.optimizer = _copy(model.optimizer)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if isinstance(inner, MultiGroupOptimizer):
        if inner.built:
            # Variables thawed since the last step get their state before it is looked at.
            with model.distribute_strategy.scope():
                inner.build(model.trainable_variables)
        return inner
    if not isinstance(inner.get_config().get("learning_rate"), (numbers.Real, np.generic)):
        raise TypeError(
            "The rate of the model's optimizer cannot be set. Compile the model with a "
            "`MultiGroupOptimizer`, or with a Keras optimizer whose `learning_rate` is a float. "
            f"Received: {inner!r}"
        )
    return inner


def _copy(optimizer: Any) -> Any:
    copy = type(optimizer).from_config(optimizer.get_config())
    for original, twin in zip(_with_inner(optimizer), _with_inner(copy), strict=True):
        # Keras leaves what `exclude_from_weight_decay` was told out of the configuration.
        for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(original, name):
                setattr(twin, name, getattr(original, name))
    return copy


def _with_inner(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return [optimizer, inner, *getattr(inner, "group_optimizers", ())]


def _variables_of(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # Not part of what an optimizer saves, but what `last_learning_rates` reads.
    last_rates = [inner._last_rates] if isinstance(inner, MultiGroupOptimizer) else []
    return [*optimizer.variables, *last_rates]


# What in a data set's graph is handed a state that iterating moves on (the order of the next epoch,
# the elements in a cache), and what makes a new one of it.
_STATES_OF_DATASETS = {
    "ShuffleDatasetV3": "DummySeedGenerator",
    "ShuffleAndRepeatDatasetV2": "DummySeedGenerator",
    "CacheDatasetV2": "DummyMemoryCache",
}


def _independent_copy(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Copies a data set, so that reading the copy leaves the shuffling of the original alone.

    `shuffle` draws a new order each time it is read, so one more reader changes every later epoch.
    The copy starts with the order of the first epoch.
    """
    reason = "its graph is larger than 2 GiB"
    graph = graph_pb2.GraphDef()
    try:
        serialized = tf.raw_ops.DatasetToGraphV2(
            input_dataset=dataset._variant_tensor,
            external_state_policy=1,  # random operations in it are no reason for a warning
        )
        graph.ParseFromString(serialized.numpy())
    except tf.errors.OpError as error:
        reason = error.message
    if not graph.node:
        warnings.warn(
            "The data set cannot be copied, so the sweep moves its shuffling on: later epochs come "
            f"in another order than without it. Reason: {reason}",
            stacklevel=3,
        )
        return dataset
    nodes = {node.name: node for node in graph.node}
    for node in graph.node:
        for source in node.input if node.op in _STATES_OF_DATASETS else ():
            state = nodes[source]
            if state.attr["dtype"].type == tf.resource.as_datatype_enum:
                state.op = _STATES_OF_DATASETS[node.op]
                state.attr.clear()
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    copy = tf.data.experimental.from_variant(variant, dataset.element_spec)
    return copy.with_options(dataset.options())
