"""Variables: their identity, and how they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import keras
import tensorflow as tf

# The type by which `tf.is_tensor` knows Keras' variables; no public name has it.
TensorType: Any = tf.__internal__.types.Tensor


def variable_key(variable: Any) -> Hashable:
    """Return the identity of a variable, the same for its copies on the devices of a strategy.

    It is what Keras' optimizers use. An optimizer has a private method for it, and the groups need
    it before there is an optimizer.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if hasattr(value, "_distributed_container"):
        value = value._distributed_container()
    elif (
        isinstance(value, tf.__internal__.CompositeTensor)
        and hasattr(value, "handle")
        and hasattr(value.handle, "_distributed_container")
    ):
        value = value.handle._distributed_container()
    return value._unique_id


def is_initialized(variable: Any) -> bool:
    """Whether a variable has a value: one that a traced function creates gets it after the trace.

    `tf.compat.v1.is_variable_initialized` is the public way, and gives a tensor of the graph.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.values[0]
    with tf.init_scope():
        return bool(tf.raw_ops.VarIsInitializedOp(resource=value.handle))


def eager_read_fn(variable: keras.Variable) -> Callable[[], tf.Tensor]:
    """Return a function that reads a variable eagerly, several times faster than `.value`.

    `ReadVariableOp` needs the handle of the variable, for a mirrored one that of its first copy.
    """
    value = variable.value
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.values[0]
    return functools.partial(tf.raw_ops.ReadVariableOp, resource=value.handle, dtype=value.dtype)
