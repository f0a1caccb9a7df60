"""Adam whose dense update is one TensorFlow kernel, or few operations where these are faster."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core import _keras
from dlr_tf.core.optimizer_copies import schedules_of
from dlr_tf.core.scheduled_values import ScheduledValue, ScheduledValues

# In half precision 1 - beta_2 rounds away in the kernel as it does in Keras, with another result.
_KERNEL_DTYPES = (tf.float32, tf.float64)
# On a CPU, TensorFlow tells its thread pool that one element of the kernel costs as much as the
# whole array, so the pool splits the smallest arrays over all threads. Between these numbers of
# elements, the operations are faster: benchmarks/update_by_size.py.
_KERNEL_AT_MOST, _KERNEL_FROM = 32, 40_000
# In a step with this many elements in all, the threads are at work anyway, and a dozen operations
# per variable cost more than they save: benchmarks/update_step.py.
_LARGE_STEP = 1_000_000


class AdamStep(NamedTuple):
    """The constants of one step of one optimizer: scalar tensors of one dtype.

    `is_large` tells whether all variables of the step together have a million elements or more.
    """

    learning_rate: Any
    step_size: Any
    beta_1: Any
    beta_2: Any
    epsilon: Any
    zero: Any
    is_large: bool


def _step_size(rate: tf.Tensor, beta_1: tf.Tensor, beta_2: tf.Tensor, step: Any) -> tf.Tensor:
    """Return the rate with both corrections of the bias, at a step that counts from 1."""
    return rate * tf.sqrt(1 - tf.pow(beta_2, step)) / (1 - tf.pow(beta_1, step))


def _one_minus(beta: float, dtype: tf.DType) -> Any:
    """Return 1 - beta as the kernel computes it: of the rounded beta, which is in `_step_size`."""
    return 1 - dtype.as_numpy_dtype(beta)


def _as_tensor(setting: Any, dtype: tf.DType) -> tf.Tensor:
    """Return a float, or the value of a schedule now, as a tensor."""
    if isinstance(setting, ScheduledValue):
        return tf.cast(setting.value, dtype)
    return tf.constant(setting, dtype)


@keras.saving.register_keras_serializable(package="dlr_tf")
class FusedAdam(_keras.FusedAdamBase):
    r"""Keras' Adam, with one fused kernel per variable instead of a dozen small operations.

    On a CPU without XLA, a variable of 33 to 39,999 elements is updated by a few elementwise
    operations, which are faster there, unless the step has a million elements or more in all.

    With gradient `g`, rate `lr` and step `t = 1, 2, ...`:

        m <- m + (1 - beta_1) (g - m)
        v <- v + (1 - beta_2) (g^2 - v)
        p <- p - lr sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)

    and with `amsgrad`, `max(v)` over all steps instead of `v`. Same arguments, same variables and
    same result as `keras.optimizers.Adam`, up to rounding. After 100 float32 steps, the weights
    differ from this formula by less than 1e-6 of the distance that they moved, and from Keras' by
    less than 1e-5 of it: Keras rounds `beta_2` in `1 - beta_2^t` and not in `1 - beta_2`.

    Sparse gradients, variables that are neither float32 nor float64, and AMSGrad under XLA go
    through Keras' own update. When bit-for-bit equality with Keras' Adam matters more than speed,
    use `keras.optimizers.Adam`.

    Args:
        learning_rate: Float, `LearningRateSchedule`, or a callable without arguments; not
            negative. Defaults to `0.001`.
        beta_1: Float in [0, 1), or a schedule of the step with such values, for example
            `OneCycle(...).momentum()`: decay of the first moment. Defaults to `0.9`.
        beta_2: Float in [0, 1): decay of the second moment. Defaults to `0.999`.
        epsilon: Positive float added to the root of the second moment ("epsilon hat" of the
            paper). Defaults to `1e-7`.
        amsgrad: Whether to use the largest second moment so far. Defaults to `False`.
        **kwargs: As in `keras.optimizers.Adam`: `weight_decay` (decoupled, as in AdamW),
            `clipnorm`, `use_ema`, `name` and so on.

    Example:

    >>> import keras
    >>> variable = keras.Variable([1.0, 2.0, 3.0, 4.0])
    >>> FusedAdam(0.5).apply([keras.ops.array([1.0, 6.0, 7.0, 2.0])], [variable])
    >>> [round(float(value), 4) for value in variable.numpy()]
    [0.5, 1.5, 2.5, 3.5]

    Source: Kingma and Ba, 2014, https://arxiv.org/abs/1412.6980; AMSGrad: Reddi, Kale and Kumar,
    2018, https://openreview.net/forum?id=ryQu7f-RZ.
    """

    def build(self, variables: Sequence[Any]) -> None:
        """Create the state of variables."""
        if isinstance(self.beta_1, LearningRateSchedule):
            self.beta_1: Any = ScheduledValues(self._steps_made).view(self.beta_1)
        super().build(variables)

    def _steps_made(self) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(self.iterations), tf.int64)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        schedule = schedules_of(self).get("beta_1")
        if schedule is not None:
            config["beta_1"] = keras.saving.serialize_keras_object(schedule)
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> FusedAdam:
        if isinstance(config["beta_1"], dict):
            load = keras.saving.deserialize_keras_object
            beta_1 = load(config["beta_1"], custom_objects=custom_objects)
            config = {**config, "beta_1": beta_1}
        return super().from_config(config, custom_objects=custom_objects)

    def step_constants(self, learning_rate: Any, is_large: bool, dtype: tf.DType) -> AdamStep:
        """Compute the constants that all variables share in a step.

        Args:
            learning_rate: The rate of this step: a scalar.
            is_large: What `is_large_step` says of the variables of the step.
            dtype: The variables' dtype.
        """
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = _as_tensor(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        rate = tf.cast(learning_rate, dtype)
        step_size = _step_size(rate, beta_1, beta_2, step)
        epsilon, zero = tf.constant(self.epsilon, dtype), tf.zeros((), dtype)
        return AdamStep(rate, step_size, beta_1, beta_2, epsilon, zero, is_large)

    @staticmethod
    def stacked_step_constants(
        optimizers: Sequence[FusedAdam],
        rates: Sequence[tf.Tensor],
        steps: tf.Tensor,
        is_large: bool,
    ) -> list[AdamStep]:
        """Compute `step_constants` of several float32 optimizers at the cost of one.

        Args:
            optimizers: The optimizers.
            rates: The rate of each: scalars.
            steps: The number of this step for each, from 1, of shape `(len(optimizers),)`.
            is_large: What `is_large_step` says of the variables of all of them.
        """
        beta_1s = [optimizer.beta_1 for optimizer in optimizers]
        if any(isinstance(beta_1, ScheduledValue) for beta_1 in beta_1s):
            beta_1s = tf.stack([_as_tensor(beta_1, tf.float32) for beta_1 in beta_1s])
        else:
            beta_1s = tf.constant(beta_1s, tf.float32)
        beta_2s = tf.constant([optimizer.beta_2 for optimizer in optimizers], tf.float32)
        step_sizes = _step_size(tf.stack(rates), beta_1s, beta_2s, tf.cast(steps, tf.float32))
        constant = functools.cache(lambda value: _as_tensor(value, tf.float32))
        return [
            AdamStep(
                rate,
                step_size,
                constant(optimizer.beta_1),
                constant(optimizer.beta_2),
                constant(optimizer.epsilon),
                constant(0.0),
                is_large,
            )
            for optimizer, rate, step_size in zip(
                optimizers, rates, tf.unstack(step_sizes, num=len(optimizers))
            )
        ]

    @tf.autograph.experimental.do_not_convert
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable.

        Args:
            gradient: Its gradient, dense or `tf.IndexedSlices`, of its shape.
            variable: The variable.
            learning_rate: The rate, or the `AdamStep` that holds it.
        """
        shared = learning_rate if isinstance(learning_rate, AdamStep) else None
        dtype = tf.as_dtype(variable.dtype)
        if (
            isinstance(gradient, tf.IndexedSlices)
            or dtype not in _KERNEL_DTYPES
            or (self.amsgrad and _keras.under_xla())
        ):
            rate = learning_rate if shared is None else shared.learning_rate
            super().update_step(gradient, variable, rate)
            return
        if shared is None:
            is_large = is_large_step(_keras.known_variables(self))
            shared = self.step_constants(learning_rate, is_large, dtype)
        elif shared.learning_rate.dtype != dtype:
            shared = self.step_constants(shared.learning_rate, shared.is_large, dtype)
        gradient = tf.cast(gradient, dtype)
        if shared.is_large or _kernel_is_faster(variable):
            self._apply_kernel(gradient, variable, shared)
        else:
            self._apply_operations(gradient, variable, shared)

    def _apply_kernel(self, gradient: tf.Tensor, variable: Any, step: AdamStep) -> None:
        momentum, velocity, largest_velocity = self.slots_for(variable)
        # The step size holds both corrections of the bias. The kernel would divide by
        # 1 - beta1_power and so on once more; with powers of 0 these are 1.
        arguments = {
            "var": variable.handle,
            "m": momentum.value.handle,
            "v": velocity.value.handle,
            "beta1_power": step.zero,
            "beta2_power": step.zero,
            "lr": step.step_size,
            "beta1": step.beta_1,
            "beta2": step.beta_2,
            "epsilon": step.epsilon,
            "grad": gradient,
        }
        if self.amsgrad:
            tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=largest_velocity.value.handle, **arguments)
        else:
            tf.raw_ops.ResourceApplyAdam(**arguments)

    def _apply_operations(self, gradient: tf.Tensor, variable: Any, step: AdamStep) -> None:
        momentum, velocity, largest_velocity = self.slots_for(variable)
        old_m, old_v = tf.convert_to_tensor(momentum), tf.convert_to_tensor(velocity)
        if isinstance(self.beta_1, ScheduledValue):
            one_minus_beta_1: Any = 1 - step.beta_1
        else:
            one_minus_beta_1 = _one_minus(self.beta_1, gradient.dtype)
        new_m = old_m + one_minus_beta_1 * (gradient - old_m)
        new_v = old_v + _one_minus(self.beta_2, gradient.dtype) * (tf.square(gradient) - old_v)
        momentum.value.assign(new_m, read_value=False)
        velocity.value.assign(new_v, read_value=False)
        if self.amsgrad:
            largest = tf.maximum(tf.convert_to_tensor(largest_velocity), new_v)
            largest_velocity.value.assign(largest, read_value=False)
        # The last operation of Adam is that of Adagrad, whose kernel gives its cost rightly.
        tf.raw_ops.ResourceApplyAdagradV2(
            var=variable.handle,
            accum=(largest_velocity if self.amsgrad else velocity).value.handle,
            lr=step.step_size,
            epsilon=step.epsilon,
            grad=new_m,
            update_slots=False,
        )

    def update_all(self, gradients: Sequence[Any], variables: Sequence[Any], rate: Any) -> None:
        # The rate is a variable of Keras' floatx, so float64 must not be rounded to float32.
        dtype = tf.float64 if keras.config.floatx() == "float64" else tf.float32
        shared = self.step_constants(rate, is_large_step(variables), dtype)
        if tf.distribute.has_strategy():
            super().update_all(gradients, variables, shared)
        else:
            for gradient, variable in zip(gradients, variables):
                self.update_step(gradient, variable, shared)

    def decay_weights(self, variables: Sequence[Any]) -> None:
        # One multiplication per element; Keras makes two.
        if self.weight_decay is None or tf.distribute.has_strategy():
            super().decay_weights(variables)
            return
        decayed = [variable for variable in variables if _keras.uses_weight_decay(self, variable)]
        shrink = tf.cast(self.learning_rate, tf.float32) * self.weight_decay
        for variable in decayed:
            variable.assign_sub(variable * tf.cast(shrink, variable.dtype))


def is_large_step(variables: Sequence[Any]) -> bool:
    """Return whether the variables of a step have a million elements or more together."""
    sizes = [tf.TensorShape(variable.shape).num_elements() or 0 for variable in variables]
    return sum(sizes) >= _LARGE_STEP


def _kernel_is_faster(variable: Any) -> bool:
    """Return whether the kernel is faster in a small step. Settled while the step is traced."""
    if _keras.under_xla() or _on_gpu(variable):
        return True
    size = tf.TensorShape(variable.shape).num_elements()
    return size is None or not _KERNEL_AT_MOST < size < _KERNEL_FROM


def _on_gpu(variable: Any) -> bool:
    kind = tf.DeviceSpec.from_string(variable.handle.device or "").device_type
    # A variable that is made in a traced function names no device.
    return kind == "GPU" if kind else bool(tf.config.list_logical_devices("GPU"))
