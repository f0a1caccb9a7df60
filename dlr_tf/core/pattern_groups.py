"""Groups by pattern: layers and single variables by their paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from dlr_tf._names import some_of
from dlr_tf.core import _keras
from dlr_tf.core.groups import LayerGroup, splittable_layers, with_model
from dlr_tf.core.model_tree import LayerVariables, variable_paths, variables_by_layer

Test = Callable[[str], Any]


def split_by_pattern(
    model: keras.Model, patterns: Mapping[str, str | re.Pattern[str] | Test]
) -> tuple[LayerGroup, ...]:
    """Split a model into groups by the paths of its layers and variables.

    A pattern matches a variable if it is found in the variable's path, such as
    `"backbone/block_1/norm/gamma"`, or in the path of its layer. The first pattern that matches
    counts. So biases and the scales of normalization can have a rate or a weight decay of their
    own. A layer whose variables are in one group is named as a whole.

    Weights that are never trained, such as the statistics of batch normalization, are with the rest
    of their layer. A layer without weights that no pattern matches belongs to the group of the
    layer before it, and so do weights of that kind that a model has itself.

    Args:
        model: A built model.
        patterns: From the name of each group to a regular expression, which is searched in the
            path, or to a function of the path. The groups have this order; the last is the head.

    Returns:
        The groups, in the order of `patterns`.

    Raises:
        TypeError: If `model` is not a model, or `patterns` is not a dict from strings to patterns.
        ValueError: If the model is not built, an expression is not a regular expression, a trained
            variable matches no pattern, or a pattern gets no variable.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="body"),
    ...                           keras.layers.Dense(2, name="top")])
    >>> for group in split_by_pattern(
    ...     model, {"biases": r"bias$", "body": "^body", "head": "^top"}
    ... ):
    ...     print(group.name, group.layers)
    biases ('body/bias', 'top/bias')
    body ('body/kernel',)
    head ('top/kernel',)
    """
    splittable_layers(model)
    tests = _tests(patterns)
    claimed: list[dict[str, None]] = [{} for _ in tests]
    unmatched: list[str] = []
    waiting: list[str] = []  # layers before the first one that is in a group
    group: int | None = None
    for entry in variables_by_layer(model):
        of_paths, missing = _groups_of(entry, tests)
        unmatched += missing
        if entry.leaf is None or (len(set(of_paths.values())) > 1):
            for path, of in of_paths.items():
                claimed[of][path] = None
            group = next(iter(of_paths.values()), group) if entry.leaf else group
            continue
        own = next(iter(of_paths.values()), _match(tests, entry.path))
        group = group if own is None else own
        if group is None:
            waiting.append(entry.path)
        else:
            claimed[group].update(dict.fromkeys([*waiting, entry.path]))
            waiting = []
    names = list(patterns)
    idle = [name for name, paths in zip(names, claimed) if not paths]
    if unmatched or idle:
        raise ValueError(
            "Each trained variable should match a pattern, and each pattern should get a variable "
            f"(the first that matches counts). Variables without a pattern: {some_of(unmatched)}. "
            f"Patterns without a variable: {some_of([f'{n}: {patterns[n]}' for n in idle])}"
        )
    return with_model([LayerGroup(n, tuple(paths)) for n, paths in zip(names, claimed)], model)


def _groups_of(entry: LayerVariables, tests: list[Test]) -> tuple[dict[str, int], list[str]]:
    """Return the group of the path of each variable of a layer, and the paths without one."""
    parts = entry.leaf.parts if entry.leaf else ()
    flagged = {id(v) for part in parts for v in _keras.flagged_variables(part)}
    paths = variable_paths(entry)
    trained = [
        path
        for path, v in zip(paths, entry.variables)
        if id(v) in flagged or (isinstance(v, tf.Variable) and v.trainable)
    ]
    if entry.leaf is None:
        trained = []  # without a match, these belong to the layer before them
    found = {path: _match(tests, path, entry.path) for path in (trained or paths)}
    missing = [path for path in trained if found[path] is None]
    groups = {path: of for path, of in found.items() if of is not None}
    if groups and trained:
        first = next(iter(groups.values()))
        groups = {path: groups.get(path, first) for path in paths}
    return groups, missing


def _match(tests: list[Test], *paths: str) -> int | None:
    """The number of the first test that one of the paths passes."""
    return next((n for n, test in enumerate(tests) if any(test(path) for path in paths)), None)


def _tests(patterns: Any) -> list[Test]:
    is_dict = isinstance(patterns, Mapping) and bool(patterns)
    if not is_dict or not all(
        isinstance(name, str) and (isinstance(pattern, (str, re.Pattern)) or callable(pattern))
        for name, pattern in patterns.items()
    ):
        raise TypeError(
            "Argument `patterns` should be a dict from the name of each group to a regular "
            f"expression or a function of the path. Received: patterns={patterns!r}"
        )
    return [_test(name, pattern) for name, pattern in patterns.items()]


def _test(name: str, pattern: Any) -> Test:
    if callable(pattern):
        return pattern
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise ValueError(
            f"The pattern of group {name!r} is not a regular expression: {error}. "
            f"Received: {pattern!r}"
        ) from None
