"""A training that diverges ends at once, before anything of it is kept as a result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from dlr_tf.app.terminal import CommandError
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.restoring import copies_of


class DivergedError(CommandError):
    """The loss or the weights of a training are not finite. The message says where."""


class StopOnDivergence(keras.callbacks.Callback):
    """End a training whose loss is NaN or infinite.

    Keras' `TerminateOnNaN` ends the training as if it were finished, and does not see a validation
    loss. Put this callback before those that keep something.

    Raises:
        DivergedError: After the step, or after the epoch for the validation loss.
    """

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        # The mean over the epoch, which stays NaN or infinite from the first such step on.
        self._check("its loss", (logs or {}).get("loss", 0.0))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._check("its loss on the validation data", (logs or {}).get("val_loss", 0.0))

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(f"{what} is {value} {where(self.model)}")


def check_finite(model: keras.Model) -> None:
    """Raise a `DivergedError` if a weight that is trained is not finite.

    That can be so one step before the loss is not.
    """
    for variable in model.trainable_variables:
        for part in copies_of(variable):
            if not np.isfinite(part.numpy()).all():
                raise DivergedError(f"weights of {variable.path} are not finite {where(model)}")


def steps_made(optimizer: MultiGroupOptimizer) -> int:
    """Return the number of steps, which has one copy per device under a strategy."""
    return int(copies_of(optimizer.iterations)[0].numpy())


def where(model: keras.Model) -> str:
    """Say at which step and with which rates a model was updated last."""
    optimizer = unwrap_optimizer(model.optimizer, MultiGroupOptimizer)
    rates = " / ".join(f"{rate:.2g}" for rate in optimizer.last_learning_rates.tolist())
    return f"at step {steps_made(optimizer)}, with the learning rates {rates}"
