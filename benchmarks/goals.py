"""The goals, which were set before anything was measured, and the measured values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import logger_cost, schedule_cost, train_step, update_step
from benchmarks.common import markdown_table

Rows = Sequence[Mapping[str, Any]]


class Goal(NamedTuple):
    """One goal.

    Args:
        text: What is compared.
        benchmark: The benchmark whose rows are compared.
        measure: Returns the worst value in the rows, and the limit for it.
    """

    text: str
    benchmark: str
    measure: Callable[[Rows], tuple[float, float]]


def _select(rows: Rows, **conditions: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in conditions.items())]


def _update(key: str, limit: float, **conditions: Any) -> Callable[[Rows], tuple[float, float]]:
    """Return a measure: the largest median ratio `key` of our updates."""

    def measure(rows: Rows) -> tuple[float, float]:
        chosen = _select(rows, competitor=update_step.GROUPS_FUSED, **conditions)
        return max(row[key][0] for row in chosen), limit

    return measure


def _ops_per_variable(rows: Rows) -> tuple[float, float]:
    """Return the operations per additional variable, from the smaller to the larger model."""
    chosen = _select(rows, competitor=update_step.GROUPS_FUSED, xla=False, groups=3)
    small, large = sorted(chosen, key=lambda row: row["n_variables"])[:: len(chosen) - 1]
    growth = large["graph_ops"] - small["graph_ops"]
    return growth / (large["n_variables"] - small["n_variables"]), 8.0


def _state(rows: Rows) -> tuple[float, float]:
    # A few numbers per group, such as its rate, are state too, but of no parameter.
    chosen = _select(rows, competitor=update_step.GROUPS_FUSED)
    return max(row["state_bytes_per_parameter"] for row in chosen), 8.005


def _training(**conditions: Any) -> Callable[[Rows], tuple[float, float]]:
    """Return a measure: the slowest step. Its limit is the noise, Keras Adam's ratio to itself."""

    def measure(rows: Rows) -> tuple[float, float]:
        pairs = [
            (row["to_keras_adam"][0], max(1.0, row["noise"][2]))
            for row in _select(rows, **conditions)
        ]
        return max(pairs, key=lambda pair: pair[0] - pair[1])

    return measure


def _schedule(rows: Rows) -> tuple[float, float]:
    ours = [row for row in rows if row["optimizer"] != schedule_cost.KERAS_ADAM]
    (in_step,) = _select(ours, rate=schedule_cost.IN_STEP)
    (again,) = _select(ours, rate=schedule_cost.AGAIN)
    return in_step["time_to_constant"][0], max(1.0, again["time_to_constant"][2])


def _logger(rows: Rows) -> tuple[float, float]:
    logged = _select(rows, callback=logger_cost.LOGGER)
    return max(row["time_to_none"][0] for row in logged), 1.02


RESNET = {"model": "ResNet50", "xla": False, "groups": 3}
N_FROZEN = train_step.N_GROUPS - 1
GOALS = (
    Goal(
        "ResNet50's update, 3 groups: time to Keras Adam's",
        "update_step",
        _update("to_keras_adam", 0.45, **RESNET),
    ),
    Goal(
        "the same: time to Keras MultiOptimizer's",
        "update_step",
        _update("to_multi_optimizer", 0.45, **RESNET),
    ),
    Goal(
        "the same: time to a hand-written loop's",
        "update_step",
        _update("to_kernel_loop", 1.10, **RESNET),
    ),
    Goal(
        "the same: first call to Keras Adam's",
        "update_step",
        _update("first_call_to_keras_adam", 0.25, **RESNET),
    ),
    Goal(
        "MobileNetV2's update, one group per layer: time to one group's",
        "update_step",
        _update("to_one_group", 1.10, model="MobileNetV2", xla=False, groups=update_step.PER_LAYER),
    ),
    Goal("operations in the graph per additional variable", "update_step", _ops_per_variable),
    Goal(
        "any update under XLA: time to Keras Adam's",
        "update_step",
        _update("to_keras_adam", 1.05, xla=True),
    ),
    Goal(
        "any update under XLA: first call to Keras Adam's",
        "update_step",
        _update("first_call_to_keras_adam", 1.05, xla=True),
    ),
    Goal("optimizer state, bytes per parameter", "update_step", _state),
    Goal(
        "any training step, all groups trainable: time to Keras Adam's",
        "train_step",
        _training(n_frozen=0),
    ),
    Goal(
        "any training step, two of three groups frozen: time to Keras Adam's",
        "train_step",
        _training(n_frozen=N_FROZEN),
    ),
    Goal("rates recorded at every step: time to a fit without", "logger_cost", _logger),
    Goal("SGDR in the step: time to a constant rate's", "schedule_cost", _schedule),
)


def table(rows_of: Mapping[str, Rows]) -> str:
    """A Markdown table of the goals of the benchmarks that were run.

    Args:
        rows_of: Rows of full runs, by name of the benchmark.
    """
    lines = []
    for goal in GOALS:
        if goal.benchmark in rows_of:
            value, limit = goal.measure(rows_of[goal.benchmark])
            verdict = "yes" if value <= limit else "**no**"
            lines.append([goal.text, f"{limit:.2f}", f"{value:.2f}", verdict])
    return markdown_table(["the worst case of", "at most", "measured", "reached"], lines)
