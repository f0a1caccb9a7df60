"""Giving a model a `MultiGroupOptimizer`, and changing nothing else that it was compiled with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras

from dlr_tf.core._keras import build_metrics_of_output, compile_arguments
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.inner_optimizers import without_wrapper_arguments
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.optimizer_copies import copy_optimizer
from dlr_tf.training.losses import LossChoice
from dlr_tf.training.training_data import FirstBatches

# The arguments of `MultiGroupOptimizer` that act on all groups: clipping, averages, accumulation.
OPTIMIZER_ARGUMENTS = tuple(
    name
    for name, parameter in inspect.signature(MultiGroupOptimizer).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "name"
)


def make_optimizer(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    learning_rate: Any,
    optimizer: Any = None,
    **arguments: Any,
) -> MultiGroupOptimizer:
    """Make the optimizer of a model, after the one that the model was compiled with.

    Args:
        model: A built model.
        groups: Its groups.
        learning_rate: As in `MultiGroupOptimizer`.
        optimizer: As in `MultiGroupOptimizer`; its clipping, accumulation and moving average act on
            all groups. Defaults to the optimizer that the model was compiled with, or else to
            `FusedAdam()`.
        **arguments: What overrides these arguments: those of `OPTIMIZER_ARGUMENTS`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the groups are not the model's, or the optimizer cannot be a template.
    """
    decays = optimizer is not None or arguments.get("weight_decay") is None
    if optimizer is None:
        optimizer = compiled_optimizer(model)
        if type(optimizer) is keras.optimizers.Adam:
            optimizer = copy_optimizer(optimizer, kind=FusedAdam)  # the same update, and faster
    own: dict[str, Any] = {}
    if isinstance(optimizer, MultiGroupOptimizer):
        config = optimizer.get_config()
        own = {name: config[name] for name in OPTIMIZER_ARGUMENTS}
        own.update(
            (name, _for_groups(values, len(groups))) for name, values in optimizer.decays().items()
        )
        # The wrapper gives them its decay again.
        decays = decays and own["weight_decay"] is None
        optimizer = _templates(optimizer, config["optimizer"], len(groups))
    elif isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer, own = without_wrapper_arguments(optimizer)
    if not decays:
        for one in optimizer if isinstance(optimizer, list) else [optimizer]:
            one.weight_decay = 0.0  # not `None`, which `AdamW` refuses
    with model.distribute_strategy.scope():
        made = MultiGroupOptimizer(groups, learning_rate, optimizer, **{**own, **arguments})
    made.bind(model)
    return made


def compiled_optimizer(model: keras.Model) -> Any:
    """Return the optimizer that a model was compiled with, `None` if it was not."""
    return unwrap_optimizer(model.optimizer) if model.compiled else None


def accumulation_steps(model: keras.Model, optimizer: Any = None, **arguments: Any) -> int:
    """Return how many batches make a step of the optimizer that `make_optimizer` makes."""
    optimizer = compiled_optimizer(model) if optimizer is None else optimizer
    own = getattr(optimizer, "gradient_accumulation_steps", None)
    return arguments.get("gradient_accumulation_steps", own) or 1


def _templates(optimizer: MultiGroupOptimizer, configs: Sequence[Any], n_groups: int) -> Any:
    """Return one template for all groups, or one per group if they differ."""
    inner = [copy_optimizer(one) for one in optimizer.group_optimizers]
    settings = [_without_name(config) for config in configs]
    if all(one == settings[0] for one in settings):
        return inner[0]
    if len(inner) != n_groups:
        raise ValueError(
            f"The model was compiled with a `MultiGroupOptimizer` of {len(inner)} groups, whose "
            f"optimizers differ, so it is not clear which ones {n_groups} groups should get. Pass "
            "`optimizer=`."
        )
    return inner


def _for_groups(values: Sequence[Any] | None, n_groups: int) -> Sequence[Any] | None:
    """Return one value per group from those of an optimizer that may have other groups.

    The last one is that of the head. Where the others differ, they are returned as they are.
    """
    if values is None or len(values) == n_groups or any(one != values[0] for one in values[:-1]):
        return values
    return [values[0]] * (n_groups - 1) + [values[-1]]


def _without_name(config: Any) -> Any:
    return {**config, "config": {**config["config"], "name": ""}}


def compile_model(
    model: keras.Model,
    optimizer: MultiGroupOptimizer,
    choice: LossChoice,
    first: FirstBatches | None = None,
) -> None:
    """Compile a model with an optimizer, and keep everything else it was compiled with.

    A model that was compiled before is compiled by `keras.Model.compile`, so a `compile` of its own
    need not know the arguments.

    Args:
        model: A built model.
        optimizer: Its optimizer.
        choice: Its loss and its metrics.
        first: The first batches, from which the metrics are built now. Defaults to `None`: they are
            built in the first step.

    Raises:
        ValueError: If the model was not compiled, and has a `compile` with other arguments.
    """
    own = compile_arguments(model)
    arguments = {"optimizer": optimizer, "loss": choice.loss, "metrics": choice.metrics}
    with model.distribute_strategy.scope():
        if own:
            wrapper = model.optimizer
            if isinstance(wrapper, keras.optimizers.LossScaleOptimizer):
                arguments["optimizer"] = keras.optimizers.LossScaleOptimizer(
                    optimizer,
                    initial_scale=wrapper.initial_scale,
                    dynamic_growth_steps=wrapper.dynamic_growth_steps,
                )
            keras.Model.compile(model, **{**own, **arguments}, auto_scale_loss=False)
        else:
            arguments = {name: value for name, value in arguments.items() if value is not None}
            _check_compile(model, arguments)
            model.compile(**arguments)
    if first is not None and first.labels is not None:
        build_metrics_of_output(model, first.labels)


def _check_compile(model: keras.Model, arguments: dict[str, Any]) -> None:
    try:
        inspect.signature(model.compile).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"The model {model.name!r} has a `compile` of its own, with other arguments ({error}). "
            "Call it first. After that, only the optimizer is changed."
        ) from None
