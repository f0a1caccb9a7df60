"""A plot of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlr_tf.training.plotting.figures import (
    HEIGHT,
    INK,
    Path,
    label_axes,
    new_figure,
    shortened,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_confusion_matrix(
    matrix: np.ndarray, class_names: Sequence[str], path: Path = None, *, title: str = ""
) -> Figure:
    """Draw a confusion matrix: one row per true class, one column per predicted class.

    The colour of a field is its fraction of the row. Up to 20 classes, the fields show the numbers;
    up to 40, the axes show the names.

    Args:
        matrix: Int array `[true class, predicted class]`.
        class_names: The classes.

    Example:

    >>> figure = plot_confusion_matrix(np.eye(2, dtype=int), ["cat", "dog"])
    >>> figure.axes[0].get_xlabel()
    'predicted class'
    """
    count = len(class_names)
    figure = new_figure(min(max(HEIGHT, 1.6 + 0.36 * count), 12.0))
    axes = figure.add_subplot()
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0.0, vmax=1.0)
    label_axes(axes, xlabel="predicted class", ylabel="true class", title=title)
    axes.grid(False)
    if count <= 40:
        names = shortened(class_names, 10, 13)
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    if count <= 20:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                colour = "white" if fractions[row, column] > 0.5 else INK
                axes.text(
                    column, row, f"{number}", ha="center", va="center", color=colour, fontsize=8
                )
    return write_figure(figure, path)
