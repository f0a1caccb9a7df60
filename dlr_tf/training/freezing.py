"""Freezing groups and batch normalization, before and in the middle of training.

In Keras each layer and each variable has a flag `trainable`, and setting the flag of a layer sets
the flags of all layers and variables inside it. That would also unfreeze what the user froze inside
a layer, and the base kernel of LoRA. So every flag is computed first, then written.
"""

from __future__ import annotations

import dataclasses
import logging
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
    lora_variables,
)
from dlr_tf.core._validation import check_integer, check_model, unwrap_optimizer
from dlr_tf.core.assignment import (
    FROZEN_WITH_GROUP,
    assign_layers,
    assign_variables,
    layers_claimed_by_variable,
)
from dlr_tf.core.batch_norm import BATCH_NORM_CHOSEN
from dlr_tf.core.groups import LayerGroup, check_groups
from dlr_tf.core.model_tree import LeafLayer
from dlr_tf.core.optimizer import MultiGroupOptimizer

_logger = logging.getLogger(__name__)

# What the next call must know is stored in attributes of the layers, variables and models. So it is
# deleted with them, and two models of one process do not affect each other. The names are public
# because Keras objects belong to the user, who may read them. The first two are reasons to freeze a
# layer or a variable; what is frozen without one of them was frozen by the user.
FROZEN_BATCH_NORM = "dlr_tf_frozen_batch_norm"
_REASONS = (FROZEN_WITH_GROUP, FROZEN_BATCH_NORM)
NAMED_AS_FROZEN = "dlr_tf_named_as_frozen"  # model: what was named as frozen by the user
LAST_FLAGS = "dlr_tf_last_flags"  # model: the flags that the last call left


def freeze_to(model: keras.Model, groups: Sequence[LayerGroup], n: SupportsIndex | str) -> None:
    """Freeze the groups before group `n`, and unfreeze the others.

    A frozen layer has `trainable = False`: its weights stay, its batch-norm statistics too, and it
    costs no gradient. Layers that no group names keep their flags.

    What the user froze stays frozen when its group is unfrozen: a layer or a model inside the model
    (`teacher.trainable = False`), a layer inside a composite layer, a variable
    (`layer.kernel.trainable = False`). The logger `dlr_tf.training.freezing` names it once, at
    level `WARNING`. To unfreeze it, set its own flag to `True`. These stay frozen too:

    - the base weights of LoRA (`layer.enable_lora(4)`), always; LoRA's own weights are trained;
    - the weights of a quantized layer (`model.quantize("int8")`);
    - the layers that `freeze_batch_norm` froze.

    On a compiled model the change takes effect at the next step, also in the middle of `fit`: same
    optimizer, no `compile`, no lost state. Keras traces the training step again only if a flag has
    changed. A model compiled with another optimizer than `MultiGroupOptimizer` needs a new one when
    layers become trainable, since Keras' own optimizers do not accept more variables later.

    Keras saves the flags of layers with Sequential and Functional models, but not the flags of
    variables; after `load_model`, call this again. Which layers this function froze is saved with a
    model that is compiled with a `MultiGroupOptimizer`. In a model that was saved otherwise, what
    is frozen counts as frozen by the user: set `trainable = True` on each such layer first.

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
    saved = _frozen_when_saved(model)
    for leaf, _ in leaves:
        if leaf.path in saved:
            flags.count_as_on(_with_variables(leaf.parts))
    holders: dict[int, keras.layers.Layer] = {id(model): model}
    for leaf, group in leaves:
        holders.update((id(ancestor), ancestor) for _, ancestor in leaf.ancestors)
        flags.set_reason(_with_variables(leaf.parts), FROZEN_WITH_GROUP, group < first)
        for layer in leaf.parts:
            if flags.is_on(layer):  # Keras creates LoRA's weights with the flag of their layer
                flags.count_as_on(lora_variables(layer))
            flags.keep_off(lora_base_variables(layer))
    by_variable = layers_claimed_by_variable(model, groups)
    for leaf in by_variable:
        holders.update((id(ancestor), ancestor) for _, ancestor in leaf.ancestors)
        holders.update((id(part), part) for part in leaf.parts)
    # A layer that an earlier call froze as a whole may hold several groups now.
    flags.set_reason(holders.values(), FROZEN_WITH_GROUP, False)
    for leaf in by_variable:
        own = [group_of.get(id(v), -1) for part in leaf.parts for v in flagged_variables(part)]
        flags.set_reason([leaf.layer], FROZEN_WITH_GROUP, max(own, default=-1) < first)
    # Weights that a model or an opened layer adds itself belong to a group, but to no leaf layer.
    for holder in holders.values():
        for variable in flagged_variables(holder):
            if id(variable) in group_of:
                flags.set_reason([variable], FROZEN_WITH_GROUP, group_of[id(variable)] < first)
    _log_what_stays_frozen(model, flags, [leaf for leaf, group in leaves if group >= first])
    flags.write()
    _refresh(model, before)


def freeze_batch_norm(model: keras.Model) -> None:
    """Make every batch-normalization layer use its stored statistics and stay as it is.

    The small batches of a new data set give worse statistics than those of the pretraining, and in
    Keras 3 `fit` updates the statistics even in `base_model(x, training=False)`. The layers also
    stay frozen when `freeze_to` unfreezes their group, until `unfreeze_batch_norm`, or until
    `layer.trainable = True` is set by hand: then the next `freeze_to` treats the layer as any
    other. The flag `trainable = False` is saved with the model.

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
    _set_batch_norm(model, frozen=True)


