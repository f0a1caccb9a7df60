"""The inner optimizers: which are accepted, and how they come to count and learn by the wrapper.

Keras' optimizers keep a step count and a rate of their own. Here each gets an entry of a vector
that the wrapper keeps for all groups, since one vector costs a step as much as one scalar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core._keras import copy_optimizer
from dlr_tf.core.fused_adam import FusedAdam

if TYPE_CHECKING:
    from dlr_tf.core.optimizer import MultiGroupOptimizer

# What the wrapper does for all groups at once, with the value that means "not asked for".
_SPANNING_ARGUMENTS = {
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


class GroupValue:
    """One group's entry of a vector, standing in an inner optimizer for a variable of its own."""

    def __init__(self, owner: MultiGroupOptimizer, group: int) -> None:
        self._owner = owner
        self._group = group

    @property
    def value(self) -> tf.Tensor:
        raise NotImplementedError

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value.numpy(), dtype)

    def numpy(self) -> Any:
        return self.value.numpy()

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value})"

    __hash__ = object.__hash__

    @property
    def dtype(self) -> str:
        return str(self.value.dtype.name)

    @property
    def shape(self) -> tf.TensorShape:
        return self.value.shape

    def get_config(self) -> dict[str, Any]:
        return {}


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.value, name)(*others)


for _name in tf.Tensor.OVERLOADABLE_OPERATORS:
    setattr(GroupValue, _name, _operator(_name))


class GroupStep(GroupValue):
    """A group's own count of steps: `iterations` of its inner optimizer."""

    @property
    def value(self) -> tf.Tensor:
        return self._owner._group_steps.value[self._group]


class GroupRate(GroupValue):
    """A group's rate: `learning_rate` of its inner optimizer.

    Not callable, since Keras' optimizers take a callable rate for a schedule (Adafactor's relative
    step is off then); `GroupSchedule` is, for groups that do follow one.
    """

    @property
    def value(self) -> tf.Tensor:
        return self._owner._rate_of_group(self._group)

    def assign(self, rate: Any) -> None:
        self._owner._set_rate_of_group(self._group, rate)


class GroupSchedule(GroupRate):
    def __call__(self) -> tf.Tensor:
        return self.value


class GroupOptimizers(Sequence[Any]):
    """The inner optimizers, in the order of the groups.

    Neither a list nor a tuple: Keras stores optimizers it finds in those by position, which would
    hand a group's state to another one.
    """

    def __init__(self, optimizers: Sequence[keras.optimizers.Optimizer]) -> None:
        self._optimizers = tuple(optimizers)

    def __getitem__(self, index: Any) -> Any:
        return self._optimizers[index]

    def __len__(self) -> int:
        return len(self._optimizers)

    def __repr__(self) -> str:
        return f"GroupOptimizers({list(self._optimizers)})"


def inner_optimizers(
    optimizer: Any, n_groups: int, *, wrapper: type
) -> tuple[list[keras.optimizers.Optimizer], bool]:
    """Makes or checks the inner optimizers.

    Args:
        optimizer: What `MultiGroupOptimizer` was given.
        n_groups: Number of groups.
        wrapper: The wrapper's class, which cannot be wrapped again.

    Returns:
        One optimizer per group, and whether they were given one by one.

    Raises:
        TypeError: If one is not a plain Keras optimizer.
        ValueError: If their number is wrong, one is in use, or one asks for what spans groups.
    """
    if optimizer is None:
        return [FusedAdam() for _ in range(n_groups)], False
    if isinstance(optimizer, keras.optimizers.Optimizer):
        _check_member(optimizer, wrapper)
        return [copy_optimizer(optimizer) for _ in range(n_groups)], False
    if not isinstance(optimizer, Sequence) or isinstance(optimizer, str):
        raise TypeError(
            "Argument `optimizer` should be a Keras optimizer, or a list with one per group. "
            f"Received: optimizer={optimizer!r}"
        )
    for member in optimizer:
        _check_member(member, wrapper)
        if member.built or isinstance(member._learning_rate, GroupValue):
            raise ValueError(
                f"Optimizer {member.name!r} is in use already: its state belongs to other "
                "variables or another wrapper. Give a new optimizer to every group."
            )
    if len(optimizer) != n_groups or len({id(member) for member in optimizer}) != n_groups:
        raise ValueError(
            f"Argument `optimizer` should hold one optimizer of its own for each of the {n_groups} "
            f"groups. Received {len(optimizer)}: {[member.name for member in optimizer]}"
        )
    return list(optimizer), True


