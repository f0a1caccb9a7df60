"""The inner optimizers: which are accepted, and how they read rate and steps from the wrapper.

Keras' optimizers keep a step count and a rate of their own. Here each is given views of vectors
that the wrapper keeps for all groups, because one vector costs no more than one scalar.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf._names import did_you_mean
from dlr_tf.core import _keras
from dlr_tf.core._validation import keras_2_hint
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.optimizer_copies import copy_optimizer
from dlr_tf.core.value_views import RateView, ScheduleView, ValueView

# What the wrapper does for all groups, with the value that means "not set".
_WRAPPER_ARGUMENTS = {
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


class GroupOptimizers(Sequence[Any]):
    """The inner optimizers, in the order of the groups.

    Neither a list nor a tuple: Keras stores optimizers it finds in those by position, which would
    give the state of one group to another.
    """

    def __init__(self, optimizers: Sequence[keras.optimizers.Optimizer]) -> None:
        self._optimizers = tuple(optimizers)

    def __getitem__(self, index: Any) -> Any:
        return self._optimizers[index]

    def __len__(self) -> int:
        return len(self._optimizers)

    def __repr__(self) -> str:
        return f"GroupOptimizers({list(self._optimizers)})"


def make_inner_optimizers(
    optimizer: Any, n_groups: int, *, wrapper: type
) -> tuple[list[keras.optimizers.Optimizer], bool]:
    """Make or check the inner optimizers.

    Args:
        optimizer: What `MultiGroupOptimizer` was given.
        n_groups: Number of groups.
        wrapper: The wrapper's class, which cannot be wrapped again.

    Returns:
        One optimizer per group, and whether they were given one by one.

    Raises:
        TypeError: If one is not a plain Keras optimizer.
        ValueError: If their number is wrong, one is in use, one has an argument that belongs to
            the wrapper, or Keras does not know a name or cannot read a configuration.
    """
    if optimizer is None:
        return [FusedAdam() for _ in range(n_groups)], False
    if isinstance(optimizer, (str, dict)):
        optimizer = optimizer_from(optimizer)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        _check_inner_optimizer(optimizer, wrapper)
        return [copy_optimizer(optimizer) for _ in range(n_groups)], False
    if not isinstance(optimizer, Sequence):
        raise TypeError(
            "Argument `optimizer` should be a Keras optimizer, its name or configuration, or a "
            "list with one optimizer per group. "
            f"Received: optimizer={optimizer!r}{keras_2_hint(optimizer)}"
        )
    for inner in optimizer:
        _check_inner_optimizer(inner, wrapper)
        if inner.built or is_bound(inner):
            raise ValueError(
                f"Optimizer {inner.name!r} is in use already: its state belongs to other "
                "variables or another wrapper. Give a new optimizer to every group."
            )
    if len(optimizer) != n_groups or len({id(inner) for inner in optimizer}) != n_groups:
        raise ValueError(
            f"Argument `optimizer` should hold one optimizer of its own for each of the {n_groups} "
            f"groups. Received {len(optimizer)}: {[inner.name for inner in optimizer]}"
        )
    return list(optimizer), True


def optimizer_from(identifier: str | dict[str, Any]) -> keras.optimizers.Optimizer:
    """Return the optimizer that Keras makes from a name or from a configuration.

    `"adam"` and `"adamw"` are the fused Adam with the defaults of Keras' classes of these names.

    Args:
        identifier: A name, in capitals or not, or a configuration, as `keras.optimizers.get` takes.
            A configuration is not changed.

    Raises:
        ValueError: If Keras does not know the name or cannot read the configuration.

    >>> type(optimizer_from("adamw")).__name__, optimizer_from("adamw").weight_decay
    ('FusedAdam', 0.004)
    >>> optimizer_from({"class_name": "SGD", "config": {"momentum": 0.9}}).momentum
    0.9
    """
    kinds = _optimizers_by_name()
    name = identifier.lower() if isinstance(identifier, str) else None
    if name in ("adam", "adamw"):
        return FusedAdam(weight_decay=kinds[name]().weight_decay)
    if name in kinds:
        return kinds[name]()  # `get` does not know all of them: not Lamb, not ours
    try:
        return keras.optimizers.get(copy.deepcopy(identifier))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(identifier, str):
            raise ValueError(
                f"Keras has no optimizer {identifier!r}.{did_you_mean(identifier, kinds)} Argument "
                f"`optimizer` can be an optimizer, or one of the names {list(kinds)}."
            ) from None
        raise ValueError(
            "Keras cannot make an optimizer from this configuration. A dictionary was expected "
            "that `keras.optimizers.serialize` returns, or one with `class_name` and `config`. "
            f"Received: optimizer={identifier!r} ({type(error).__name__}: {error})"
        ) from error


def _optimizers_by_name() -> dict[str, type[keras.optimizers.Optimizer]]:
    base = keras.optimizers.Optimizer
    kinds = [*vars(keras.optimizers).values(), FusedAdam]
    return {
        kind.__name__.lower(): kind
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, base) and kind not in (base, *_wrappers())
    }


def _wrappers() -> list[type]:
    """The optimizers of Keras that hold others."""
    wrappers = [keras.optimizers.LossScaleOptimizer]
    if hasattr(keras.optimizers, "MultiOptimizer"):
        wrappers.append(keras.optimizers.MultiOptimizer)
    return wrappers


def _check_inner_optimizer(inner: Any, wrapper: type) -> None:
    if isinstance(inner, (str, dict)):
        raise TypeError(
            "A list should hold the optimizers themselves: a name or a configuration is accepted "
            "only in place of the list, for all groups. Give "
            f"`keras.optimizers.get({inner!r})`. Received: {inner!r}"
        )
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise TypeError(
            "An inner optimizer should be a `keras.optimizers.Optimizer`. "
            f"Received: {inner!r} of type {type(inner).__name__}{keras_2_hint(inner)}"
        )
    if isinstance(inner, (wrapper, *_wrappers())):
        raise TypeError(
            f"A `{type(inner).__name__}` cannot be an inner optimizer. Give the plain optimizer "
            "inside it. Loss scaling wraps `MultiGroupOptimizer`: `model.compile` "
            "adds it under mixed_float16."
        )
    if isinstance(inner, keras.optimizers.Muon) and not _keras.muon_works():
        raise ValueError(
            f"`Muon` of Keras {keras.__version__} fails at its first step with TensorFlow. "
            'Run `pip install --upgrade "keras>=3.13"`, or choose another optimizer.'
        )
    for argument, unset in _WRAPPER_ARGUMENTS.items():
        value = getattr(inner, argument)
        if value != unset:
            raise ValueError(
                f"Optimizer {inner.name!r} asks for {argument}={value!r}, which would act on one "
                f"group at a time. Pass `{argument}={value!r}` to `MultiGroupOptimizer` instead."
            )


def without_wrapper_arguments(
    optimizer: keras.optimizers.Optimizer,
) -> tuple[keras.optimizers.Optimizer, dict[str, Any]]:
    """Return a copy of an optimizer that can be a template, and what the wrapper has to do for it.

    Args:
        optimizer: A Keras optimizer, which is not changed.

    Example:

    >>> optimizer = keras.optimizers.SGD(clipnorm=1.0, momentum=0.9)
    >>> template, arguments = without_wrapper_arguments(optimizer)
    >>> template.clipnorm, template.momentum, arguments
    (None, 0.9, {'clipnorm': 1.0})
    """
    found = {name: getattr(optimizer, name, unset) for name, unset in _WRAPPER_ARGUMENTS.items()}
    found = {name: value for name, value in found.items() if value != _WRAPPER_ARGUMENTS[name]}
    unset: dict[str, Any] = {name: _WRAPPER_ARGUMENTS[name] for name in found}
    if found.get("use_ema"):
        names = ("ema_momentum", "ema_overwrite_frequency")
        found.update((name, getattr(optimizer, name)) for name in names)
    return copy_optimizer(optimizer, **unset), found


def is_bound(inner: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer takes its rate from a wrapper."""
    return isinstance(_keras.learning_rate_of(inner), RateView)


def schedule_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the schedule or the function that an optimizer's rate follows, `None` for a number.

    >>> schedule_of(keras.optimizers.SGD(0.1)) is None
    True
    """
    rate = _keras.learning_rate_of(optimizer)
    if isinstance(rate, ScheduleView):
        return rate.schedule
    return rate if callable(rate) else None


def bind_inner_optimizer(
    inner: keras.optimizers.Optimizer,
    *,
    read_rate: Callable[[], tf.Tensor],
    write_rate: Callable[[Any], None],
    read_steps: Callable[[], tf.Tensor],
    schedule: Any,
) -> None:
    """Make an inner optimizer take its rate and its step count from the wrapper.

    Args:
        inner: The inner optimizer.
        read_rate: Returns the rate of its group now.
        write_rate: Sets the rate of its group.
        read_steps: Returns the number of steps that its group made.
        schedule: The schedule, or the function, that the rate follows; `None` for a number.
    """
    rate = RateView(read_rate, write_rate)
    if schedule is not None:
        rate = ScheduleView(read_rate, write_rate, schedule)
    _keras.set_views(inner, rate=rate, steps=ValueView(read_steps))
