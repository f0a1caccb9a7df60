"""Context managers that restore variables, attributes and random generators on exit."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras


@contextlib.contextmanager
def restore_on_exit(variables: Iterable[Any]) -> Iterator[None]:
    """Restore the values of variables, bit for bit, also when the block raises.

    The values are kept in host memory. If a strategy has one copy of a variable per device, each
    copy gets its own value back.

    Args:
        variables: Keras or TensorFlow variables. The same one may be listed twice.

    Example:

    >>> import keras
    >>> variable = keras.Variable([1.0, 2.0])
    >>> with restore_on_exit([variable]):
    ...     _ = variable.assign([0.0, 0.0])
    >>> variable.numpy().tolist()
    [1.0, 2.0]
    """
    parts = {id(part): part for variable in variables for part in copies_of(variable)}
    values = {key: part.numpy() for key, part in parts.items()}
    try:
        yield
    finally:
        for key, part in parts.items():
            part.assign(values[key])


def state_of(model: keras.Model) -> list[Any]:
    """Return all variables of a model that training changes, apart from metrics and optimizer.

    `model.variables` leaves out the states of stateful recurrent layers.

    Args:
        model: A built model.

    Example:

    >>> layer = keras.layers.GRU(2, stateful=True)
    >>> model = keras.Sequential([keras.Input((3, 1), batch_size=4), layer])
    >>> len(state_of(model)) - len(model.variables)
    1
    """
    states = [
        state
        for layer in _keras.all_layers(model)
        for state in keras.tree.flatten(getattr(layer, "states", None))
        if isinstance(state, keras.Variable)
    ]
    return list({id(variable): variable for variable in (*model.variables, *states)}.values())


def copies_of(variable: Any) -> tuple[Any, ...]:
    """Return the copies of a variable, one per device of a strategy.

    Args:
        variable: A Keras or TensorFlow variable.

    Returns:
        The TensorFlow variables; one without a strategy.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(value, tf.distribute.DistributedValues):
        return tuple(value.values)
    return (value,)


@contextlib.contextmanager
def restore_attributes_on_exit(owner: Any, names: Iterable[str]) -> Iterator[None]:
    """Restore attributes of an object, and delete those that it did not have before the block.

    Args:
        owner: The object. Only its own attributes count, not those of its class.
        names: Names of the attributes.
    """
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
def restore_generators_on_exit() -> Iterator[None]:
    """Restore the global random generators of `random`, NumPy, TensorFlow and Keras."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    keras_generator = _keras.keras_generator()
    tensorflow_generator = _keras.tensorflow_generator()
    states = [generator.state for generator in (keras_generator, tensorflow_generator) if generator]
    operation_seeds = _keras.operation_seeds()
    if operation_seeds is not None:
        # Every eager random operation has a state of its own, which TensorFlow finds by its seed.
        # That state cannot be restored, so the block must not use the seeds that the caller's next
        # operations get. It draws from another sequence, which follows from the first one's state.
        substitute = random.Random()
        substitute.setstate(operation_seeds.getstate())
        substitute.seed(substitute.getrandbits(64))
        _keras.set_operation_seeds(substitute)
    try:
        with restore_on_exit(states):
            yield
    finally:
        if operation_seeds is not None:
            _keras.set_operation_seeds(operation_seeds)
        # TensorFlow and Keras make their generators at the first use; Keras takes its seed from
        # `random`. So one that was made in the block is removed.
        _keras.set_tensorflow_generator(tensorflow_generator)
        _keras.set_keras_generator(keras_generator)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
