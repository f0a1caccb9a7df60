"""Whether a run starts with a solved head and ends with averaged weights."""

from __future__ import annotations

import dataclasses

from dlr_tf._names import AUTO
from dlr_tf.app.config import RunConfig
from dlr_tf.app.run.tasks import Task
from dlr_tf.app.terminal import print_note
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.head_start import MAX_EXAMPLES, cut_at_head
from dlr_tf.training.losses import LossChoice
from dlr_tf.training.rate_choice import has_usual_rates


def with_recipe(config: RunConfig, task: Task, optimizer: MultiGroupOptimizer) -> RunConfig:
    """Return the options with what is decided for a run that leaves it open.

    For images and texts with one class, without rates of the user, the head is trained first, and
    the weights are averaged; docs/choosing-rates.md says why. Where that is not possible, a line
    says so.

    Raises:
        ValueError: If a head start is asked for and not possible.
    """
    starts = config.head_start
    if starts is None:
        reason = _why_not(config, task, optimizer) if config.learning_rate == AUTO else ""
        starts = reason is None
        if reason:
            print_note(f"without a head start: {reason}")
    elif starts:
        _check(config, task, optimizer)
    averages = config.average_weights
    if averages is None:
        averages = starts and config.keep != "best"
    return dataclasses.replace(config, head_start=starts, average_weights=averages)


def _why_not(config: RunConfig, task: Task, optimizer: MultiGroupOptimizer) -> str | None:
    """Return why a run has no head start by default, `None` if it has one.

    Where it was never the default, there is nothing to say.
    """
    if config.keep_head:
        return "the model keeps its head"
    if config.frozen_epochs:
        return "the head is trained alone in the frozen epochs"
    if config.strategy == "multi-worker":
        return "it needs one machine"
    if task.data.kind != "class":
        return ""  # it is not known to help there
    if task.data.train_images > MAX_EXAMPLES:
        return f"there are more than {MAX_EXAMPLES} training {task.data.unit}s"
    try:
        _check(config, task, optimizer)
    except (ValueError, ImportError) as error:
        return str(error)
    return None


def _check(config: RunConfig, task: Task, optimizer: MultiGroupOptimizer) -> None:
    """Raise a `ValueError` if the head cannot be trained alone, or its rates are not known."""
    cut_at_head(task.model, task.groups, LossChoice(task.target.loss, None))
    if task.rates is None and not has_usual_rates(optimizer):
        raise ValueError(
            "--head-start takes the usual rates of Adam. Give --learning-rate with "
            f"--optimizer {config.optimizer}."
        )
