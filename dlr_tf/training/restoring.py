"""Blocks after which variables, attributes and random generators are as they were before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Neither TensorFlow nor Keras has a public way to read the state of its global generators.
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.eager import context as eager_context
from tensorflow.python.ops import stateful_random_ops


@contextlib.contextmanager
def preserved(variables: Iterable[Any]) -> Iterator[None]:
    """Gives variables back the values they had, bit for bit, however the block is left.

    The values are kept in host memory. Where a strategy holds a variable once per device, each of
    its copies is kept by itself.

    Args:
        variables: Keras or TensorFlow variables; one may stand there twice.

    Example:

    >>> import keras
    >>> variable = keras.Variable([1.0, 2.0])
    >>> with preserved([variable]):
    ...     _ = variable.assign([0.0, 0.0])
    >>> variable.numpy().tolist()
    [1.0, 2.0]
    """
    parts = {id(part): part for variable in variables for part in _parts(variable)}
    values = {key: part.numpy() for key, part in parts.items()}
    try:
        yield
    finally:
        for key, part in parts.items():
            part.assign(values[key])


def _parts(variable: Any) -> tuple[Any, ...]:
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(value, tf.distribute.DistributedValues):
        return tuple(value.values)
    return (value,)


@contextlib.contextmanager
def preserved_attributes(owner: Any, names: Iterable[str]) -> Iterator[None]:
    """Gives an object the attributes back that it had itself, or had not, before the block."""
    names = tuple(names)
    before = {name: vars(owner)[name] for name in names if name in vars(owner)}
    try:
        yield
    finally:
        for name in names:
            if name in before:
                setattr(owner, name, before[name])
            elif name in vars(owner):
                delattr(owner, name)


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Gives the global generators of `random`, NumPy, TensorFlow and Keras back their state."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    keras_generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    tf_generator = stateful_random_ops.global_generator
    states = [generator.state for generator in (keras_generator, tf_generator) if generator]
    context = eager_context.context()
    op_seeds = getattr(context, "_rng", None)
    if op_seeds is not None:
        # An eager random operation keeps a state of its own, found by its seed. Seeds that the
        # caller's next operations will draw must not be used up here, so another sequence stands
        # in; it follows from the state of the first.
        substitute = random.Random()
        substitute.setstate(op_seeds.getstate())
        substitute.seed(substitute.getrandbits(64))
        context._rng = substitute
    try:
        with preserved(states):
            yield
    finally:
        if op_seeds is not None:
            context._rng = op_seeds
        # Each is made at its first use, that of Keras from a number which `random` draws.
        stateful_random_ops.global_generator = tf_generator
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, keras_generator)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
