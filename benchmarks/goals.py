"""The goals, which were set before anything was measured, and the measured values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import logger_cost, schedule_cost, train_step, update_by_size, update_step
from benchmarks.common import markdown_table

Rows = Sequence[Mapping[str, Any]]


class Worst(NamedTuple):
    """The worst value of a benchmark, and the third quartile of Keras Adam's ratio to itself."""

    value: float
    noise: float | None = None


class Goal(NamedTuple):
    """One goal.

    Args:
        text: What is compared.
        benchmark: The benchmark whose rows are compared.
        limit: What no row should exceed. Fixed before anything was measured.
        measure: Returns the worst value in the rows.
    """

    text: str
    benchmark: str
    limit: float
    measure: Callable[[Rows], Worst]


def _select(rows: Rows, **conditions: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in conditions.items())]


def _update(key: str, **conditions: Any) -> Callable[[Rows], Worst]:
    """Return a measure: the largest median ratio `key` of our updates."""

    def measure(rows: Rows) -> Worst:
        chosen = _select(rows, competitor=update_step.GROUPS_FUSED, **conditions)
        return Worst(max(row[key][0] for row in chosen))

    return measure


def _by_size(**conditions: Any) -> Callable[[Rows], Worst]:
    """Return a measure: the largest ratio to Keras Adam of any size and number of variables."""
    names = (update_by_size.FUSED, update_by_size.GROUPS)

    def measure(rows: Rows) -> Worst:
        of_kind = _select(rows, **conditions)
        row = max(
            (row for row in of_kind if row["competitor"] in names),
            key=lambda row: row["to_keras_adam"][0],
        )
        case = {key: row[key] for key in ("count", "size", "xla", "busy")}
        (again,) = _select(rows, competitor=update_by_size.KERAS_ADAM_AGAIN, **case)
        return Worst(row["to_keras_adam"][0], again["to_keras_adam"][2])

    return measure


def _ops_per_variable(rows: Rows) -> Worst:
    """Return the operations per additional variable, from the smaller to the larger model."""
    chosen = _select(rows, competitor=update_step.GROUPS_FUSED, xla=False, groups=3)
    small, large = sorted(chosen, key=lambda row: row["n_variables"])[:: len(chosen) - 1]
    growth = large["graph_ops"] - small["graph_ops"]
    return Worst(growth / (large["n_variables"] - small["n_variables"]))


def _state(rows: Rows) -> Worst:
    # A few numbers per group, such as its rate, are state too, but of no parameter.
    chosen = _select(rows, competitor=update_step.GROUPS_FUSED)
    return Worst(max(row["state_bytes_per_parameter"] for row in chosen))


def _training(**conditions: Any) -> Callable[[Rows], Worst]:
    """Return a measure: the slowest step."""

    def measure(rows: Rows) -> Worst:
        row = max(_select(rows, **conditions), key=lambda row: row["to_keras_adam"][0])
        return Worst(row["to_keras_adam"][0], row["noise"][2])

    return measure


def _schedule(rows: Rows) -> Worst:
    ours = [row for row in rows if row["optimizer"] != schedule_cost.KERAS_ADAM]
    (in_step,) = _select(ours, rate=schedule_cost.IN_STEP)
    (again,) = _select(ours, rate=schedule_cost.AGAIN)
    return Worst(in_step["time_to_constant"][0], again["time_to_constant"][2])


def _logger(rows: Rows) -> Worst:
    logged = _select(rows, callback=logger_cost.LOGGER)
    return Worst(max(row["time_to_none"][0] for row in logged))


RESNET = {"model": "ResNet50", "xla": False, "groups": 3}
N_FROZEN = train_step.N_GROUPS - 1
GOALS = (
    Goal(
        "ResNet50's update, 3 groups: time to Keras Adam's",
        "update_step",
        0.45,
        _update("to_keras_adam", **RESNET),
    ),
    Goal(
        "the same: time to Keras MultiOptimizer's",
        "update_step",
        0.45,
        _update("to_multi_optimizer", **RESNET),
    ),
    Goal(
        "the same: time to a hand-written loop's",
        "update_step",
        1.10,
        _update("to_kernel_loop", **RESNET),
    ),
    Goal(
        "the same: first call to Keras Adam's",
        "update_step",
        0.25,
        _update("first_call_to_keras_adam", **RESNET),
    ),
    Goal(
        "MobileNetV2's update, one group per layer: time to one group's",
        "update_step",
        1.10,
        _update("to_one_group", model="MobileNetV2", xla=False, groups=update_step.PER_LAYER),
    ),
    Goal("operations in the graph per additional variable", "update_step", 8.0, _ops_per_variable),
    Goal(
        "any update under XLA: time to Keras Adam's",
        "update_step",
        1.05,
        _update("to_keras_adam", xla=True),
    ),
    Goal(
        "any update under XLA: first call to Keras Adam's",
        "update_step",
        1.05,
        _update("first_call_to_keras_adam", xla=True),
    ),
    Goal(
        "an update of any number and size of variables, without XLA: time to Keras Adam's",
        "update_by_size",
        1.0,
        _by_size(xla=False),
    ),
    Goal("the same, with XLA", "update_by_size", 1.0, _by_size(xla=True)),
    Goal("optimizer state, bytes per parameter", "update_step", 8.005, _state),
    Goal(
        "any training step, all groups trainable: time to Keras Adam's",
        "train_step",
        1.0,
        _training(n_frozen=0),
    ),
    Goal(
        "any training step, two of three groups frozen: time to Keras Adam's",
        "train_step",
        1.0,
        _training(n_frozen=N_FROZEN),
    ),
    Goal("rates recorded at every step: time to a fit without", "logger_cost", 1.02, _logger),
    Goal("SGDR in the step: time to a constant rate's", "schedule_cost", 1.0, _schedule),
)


def table(rows_of: Mapping[str, Rows]) -> str:
    """A Markdown table of the goals of the benchmarks that were run.

    Args:
        rows_of: Rows of full runs, by name of the benchmark.
    """
    lines = []
    for goal in GOALS:
        if goal.benchmark in rows_of:
            worst = goal.measure(rows_of[goal.benchmark])
            noise = "-" if worst.noise is None else f"{worst.noise:.2f}"
            verdict = "yes" if worst.value <= goal.limit else "**no**"
            if verdict != "yes" and worst.noise is not None and worst.value <= worst.noise:
                verdict = "within noise"
            lines.append([goal.text, f"{goal.limit:.2f}", f"{worst.value:.2f}", noise, verdict])
    columns = ["the worst case of", "at most", "measured", "Keras to itself", "reached"]
    return markdown_table(columns, lines)
