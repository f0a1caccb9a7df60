"""The callbacks of a training that can be stopped and resumed, each with one job.

Keras' own do not fit: `EarlyStopping` and `ModelCheckpoint` compare one number, and forget after a
stop what they compared; `BackupAndRestore` does not hold the metrics within an epoch; `CSVLogger`
writes the rates of frozen groups as `nan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.config import RunConfig
from dlr_tf.app.data import ImageData
from dlr_tf.app.results import Target, append_text
from dlr_tf.app.run import checkpoint
from dlr_tf.app.run.divergence import check_finite
from dlr_tf.app.run.interrupts import StopRequests
from dlr_tf.app.run.seconds import Seconds
from dlr_tf.app.run.state import TrainingState, log_text
from dlr_tf.app.terminal import print_note
from dlr_tf.core._keras import build_metrics
from dlr_tf.training.learning_rate_logger import LearningRateLogger

Logs = Mapping[str, Any] | None


class CutEpoch(keras.callbacks.Callback):
    """Count the steps of an epoch, and end one that was resumed within it after its last step.

    Keras counts the steps of an epoch from 0, also after a stop within it.
    """

    def __init__(self, state: TrainingState, steps: int) -> None:
        super().__init__()
        self._state = state
        self._steps = steps
        self._before = state.step
        self._is_cut = False

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._state.step = self._before + batch + 1
        if self._before and self._state.step >= self._steps:
            # It ends the loop over the steps; `on_epoch_end` takes it back.
            self.model.stop_training = self._is_cut = True

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._is_cut:
            self.model.stop_training = self._is_cut = False
        self._before = 0


class EpochState(keras.callbacks.Callback):
    """Add each epoch to the state. The score tells which epoch is best."""

    def __init__(self, state: TrainingState, score: str) -> None:
        super().__init__()
        self._state = state
        self._score = score

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._state.end_epoch(logs or {}, self._score)


class ScoreHeadAlone(keras.callbacks.Callback):
    """Score the model after the head start, before its other layers are trained."""

    def __init__(self, state: TrainingState, target: Target, data: ImageData) -> None:
        super().__init__()
        self._state = state
        self._target = target
        self._test = data.test

    def on_train_begin(self, logs: Logs = None) -> None:
        scores = self.model.evaluate(self._test, verbose=0, return_dict=True)
        self._state.head_alone = float(scores[self._target.score])
        print_note(self._target.head_alone_line(self._state.head_alone))


class EarlyStop(keras.callbacks.Callback):
    """End the training after some epochs that were no better than the best one before."""

    def __init__(self, state: TrainingState, patience: int) -> None:
        super().__init__()
        self._state = state
        self._patience = patience

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._state.epoch - self._state.best_epoch >= self._patience:
            self.model.stop_training = True


class BestWeights(keras.callbacks.Callback):
    """Hold the model and the optimizer as they were after the best epoch, also of a process before.

    The arrays are empty at the beginning.
    """

    def __init__(self, state: TrainingState, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self._state = state
        self.arrays = dict(arrays)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._state.best_epoch == self._state.epoch:
            self.arrays = checkpoint.trained_arrays(self.model)


class EpochLog(keras.callbacks.Callback):
    """Let the chief add a row to `log.csv` after each epoch."""

    def __init__(
        self,
        path: Path,
        state: TrainingState,
        by_chief: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__()
        self._path = path
        self._state = state
        self._by_chief = by_chief

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        text = log_text(self._state.history, first=epoch)
        self._by_chief(lambda: append_text(self._path, text))


class CheckpointCallback(keras.callbacks.Callback):
    """Resume from the arrays of a checkpoint, write checkpoints, and stop where that is asked for.

    It comes after the callbacks that change what is written.

    Args:
        store: Writes a checkpoint: takes its arrays and its record.
        state: How far the training is.
        arrays: The arrays of the checkpoint; empty at the beginning.
        config: What the training does.
        logger: The callback that records the rates.
        best: The callback that holds the best epoch; `None` for a training that keeps the last one.
        stop: Tells when the process has to end.
        data: The data of the training.
    """

    def __init__(
        self,
        store: Callable[[checkpoint.Arrays, Mapping[str, Any]], None],
        state: TrainingState,
        arrays: Mapping[str, np.ndarray],
        *,
        config: RunConfig,
        logger: LearningRateLogger,
        best: BestWeights | None,
        stop: StopRequests,
        data: ImageData,
    ) -> None:
        super().__init__()
        self._store = store
        self._state = state
        self._arrays = arrays
        self._config = config
        self._logger = logger
        self._best = best
        self._stop = stop
        self._data = data
        self._before = state.seconds
        self._started = Seconds.now()

    def on_train_begin(self, logs: Logs = None) -> None:
        if not self._arrays:
            return
        if self._state.step:
            # Keras creates their variables in the first step, which is too late.
            with self.model.distribute_strategy.scope():
                build_metrics(
                    self.model, keras.tree.map_structure(_example, self._data.train.element_spec)
                )
        checkpoint.load_trained_arrays(self.model, self._arrays)
        columns = checkpoint.arrays_under("steps", self._arrays)
        self._logger.load_history({name: column.tolist() for name, column in columns.items()})

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self._arrays and self._state.step:
            # Keras has just reset them.
            checkpoint.assign_arrays(self.model.metrics_variables, "metrics", self._arrays)
        self._arrays = {}  # from here on only memory

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        steps, every = self._data.steps_per_epoch, self._config.checkpoint_every
        if self._state.step >= steps:
            return  # the end of the epoch follows
        stops = self._stop.agree()
        total = self._state.epoch * steps + self._state.step
        if (every and total % every == 0) or stops:
            self._save()
        self._stop.check()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        was_last = self._state.epoch == self._config.epochs
        self._state.is_finished = self.model.stop_training or was_last
        self._stop.agree()
        self._save()
        self._stop.check()

    def _save(self) -> None:
        check_finite(self.model)
        self._state.seconds = self._before.plus(Seconds.now().since(self._started))
        arrays = checkpoint.trained_arrays(self.model)
        arrays |= checkpoint.variable_arrays(self.model.metrics_variables, "metrics")
        arrays |= {f"steps/{name}": np.array(v) for name, v in self._logger.history.items()}
        if self._best is not None:
            arrays |= {f"best/{name}": array for name, array in self._best.arrays.items()}
        self._store(arrays, self._state.as_record())


def _example(spec: tf.TensorSpec) -> keras.KerasTensor:
    return keras.KerasTensor(spec.shape, spec.dtype.name)
