"""The learning-rate range test: a sweep of rates that leaves the model as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import math
import numbers
import os
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core._validation import check_integer, check_model, check_number, unwrap_optimizer
from dlr_tf.core.groups import model_of
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.optimizer_copies import copy_optimizer
from dlr_tf.core.schedules import LARGEST_RATE
from dlr_tf.training.loss_curve import LossCurve
from dlr_tf.training.lr_suggestions import SUGGESTIONS
from dlr_tf.training.restoring import (
    restore_attributes_on_exit,
    restore_generators_on_exit,
    restore_on_exit,
    state_of,
)
from dlr_tf.training.training_data import ARRAY_BATCH_SIZE, is_in_batches, without_autotuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# The batches of a generator are kept up to this size, in case it ends before the sweep does.
KEPT_BYTES = 2**28


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LearningRateSweep:
    """The result of a learning-rate range test.

    Args:
        learning_rates: Rate of the head at each step, rising. Kept as read-only float64.
        losses: Smoothed loss at each rate. Kept as read-only float64. The last one is not finite
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

    def suggest(self, method: str = "valley") -> float:
        """Return a rate for the head.

        The first tenth of the sweep and its last 5 points are left out. A rate below all rates of
        the sweep is not suggested: nothing was measured there.

        Args:
            method: `"valley"` (the middle of the longest fall of the loss: a safe choice, the
                default), `"slide"` (before the loss diverges), `"steep"` (where the loss falls
                fastest) or `"minimum"` (a tenth of the rate with the lowest loss).

        Raises:
            ValueError: If there is no such method, or the curve gives it no result: too few
                points, no finite loss, a loss that never falls, or a lowest loss near the lowest
                rate.

        Example:

        >>> import numpy as np
        >>> x = np.linspace(-6.0, 0.0, 100)
        >>> sweep = LearningRateSweep(10**x, (x + 2) ** 2)
        >>> f"{sweep.suggest():.1e}", f"{sweep.suggest('minimum'):.1e}"
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
            rate = SUGGESTIONS[method](self.learning_rates[kept], self.losses[kept])
            if rate < self.learning_rates[0]:
                raise ValueError(
                    f"The loss is lowest at the rate {10 * rate:.1e}, near the lowest rate of the "
                    "sweep, and rises from there: no rate makes this model better on these data, "
                    f"or the first batches are easier than others. Received: {rate:.1e}, below "
                    f"the first rate {self.learning_rates[0]:.1e}."
                )
            return rate
        except ValueError as error:
            raise ValueError(
                f"The sweep of {count} points, without its first tenth and its last 5, has no "
                f"{method!r} suggestion. {error} Sweep again with more `steps` or from a lower "
                "`start`, or choose another method."
            ) from error

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        title: str = "Learning-rate range test",
    ) -> Figure:
        """Draw the loss over the rate, and mark every suggestion that the curve gives.

        Args:
            path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
            title: Heading of the plot.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from dlr_tf.training import plotting

        suggestions = {}
        for method in SUGGESTIONS:
            with contextlib.suppress(ValueError):
                suggestions[method] = self.suggest(method)
        return plotting.plot_sweep(self.learning_rates, self.losses, suggestions, path, title=title)


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
    batch_size: int | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    verbose: int | str = "auto",
) -> LearningRateSweep:
    """Train a model for some steps at rising rates, record the losses, and restore the model.

    At step `i` of `n` the head learns at the rate

        start * (end / start)**(i / (n - 1))

    and every other group keeps its ratio to the head. With the loss `l_i` of step `i`, the smoothed
    loss is `a_i / (1 - smoothing**(i + 1))`, where `a_i = smoothing * a_(i - 1) + (1 - smoothing) *
    l_i`. The sweep ends early when the smoothed loss exceeds `stop_factor` times its lowest value
    (if the lowest value `b` is negative: `b + (stop_factor - 1) * abs(b)`), or the loss is not
    finite.

    Afterwards, also after an exception or Ctrl-C, these are as they were, bit for bit: the model
    (weights, batch-norm statistics, states of recurrent layers, seeds, metrics, and what `compile`
    and `fit` stored on it), its optimizer (state and rates), and the random generators of `random`,
    NumPy, TensorFlow and Keras.

    The data are read again from their start, and nothing of them is copied. So the next epoch of a
    data set that shuffles comes in another order than without the sweep. A generator cannot be
    reset: if it ends early, its batches are used again, which takes up to 256 MiB of memory. What
    the model's own code changes elsewhere is not restored.

    The suggestion depends on the batch size, on the data and on what is frozen: sweep again after a
    change. It is not valid for long runs, and less reliable for models whose first steps are not
    typical.

    Args:
        model: A built and compiled model: with a `MultiGroupOptimizer`, or with a Keras optimizer
            whose rate is a number.
        x: What `fit` takes. Arrays are shuffled. Data that end early start again.
        y: Targets, if `x` is an array or a structure of arrays.
        start: Rate of the first step, above 0. Defaults to `1e-7`.
        end: Rate of the last step, above `start`. Defaults to `10.0`.
        steps: Number of optimizer steps, at least 1. Defaults to `100`: about 12 rates per factor
            of 10.
        smoothing: Weight of the past in the smoothed loss, in [0, 1). Defaults to `0.98`.
        stop_factor: Above 1. Defaults to `4.0`.
        batch_size: Samples per batch, for arrays. Defaults to `None`: 32, as in `fit`. Other data
            are in batches already.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.
        verbose: `"auto"` or `1` for a progress bar, `2` for one line, `0` for no output, as in
            `fit`.

    Returns:
        A `LearningRateSweep`: rates, smoothed losses, suggestions and a plot.

    Raises:
        TypeError: If the optimizer's rate cannot be set, or an argument is of the wrong type.
        ValueError: If an argument is out of range, the model is not built or not compiled,
            `batch_size` is given with data that are in batches already, or the data have no batch.

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
    >>> 1e-4 < sweep.suggest() < 1.0
    True
    >>> model.optimizer.learning_rates == [np.float32(1e-4), np.float32(1e-3)]
    True

    Source: Smith, "Cyclical learning rates for training neural networks", 2017,
    https://arxiv.org/abs/1506.01186, section 3.3 (the range test); smoothing, stop and suggestions
    as in fastai's `lr_find`.
    """
    _check_arguments(start, end, steps, smoothing, stop_factor)
    _check_model(model)
    batch_size = _check_batch_size(batch_size, x)
    with contextlib.ExitStack() as stack:
        stack.enter_context(restore_generators_on_exit())
        stack.enter_context(restore_attributes_on_exit(model, _keras.TRAINER_ATTRIBUTES))
        optimizer = _optimizer_for_sweep(model)
        variables = [*state_of(model), *model.metrics_variables, *model.optimizer.variables]
        stack.enter_context(restore_on_exit(variables))
        # The sweep may create variables of metrics; they are left in their initial state.
        stack.callback(model.reset_metrics)
        # The sweep compiles its own step, so the state of operations in the model's compiled step
        # does not change. One execution is one step.
        model.train_function = None
        model.steps_per_execution = 1
        endless = isinstance(x, (tf.data.Dataset, types.GeneratorType))
        curve = LossCurve(smoothing, stop_factor)
        sweep = _Sweep(optimizer, np.geomspace(start, end, steps), curve, endless, verbose)
        batches = steps * sweep.batches_per_step
        if isinstance(x, tf.data.Dataset):
            x = without_autotuning(x.repeat())
        elif isinstance(x, types.GeneratorType):
            x = _cycle(x, batches)
        # `fit`, not `train_on_batch`: it distributes batches over the devices of a strategy, takes
        # class weights with a data set, and runs a model's own `train_step` as training will.
        model.fit(
            x,
            y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            class_weight=class_weight,
            # Other data start again with each epoch; the callback ends the last epoch.
            epochs=2**31,
            steps_per_epoch=batches if endless else None,
            shuffle=not (endless or isinstance(x, tf.distribute.DistributedDataset)),
            callbacks=[sweep],
            verbose=0,
        )
    # The sweep ends within an epoch, and Keras then leaves the iterator in a circle of references.
    # Deleting it can take long, and Python's collector would do that anywhere, later.
    gc.collect()
    return LearningRateSweep(sweep.learning_rates[: len(sweep.losses)], np.array(sweep.losses))


