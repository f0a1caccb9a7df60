"""Checks of arguments, and the parts that error messages share."""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import warnings
from typing import Any

import keras
import numpy as np

# A warning names the nearest line that is not in one of these.
_LIBRARIES = ("dlr_tf", "keras", "tensorflow", "contextlib")
# Keras 2 beside Keras 3: the package, and a copy that TensorFlow still contains.
_KERAS_2_MODULES = ("tf_keras", "tensorflow.python.keras")


def check_integer(
    name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return an integer argument as a Python `int`.

    Args:
        name: Name of the argument, for the message.
        value: The value. Python and NumPy integers are accepted, `bool` is not.
        minimum: Smallest value that is allowed. Defaults to `None`: no limit.
        maximum: Largest value that is allowed. Defaults to `None`: no limit.

    Raises:
        TypeError: If the value is not an integer.
        ValueError: If it is out of range.

    >>> check_integer("epochs", 3, minimum=1)
    3
    """
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"Argument `{name}` should be an integer. Received: {name}={value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"Argument `{name}` should be an integer. "
            f"Received: {name}={value!r} of type {type(value).__name__}"
        ) from None
    if minimum is not None and number < minimum:
        raise ValueError(
            f"Argument `{name}` should be at least {minimum}. Received: {name}={number}"
        )
    if maximum is not None and number > maximum:
        raise ValueError(
            f"Argument `{name}` should be at most {maximum}. Received: {name}={number}"
        )
    return number


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float = 0.0,
    maximum: float = math.inf,
    hint: str = "",
) -> float:
    """Return a finite number as a Python `float`.

    Args:
        name: Name of the argument, for the message.
        value: The value.
        minimum: Smallest value that is allowed. Defaults to 0.
        maximum: Largest value that is allowed. Defaults to infinity.
        hint: A sentence that says how to correct the value, at the end of the message.

    Raises:
        TypeError: If the value is not a real number.
        ValueError: If it is not finite or out of range.

    >>> check_number("alpha", 0.5, maximum=1.0)
    0.5
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(
            f"Argument `{name}` should be a number. "
            f"Received: {name}={value!r} of type {type(value).__name__}"
        )
    number = float(value)
    if not (math.isfinite(number) and minimum <= number <= maximum):
        expected = f"at least {minimum:g}"
        if maximum < math.inf:
            expected = f"in [{minimum:g}, {maximum:g}]"
        raise ValueError(
            f"Argument `{name}` should be a finite number, {expected}. "
            f"Received: {name}={value!r}. {hint}".rstrip(" .")
        )
    return number


def warn_user(message: str) -> None:
    """Warn, and name the line of the user's own code that led here."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        frame = frame.f_back
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)


def keras_2_hint(value: Any) -> str:
    """Return a sentence about an object of Keras 2, or an empty string.

    The sentence begins with a full stop, so that it can follow "Received: ...". The modules of the
    object's classes show that it is of Keras 2, so `tf_keras` is not imported.

    >>> keras_2_hint(keras.Sequential())
    ''
    """
    modules = [f"{kind.__module__}." for kind in type(value).__mro__]
    if not any(module.startswith(f"{name}.") for module in modules for name in _KERAS_2_MODULES):
        return ""
    return (
        ". It is an object of Keras 2, and dlr_tf works with Keras 3. Make it with `keras`, or "
        "with `tf.keras` while the environment variable TF_USE_LEGACY_KERAS is not set"
    )


def check_model(model: Any) -> keras.Model:
    """Return a model.

    Raises:
        TypeError: If it is not a `keras.Model`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` should be a `keras.Model`. "
            f"Received: model={model!r}{keras_2_hint(model)}"
        )
    return model


def unwrap_optimizer(optimizer: Any, expected: type | None = None) -> Any:
    """Return the optimizer, or the one inside Keras' `LossScaleOptimizer`.

    Args:
        optimizer: What `model.optimizer` holds.
        expected: The class that the result should have. Defaults to `None`: any.

    Raises:
        TypeError: If the result is not of the expected class.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if expected is not None and not isinstance(inner, expected):
        raise TypeError(
            f"A `{expected.__name__}` was expected: compile the model with one. "
            f"Received: {optimizer!r}"
        )
    return inner
