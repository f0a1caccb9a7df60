"""A plot of characters, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ascii_plot(
    learning_rates: Sequence[float] | np.ndarray, *, width: int = 72, height: int = 16
) -> str:
    """Draw a curve with characters, for a terminal.

    Args:
        learning_rates: The rates, one per step. NaN and infinity leave a gap.
        width: Columns of the curve. Defaults to 72.
        height: Rows of the curve. Defaults to 16.

    Returns:
        Lines of text, the highest rate first, with an axis of rates and an axis of steps.

    Raises:
        ValueError: If no rate is finite.

    Example:

    >>> print(ascii_plot([0.0, 0.5, 1.0], width=3, height=3))
         1 |  *
           | *
         0 |*
           +---
            0 2  step (optimizer updates)
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    finite = rates[np.isfinite(rates)]
    if finite.size == 0:
        raise ValueError(
            "There is nothing to draw: expected at least one finite learning rate. "
            f"Received: {rates.size} rates"
        )
    low, high = float(finite.min()), float(finite.max())
    span = high - low if high > low else 1.0
    columns = min(width, rates.size)
    edges = np.linspace(0, rates.size, columns + 1).round().astype(int)
    canvas = np.full((height, columns), " ")
    for column in range(columns):
        part = rates[edges[column] : edges[column + 1]]
        part = part[np.isfinite(part)]
        if part.size == 0:
            continue
        # A column of many steps shows the range of their rates, so every restart is visible.
        top, bottom = (
            round(float(high - value) / span * (height - 1)) for value in (part.max(), part.min())
        )
        canvas[top : bottom + 1, column] = "*"
    numbers = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    margin = max(6, *(len(text) for text in numbers.values()))
    rows = [
        f"{numbers.get(row, ''):>{margin}} |{''.join(canvas[row])}".rstrip()
        for row in range(height)
    ]
    last = str(rates.size - 1)
    rows.append(f"{'':>{margin}} +{'-' * columns}")
    last = last.rjust(max(columns - 1, len(last) + 1))
    rows.append(f"{'':>{margin}}  0{last}  step (optimizer updates)")
    return "\n".join(rows)
