"""The configuration of a `MultiGroupOptimizer`: how its parts are written and read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core import _keras
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.inner_optimizers import GroupOptimizers
from dlr_tf.core.learning_rates import SavedRates
from dlr_tf.core.optimizer_copies import inner_config, inner_from_config

# Entries that are state and no arguments of the constructor, with the values where an older file
# lacks them.
_STATE: dict[str, Any] = {
    "rate_factors": None,
    "rate_limits": None,
    "rate_set_steps": None,
    "exclude_from_weight_decay": (),
    "model_path": "",
    "frozen_layers": (),
}


def inner_configs(inner: GroupOptimizers, *, has_decays: bool) -> list[dict[str, Any]]:
    """Return the configurations of the inner optimizers, without what the wrapper sets.

    Args:
        inner: The inner optimizers.
        has_decays: Whether the wrapper sets their weight decay.
    """
    configs = [inner_config(one) for one in inner]
    for config in configs:
        config["config"]["learning_rate"] = 0.0
        if has_decays:
            config["config"]["weight_decay"] = 0.0
    return configs


def arguments_and_state(
    config: Mapping[str, Any], custom_objects: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the constructor, and the rest, from a configuration.

    Args:
        config: What `MultiGroupOptimizer.get_config` returned.
        custom_objects: As in `from_config` of Keras.
    """
    load = functools.partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)
    arguments = dict(config)
    state = {name: arguments.pop(name, default) for name, default in _STATE.items()}
    if not all(isinstance(group, LayerGroup) for group in arguments["groups"]):
        arguments["groups"] = [LayerGroup.from_config(group) for group in arguments["groups"]]
    inner = [inner_from_config(one, custom_objects) for one in arguments["optimizer"]]
    arguments["optimizer"] = inner
    # An entry that was added later is not in older files.
    if arguments.get("weight_decay") is not None:
        decays = [load(one) if isinstance(one, dict) else one for one in config["weight_decay"]]
        arguments["weight_decay"] = decays
    rates = [load(rate) if isinstance(rate, dict) else rate for rate in config["learning_rate"]]
    arguments["learning_rate"] = SavedRates(rates)
    # A function can only be the rate that an inner optimizer was made with.
    if any(callable(r) and not isinstance(r, LearningRateSchedule) for r in rates):
        for one, rate in zip(inner, rates):
            _keras.set_learning_rate(one, rate)
        arguments["learning_rate"] = None
    return arguments, state
