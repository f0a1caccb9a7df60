"""A callback that saves the weights at the end of every SGDR cycle."""

from __future__ import annotations

import os
import pathlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf._names import some_of
from dlr_tf.core._keras import all_layers
from dlr_tf.core._validation import check_integer, unwrap_optimizer, warn_user
from dlr_tf.core.inner_optimizers import schedule_of
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training.checked_callback import CheckedCallback
from dlr_tf.training.distribution import is_chief
from dlr_tf.training.restoring import restore_on_exit, state_of
from dlr_tf.training.training_data import without_autotuning


class SnapshotEnsemble(CheckedCallback):
    """Save the weights at the end of every SGDR cycle, and average the predictions of all of them.

    The files are the members of the ensemble. Each cycle ends in another minimum, so the mean of
    the members' predictions is often better than the last model alone. It costs one prediction per
    member. `averaged_model` gives one model with the mean of the weights instead.

    Cycle `i`, counted from 1, is saved as `cycle-01.weights.h5` and so on. A file is written under
    another name and then renamed, so it is complete or absent. The number follows from the
    optimizer's step, so a resumed run continues with the right one. The files hold the weights as
    `model.save_weights` writes them, without the state of the optimizer.

    On several machines only the first worker writes.

    With `steps_per_execution` above 1, a cycle should end where an execution ends. Otherwise its
    weights are saved at the end of the execution, with a warning.

    Args:
        schedule: The `SGDR` that the optimizer follows, or one with cycles of the same length.
        directory: Folder of the files, created when training starts. If it holds files that this
            training would overwrite, training does not start.
        overwrite: Whether to remove such files when training starts. A training that was killed
            needs it if a cycle ended after the backup that it resumes from. Defaults to `False`.

    Raises:
        TypeError: If `schedule` is not an `SGDR`.
        ValueError: When training starts, if the optimizer does not follow the cycles of `schedule`,
            or the directory holds files of later cycles.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import numpy as np
    >>> from dlr_tf.core.schedules import SGDR
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    >>> schedule = SGDR(0.1, first_decay_steps=2)
    >>> model.compile(keras.optimizers.SGD(schedule), loss="sparse_categorical_crossentropy")
    >>> snapshots = SnapshotEnsemble(schedule, tempfile.mkdtemp())
    >>> x = np.ones((6, 2))
    >>> _ = model.fit(x, np.zeros(6), batch_size=1, callbacks=[snapshots], verbose=0)
    >>> [path.name for path in snapshots.members]
    ['cycle-01.weights.h5', 'cycle-02.weights.h5']
    >>> snapshots.predict(x, verbose=0).shape
    (6, 3)

    Source: Huang et al., "Snapshot ensembles: train 1, get M for free", 2017,
    https://arxiv.org/abs/1704.00109.
    """

    def __init__(
        self, schedule: SGDR, directory: str | os.PathLike[str], *, overwrite: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(schedule, SGDR):
            raise TypeError(
                "Argument `schedule` should be the `SGDR` that the optimizer follows: no other "
                f"schedule has cycles that end. Received: schedule={schedule!r}"
            )
        self.schedule = schedule
        self.directory = pathlib.Path(directory)
        self.overwrite = overwrite
        self._started = False
        self._steps_at_most = self._next_end = 0

    @property
    def members(self) -> list[pathlib.Path]:
        """The files of the cycles in the directory, in order."""
        return [path for _, path in sorted(self._files())]

    def predict(self, x: Any, *, activation: Any = "auto", **kwargs: Any) -> Any:
        """Return the mean of the members' predictions; the model keeps its own weights.

        The mean is over probabilities. With `activation="auto"` the model's loss shows whether the
        outputs are probabilities: if the loss has `from_logits=True`, `softmax` (for a binary loss
        `sigmoid`) is applied to each member's output first. Otherwise the mean is over the outputs.

        Args:
            x: What `model.predict` takes. It is read once per member, so it cannot be a generator,
                and a data set must give its elements in the same order each time.
            activation: `"auto"`, or what is applied to each member's output: a name such as
                `"softmax"`, a function, or `None`. Defaults to `"auto"`.
            **kwargs: Passed to `model.predict`, such as `batch_size` and `verbose`.

        Returns:
            What `model.predict` returns.

        Raises:
            TypeError: If `x` can be read only once.
            ValueError: If there is no model or member, the loss does not show whether the model
                gives logits, or `x` comes in another order each time.
        """
        members = self._checked_members()
        if isinstance(x, Iterator):
            raise TypeError(
                "Every member reads the data, so it should be possible to read them more than "
                f"once. Pass an array or a data set. Received: x={x!r}"
            )
        if activation == "auto":
            to_probabilities = self._activation_for_loss()
        else:
            to_probabilities = keras.activations.get(activation)
        order = _Order()
        outputs = []
        with restore_on_exit(state_of(self.model)):
            for member in members:
                keras.saving.load_weights(self.model, member, objects_to_skip=self._not_weights())
                order.check(x)
                outputs.append(self.model.predict(x, **kwargs))
        return keras.tree.map_structure(
            lambda *parts: _mean([to_probabilities(part) for part in parts]), *outputs
        )

    def averaged_model(self, train_data: Any = None, *, batch_size: int = 32) -> keras.Model:
        """Return a new model whose weights are the mean of the members' weights.

        One model instead of several: stochastic weight averaging. The statistics of batch
        normalization do not fit averaged weights, so they are computed afresh on the training data:
        the mean over the batches, as `torch.optim.swa_utils.update_bn` does. Layers that are frozen
        keep theirs.

        Args:
            train_data: The training data: an array, a pair `(x, y)`, a `tf.data.Dataset` or a
                `keras.utils.PyDataset`. It is read once; labels are not used. Needed where the
                model has batch normalization that is not frozen.
            batch_size: Integer of at least 1: the size of the batches of arrays. Defaults to `32`.

        Returns:
            A model that is not compiled. The callback's model is not changed.

        Raises:
            ValueError: If there is no model or member, or `train_data` is missing, empty or
                endless.

        Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
        Generalization", 2018, https://arxiv.org/abs/1803.05407.
        """
        members = self._checked_members()
        layers = _moving_batch_norm(self.model)
        if layers and train_data is None:
            raise ValueError(
                "The model has batch normalization, whose statistics do not fit averaged weights. "
                "Pass the training data: `averaged_model(train_data)`. "
                f"Layers: {some_of([layer.name for layer in layers])}"
            )
        means: list[Any] = []
        with restore_on_exit(self.model.variables):
            for count, member in enumerate(members, start=1):
                keras.saving.load_weights(self.model, member, objects_to_skip=self._not_weights())
                weights = [np.asarray(weight) for weight in self.model.get_weights()]
                means = means or [np.zeros(weight.shape) for weight in weights]
                means = [
                    mean + (weight - mean) / count
                    if np.issubdtype(weight.dtype, np.floating)
                    else weight
                    for mean, weight in zip(means, weights, strict=True)
                ]
        with self.model.distribute_strategy.scope():
            averaged = keras.models.clone_model(self.model)
            if not averaged.built:
                averaged.build_from_config(self.model.get_build_config())
        averaged.set_weights(means)
        if layers:
            _renew_statistics(averaged, _inputs_of(train_data, batch_size))
        return averaged

    def _checked_members(self) -> list[pathlib.Path]:
        if self.model is None:
            raise ValueError(
                "The ensemble has no model. Train with this callback, or call `set_model(model)` "
                "first."
            )
        if not self.members:
            raise ValueError(
                f"There are no members in {str(self.directory)!r}: no cycle has ended. Train "
                f"{self.model.name!r} for at least {self._end_after(0)} steps with this callback."
            )
        return self.members

    def _activation_for_loss(self) -> Callable[[Any], Any]:
        if not self.model.compiled:
            raise ValueError(
                "The model is not compiled, so there is no loss that shows whether it gives "
                "logits. Pass `activation='softmax'` if it does, and `activation=None` if not."
            )
        return probability_activation(keras.tree.flatten(self.model.loss))

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._started = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        # Not in `on_train_begin`: `BackupAndRestore` restores the steps there, perhaps later.
        if not self._started:
            self._start()
            self._started = True

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        # Reading the optimizer's step waits for it, so it is read only when a cycle may have ended.
        self._steps_at_most += self.model.steps_per_execution
        if self._steps_at_most < self._next_end:
            return
        steps = self._steps_at_most = self._n_steps()
        if steps >= self._next_end:
            self._save_cycle(steps)
            self._next_end = self._end_after(steps)

    def _start(self) -> None:
        optimizer = unwrap_optimizer(self.model.optimizer)
        if optimizer.gradient_accumulation_steps and not isinstance(optimizer, MultiGroupOptimizer):
            raise ValueError(
                "Keras runs schedules on every batch under gradient accumulation, so cycles do not "
                "end after as many steps. Use `MultiGroupOptimizer`, whose schedules count steps. "
                f"Received: {optimizer!r}"
            )
        self._check_followed(optimizer)
        steps = self._steps_at_most = self._n_steps()
        self._next_end = self._end_after(steps)
        if not is_chief(self.model.distribute_strategy):
            return
        later = [path for cycle, path in self._files() if cycle > self._n_ended(steps)]
        if later and not self.overwrite:
            raise ValueError(
                f"{str(self.directory)!r} holds files of cycles that this training, now at step "
                f"{steps}, would overwrite. Choose another directory, or pass `overwrite=True` "
                f"to remove them. Received: {sorted(path.name for path in later)}"
            )
        for path in later:
            path.unlink(missing_ok=True)
        self.directory.mkdir(parents=True, exist_ok=True)

    def _check_followed(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Raise if the optimizer's rates do not follow the cycles of the schedule."""
        grouped = isinstance(optimizer, MultiGroupOptimizer)
        followed = map(schedule_of, optimizer.group_optimizers if grouped else [optimizer])
        schedules = [schedule for schedule in followed if schedule is not None]
        cycles = _cycles_of(self.schedule)
        if not schedules or any(_cycles_of(schedule) != cycles for schedule in schedules):
            raise ValueError(
                "The optimizer does not follow `schedule`, so the weights would be saved in the "
                "middle of its own course. Give both the same `SGDR`, or one with the same "
                "`first_decay_steps`, `t_mul` and `warmup_steps`. Received: "
                f"schedule={self.schedule!r}, and an optimizer with "
                f"{some_of(schedules) if schedules else 'a constant rate'}"
            )

    def _save_cycle(self, steps: int) -> None:
        first, cycle = self._n_ended(self._next_end), self._n_ended(steps)
        if steps > self._next_end:
            warn_user(
                f"Cycle {first} ended at step {self._next_end}, in the middle of an execution of "
                f"{self.model.steps_per_execution} steps. The weights of step {steps} were saved, "
                f"for cycle {cycle}. Let `steps_per_execution` divide the cycles and the epochs."
            )
        if not is_chief(self.model.distribute_strategy):
            return
        path = self.directory / f"cycle-{cycle:02d}.weights.h5"
        # Processes of several machines may have one number.
        unfinished = self.directory / f"unfinished-{uuid.uuid4().hex}.weights.h5"
        try:
            keras.saving.save_weights(self.model, unfinished, objects_to_skip=self._not_weights())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _not_weights(self) -> list[Any]:
        return [self.model.optimizer] if self.model.compiled else []

    def _files(self) -> list[tuple[int, pathlib.Path]]:
        if not self.directory.is_dir():
            return []
        matches = [(_CYCLE_FILE.fullmatch(path.name), path) for path in self.directory.iterdir()]
        return [(int(match[1]), path) for match, path in matches if match]

    def _n_steps(self) -> int:
        """Return how many steps were made. A strategy keeps a copy of the count per device."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _n_ended(self, steps: int) -> int:
        """Return how many cycles have ended after so many steps."""
        return max(self.schedule.n_restarts(steps + 1) - 1, 0)

    def _end_after(self, steps: int) -> int:
        """Return the first step after `steps` at which a cycle has ended."""
        # During the warm-up, the next restart would be the start of cycle 0.
        return self.schedule.next_restart(max(steps, self.schedule.warmup_steps))


def _cycles_of(schedule: Any) -> tuple[Any, ...] | None:
    """Return what the lengths of the cycles follow from; `None` for another schedule."""
    if not isinstance(schedule, SGDR):
        return None
    return schedule.first_decay_steps, schedule.t_mul, schedule.warmup_steps


_CYCLE_FILE = re.compile(r"cycle-(\d+)\.weights\.h5")


def probability_activation(losses: Sequence[Any]) -> Callable[[Any], Any]:
    """Return the function that turns a model's output into probabilities, according to its loss.

    Args:
        losses: The losses of a compiled model: names, functions or `keras.losses.Loss` objects.

    Raises:
        ValueError: If there are several losses, and one of them takes logits.

    >>> probability_activation([keras.losses.BinaryCrossentropy(from_logits=True)]).__name__
    'sigmoid'
    >>> probability_activation(["mse"]).__name__
    'linear'
    """
    from_logits = [
        isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits", False)
        for loss in losses
    ]
    if not any(from_logits):
        return keras.activations.linear
    if len(losses) > 1:
        raise ValueError(
            "Some of the model's outputs are logits. Pass `activation=`, which is applied to each "
            f"output, or average the members yourself. Received: losses {losses!r}"
        )
    binary = type(losses[0]).__name__.startswith("Binary")
    return keras.activations.sigmoid if binary else keras.activations.softmax


class _Order:
    """Check that a data set gives its elements in the same order each time."""

    def __init__(self) -> None:
        self._first: list[np.ndarray] | None = None

    def check(self, x: Any) -> None:
        if not isinstance(x, tf.data.Dataset):
            return
        # Compared as bytes, so that NaN equals itself.
        first = [np.asarray(part) for part in keras.tree.flatten(next(iter(without_autotuning(x))))]
        if self._first is not None and any(
            one.tobytes() != other.tobytes() for one, other in zip(first, self._first, strict=True)
        ):
            raise ValueError(
                "The data set gives its elements in another order each time it is read, so the "
                "members' predictions cannot be averaged. Leave out `shuffle`."
            )
        self._first = first


def _mean(parts: Sequence[Any]) -> np.ndarray:
    arrays = [np.asarray(part) for part in parts]
    return np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)


def _moving_batch_norm(model: keras.Model) -> list[keras.layers.Layer]:
    """The batch-normalization layers of a model whose statistics move in training."""
    norm = keras.layers.BatchNormalization
    return [one for one in all_layers(model) if isinstance(one, norm) and one.trainable]


def _inputs_of(train_data: Any, batch_size: int) -> Iterator[Any]:
    """Yield the inputs of the batches of training data."""
    if isinstance(train_data, keras.utils.PyDataset):
        batches: Any = (train_data[number] for number in range(train_data.num_batches))
    elif isinstance(train_data, tf.data.Dataset):
        if train_data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("Argument `train_data` does not end. Call `take(steps)` on it.")
        batches = train_data
    else:
        x = train_data[0] if isinstance(train_data, tuple) else train_data
        batches = tf.data.Dataset.from_tensor_slices(x).batch(
            check_integer("batch_size", batch_size)
        )
    for batch in batches:
        yield batch[0] if isinstance(batch, tuple) else batch


def _renew_statistics(model: keras.Model, batches: Iterator[Any]) -> None:
    """Set the statistics of batch normalization to their means over some batches."""
    layers = _moving_batch_norm(model)
    momenta = [layer.momentum for layer in layers]

    @tf.function(reduce_retracing=True)
    def forward(x: Any, momentum: tf.Tensor) -> None:
        for layer in layers:
            layer.momentum = momentum
        model(x, training=True)

    count = 0
    try:
        for count, x in enumerate(batches, start=1):
            # With this momentum, the moving mean is the mean of all batches so far.
            forward(x, tf.constant(1 - 1 / count, keras.config.floatx()))
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
    if not count:
        raise ValueError("Argument `train_data` holds no batch. Give the training data.")
