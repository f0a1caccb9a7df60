"""The comparison of `finetune --compare`: several seeds, with our rates and with one rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import keras

from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup

ONE_RATE = "one rate for all layers"


def head_variables(model: keras.Model, groups: Sequence[LayerGroup]) -> list[keras.Variable]:
    """Return the variables of the last group."""
    last = len(groups) - 1
    return [entry.variable for entry in assign_variables(model, groups) if entry.group == last]


def start_with_seed(model: keras.Model, head: Sequence[keras.Variable], seed: int) -> None:
    """Give the head new random weights, and dropout another seed.

    Args:
        model: The model.
        head: The variables of a dense head; none for a head that stays as it is.
        seed: Int, 0 or more.
    """
    for variable in head:
        is_kernel = len(variable.shape) > 1
        initializer = keras.initializers.GlorotUniform(seed) if is_kernel else keras.ops.zeros
        variable.assign(initializer(variable.shape))
    weights = {id(variable) for variable in model.weights}
    states = [variable for variable in model.variables if id(variable) not in weights]
    for number, state in enumerate(states):
        state.assign([1000 * (seed + 1) + number, 0])


def lines(label: str, ours: Sequence[float], theirs: Sequence[float]) -> list[str]:
    """Return what a comparison found. Nothing in it is called better.

    Args:
        label: The rates of our trainings.
        ours: Their test accuracies, one per seed.
        theirs: The test accuracies of the trainings with one rate, for the same seeds.

    >>> print(*lines("differential rates", [0.96, 0.95, 0.97], [0.94, 0.96, 0.97]), sep="\\n")
    test accuracy on average over 3 seeds, and from lowest to highest:
      differential rates       0.9600, 0.9500 to 0.9700
      one rate for all layers  0.9567, 0.9400 to 0.9700
      difference               +0.33, -1.00 to +2.00 points
    >>> lines("only the head", [0.5], [0.5])[0]
    'test accuracy with one seed (with another seed, the order can be the opposite):'
    """
    differences = [100 * (one - other) for one, other in zip(ours, theirs, strict=True)]
    rows = [(label, ours), (ONE_RATE, theirs)]
    width = max(len(name) for name, _ in rows)
    several = len(ours) > 1
    return [
        f"test accuracy on average over {len(ours)} seeds, and from lowest to highest:"
        if several
        else "test accuracy with one seed (with another seed, the order can be the opposite):",
        *(f"  {name:{width}s}  {_spread(values, '.4f')}" for name, values in rows),
        f"  {'difference':{width}s}  {_spread(differences, '+.2f')} points",
    ]


def _spread(values: Sequence[float], form: str) -> str:
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean}, {min(values):{form}} to {max(values):{form}}"
