"""Freezing groups and batch normalisation, before and in the middle of training.

In Keras each layer and each variable has a flag `trainable`, and setting the flag of a layer sets
the flags of all layers and variables inside it. That would also unfreeze what is frozen by itself
inside a layer, such as the base kernel of LoRA. So `freeze_to` computes every flag first, then
writes them.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

import keras

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.core._keras import (
    all_layers,
    compile_token,
    direct_layers,
    flagged_variables,
    flags_at_compile,
    known_variables,
    lora_base_variables,
)
from dlr_tf.core._validation import (
    check_integer,
    check_model,
    unwrap_optimizer,
)
from dlr_tf.core.assignment import assign_layers, assign_variables
from dlr_tf.core.batch_norm import BATCH_NORM_CHOSEN
from dlr_tf.core.groups import LayerGroup, check_groups
from dlr_tf.core.model_tree import LeafLayer, leaf_layers

# What the next call must know is stored in attributes of the layers, variables and models. So it is
# deleted with them, and two models of one process do not affect each other. The names are public
# because Keras objects belong to the user, who may read them.
FROZEN_BY_ITSELF = "dlr_tf_frozen_by_itself"  # layer or variable: frozen whatever its group does
FROZEN_WITH_GROUP = "dlr_tf_frozen_with_group"  # layer or variable: it was on before `freeze_to`
BATCH_NORM_FROZEN = "dlr_tf_batch_norm_frozen"  # the flag without `freeze_batch_norm`
LAST_FLAGS = "dlr_tf_last_flags"  # model: the flags that the last call left


def freeze_to(model: keras.Model, groups: Sequence[LayerGroup], n: SupportsIndex | str) -> None:
    """Freeze the groups before group `n`, and unfreeze the others.

    A frozen layer has `trainable = False`: its weights stay, its batch-norm statistics too, and it
    costs no gradient. Layers that no group names keep their flags.

    Some variables stay frozen when their group is unfrozen, because they are frozen by themselves:

    - the base weights of LoRA (`layer.enable_lora(4)`), always; LoRA's own weights are trained;
    - the weights of a quantised layer (`model.quantize("int8")`);
    - a variable with `variable.trainable = False`, or a layer with `trainable = False` inside a
      composite layer such as `Bidirectional`, if the rest of its layer was trainable at that time;
    - in a model where only LoRA is trainable, as after `enable_lora` of a KerasHub backbone, all
      the other layers;
    - the layers that `freeze_batch_norm` froze.

    A layer that was frozen as a whole (`layer.trainable = False`, `model.trainable = False`) is
    unfrozen with its group. To unfreeze a variable or an inner layer that is frozen by itself, set
    its own flag to `True`.

    On a compiled model the change takes effect at the next step, also in the middle of `fit`: same
    optimizer, no `compile`, no lost state. Keras traces the training step again only if a flag has
    changed. A model compiled with another optimizer than `MultiGroupOptimizer` needs a new one when
    layers become trainable, since Keras' own optimizers do not accept more variables later. Keras
    saves the flags of layers with Sequential and Functional models, but not the flags of variables;
    after `load_model`, call this again.

    Args:
        model: A built model.
        groups: The groups, as `split_layers` and the others return them.
        n: The first trainable group: its name, or its index, which may be negative, as a list
            index. `0` unfreezes all, `-1` freezes all but the head, and `len(groups)` freezes all.

    Raises:
        TypeError: If `n` is neither an integer nor a string, or `groups` is not a sequence of
            `LayerGroup`.
        ValueError: If `n` is out of range or not the name of a group, or a group names a layer
            that the model does not have.

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
    check_model(model)
    groups = check_groups(groups)
    first = _first_group([group.name for group in groups], n)
    leaves = assign_layers(model, groups)
    group_of = {id(entry.variable): entry.group for entry in assign_variables(model, groups)}
    before = _flags_now(model)
    flags = _Flags(model)
    holders: dict[int, keras.layers.Layer] = {id(model): model}
    for leaf, _ in leaves:
        holders.update((id(ancestor), ancestor) for _, ancestor in leaf.ancestors)
    only_lora_learns = _models_where_only_lora_learns(model)
    for leaf, _ in leaves:
        _remember_frozen_parts(leaf, _enclosing(leaf, model) in only_lora_learns)
    flags.set(model, True)
    for leaf, group in leaves:
        learns = group >= first
        for _, ancestor in leaf.ancestors if learns else ():
            flags.set(ancestor, True)
            _mark(ancestor, FROZEN_WITH_GROUP, False)
        for item in _with_variables(leaf.parts):
            _mark(item, FROZEN_WITH_GROUP, item is leaf.layer and not learns)
        for layer in leaf.parts:
            _set_flags(flags, layer, learns)
    # Weights that a model or an opened layer adds itself belong to a group, but to no leaf layer.
    for holder in holders.values():
        for variable in flagged_variables(holder):
            if id(variable) in group_of:
                learns = group_of[id(variable)] >= first
                _remember_frozen_weight(holder, variable)
                _mark(variable, FROZEN_WITH_GROUP, not learns)
                flags.set(variable, learns and not hasattr(variable, FROZEN_BY_ITSELF))
    flags.write()
    _refresh(model, before)


