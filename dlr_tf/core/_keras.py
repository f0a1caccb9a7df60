"""The variables a Keras optimizer keeps for each variable it trains, and how to add more of them.

Keras builds an optimizer once and for all: `build` does nothing the second time, and there is no
public way to ask which variable a slot belongs to. Everything that leans on how Keras stores its
slots (lists parallel to `_trainable_variables`) stands in this file, and a test runs it over every
optimizer Keras has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def copy_optimizer(template: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns an optimizer with the same settings, no state, and a rate of 0."""
    config = template.get_config()
    config["learning_rate"] = 0.0
    copied = type(template).from_config(config)
    # Keras leaves what `exclude_from_weight_decay` was told out of the configuration.
    for attribute in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(template, attribute):
            setattr(copied, attribute, getattr(template, attribute))
    return copied


def grow(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Gives an optimizer fresh state for more variables, and leaves the state it has alone.

    Args:
        optimizer: Any Keras optimizer.
        variables: Variables it does not train yet.
    """
    if not optimizer.built:
        optimizer.build(list(variables))
        return
    n_known = len(optimizer._trainable_variables)
    before = dict(vars(optimizer))
    optimizer.built = False
    optimizer.build(list(variables))
    for attribute, value in list(vars(optimizer).items()):
        old = before.get(attribute)
        if value is old or attribute == "built":
            continue
        if isinstance(old, list):
            # Past `__setattr__`, which would take the model's variables for the optimizer's own.
            vars(optimizer)[attribute] = [*old, *value]
        else:
            vars(optimizer)[attribute] = old
            if isinstance(value, keras.Variable):
                optimizer._untrack_variable(value)
    for number, variable in enumerate(variables, start=n_known):
        optimizer._trainable_variables_indices[optimizer._var_key(variable)] = number


def slots_of(optimizer: keras.optimizers.Optimizer) -> dict[str, list[keras.Variable | None]]:
    """Lists an optimizer's slots by name, each a list in the order of the variables it trains."""
    n_trained = len(optimizer._trainable_variables)
    return {
        attribute.lstrip("_"): value
        for attribute, value in vars(optimizer).items()
        if isinstance(value, list)
        and attribute not in ("_trainable_variables", "_variables")
        and len(value) == n_trained
        and any(isinstance(item, keras.Variable) for item in value)
        and all(item is None or isinstance(item, keras.Variable) for item in value)
    }


def shared_state_of(optimizer: keras.optimizers.Optimizer) -> dict[str, keras.Variable]:
    """Lists an optimizer's variables that belong to no single one, such as Nadam's product."""
    return {
        attribute.lstrip("_"): value
        for attribute, value in vars(optimizer).items()
        if isinstance(value, keras.Variable)
    }
