"""A warning where batch normalization of a pretrained network is trained and nobody asked for it.

Training moves the stored statistics of such a network, and `fit` does so even in
`base_model(x, training=False)`. On a small data set that can cost most of the accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from dlr_tf._names import some_of
from dlr_tf.core import _keras
from dlr_tf.core._validation import warn_user

# On a layer: `freeze_batch_norm` or `unfreeze_batch_norm` was called, so somebody decided.
BATCH_NORM_CHOSEN = "dlr_tf_batch_norm_chosen"
# A model that is trained from its initial values may have seen some batches before the optimizer
# is built: the first step of an eager loop, or calls that build the model.
_MOST_BATCHES = 10


def is_pretrained(layer: keras.layers.BatchNormalization) -> bool:
    """Whether the stored statistics of a layer come from a training.

    A batch moves a stored variance by the factor `momentum` at most, so a variance that is lower
    than a few batches can make it was trained.

    >>> layer = keras.layers.BatchNormalization()
    >>> layer.build((None, 2))
    >>> is_pretrained(layer)
    False
    >>> _ = layer.moving_variance.assign([0.3, 5.0])
    >>> is_pretrained(layer)
    True
    """
    if not layer.built or not _keras.is_initialized(layer.moving_variance):
        return False
    variance = _keras.eager_read_fn(layer.moving_variance)().numpy()
    initial = keras.ops.convert_to_numpy(layer.moving_variance_initializer(variance.shape))
    return bool(np.any(variance < initial * layer.momentum**_MOST_BATCHES))


class BatchNormCheck:
    """Warn once of batch normalization that an optimizer trains and that nobody decided on."""

    def __init__(self) -> None:
        # Layers that were pretrained when the optimizer got their variables.
        self.waiting: list[keras.layers.Layer] = []

    def add(self, model: keras.Model, variables: Sequence[Any]) -> None:
        """Remember the pretrained layers among those that variables belong to.

        Args:
            model: The model.
            variables: Variables that the optimizer creates state for, before it trains them.
        """
        fresh = {_keras.variable_key(v) for v in variables}
        self.waiting += [
            layer
            for layer in _keras.all_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            and not hasattr(layer, BATCH_NORM_CHOSEN)
            and _is_trained(layer, fresh)
            and is_pretrained(layer)
        ]

    def warn(self, variables: Sequence[Any]) -> None:
        """Warn if one of the layers that were added is about to be trained.

        Args:
            variables: The variables of a step.
        """
        self.waiting = [one for one in self.waiting if not hasattr(one, BATCH_NORM_CHOSEN)]
        in_step = {_keras.variable_key(v) for v in variables}
        trained = [layer.name for layer in self.waiting if _is_trained(layer, in_step)]
        if trained:
            self.waiting = []
            warn_user(
                "This training changes the batch normalization of a pretrained network: its "
                "weights, and in `fit` its statistics too, even in `base_model(x, "
                "training=False)`. That often costs much accuracy on a small data set. Call "
                "`dlr_tf.freeze_batch_norm(model)` before training to keep both as they are, or "
                "`dlr_tf.unfreeze_batch_norm(model)` to train them without this warning. "
                f"Layers: {some_of(trained)}"
            )


def _is_trained(layer: keras.layers.Layer, keys: set[Any]) -> bool:
    """Whether a layer is trainable, and its variables, if it has some, are among those."""
    own = {_keras.variable_key(v) for v in _keras.flagged_variables(layer)}
    return layer.trainable and (not own or not own.isdisjoint(keys))