def unfreeze_batch_norm(model: keras.Model) -> None:
    """Undo `freeze_batch_norm`.

    Called before training, it says that batch normalization is to be trained: the warning about
    that in a pretrained network is not given. Each layer that `freeze_batch_norm` froze gets the
    flag that it would have without it: layers in a group that `freeze_to` froze stay frozen with
    their group. A layer that is frozen otherwise, such as in a model that was saved after
    `freeze_batch_norm`, is unfrozen too if the layer with weights before it is trainable.

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
    _set_batch_norm(model, frozen=False)


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


def _set_batch_norm(model: keras.Model, *, frozen: bool) -> None:
    before = _flags_now(check_model(model))
    flags = _Flags(model)
    trained = True  # whether the layer before is on
    for layer in reversed(_parents_first(model)):
        if isinstance(layer, keras.layers.BatchNormalization):
            setattr(layer, BATCH_NORM_CHOSEN, True)
            items = [*_with_variables([layer])]
            if trained and not flags.is_on(layer):
                flags.count_as_on(items)
            flags.set_reason(items, FROZEN_BATCH_NORM, frozen)
        elif flagged_variables(layer):
            trained = layer.trainable
    flags.write()
    _refresh(model, before)


class _Flags:
    """The flags that all layers and variables of a model are to have, written together.

    Something is on if its own flag is on and there is no reason to freeze it. Its own flag is the
    one that the user has set: what is off without a reason was frozen by the user.
    """

    def __init__(self, model: keras.Model) -> None:
        layers = _parents_first(model)
        variables = {id(v): v for layer in layers for v in flagged_variables(layer)}
        self._model = model
        self._items = [*layers, *variables.values()]
        for item in self._items:
            if item.trainable:  # by hand, whatever the reasons were
                self._clear(item)
        self._own = {id(item): item.trainable or _has_reason(item) for item in self._items}

    @staticmethod
    def _clear(item: Any) -> None:
        for reason in _REASONS:
            if hasattr(item, reason):
                delattr(item, reason)

    def is_on(self, item: Any) -> bool:
        """Return whether an item is on, apart from the reasons to freeze it."""
        return self._own[id(item)]

    def count_as_on(self, items: Iterable[Any]) -> None:
        """Count items as frozen by this module, not by the user."""
        self._own.update((id(item), True) for item in items)

    def keep_off(self, items: Iterable[Any]) -> None:
        self._own.update((id(item), False) for item in items)

    def set_reason(self, items: Iterable[Any], reason: str, holds: bool) -> None:
        for item in items:
            if holds and self._own[id(item)]:
                setattr(item, reason, True)
            elif hasattr(item, reason):
                delattr(item, reason)

    def write(self) -> None:
        wanted = {id(i): self._own[id(i)] and not _has_reason(i) for i in self._items}
        # No variable of a model that is off is trained, whatever its own flag.
        wanted[id(self._model)] = wanted[id(self._model)] or any(wanted.values())
        # A layer's flag overwrites those inside it, so parents come first and variables last.
        for item in self._items:
            if item.trainable != wanted[id(item)]:
                item.trainable = wanted[id(item)]


def _has_reason(item: Any) -> bool:
    return any(hasattr(item, reason) for reason in _REASONS)


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


def _with_variables(layers: Iterable[keras.layers.Layer]) -> Iterator[Any]:
    for layer in layers:
        yield from (layer, *flagged_variables(layer))


def _frozen_when_saved(model: keras.Model) -> frozenset[str]:
    """Return the paths of the layers that `freeze_to` froze before the model was saved."""
    optimizer = unwrap_optimizer(getattr(model, "optimizer", None))
    if not isinstance(optimizer, MultiGroupOptimizer):
        return frozenset()
    return optimizer.take_frozen_when_saved()


def _log_what_stays_frozen(model: keras.Model, flags: _Flags, leaves: Sequence[LeafLayer]) -> None:
    """Name what the user froze in the groups that are trained, each once for a model."""
    named = _frozen_by_user(flags, leaves)
    known: frozenset[str] = getattr(model, NAMED_AS_FROZEN, frozenset())
    new = [name for name in named if name not in known]
    if new:
        setattr(model, NAMED_AS_FROZEN, known | {*new})
        _logger.warning(
            "These were frozen before and stay frozen, although their groups are trained: %s. To "
            "train one, set its own flag: `trainable = True`.",
            some_of(new),
        )


def _frozen_by_user(flags: _Flags, leaves: Sequence[LeafLayer]) -> list[str]:
    """Return the paths of what the user froze, a model instead of all the layers inside it."""
    with_weights = [leaf for leaf in leaves if leaf.layer.weights]
    frozen = {leaf.path for leaf in with_weights if not flags.is_on(leaf.layer)}
    found: dict[str, None] = {}
    for leaf in with_weights:
        paths = [*(path for path, _ in leaf.ancestors), leaf.path]
        if leaf.path in frozen:
            inside = {
                path: {one.path for one in with_weights if one.path.startswith(f"{path}/")}
                for path in paths[:-1]
            }
            found[next((p for p in paths[:-1] if inside[p] <= frozen), leaf.path)] = None
            continue
        for layer in leaf.parts:
            names = [leaf.path] if layer is leaf.layer else [leaf.path, layer.name]
            if not flags.is_on(layer):
                found["/".join(names)] = None
                continue
            # The base of LoRA, and quantized weights, are not meant to be trained.
            base = [] if layer.quantization_mode else lora_base_variables(layer)
            for variable in () if layer.quantization_mode else flagged_variables(layer):
                if not flags.is_on(variable) and not any(variable is v for v in base):
                    found["/".join([*names, variable.name])] = None
    return list(found)


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
