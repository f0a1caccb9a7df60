"""A callback that records the rates of every step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.checked_callback import CheckedCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Rows are kept as tensors. When there are so many of them, they are turned into numbers.
_ROWS_AT_A_TIME = 1000

RATE = "learning_rate/"  # how the names of the rates begin in the logs of an epoch


class LearningRateLogger(CheckedCallback):
    """Record the rate that each group was updated with at every step, and the logs of the batch.

    Pass it to `fit`; it continues over several calls of `fit`. In your own training loop, call
    `record` after each step.

    A group that did not move in a step, for example because it is frozen, has no rate there: NaN in
    `history`, a gap in the plot.

    The callback also adds `learning_rate/<group>`, the rates of the last step, to the logs of an
    epoch: `History`, the progress bar and `TensorBoard` show them. So does a `CSVLogger` that comes
    after this callback in the list; a group without a rate is NaN there.

    `fit` does not wait for a step because of it: rates stay on their device until an epoch ends or
    `history` is read. (Keras itself turns a batch's logs into numbers before callbacks get them.)

    Args:
        optimizer: The `MultiGroupOptimizer` of your own training loop, also inside a
            `LossScaleOptimizer`. Defaults to `None`: the optimizer of the model in `fit`.

    Raises:
        TypeError: If the optimizer, or in `fit` the model's optimizer, is not a
            `MultiGroupOptimizer`.
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
        # Rows that are not numbers yet: step, calls per step, rates and logs.
        self._pending: list[tuple[Any, int, Any, Mapping[str, Any]]] = []
        self._checked: Set[str] = frozenset()  # names of logs that no group has
        if optimizer is not None:
            self._follow(optimizer)

    @property
    def history(self) -> dict[str, list[Any]]:
        """Lists of equal length, one entry per step: ready for `pandas.DataFrame`.

        `"iterations"`: the number of steps that the optimizer had made, this one included.
        `"loss"` and the metrics: as `fit` gives them to callbacks (means over the epoch so far), or
        as given to `record`; NaN where there is no value. Then one list per group, under its name:
        its rate, NaN where it did not move. With `steps_per_execution=k` there is one entry per `k`
        steps, for the last of them.
        """
        self._collect()
        columns: dict[str, list[Any]] = {"iterations": self._iterations}
        columns |= self._logged | self._rates
        return {name: list(values) for name, values in columns.items()}

    def load_history(self, history: Mapping[str, Iterable[Any]]) -> None:
        """Go on with a history that was recorded before, such as that of a stopped process.

        What this logger recorded itself so far is dropped. In `fit`, call it in the
        `on_train_begin` of a callback that comes after this one.

        Args:
            history: What `history` returned, with the groups of the optimizer.

        Raises:
            ValueError: If no optimizer is known, a column is missing, or the columns differ in
                length.

        Example:

        >>> import keras
        >>> from dlr_tf import MultiGroupOptimizer, split_layers
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="top")])
        >>> optimizer = MultiGroupOptimizer(split_layers(model, [], names=["all"]), 0.1)
        >>> logger = LearningRateLogger(optimizer)
        >>> logger.load_history({"iterations": [1, 2], "loss": [0.5, 0.25], "all": [0.1, 0.1]})
        >>> logger.history["loss"]
        [0.5, 0.25]
        """
        if self._optimizer is None:
            raise ValueError(
                "`load_history` does not know the optimizer. Create the callback with "
                "`LearningRateLogger(optimizer)`, or call it after the training has begun."
            )
        columns = {name: list(values) for name, values in history.items()}
        groups = [group.name for group in self._optimizer.groups]
        missing = [name for name in ("iterations", "loss", *groups) if name not in columns]
        if missing or len({len(values) for values in columns.values()}) != 1:
            raise ValueError(
                "Argument `history` should have columns of equal length, with 'iterations', 'loss' "
                f"and one per group. Missing: {missing}. "
                f"Received: { ({name: len(values) for name, values in columns.items()}) }"
            )
        self._pending = []
        self._iterations = [int(step) for step in columns.pop("iterations")]
        self._rates = {name: columns.pop(name) for name in groups}
        self._logged, self._checked = columns, frozenset()

    def record(self, step: Any, logs: Mapping[str, Any] | None = None) -> None:
        """Add a row in your own training loop: call it after `apply_gradients`.

        Args:
            step: Number of steps made, such as `optimizer.iterations`.
            logs: Loss and metrics of the step: numbers, scalar tensors or variables. The call does
                not wait for their values.

        Raises:
            ValueError: If no optimizer is known, the call is inside a `tf.function`, or a log has
                the name of a group.
        """
        if not tf.executing_eagerly():
            raise ValueError(
                "`record` was called while a `tf.function` is traced, when a step has no number "
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
        self._add(_tensor_now(step), 1, logs)

    def plot_learning_rate(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        title: str = "Learning rate of each group",
    ) -> Figure:
        """Draw the rate of every group over the steps, with a gap where a group did not move.

        Args:
            path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
            title: Heading of the plot.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ValueError: If nothing was recorded.
            ImportError: If matplotlib is not installed.
        """
        from dlr_tf.training import plotting

        history = self._history_after(0)
        rates = {name: history[name] for name in self._rates}
        return plotting.plot_learning_rates(history["iterations"], rates, path, title=title)

    def plot_loss(
        self,
        path: str | os.PathLike[str] | None = None,
        skip: int = 10,
        *,
        title: str = "Loss against learning rate",
    ) -> Figure:
        """Draw the loss over the rate of the head, on a log axis, with a gap at each restart.

        It is most useful where the rate rises, as in a warm-up. To choose a rate, use
        `find_learning_rate`.

        Args:
            path: File to write, `.png` or `.svg`. Defaults to `None`: no file.
            skip: Number of first rows to leave out. Defaults to `10`.
            title: Heading of the plot.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ValueError: If no more than `skip` rows were recorded.
            ImportError: If matplotlib is not installed.
        """
        from dlr_tf.training import plotting

        history = self._history_after(skip)
        head = self._optimizer.groups[-1].name if self._optimizer else list(self._rates)[-1]
        rates = np.array(history[head])
        # Without the gap, a line across the plot would join the end of a cycle and the next start.
        restarts = np.flatnonzero(rates[1:] > 2 * rates[:-1]) + 1
        losses = np.insert(history["loss"], restarts, math.nan)
        return plotting.plot_loss(np.insert(rates, restarts, math.nan), losses, path, title=title)

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

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._add(self._read_step_counter(), self._calls_per_step, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._collect()
        if self._optimizer is None or not self._iterations or logs is None:
            return
        for group in self._optimizer.groups:
            logs[f"{RATE}{group.name}"] = self._rates[group.name][-1]

    def _follow(self, optimizer: Any) -> None:
        optimizer = unwrap_optimizer(optimizer, MultiGroupOptimizer)
        if optimizer is self._optimizer:
            return
        names = [group.name for group in optimizer.groups]
        _check_names(names, ("iterations", *self._logged))
        self._collect()  # with the groups of the previous optimizer
        self._optimizer, self._checked = optimizer, frozenset()
        for name in names:
            self._rates.setdefault(name, [math.nan] * len(self._iterations))
        self._read_rates = _keras.eager_read_fn(optimizer.rate_record)
        self._read_step_counter = _keras.eager_read_fn(optimizer.step_counter)
        self._calls_per_step = optimizer.gradient_accumulation_steps or 1

    def _add(self, step: Any, calls_per_step: int, logs: Mapping[str, Any]) -> None:
        if logs.keys() != self._checked:
            _check_names(self._rates, logs)
            self._checked = logs.keys()
        self._pending.append((step, calls_per_step, self._read_rates(), dict(logs)))
        if len(self._pending) >= _ROWS_AT_A_TIME:
            self._collect()

    def _collect(self) -> None:
        """Turn the pending rows into numbers."""
        rows, self._pending = self._pending, []
        if not rows or self._optimizer is None:
            return
        names = [group.name for group in self._optimizer.groups]
        before = len(self._iterations)
        steps = [int(step) // calls_per_step for step, calls_per_step, *_ in rows]
        self._iterations += steps
        rates = self._optimizer.recorded_rates([record for _, _, record, _ in rows], steps)
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
    """Add `count` rows to columns of `before` rows; NaN where a column has no value."""
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
