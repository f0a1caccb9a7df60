"""Freezing groups and batch normalisation, before and in the middle of training."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import keras

from dlr_tf.core.assignment import assign_layers, assign_variables
from dlr_tf.core.groups import LayerGroup

# Batch-norm layers that `freeze_batch_norm` was asked to hold. `freeze_to` must not thaw them, and
# Keras has no place on a layer where that wish would be kept.
_held_batch_norms: weakref.WeakSet[keras.layers.Layer] = weakref.WeakSet()


def freeze_to(model: keras.Model, groups: Sequence[LayerGroup], n: SupportsIndex) -> None:
    """Freezes the groups before group `n`, and lets the others learn.

    A frozen layer has `trainable = False`: its weights stay, its batch-norm statistics too, and it
    costs no gradient. Layers that no group names are left alone. On a compiled model it takes
    effect at the next step, also in the middle of `fit`: same optimizer, no `compile`, no lost
    state. A model compiled with another optimizer than `MultiGroupOptimizer` needs a new one when
    layers are thawed, since Keras' own do not take in variables later. Keras saves the flags with
    Sequential and Functional models; after `load_model` of a subclassed one, call this again.

    Args:
        model: A built model.
        groups: The groups, as `split_layers` and the others return them.
        n: Number of the first group that learns: `0` lets all learn, `-1` only the head, and
            `len(groups)` none. May be negative, as a list index.

    Raises:
        TypeError: If `n` is not an integer.
        ValueError: If `n` is out of range, or the model lacks a group's layer.

    Example:

    >>> import keras
    >>> from dlr_tf import freeze_to, split_layers
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, name="body"),
    ...         keras.layers.Dense(2, name="top"),
    ...     ]
    ... )
    >>> freeze_to(model, split_layers(model, ["top"]), -1)
    >>> [layer.trainable for layer in model.layers]
    [False, True]

    Source: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146, section 3.3 (gradual
    unfreezing).
    """
    try:
        first = operator.index(n)
    except TypeError:
        raise TypeError(f"Argument `n` should be an integer. Received: n={n!r}") from None
    if not -len(groups) <= first <= len(groups):
        raise ValueError(
            f"Argument `n` should be the number of a group: from {-len(groups)} to {len(groups)} "
            f"for {len(groups)} groups. Received: n={first}"
        )
    if first < 0:
        first += len(groups)
    units = assign_layers(model, groups)
    places = assign_variables(model, groups)
    # Setting a model's flag sets it for all it holds, so models come first, then their layers.
    learning_models = {
        id(ancestor): ancestor
        for unit, group in units
        if group >= first
        for _, ancestor in unit.ancestors
    }
    kept = {layer: layer.trainable for layer in _layers_below(model)}
    for parent in (model, *learning_models.values()):
        parent.trainable = True
    named = {unit.layer: group >= first for unit, group in units}
    for layer, was_trainable in kept.items():
        if layer not in named and not isinstance(layer, keras.Model):
            layer.trainable = was_trainable
    for layer, learns in named.items():
        layer.trainable = learns
    for layer in _layers_below(model):
        if layer in _held_batch_norms:
            layer.trainable = False
    # Weights that a model adds itself go with a group, but with none of its layers.
    group_of = {id(place.variable): place.group for place in places}
    for holder in (model, *(ancestor for unit, _ in units for _, ancestor in unit.ancestors)):
        for variable in holder._trainable_variables:
            if id(variable) in group_of:
                variable.trainable = group_of[id(variable)] >= first
    _refresh(model)


def freeze_batch_norm(model: keras.Model) -> None:
    """Makes every batch-normalisation layer use its stored statistics and stay as it is.

    Small batches of a new data set spoil the statistics a pretrained network was trained with, and
    in Keras 3 `fit` moves them even through `base_model(x, training=False)`. The layers stay so
    when `freeze_to` lets their group learn. The wish is not saved with the model (the layers'
    `trainable = False` is): call this again after `load_model` and before `freeze_to`.

    Args:
        model: Any model; on a compiled one it takes effect at the next step.

    Example:

    >>> import keras
    >>> from dlr_tf import freeze_batch_norm
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    >>> freeze_batch_norm(model)
    >>> len(model.trainable_variables)
    0

    Source: Keras issue 20285, https://github.com/keras-team/keras/issues/20285.
    """
    for layer in _layers_below(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
            _held_batch_norms.add(layer)
    _refresh(model)


def _layers_below(model: keras.Model) -> Iterator[keras.layers.Layer]:
    # Also the layers inside composite layers, which no public attribute lists.
    yield from model._flatten_layers(include_self=False, recursive=True)


def _refresh(model: keras.Model) -> None:
    """Lets a compiled model take up which of its variables are trainable."""
    if not model.compiled:
        return
    optimizer = model.optimizer
    if optimizer is not None and optimizer.built and model.trainable_variables:
        # `MultiGroupOptimizer` takes in the thawed variables here, outside of any graph; for
        # Keras' own optimizers this does nothing.
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        with model.distribute_strategy.scope():
            inner.build(model.trainable_variables)
    if model.train_function is not None:
        model.make_train_function(force=True)