def freeze_batch_norm(model: keras.Model) -> None:
    """Make every batch-normalisation layer use its stored statistics and stay as it is.

    The small batches of a new data set give worse statistics than those of the pretraining, and in
    Keras 3 `fit` updates the statistics even in `base_model(x, training=False)`. The layers also
    stay frozen when `freeze_to` unfreezes their group, until `unfreeze_batch_norm`, or until
    `layer.trainable = True` is set by hand: then the next `freeze_to` treats the layer as any
    other. The flag `trainable = False` is saved with the model, but not that it stays when
    `freeze_to` is called: call this again after `load_model` and before `freeze_to`.

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
    before = _flags_now(check_model(model))
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            _mark(layer, BATCH_NORM_CHOSEN, True)
        if isinstance(layer, keras.layers.BatchNormalization) and not _is_held(layer):
            if layer.trainable:
                for variable in flagged_variables(layer):
                    _mark(variable, FROZEN_BY_ITSELF, not variable.trainable)
            setattr(layer, BATCH_NORM_FROZEN, layer.trainable)
            layer.trainable = False
    _refresh(model, before)


def unfreeze_batch_norm(model: keras.Model) -> None:
    """Undo `freeze_batch_norm`.

    Called before training, it says that batch normalization is to be trained: the warning about
    that in a pretrained network is not given. Each layer that `freeze_batch_norm` froze gets the
    flag that it would have without it: layers in a group that `freeze_to` froze stay frozen with
    their group.

    Args:
        model: Any model; on a compiled one it takes effect at the next step.

    Example:

    >>> import keras
    >>> from dlr_tf import freeze_batch_norm, unfreeze_batch_norm
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    >>> freeze_batch_norm(model)
    >>> unfreeze_batch_norm(model)
    >>> len(model.trainable_variables)
    2
    """
    before = _flags_now(check_model(model))
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            _mark(layer, BATCH_NORM_CHOSEN, True)
        if _is_held(layer):
            layer.trainable = getattr(layer, BATCH_NORM_FROZEN)
            for variable in flagged_variables(layer):
                if hasattr(variable, FROZEN_BY_ITSELF):
                    variable.trainable = False
        _mark(layer, BATCH_NORM_FROZEN, False)
    _refresh(model, before)


def set_batch_norm(model: keras.Model, batch_norm: str) -> None:
    """Freeze batch normalization, or undo that, as the argument `batch_norm` of `fine_tune` says.

    Args:
        model: The model.
        batch_norm: `"frozen"` or `"train"`.
    """
    (freeze_batch_norm if batch_norm == "frozen" else unfreeze_batch_norm)(model)


def _first_group(names: Sequence[str], n: Any) -> int:
    if isinstance(n, str):
        if n not in names:
            raise ValueError(
                f"Argument `n` should be the index or the name of a group: one of "
                f"{some_of(names)}.{did_you_mean(n, names)} Received: n={n!r}"
            )
        return names.index(n)
    count = len(names)
    first = check_integer("n", n)
    if not -count <= first <= count:
        raise ValueError(
            f"Argument `n` should be the index of a group: from {-count} to {count} "
            f"for {count} groups. Received: n={first}"
        )
    return first + count if first < 0 else first


class _Flags:
    """The flags that all layers and variables of a model are to have, written together."""

    def __init__(self, model: keras.Model) -> None:
        layers = _parents_first(model)
        variables = {id(v): v for layer in layers for v in flagged_variables(layer)}
        self.items = [*layers, *variables.values()]
        self.wanted = {id(item): item.trainable for item in self.items}

    def set(self, item: Any, flag: bool) -> None:
        self.wanted[id(item)] = flag

    def write(self) -> None:
        # A layer's flag overwrites those inside it, so parents come first and variables last.
        for item in self.items:
            if item.trainable != self.wanted[id(item)]:
                item.trainable = self.wanted[id(item)]


def _parents_first(model: keras.Model) -> list[keras.layers.Layer]:
    """A model and all layers inside it, each after every layer that holds it."""
    seen: set[int] = set()
    children_first: list[keras.layers.Layer] = []

    def visit(layer: keras.layers.Layer) -> None:
        if id(layer) not in seen:
            seen.add(id(layer))
            for child in direct_layers(layer):
                visit(child)
            children_first.append(layer)

    visit(model)
    return children_first[::-1]


def _enclosing(leaf: LeafLayer, model: keras.Model) -> int:
    """Identity of the innermost model that holds a layer."""
    models = [holder for _, holder in leaf.ancestors if isinstance(holder, keras.Model)]
    return id(models[-1] if models else model)


def _mark(item: Any, name: str, value: bool) -> None:
    if value:
        setattr(item, name, True)
    elif hasattr(item, name):
        delattr(item, name)


def _is_held(layer: keras.layers.Layer) -> bool:
    """Whether `freeze_batch_norm` froze the layer, and its flag was not set since then."""
    return hasattr(layer, BATCH_NORM_FROZEN) and not layer.trainable


def _is_on(leaf: LeafLayer) -> bool:
    """Whether any part of a layer that is never split is trainable."""
    return any(
        part.trainable or any(v.trainable for v in flagged_variables(part)) for part in leaf.parts
    )


def _models_where_only_lora_learns(model: keras.Model) -> set[int]:
    """Identities of the models in which LoRA is trainable and no layer without LoRA is."""
    lora: set[int] = set()
    others: set[int] = set()
    for leaf in leaf_layers(model):
        if _is_on(leaf) and leaf.layer.weights:
            has_lora = any(getattr(part, "lora_enabled", False) for part in leaf.parts)
            (lora if has_lora else others).add(_enclosing(leaf, model))
    # In the whole model, the other layers may be frozen for another reason: only its head learns.
    return lora - others - {id(model)}


def _remember_frozen_parts(leaf: LeafLayer, only_lora_learns: bool) -> None:
    """Mark what is frozen by itself in a layer that is never split, before its flag changes."""
    layer = leaf.layer
    # What a call that opened the layer froze with its own group is not frozen by itself.
    opened = {
        id(inner)
        for part in leaf.parts
        if part is not layer and hasattr(part, FROZEN_WITH_GROUP)
        for inner in (part, *all_layers(part))
    }
    parts = [part for part in leaf.parts if not _is_held(part) and id(part) not in opened]
    with_group = hasattr(layer, FROZEN_WITH_GROUP)
    if not _is_on(leaf):
        # Frozen as a whole, so the flags inside it say nothing; marks from before are kept.
        if only_lora_learns and not with_group:
            _mark_all(parts, lambda item: True)
    elif with_group and not layer.trainable:
        # `freeze_to` froze the rest, and a person unfroze what is trainable now.
        _mark_all(parts, lambda item: hasattr(item, FROZEN_BY_ITSELF) and not item.trainable)
    else:
        _mark_all(
            parts,
            lambda item: (
                item is not layer
                and not item.trainable
                and (hasattr(item, FROZEN_BY_ITSELF) or not hasattr(item, FROZEN_WITH_GROUP))
            ),
        )


def _mark_all(layers: Iterable[keras.layers.Layer], is_frozen: Callable[[Any], bool]) -> None:
    for item in _with_variables(layers):
        _mark(item, FROZEN_BY_ITSELF, is_frozen(item))


def _with_variables(layers: Iterable[keras.layers.Layer]) -> Iterator[Any]:
    for layer in layers:
        yield from (layer, *flagged_variables(layer))


def _remember_frozen_weight(holder: keras.layers.Layer, variable: Any) -> None:
    """Mark a weight of a model or of an opened layer that is frozen by itself, as for layers."""
    if variable.trainable:
        _mark(variable, FROZEN_BY_ITSELF, False)
    elif holder.trainable and not hasattr(variable, FROZEN_WITH_GROUP):
        _mark(variable, FROZEN_BY_ITSELF, True)


def _set_flags(flags: _Flags, layer: keras.layers.Layer, learns: bool) -> None:
    """Set the flags of one layer, and of its own variables, as its group and its marks say."""
    flag = learns and not hasattr(layer, FROZEN_BY_ITSELF)
    held = _is_held(layer)
    if held:
        setattr(layer, BATCH_NORM_FROZEN, flag)
    else:
        _mark(layer, BATCH_NORM_FROZEN, False)
    flags.set(layer, flag and not held)
    base = lora_base_variables(layer)
    for variable in flagged_variables(layer):
        by_itself = hasattr(variable, FROZEN_BY_ITSELF) or any(variable is v for v in base)
        flags.set(variable, learns and not held and not by_itself)


_FlagSet = frozenset[int]


def _flags_now(model: keras.Model) -> _FlagSet:
    """Identities of the trainable variables and layers."""
    layers = (layer for layer in all_layers(model) if layer.trainable)
    return frozenset(map(id, (*model.trainable_variables, *layers)))


@dataclasses.dataclass(frozen=True)
class _LastFlags:
    """The flags that the last call left, and the `compile` they are known for."""

    flags: _FlagSet
    compilation: Callable[[], Any]


def _refresh(model: keras.Model, before: _FlagSet) -> None:
    """Make a compiled model use the flags as they are now."""
    if not model.compiled:
        return
    now = _flags_now(model)
    is_traced = before == now and _is_traced_with(model, now)
    if model.optimizer is not None and model.optimizer.built and model.trainable_variables:
        # `MultiGroupOptimizer` creates state for newly trainable variables here, outside of any
        # graph; for Keras' own optimizers this does nothing.
        with model.distribute_strategy.scope():
            unwrap_optimizer(model.optimizer).build(model.trainable_variables)
    if model.train_function is not None and not is_traced:
        model.make_train_function(force=True)
    token = compile_token(model)
    if token is not None:
        setattr(model, LAST_FLAGS, _LastFlags(now, weakref.ref(token)))


def _is_traced_with(model: keras.Model, flags: _FlagSet) -> bool:
    """Whether the training step is known to be traced, or yet to be traced, with these flags.

    Flags that were set by hand since the last call are not in the trace. Keras does not record
    which flags a trace has, so the answer is yes only if nothing contradicts it.
    """
    if model.optimizer is None:
        return False
    trained = set(map(id, known_variables(unwrap_optimizer(model.optimizer))))
    trainable = set(map(id, model.trainable_variables))
    if model.optimizer.built and not trainable <= trained:
        return False
    last = getattr(model, LAST_FLAGS, None)
    if last is not None and last.compilation() is compile_token(model):
        return bool(last.flags == flags)
    layers = all_layers(model)
    # Where the flags are not known, the step counts as traced with others.
    flags_then = flags_at_compile(model) or [False]
    always_on = all(layer.trainable for layer in layers) and all(flags_then)
    return always_on and trained == trainable