def _check_member(member: Any, wrapper: type) -> None:
    """Refuses what cannot be an inner optimizer."""
    wrappers = [wrapper, keras.optimizers.LossScaleOptimizer]
    if hasattr(keras.optimizers, "MultiOptimizer"):
        wrappers.append(keras.optimizers.MultiOptimizer)
    if not isinstance(member, keras.optimizers.Optimizer):
        raise TypeError(
            "An inner optimizer should be a `keras.optimizers.Optimizer`. "
            f"Received: {member!r} of type {type(member).__name__}"
        )
    if isinstance(member, tuple(wrappers)):
        raise TypeError(
            f"A `{type(member).__name__}` cannot be an inner optimizer. Give the plain optimizer "
            "it would hold; loss scaling goes around `MultiGroupOptimizer`, which `model.compile` "
            "does by itself under mixed_float16."
        )
    for argument, unset in _SPANNING_ARGUMENTS.items():
        value = getattr(member, argument)
        if value != unset:
            raise ValueError(
                f"Optimizer {member.name!r} asks for {argument}={value!r}, which would act on one "
                f"group at a time. Pass `{argument}={value!r}` to `MultiGroupOptimizer` instead."
            )


def adopt(
    member: keras.optimizers.Optimizer, owner: MultiGroupOptimizer, group: int, *, scheduled: bool
) -> None:
    """Makes an inner optimizer count and learn by the wrapper's vectors.

    `_iterations` and `_learning_rate` are private, but Keras' public names for them cannot be set:
    `iterations` has no setter, and `learning_rate`'s would write to the old variable.
    """
    for attribute, stand_in in (
        ("_iterations", GroupStep(owner, group)),
        ("_learning_rate", (GroupSchedule if scheduled else GroupRate)(owner, group)),
    ):
        variable = getattr(member, attribute)
        if isinstance(variable, keras.Variable):
            member._untrack_variable(variable)
        setattr(member, attribute, stand_in)


def own_rate(member: keras.optimizers.Optimizer) -> Any:
    """The rate an optimizer was made with: a float, a schedule, or a callable."""
    rate = member._learning_rate
    return float(rate.numpy()) if isinstance(rate, keras.Variable) else rate


def overrides(member: keras.optimizers.Optimizer, method: str) -> bool:
    """Whether an optimizer has its own version of one of Keras' steps."""
    return not isinstance(member, FusedAdam) and (
        getattr(type(member), method) is not getattr(keras.optimizers.Optimizer, method)
    )


def update_step_of(member: keras.optimizers.Optimizer) -> Callable[[Any, Any, Any], Any]:
    return lambda variable, gradient, rate: member.update_step(gradient, variable, rate)


def exclusions_config(
    member: keras.optimizers.Optimizer, key_of: dict[Any, str]
) -> dict[str, Any] | None:
    """What `exclude_from_weight_decay` was told, which Keras leaves out of the configuration.

    Args:
        member: An inner optimizer.
        key_of: The place of each variable of the model.
    """
    pattern = getattr(member, "_exclude_from_weight_decay_pattern", None)
    excluded = getattr(member, "_exclude_from_weight_decay", ())
    if pattern is None and not excluded:
        return None
    unknown = [identity for identity in excluded if identity not in key_of]
    if unknown:
        raise ValueError(
            f"Optimizer {member.name!r} excludes {len(unknown)} variables from weight decay that "
            "belong to no model it knows, so they cannot be stored. Build the optimizer on the "
            "model first, or exclude them by `var_names`."
        )
    return {
        "pattern": None if pattern is None else pattern.pattern,
        "places": sorted(key_of[identity] for identity in excluded),
    }


def restore_exclusions(
    member: keras.optimizers.Optimizer, config: dict[str, Any], identities: Iterable[Any]
) -> None:
    """Tells an inner optimizer again what `exclusions_config` read.

    Args:
        member: An inner optimizer.
        config: What `exclusions_config` returned.
        identities: The keys of the variables at `config["places"]`.
    """
    pattern = config["pattern"]
    member._exclude_from_weight_decay = set(identities)
    member._exclude_from_weight_decay_pattern = None if pattern is None else re.compile(pattern)
    member._exclude_from_weight_decay_cache = {}
