"""Callbacks: the rates of every step, and snapshots of SGDR cycles."""

from __future__ import annotations

import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core.optimizer import MultiGroupOptimizer, reader, unwrap
from dlr_tf.core.schedules import SGDR
from dlr_tf.training.restoring import preserved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Rows are kept as tensors and turned into numbers so many at a time.
_ROWS_AT_A_TIME = 1000


class LearningRateLogger(keras.callbacks.Callback):
    """Records the rate that each group was updated with at every step, and the batch's logs.

    Pass it to `fit`; it goes on over several fits. In a loop of your own, call `record` after each
    step. It also adds `learning_rate/<group>`, the rates of the last step, to the logs of an epoch:
    `History`, the progress bar and `TensorBoard` show them, and so does a `CSVLogger` that stands
    after this callback in the list (it takes its columns from its first epoch).

    `fit` does not wait for a step because of it: rates stay on their device until an epoch ends or
    `history` is read. (Keras itself turns a batch's logs into numbers before callbacks see them.)

    Args:
        optimizer: The `MultiGroupOptimizer` of a loop of your own, bare or in a
            `LossScaleOptimizer`. Defaults to `None`: the optimizer of the model in `fit`.

    Raises:
        TypeError: If the optimizer, or in `fit` the model's, is no `MultiGroupOptimizer`.
        ValueError: If a group has the name of a column: `iterations`, `loss` or a metric.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from dlr_tf import MultiGroupOptimizer, split_layers
    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1, name="top")]
    ... )
    >>> groups = split_layers(model, ["top"], names=["body", "head"])
    >>> model.compile(MultiGroupOptimizer(groups, [0.01, 0.1]), loss="mse")
    >>> logger = LearningRateLogger()
    >>> x = np.ones((6, 2))
    >>> _ = model.fit(x, x[:, 0], batch_size=2, callbacks=[logger], verbose=0)
    >>> logger.history["iterations"], np.round(logger.history["head"], 3).tolist()
    ([1, 2, 3], [0.1, 0.1, 0.1])
    """

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        self._optimizer: MultiGroupOptimizer | None = None
        self._iterations: list[int] = []
        self._logged: dict[str, list[float]] = {"loss": []}
        self._rates: dict[str, list[float]] = {}
        # Rows that are not numbers yet: step, whether it is from `fit`, rates and logs.
        self._pending: list[tuple[Any, bool, Any, Mapping[str, Any]]] = []
        self._steps_are_batches, self._steps_before_epoch = False, 0
        self._checked: Set[str] = frozenset()  # names of logs that no group has
        if optimizer is not None:
            self._follow(optimizer)

    @property
    def history(self) -> dict[str, list[Any]]:
        """Lists of equal length, one entry per step: ready for `pandas.DataFrame`.

        `"iterations"`: the number of steps that the optimizer had made, this one included.
        `"loss"` and the metrics: as `fit` gives them to callbacks (means over the epoch so far), or
        as given to `record`; NaN where there is none. Then one list per group, under its name: its
        rate. With `steps_per_execution=k` there is one entry per `k` steps, of the last of them.
        """
        self._collect()
        columns: dict[str, list[Any]] = {"iterations": self._iterations}
        columns |= self._logged | self._rates
        return {name: list(values) for name, values in columns.items()}

    def record(self, step: Any, logs: Mapping[str, Any] | None = None) -> None:
        """Adds a row, in a training loop of your own: call it after `apply_gradients`.

        Args:
            step: Number of steps made, such as `optimizer.iterations`.
            logs: Loss and metrics of the step: numbers, scalar tensors or variables. Their values
                are not waited for.

        Raises:
            ValueError: If no optimizer is known, it is called inside of a `tf.function`, or a log
                has the name of a group.
        """
        if not tf.executing_eagerly():
            raise ValueError(
                "`record` was called while a `tf.function` is traced, where a step has no number "
                "yet. Call it after the compiled step, in the Python loop."
            )
        if self._optimizer is None:
            if self.model is None:
                raise ValueError(
                    "`record` does not know the optimizer. Create the callback with "
                    "`LearningRateLogger(optimizer)`, or call `set_model(model)` first."
                )
            self._follow(self.model.optimizer)
        logs = {name: _tensor_now(value) for name, value in (logs or {}).items()}
        self._add(_tensor_now(step), False, logs)

    def plot_learning_rate(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the rate of every group over the steps.

        Args:
            path: File to write, `.png` or `.svg`. Defaults to `None`: none is written.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ValueError: If nothing was recorded.
            ImportError: If matplotlib is not installed.
        """
        from dlr_tf.training import plotting

        history = self._history_after(0)
        rates = {name: history[name] for name in self._rates}
        return plotting.plot_learning_rates(history["iterations"], rates, path)

    def plot_loss(self, path: str | os.PathLike[str] | None = None, skip: int = 10) -> Figure:
        """Draws the loss over the rate of the head, on a log axis, with a gap at each restart.

        It tells most where the rate rises, as in a warm-up; for a choice of rates use
        `find_learning_rate`.

        Args:
            path: File to write, `.png` or `.svg`. Defaults to `None`: none is written.
            skip: Number of first rows to leave out. Defaults to `10`.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ValueError: If no more than `skip` rows were recorded.
            ImportError: If matplotlib is not installed.
        """
        from dlr_tf.training import plotting

        history = self._history_after(skip)
        rates = np.array(history[list(self._rates)[-1]])
        # Without the gap, a line across the plot would join the end of a cycle to the next start.
        restarts = np.flatnonzero(rates[1:] > 2 * rates[:-1]) + 1
        losses = np.insert(history["loss"], restarts, math.nan)
        return plotting.plot_loss(np.insert(rates, restarts, math.nan), losses, path)

    def _history_after(self, skip: int) -> dict[str, list[Any]]:
        history = self.history
        count = len(history["iterations"])
        if not 0 <= skip < count:
            raise ValueError(
                "There is nothing to plot. Train with this callback first, and skip fewer rows "
                f"than it recorded. Received: skip={skip}, {count} rows."
            )
        return {name: values[skip:] for name, values in history.items()}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._follow(self.model.optimizer)
        # Reading a variable takes about 2 % of a step of 5 ms, so the step is counted where it can
        # be: where each batch makes one, unlike under loss scaling, which skips some.
        own_step = "train_step" in vars(self.model) or any(
            getattr(type(self.model), name) is not getattr(keras.Model, name)
            for name in ("train_step", "make_train_function")
        )
        self._steps_are_batches = self.model.optimizer is self._optimizer and not own_step

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._steps_before_epoch = int(self._read_iterations())

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._steps_are_batches:
            step = self._steps_before_epoch + batch + 1
        else:
            step = self._read_iterations()
        self._add(step, True, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._collect()
        if logs is None or self._optimizer is None or not self._iterations:
            return
        for group in self._optimizer.groups:
            logs[f"learning_rate/{group.name}"] = self._rates[group.name][-1]

    def _follow(self, optimizer: Any) -> None:
        optimizer = unwrap(optimizer)
        if optimizer is self._optimizer:
            return
        names = [group.name for group in optimizer.groups]
        _check_names(names, ("iterations", *self._logged))
        self._collect()  # with the groups of the optimizer before
        self._optimizer, self._checked = optimizer, frozenset()
        for name in names:
            self._rates.setdefault(name, [math.nan] * len(self._iterations))
        self._read_rates = reader(optimizer._last_rates)
        self._read_iterations = reader(optimizer._iterations)
        self._micro_steps = optimizer.gradient_accumulation_steps or 1

    def _add(self, step: Any, from_fit: bool, logs: Mapping[str, Any]) -> None:
        if logs.keys() != self._checked:
            _check_names(self._rates, logs)
            self._checked = logs.keys()
        self._pending.append((step, from_fit, self._read_rates(), dict(logs)))
        if len(self._pending) >= _ROWS_AT_A_TIME:
            self._collect()

    def _collect(self) -> None:
        """Turns the pending rows into numbers."""
        rows, self._pending = self._pending, []
        if not rows or self._optimizer is None:
            return
        names = [group.name for group in self._optimizer.groups]
        made = int(self._read_iterations())
        before = len(self._iterations)
        for step, from_fit, _, _ in rows:
            step = int(step)
            if from_fit:
                # The last execution of several steps ends with the data.
                step = min(step, made) // self._micro_steps
            self._iterations.append(step)
        rates = np.array([tensor.numpy() for _, _, tensor, _ in rows])
        _extend(self._rates, dict(zip(names, rates.T.tolist(), strict=True)), before, len(rows))
        logged = dict.fromkeys(name for *_, logs in rows for name in logs)
        columns = {
            name: [_number(logs.get(name, math.nan)) for *_, logs in rows] for name in logged
        }
        _extend(self._logged, columns, before, len(rows))


def _check_names(groups: Iterable[str], columns: Iterable[str]) -> None:
    taken = sorted(set(groups) & set(columns))
    if taken:
        raise ValueError(
            "A group cannot have the name of another column of the history. Give it another one: "
            f"`split_layers(model, boundaries, names=[...])`. Received: {taken}"
        )


def _extend(
    columns: dict[str, list[Any]], more: Mapping[str, list[Any]], before: int, count: int
) -> None:
    """Adds `count` rows to columns of `before` rows; NaN where a column has no value."""
    for name in more:
        columns.setdefault(name, [math.nan] * before)
    for name, column in columns.items():
        column += more.get(name, [math.nan] * count)


def _tensor_now(value: Any) -> Any:
    is_variable = isinstance(value, (keras.Variable, tf.Variable))
    return tf.convert_to_tensor(value) if is_variable else value


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


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
        with preserved(self.model.variables):
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
