"""Moving averages that `SwapEMAWeights` swaps with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from dlr_tf.core._keras.optimizer_state import known_variables, moving_averages
from dlr_tf.core._keras.saving import CheckpointableOptimizer
from dlr_tf.core._keras.variables import variable_key

# Up to Keras 3.14, `SwapEMAWeights` pairs the averages with `model.trainable_variables`, which has
# another order or length than they have once a layer is frozen or unfrozen. From 3.15 on it pairs
# them with the variables that the optimizer knows.
_SWAPS_BY_MODEL = not hasattr(keras.callbacks.SwapEMAWeights, "_apply_to_ema_optimizers")


class AveragingOptimizer(CheckpointableOptimizer):
    """A Keras optimizer whose averages `SwapEMAWeights` swaps with the right weights.

    The callback reads the averages under a private name.
    """

    def variables_to_swap(self) -> Sequence[Any]:
        """Return the trainable variables of the model, in the model's order."""
        raise NotImplementedError

    @property
    def _model_variables_moving_average(self) -> list[Any]:
        if "_model_variables_moving_average" not in vars(self):
            raise AttributeError("there are no averages: `use_ema` is off")
        averages = moving_averages(self)
        if not _SWAPS_BY_MODEL:
            return averages
        known = {variable_key(v): a for v, a in zip(known_variables(self), averages)}
        swapped = []
        for variable in self.variables_to_swap():
            average = known.get(variable_key(variable))
            # A variable without an average is swapped with a copy of itself.
            swapped.append(
                keras.Variable(variable, trainable=False) if average is None else average
            )
        return swapped

    @_model_variables_moving_average.setter
    def _model_variables_moving_average(self, averages: list[Any]) -> None:
        self.__dict__["_model_variables_moving_average"] = averages
