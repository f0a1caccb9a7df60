"""Settings of the inner optimizers that follow a schedule: momentum and weight decay.

Keras' optimizers read such a setting from an attribute at each step, and expect a float. Here the
attribute is a view of the schedule's value at the wrapper's step.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core.schedules import is_own
from dlr_tf.core.value_views import ValueView


class ScheduledValue(ValueView):
    """The value of a schedule at the step that is made now.

    Args:
        schedule: The schedule.
        read: Returns its value as a scalar tensor of Keras' floatx.
    """

    __hash__ = ValueView.__hash__

    def __init__(self, schedule: LearningRateSchedule, read: Callable[[], tf.Tensor]) -> None:
        super().__init__(read)
        self.schedule = schedule

    def __deepcopy__(self, memo: dict[int, Any]) -> ScheduledValue:
        return ScheduledValue(self.schedule, copy.deepcopy(self._read, memo))

    def __ne__(self, other: Any) -> Any:
        # SGD asks whether its momentum is 0, also while a step is traced. A schedule is no number.
        return True

    def __eq__(self, other: Any) -> Any:
        return self is other


class ScheduledValues:
    """Evaluates schedules at the step of the wrapper, each once per update.

    Args:
        iterations: Returns the number of steps made, int64: a number, or a tensor while a function
            is traced.
    """

    def __init__(self, iterations: Callable[[], Any]) -> None:
        self._iterations = iterations
        self._in_update: dict[int, tf.Tensor] | None = None

    def view(self, schedule: LearningRateSchedule) -> ScheduledValue:
        """Return a view of the value of a schedule now."""
        return ScheduledValue(schedule, functools.partial(self._value, schedule))

    def _value(self, schedule: LearningRateSchedule) -> tf.Tensor:
        known = {} if self._in_update is None else self._in_update
        if id(schedule) not in known:
            step = self._iterations()
            value = schedule(step if is_own(schedule) else tf.convert_to_tensor(step))
            known[id(schedule)] = tf.cast(value, keras.config.floatx())
        return known[id(schedule)]

    @contextlib.contextmanager
    def one_update(self) -> Iterator[None]:
        """In this block the step does not change, so each schedule is evaluated once."""
        # A strategy updates variables on other devices, where each evaluation stays its own.
        self._in_update = None if tf.distribute.has_strategy() else {}
        try:
            yield
        finally:
            self._in_update = None
