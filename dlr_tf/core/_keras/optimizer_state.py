"""What Keras keeps in an optimizer.

Keras builds an optimizer once: `build` does nothing the second time. It keeps its slots in lists
parallel to `_trainable_variables`, and there is no public way to ask which variable a slot
belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf.core._keras.variables import variable_key


def weight_decay_exclusions(
    optimizer: keras.optimizers.Optimizer,
) -> tuple[str | None, frozenset[Hashable]]:
    """Return what `exclude_from_weight_decay` was called with: a pattern and variable keys."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    excluded = getattr(optimizer, "_exclude_from_weight_decay", ())
    return None if pattern is None else pattern.pattern, frozenset(excluded)


def set_weight_decay_exclusions(
    optimizer: keras.optimizers.Optimizer, pattern: str | None, keys: Iterable[Hashable]
) -> None:
    """Set what `weight_decay_exclusions` returns; the public method takes variables alone."""
    optimizer._exclude_from_weight_decay = set(keys)
    optimizer._exclude_from_weight_decay_pattern = None if pattern is None else re.compile(pattern)
    optimizer._exclude_from_weight_decay_cache = {}


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return what an optimizer's rate comes from: a float, a schedule, a callable, or a view.

    The public `learning_rate` gives the value of a schedule, never the schedule.
    """
    rate = optimizer._learning_rate
    return float(rate.numpy()) if isinstance(rate, keras.Variable) else rate


def set_learning_rate(optimizer: keras.optimizers.Optimizer, rate: Callable[[], Any]) -> None:
    """Give an optimizer a function as its rate; the public setter takes no function."""
    optimizer._learning_rate = rate


def set_views(optimizer: keras.optimizers.Optimizer, *, rate: Any, steps: Any) -> None:
    """Make an optimizer take its rate and its step count from other objects.

    `iterations` has no public setter, and that of `learning_rate` writes to the variable that is
    there.
    """
    for attribute, view in (("_iterations", steps), ("_learning_rate", rate)):
        variable = getattr(optimizer, attribute)
        if isinstance(variable, keras.Variable):
            optimizer._untrack_variable(variable)
        setattr(optimizer, attribute, view)


def known_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Return the variables that an optimizer has state for, in the order of its slots."""
    return list(optimizer._trainable_variables)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Return the position of a variable's slots."""
    return optimizer._trainable_variables_indices[variable_key(variable)]


def knows(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether an optimizer has state for a variable."""
    return variable_key(variable) in optimizer._trainable_variables_indices


def register_variable(optimizer: keras.optimizers.Optimizer, variable: Any) -> None:
    """Add a variable to those that an optimizer knows, without slots."""
    optimizer._trainable_variables_indices[variable_key(variable)] = len(
        optimizer._trainable_variables
    )
    optimizer._trainable_variables.append(variable)


def add_variables(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Create state for more variables. Existing state does not change.

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
        elif isinstance(old, dict):  # after Keras 3.15: which variables decay, by key
            vars(optimizer)[attribute] = {**old, **value}
        else:
            vars(optimizer)[attribute] = old
            if isinstance(value, keras.Variable):
                optimizer._untrack_variable(value)
    for number, variable in enumerate(variables, start=n_known):
        optimizer._trainable_variables_indices[variable_key(variable)] = number


def slots_of(optimizer: keras.optimizers.Optimizer) -> dict[str, list[keras.Variable | None]]:
    """List an optimizer's slots by name, each a list in the order of `known_variables`."""
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
    """List an optimizer's variables that belong to no single one, such as Nadam's product."""
    return {
        attribute.lstrip("_"): value
        for attribute, value in vars(optimizer).items()
        if isinstance(value, keras.Variable)
    }


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Return the list of EMA averages, parallel to `known_variables`."""
    return vars(optimizer).setdefault("_model_variables_moving_average", [])


def accumulators(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the list of accumulated gradients, parallel to `known_variables`."""
    vars(optimizer).setdefault("_accumulated_gradients", [])
    return optimizer._accumulated_gradients


def step_counter_of(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts calls of `apply`; `iterations` is divided by accumulation."""
    return optimizer._iterations


def strategy_of(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
    """Return the strategy in whose scope an optimizer was made."""
    return optimizer._distribution_strategy
