"""The base class of the callbacks."""

from __future__ import annotations

import keras

from dlr_tf.core._validation import check_model


class CheckedCallback(keras.callbacks.Callback):
    """A callback that raises if its model is not one of Keras 3."""

    def set_model(self, model: keras.Model) -> None:
        """Set the model. Keras 2 calls this before all other methods.

        Raises:
            TypeError: If it is not a `keras.Model`.
        """
        super().set_model(check_model(model))
