"""Values that are read each time they are used, in place of a `keras.Variable`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras


class ValueView(_keras.TensorType):
    """A value that is read each time it is used, in place of a `keras.Variable`.

    As for a variable, `tf.is_tensor` says yes. A copy is the value now.

    Args:
        read: Returns the value as a scalar tensor.
    """

    def __init__(self, read: Callable[[], tf.Tensor]) -> None:
        self._read = read

    @property
    def value(self) -> tf.Tensor:
        return self._read()

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value.numpy(), dtype)

    def numpy(self) -> Any:
        return self.value.numpy()

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __round__(self, digits: int | None = None) -> Any:
        return round(float(self), digits)

    def __format__(self, specification: str) -> str:
        return format(float(self), specification)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value})"

    __hash__ = object.__hash__

    @property
    def ndim(self) -> int:
        return self.value.shape.rank

    @property
    def dtype(self) -> str:
        return str(self.value.dtype.name)

    @property
    def shape(self) -> tf.TensorShape:
        return self.value.shape

    def get_config(self) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> Any:
        return self.numpy().__reduce__()


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.value, name)(*others)


for _name in tf.Tensor.OVERLOADABLE_OPERATORS:
    setattr(ValueView, _name, _operator(_name))


class RateView(ValueView):
    """A rate that can be read and set, as the rate of a Keras optimizer.

    It is not callable, since Keras' optimizers treat a callable rate as a schedule (Adafactor's
    relative step is off then).

    Args:
        read: Returns the rate as a scalar tensor.
        write: Sets the rate.
    """

    def __init__(self, read: Callable[[], tf.Tensor], write: Callable[[Any], None]) -> None:
        super().__init__(read)
        self._write = write

    def assign(self, rate: Any) -> tf.Tensor:
        """Set the rate, and return it."""
        self._write(rate)
        return self.value


class ScheduleView(RateView):
    """The rate of a group that follows a schedule: callable, as a schedule is.

    Args:
        read: Returns the rate as a scalar tensor.
        write: Sets the rate.
        schedule: The schedule, or the function of the rate.
    """

    def __init__(
        self, read: Callable[[], tf.Tensor], write: Callable[[Any], None], schedule: Any
    ) -> None:
        super().__init__(read, write)
        self.schedule = schedule

    def __call__(self) -> tf.Tensor:
        return self.value
