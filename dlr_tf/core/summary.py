"""The table of groups that `MultiGroupOptimizer.summary` prints."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

# Keras prints its own summaries with rich, so it is always installed.
import rich.box
import rich.console
import rich.table

from dlr_tf.core.groups import LayerGroup

_FULL_WIDTH = 110
# The headings where there is little room.
_SHORT = {"variables": "vars", "parameters": "params", "learning rate": "rate"}


class GroupRow(NamedTuple):
    """One line of the table."""

    name: str
    layers: Sequence[str]
    n_variables: int
    n_parameters: int
    optimizer: str
    learning_rate: float
    state: str


def group_rows(
    groups: Sequence[LayerGroup],
    variables: Sequence[Sequence[Any]],
    inner_optimizers: Sequence[Any],
    rates: Sequence[float],
) -> list[GroupRow]:
    """Return one row per group.

    Args:
        groups: The groups.
        variables: The variables of each; none before the model is known.
        inner_optimizers: The optimizer of each.
        rates: The rate of each.
    """
    return [
        GroupRow(
            name=group.name,
            layers=group.layers,
            n_variables=len(own),
            n_parameters=sum(math.prod(v.shape) for v in own),
            optimizer=type(inner).__name__,
            learning_rate=rate,
            state="not built"
            if not own
            else "trainable"
            if any(v.trainable for v in own)
            else "frozen",
        )
        for group, own, inner, rate in zip(groups, variables, inner_optimizers, rates)
    ]


def group_table(title: str, rows: Sequence[GroupRow], width: int | None = None) -> str:
    """Format groups as a table.

    Args:
        title: Line above the table.
        rows: One per group.
        width: Width of the table in characters. Defaults to that of the terminal, at most 120.
    """
    width = width or min(120, shutil.get_terminal_size((120, 24)).columns)
    is_narrow = width < _FULL_WIDTH
    table = rich.table.Table(
        title=title,
        title_justify="left",
        box=rich.box.SIMPLE_HEAD if is_narrow else rich.box.HEAVY_HEAD,
        padding=(0, 0) if is_narrow else (0, 1),
    )
    for column in ("group", "layers" if is_narrow else "layers (first to last)"):
        table.add_column(column, overflow="fold")
    for column in ("variables", "parameters", "optimizer", "learning rate", "state"):
        table.add_column(
            _SHORT.get(column, column) if is_narrow else column,
            justify="left" if column in ("optimizer", "state") else "right",
            no_wrap=True,
        )
    for row in rows:
        ends = dict.fromkeys((row.layers[0], row.layers[-1]))
        span = " ... ".join(ends)
        if len(span) > 50:  # the paths would be too long
            span = " ... ".join(path.rsplit("/", 1)[-1] for path in ends)
        table.add_row(
            row.name,
            f"{span} ({len(row.layers)})",
            f"{row.n_variables:,}" if row.n_variables else "-",
            f"{row.n_parameters:,}" if row.n_variables else "-",
            row.optimizer,
            f"{row.learning_rate:.3g}",
            row.state,
        )
    stream = io.StringIO()
    rich.console.Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue().rstrip("\n")
