"""A callback that saves the weights at the end of every SGDR cycle."""

from __future__ import annotations

import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training.restoring import restore_on_exit


class SnapshotEnsemble(keras.callbacks.Callback):
    """Saves the weights at the end of every SGDR cycle, and predicts with all of them together.

    Each cycle anneals into another minimum, so their mean is often better than the last one alone,
    at the price of one prediction per member. Cycle `i`, counted from 1, becomes
    `cycle-01.weights.h5` and so on, written under another name first and then renamed. The number
    follows from the optimizer's step, so a resumed run goes on with the right one. The files hold
    the weights as `model.save_weights` writes them, without the state of the optimizer.

    With `steps_per_execution` above 1, a cycle should end where an execution ends; otherwise its
    weights are saved at the end of the execution, with a warning.

    Args:
        schedule: The `SGDR` that the optimizer follows.
        directory: Where the files go; created when training starts. Cycle files that this training
            would write again are refused.
        overwrite: Whether such files are removed instead when training starts. Defaults to `False`.

    Raises:
        TypeError: If `schedule` is no `SGDR`.
        ValueError: When training starts, if the directory holds files of cycles to come.

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
        """The mean of the members' predictions; the model keeps its own weights.

        Means are taken over probabilities. With `activation="auto"` the model's loss tells whether
        it gives them: where it was compiled with `from_logits=True`, `softmax` (for a binary loss
        `sigmoid`) turns each member's output into probabilities first; otherwise outputs are
        averaged as they are.

        Args:
            x: What `model.predict` takes, read once per member: no generator, and a data set must
                give its elements in the same order each time.
            activation: `"auto"`, or what is applied to each member's output: a name such as
                `"softmax"`, a function, or `None` for nothing. Defaults to `"auto"`.
            **kwargs: Passed to `model.predict`, such as `batch_size` and `verbose`.

        Returns:
            What `model.predict` returns.

        Raises:
            TypeError: If `x` can be read only once.
            ValueError: If there is no model or member, the loss does not tell whether the model
                gives logits, or `x` comes in another order each time.
        """
        if self.model is None:
            raise ValueError(
                "The ensemble has no model to predict with. Train with this callback, or call "
                "`set_model(model)` first."
            )
        if isinstance(x, Iterator):
            raise TypeError(
                "Every member reads the data, so they should be readable more than once. Pass an "
                f"array or a data set. Received: x={x!r}"
            )
        members = self.members
        if not members:
            raise ValueError(
                f"There are no members in {str(self.directory)!r}: no cycle has ended. Train for "
                f"at least {self._end_after(0)} steps with this callback."
            )
        to_probabilities = self._activation(activation)
        order = _Order()
        outputs = []
        with restore_on_exit(self.model.variables):
            for member in members:
                keras.saving.load_weights(self.model, member, objects_to_skip=self._not_weights())
                order.check(x)
                outputs.append(self.model.predict(x, **kwargs))
        return keras.tree.map_structure(
            lambda *parts: _mean([to_probabilities(part) for part in parts]), *outputs
        )

    def _activation(self, activation: Any) -> Callable[[Any], Any]:
        if activation != "auto":
            return keras.activations.get(activation)
        if not self.model.compiled:
            raise ValueError(
                "The model is not compiled, so its loss does not tell whether it gives logits. "
                "Pass `activation='softmax'` if it does, and `activation=None` if it does not."
            )
        losses = keras.tree.flatten(self.model.loss)
        from_logits = [
            isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits", False)
            for loss in losses
        ]
        if not any(from_logits):
            return keras.activations.linear
        if len(losses) > 1:
            raise ValueError(
                "Some of the model's outputs are logits. Pass `activation=`, which is applied to "
                f"each output, or average the members yourself. Received: loss={self.model.loss!r}"
            )
        binary = type(losses[0]).__name__.startswith("Binary")
        return keras.activations.sigmoid if binary else keras.activations.softmax

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._started = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        # Not in `on_train_begin`, where `BackupAndRestore` may still have to restore the steps.
        if not self._started:
            self._start()
            self._started = True

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        # The optimizer's step is read, and so waited for, only when a cycle may have ended.
        self._steps_at_most += self.model.steps_per_execution
        if self._steps_at_most < self._next_end:
            return
        steps = self._steps_at_most = int(self.model.optimizer.iterations)
        if steps >= self._next_end:
            self._save_cycle(steps)
            self._next_end = self._end_after(steps)

    def _start(self) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if optimizer.gradient_accumulation_steps and not isinstance(optimizer, MultiGroupOptimizer):
            raise ValueError(
                "Keras runs schedules on every batch under gradient accumulation, so cycles do not "
                "end after as many steps. Use `MultiGroupOptimizer`, whose schedules count steps. "
                f"Received: {optimizer!r}"
            )
        steps = self._steps_at_most = int(self.model.optimizer.iterations)
        self._next_end = self._end_after(steps)
        to_come = [path for cycle, path in self._files() if cycle > self._ended_by(steps)]
        if to_come and not self.overwrite:
            raise ValueError(
                f"{str(self.directory)!r} holds files of cycles that this training, now at step "
                f"{steps}, would write again. Choose another directory, or pass `overwrite=True` "
                f"to remove them. Received: {sorted(path.name for path in to_come)}"
            )
        for path in to_come:
            path.unlink()
        self.directory.mkdir(parents=True, exist_ok=True)

    def _save_cycle(self, steps: int) -> None:
        first, cycle = self._ended_by(self._next_end), self._ended_by(steps)
        if steps > self._next_end:
            warnings.warn(
                f"Cycle {first} ended at step {self._next_end}, in the middle of an execution of "
                f"{self.model.steps_per_execution} steps. The weights of step {steps} were saved, "
                f"for cycle {cycle}. Let `steps_per_execution` divide the cycles and the epochs.",
                stacklevel=2,
            )
        path = self.directory / f"cycle-{cycle:02d}.weights.h5"
        unfinished = self.directory / f"unfinished-{os.getpid()}.weights.h5"
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

    def _ended_by(self, steps: int) -> int:
        """How many cycles have ended after so many steps."""
        return max(len(self.schedule.restart_steps(steps + 1)) - 1, 0)

    def _end_after(self, steps: int) -> int:
        """The first step after `steps` at which a cycle has ended."""
        until = steps + 2
        while True:
            ends = [end for end in self.schedule.restart_steps(until)[1:] if end > steps]
            if ends:
                return ends[0]
            until *= 2


_CYCLE_FILE = re.compile(r"cycle-(\d+)\.weights\.h5")


class _Order:
    """Notices a data set that gives its elements in another order than the first time."""

    def __init__(self) -> None:
        self._first: list[np.ndarray] | None = None

    def check(self, x: Any) -> None:
        if not isinstance(x, tf.data.Dataset):
            return
        # Compared as bytes, so that NaN equals itself.
        first = [np.asarray(part) for part in keras.tree.flatten(next(iter(x)))]
        if self._first is not None and any(
            one.tobytes() != other.tobytes() for one, other in zip(first, self._first, strict=True)
        ):
            raise ValueError(
                "The data set gives its elements in another order each time it is read, so the "
                "members' predictions do not belong together. Leave out `shuffle`."
            )
        self._first = first


def _mean(parts: Sequence[Any]) -> np.ndarray:
    arrays = [np.asarray(part) for part in parts]
    return np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)