def _cycle(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """Return a generator of `count` batches, which begins again after the last one.

    The batches are kept until they need more than `KEPT_BYTES`. After that nothing is repeated.

    Raises:
        ValueError: If there is no batch: some versions of Keras fail with an `IndexError`.
    """
    for first in batches:
        return _repeated(itertools.chain([first], batches), count)
    raise _no_batch_error(0, count)


def _repeated(batches: Iterator[Any], count: int) -> Iterator[Any]:
    kept: list[Any] = []
    size = 0
    for batch in itertools.islice(batches, count):
        yield batch
        size += sum(getattr(array, "nbytes", 0) for array in keras.tree.flatten(batch))
        if size <= KEPT_BYTES:
            kept.append(batch)
        else:
            kept.clear()
    yield from itertools.islice(itertools.cycle(kept), count - len(kept))


def _no_batch_error(n_batches: int, n_steps: int) -> ValueError:
    return ValueError(
        "The sweep needs batches to train on, but the data gave none, or no more. Received: "
        f"{n_batches} batches for {n_steps} steps. A large generator can be read only once: pass a "
        "`tf.data.Dataset`, a `keras.utils.PyDataset` or arrays, or fewer `steps`."
    )


class _Sweep(keras.callbacks.Callback):
    """Set the rate before each step, read the loss after it, and end `fit`."""

    def __init__(
        self,
        optimizer: Any,
        learning_rates: np.ndarray,
        curve: LossCurve,
        is_endless: bool,
        verbose: int | str,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.learning_rates = learning_rates
        self.batches_per_step = optimizer.gradient_accumulation_steps or 1
        self.losses = curve.losses
        self._curve = curve
        self._is_endless = is_endless
        self._batches = self._batches_before_epoch = 0
        self._bar = keras.utils.Progbar(
            len(learning_rates),
            width=10,  # Keras' 20 characters would make a line of more than 80 columns
            verbose=1 if verbose == "auto" else verbose,
            stateful_metrics=["learning_rate", "loss"],
        )

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batches_before_epoch = self._batches

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._batches % self.batches_per_step == 0:
            # `fit` logs the mean over the epoch; the sweep needs the loss of each step.
            self.model.reset_metrics()
            self._set_rate(float(self.learning_rates[len(self.losses)]))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batches += 1
        if self._batches % self.batches_per_step == 0:
            self._record(logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        # An epoch of data without an end lasts as long as the sweep.
        has_ended = self._is_endless and not self.model.stop_training
        if has_ended or self._batches == self._batches_before_epoch:
            raise _no_batch_error(self._batches, len(self.learning_rates))

    def _set_rate(self, rate: float) -> None:
        grouped = isinstance(self.optimizer, MultiGroupOptimizer)
        if grouped and not float(self.optimizer.learning_rate):
            # A warm-up starts at rate 0, and no factor turns 0 into another rate: skip that step.
            self.optimizer.step_counter.assign_add(self.batches_per_step)
        with warnings.catch_warnings():
            # The sweep exceeds the peak of a schedule on purpose.
            warnings.simplefilter("ignore", UserWarning)
            self.optimizer.learning_rate = rate

    def _record(self, logs: Mapping[str, Any]) -> None:
        if "loss" not in logs:
            raise ValueError(
                "The sweep needs the loss of every step, but the model's `train_step` returns none "
                f"under the name 'loss'. Received: {sorted(logs)}. Return it under that name, or "
                "choose the learning rates yourself."
            )
        goes_on = self._curve.add(float(logs["loss"]))
        if len(self.losses) == len(self.learning_rates) or not goes_on:
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
    for name, rate in (("start", start), ("end", end)):
        check_number(name, rate, maximum=LARGEST_RATE)
    if not 0 < start < end:
        raise ValueError(
            "The sweep should go from a rate above 0 to a higher one. "
            f"Received: start={start}, end={end}"
        )
    check_integer("steps", steps, minimum=1)
    if check_number("smoothing", smoothing) >= 1:
        raise ValueError(f"Argument `smoothing` should be below 1. Received: smoothing={smoothing}")
    # Infinity means that the sweep never stops early.
    if stop_factor != math.inf and check_number("stop_factor", stop_factor) <= 1:
        raise ValueError(
            f"Argument `stop_factor` should be above 1. Received: stop_factor={stop_factor}"
        )


def _check_batch_size(batch_size: int | None, x: Any) -> int | None:
    if batch_size is None:
        # A task of KerasHub refuses any size for a data set.
        return None if is_in_batches(x) else ARRAY_BATCH_SIZE
    if is_in_batches(x):
        raise ValueError(
            "Argument `batch_size` is for arrays, but the data come in batches already. Leave it "
            f"out. Received: batch_size={batch_size} and x of type {type(x).__name__}"
        )
    return check_integer("batch_size", batch_size, minimum=1)


def _check_model(model: Any) -> None:
    check_model(model)
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"The model {model.name!r} is not compiled, so there is no rate to sweep. Call "
            "`model.compile(optimizer, loss)` first."
        )
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights to restore. Give it a "
            "`keras.Input`, or call it on a batch first."
        )
    if not model.trainable_variables:
        raise ValueError(
            f"The model {model.name!r} has nothing to train. Let some layers be trainable."
        )


def _optimizer_for_sweep(model: keras.Model) -> Any:
    """Give the model an optimizer that the sweep may change; return the one that has the rate."""
    if not model.optimizer.built:
        # Building cannot be undone, so the sweep builds a copy.
        with model.distribute_strategy.scope():
            model.optimizer = _copy(model.optimizer)
    inner = unwrap_optimizer(model.optimizer)
    if isinstance(inner, MultiGroupOptimizer):
        if inner.built:
            # Create the state of variables that became trainable since the last step, so that it
            # is restored with the rest.
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
    copied = copy_optimizer(optimizer, keep_rate=True)
    original, twin = unwrap_optimizer(optimizer), unwrap_optimizer(copied)
    if isinstance(original, MultiGroupOptimizer) and model_of(original.groups) is not None:
        twin.bind(model_of(original.groups))
    return copied
