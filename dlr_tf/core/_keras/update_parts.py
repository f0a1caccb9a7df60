"""The parts of Keras' update of variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from dlr_tf.core._keras.optimizer_state import variable_index


def is_overwritten_by_gradient(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether a variable takes its gradient as its new value, as float8 scales do."""
    return optimizer._overwrite_variable_with_gradient(variable)


def filter_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any], variables: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Drop pairs without a gradient, and set the variables that take their gradient as value.

    Keras' `apply` does both, but its other parts do not fit groups.
    """
    pairs = optimizer._filter_empty_gradients(gradients, variables)
    gradients, variables = optimizer._overwrite_variables_directly_with_gradients(*pairs)
    return list(gradients), list(variables)


def clip_gradients(optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any]) -> list[Any]:
    """Clip gradients as the optimizer's arguments say; `apply` alone calls it."""
    return list(optimizer._clip_gradients(list(gradients)))


def all_reduce(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any], variables: Sequence[Any]
) -> list[Any]:
    """Add up gradients over the replicas of a strategy; only Keras' update calls it."""
    pairs = optimizer._all_reduce_sum_gradients(list(zip(gradients, variables)))
    return [gradient for gradient, _ in pairs]


def muon_works() -> bool:
    """Whether `keras.optimizers.Muon` can take a step.

    Up to Keras 3.12 it looks for its state under `variable.path`, which a variable of TensorFlow
    does not have. The argument came with the correction.
    """
    return "adam_weight_decay" in inspect.signature(keras.optimizers.Muon).parameters


def overrides(optimizer: keras.optimizers.Optimizer, method: str) -> bool:
    """Whether an optimizer's class has its own version of one of Keras' methods."""
    return getattr(type(optimizer), method) is not getattr(keras.optimizers.Optimizer, method)


def apply_weight_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Decay variables at the optimizer's rate, if it has weight decay; only `apply` calls this."""
    if optimizer.weight_decay is not None or overrides(optimizer, "_apply_weight_decay"):
        optimizer._apply_weight_decay(list(variables))


def uses_weight_decay(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether weight decay acts on a variable, and the variable is not excluded.

    After Keras 3.15, `_use_weight_decay` answers only once the optimizer is built, and the rule
    itself has another name.
    """
    if hasattr(optimizer, "_is_excluded_from_weight_decay"):
        return not optimizer._is_excluded_from_weight_decay(variable)
    return optimizer._use_weight_decay(variable)


def update_shared_state(optimizer: keras.optimizers.Optimizer, rate: Any) -> None:
    """Update the state that an optimizer keeps once, not per variable, such as Nadam's product.

    Keras has no method for it: such optimizers override the one that updates all variables.
    """
    if overrides(optimizer, "_backend_update_step") and not isinstance(optimizer, FusedAdamBase):
        optimizer._backend_update_step([], [], rate)


def maybe_merge_call(function: Callable[..., Any], strategy: Any, *args: Any) -> Any:
    """Call a function in cross-replica context where the strategy needs it; TensorFlow-internal."""
    return tf.__internal__.distribute.interim.maybe_merge_call(function, strategy, *args)


def needs_merge_call() -> bool:
    """Whether the strategy in use updates variables only in cross-replica context."""
    return not tf.__internal__.distribute.strategy_supports_no_merge_call()


def under_xla() -> bool:
    """Whether XLA will compile the function that is traced now; TensorFlow has no public name."""
    return not tf.executing_eagerly() and bool(
        control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    )


class FusedAdamBase(keras.optimizers.Adam):
    """Keras' Adam with two private steps of its update, and its slots, under public names.

    `tests/core/test_keras.py` checks that Keras still calls the steps, and passes the rate
    unchanged.
    """

    def slots_for(self, variable: Any) -> tuple[Any, Any, Any]:
        """Return the moments of a variable, and the largest second moment with AMSGrad."""
        index = variable_index(self, variable)
        largest = self._velocity_hats[index] if self.amsgrad else None
        return self._momentums[index], self._velocities[index], largest

    def update_all(self, gradients: Sequence[Any], variables: Sequence[Any], rate: Any) -> None:
        """Update all variables of a step."""
        super()._backend_update_step(gradients, variables, rate)

    def decay_weights(self, variables: Sequence[Any]) -> None:
        """Apply weight decay to the variables of a step."""
        super()._apply_weight_decay(variables)

    @tf.autograph.experimental.do_not_convert
    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        self.update_all(grads, trainable_variables, learning_rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        self.decay_weights(variables)
