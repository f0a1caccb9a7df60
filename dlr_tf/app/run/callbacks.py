"""The callbacks of a training that can be stopped and resumed.

Keras' own do not fit: `EarlyStopping` and `ModelCheckpoint` compare one number, and forget after a
stop what they compared; `BackupAndRestore` does not hold the metrics within an epoch; `CSVLogger`
writes the rates of frozen groups as `nan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.config import RunConfig
from dlr_tf.app.data import ImageData
from dlr_tf.app.run import checkpoint
from dlr_tf.app.run.divergence import check_finite
from dlr_tf.app.run.interrupts import StopRequests
from dlr_tf.app.run.seconds import Seconds
from dlr_tf.app.run.state import TrainingState, log_text
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


class EpochRecord(keras.callbacks.Callback):
    """After each epoch, add it to the state and to `log.csv`, and decide what follows from it.

    With `--keep best`, hold the model and the optimizer as they were after the best epoch. With
    `--patience`, end the training after so many epochs that were no better than the best one.

    Args:
        state: How far the training is.
        config: What the training does.
        score: What tells which epoch is best.
        best: The arrays of the best epoch that a process before held; empty at the beginning.
        append: Adds a text to `log.csv`, if the training has one.
    """

    def __init__(
        self,
        state: TrainingState,
        config: RunConfig,
        score: str,
        best: checkpoint.Arrays,
        append: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._state = state
        self._config = config
        self._score = score
        self._append = append
        self.best = best

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        state, patience = self._state, self._config.patience
        state.end_epoch(logs or {}, self._score)
        if patience is not None and state.epoch - state.best_epoch >= patience:
            self.model.stop_training = True
        if self._config.keep == "best" and state.best_epoch == state.epoch:
            self.best = checkpoint.trained_arrays(self.model)
        self._append(log_text(state.history, first=epoch))


class CheckpointCallback(keras.callbacks.Callback):
    """Resume from the arrays of a checkpoint, write checkpoints, and stop where that is asked for.

    It comes after the callbacks that change what is written.

    Args:
        store: Writes a checkpoint: takes its arrays and its record.
        state: How far the training is.
        arrays: The arrays of the checkpoint; empty at the beginning.
        config: What the training does.
        logger: The callback that records the rates.
        epochs: The callback that holds the best epoch.
        stop: Tells when the process has to end.
        data: The data of the training.
    """

    def __init__(
        self,
        store: Callable[[checkpoint.Arrays, Mapping[str, Any]], None],
        state: TrainingState,
        arrays: checkpoint.Arrays,
        *,
        config: RunConfig,
        logger: LearningRateLogger,
        epochs: EpochRecord,
        stop: StopRequests,
        data: ImageData,
    ) -> None:
        super().__init__()
        self._store = store
        self._state = state
        self._arrays = arrays
        self._config = config
        self._logger = logger
        self._epochs = epochs
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
        arrays |= {f"best/{name}": array for name, array in self._epochs.best.items()}
        self._store(arrays, self._state.as_record())


def _example(spec: tf.TensorSpec) -> keras.KerasTensor:
    return keras.KerasTensor(spec.shape, spec.dtype.name)
