"""Copies and configurations of Keras' optimizers, whose settings may follow schedules."""

from __future__ import annotations

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core import _keras
from dlr_tf.core.scheduled_values import ScheduledValue

# The attributes of Keras' optimizers that may be a schedule: the decay of the first moment in Adam
# and its relatives, and the momentum of SGD.
MOMENTA = ("beta_1", "momentum")
# In a configuration that Keras checks, in place of a schedule.
PLACEHOLDER = 0.9


def copy_optimizer(
    optimizer: keras.optimizers.Optimizer,
    *,
    keep_rate: bool = False,
    kind: type[keras.optimizers.Optimizer] | None = None,
    **changes: Any,
) -> keras.optimizers.Optimizer:
    """Return an optimizer with the same settings and no state.

    Keras does not store the arguments of `exclude_from_weight_decay` in the configuration.

    Args:
        optimizer: Any Keras optimizer, a `LossScaleOptimizer` too.
        keep_rate: Whether it keeps its learning rate; otherwise it has a rate of 0. Defaults to
            `False`.
        kind: The class of the copy. Defaults to the class of the optimizer.
        **changes: Settings that the copy has instead.
    """
    config = {**optimizer.get_config(), **changes}
    if not keep_rate:
        config["learning_rate"] = 0.0
    scheduled = schedules_of(optimizer)
    # Keras' SGD refuses a schedule where it is made.
    config.update(dict.fromkeys(scheduled, PLACEHOLDER))
    copied = (kind or type(optimizer)).from_config(config)
    for name, schedule in scheduled.items():
        setattr(copied, name, schedule)
    pairs = [(optimizer, copied)]
    if hasattr(optimizer, "inner_optimizer"):
        pairs.append((optimizer.inner_optimizer, copied.inner_optimizer))
    for original, twin in pairs:
        pattern, variables = _keras.weight_decay_exclusions(original)
        if pattern is not None or variables:
            _keras.set_weight_decay_exclusions(twin, pattern, variables)
    return copied


def schedules_of(optimizer: keras.optimizers.Optimizer) -> dict[str, LearningRateSchedule]:
    """Return the settings of an optimizer that follow a schedule, by attribute."""
    values = {name: getattr(optimizer, name, None) for name in MOMENTA}
    values = {n: v.schedule if isinstance(v, ScheduledValue) else v for n, v in values.items()}
    return {name: v for name, v in values.items() if isinstance(v, LearningRateSchedule)}


def inner_config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return the serialized configuration of an optimizer, its schedules included."""
    config = keras.saving.serialize_keras_object(optimizer)
    for name, schedule in schedules_of(optimizer).items():
        config["config"][name] = keras.saving.serialize_keras_object(schedule)
    return config


def inner_from_config(
    config: dict[str, Any], custom_objects: dict[str, Any] | None = None
) -> keras.optimizers.Optimizer:
    """Make an optimizer from what `inner_config` returned."""
    settings = dict(config["config"])
    scheduled = {n: settings[n] for n in MOMENTA if isinstance(settings.get(n), dict)}
    settings.update(dict.fromkeys(scheduled, PLACEHOLDER))
    load = keras.saving.deserialize_keras_object
    optimizer = load({**config, "config": settings}, custom_objects=custom_objects)
    for name, schedule in scheduled.items():
        setattr(optimizer, name, load(schedule, custom_objects=custom_objects))
    return optimizer
