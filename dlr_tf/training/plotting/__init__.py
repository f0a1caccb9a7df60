"""Plots of rates, losses, schedules and sweeps. Nothing else uses matplotlib.

Each returns a `matplotlib.figure.Figure`. `path` is a file to write, `.png` or `.svg`, or `None`.
"""

from dlr_tf.training.plotting.confusion import plot_confusion_matrix
from dlr_tf.training.plotting.figures import MAX_LEGEND, require_matplotlib
from dlr_tf.training.plotting.losses import plot_loss, plot_sweep
from dlr_tf.training.plotting.panels import history_panel, legend_entries, rates_panel, svg_for_page
from dlr_tf.training.plotting.rates import plot_learning_rates, plot_schedule

__all__ = [
    "MAX_LEGEND",
    "history_panel",
    "legend_entries",
    "plot_confusion_matrix",
    "plot_learning_rates",
    "plot_loss",
    "plot_schedule",
    "plot_sweep",
    "rates_panel",
    "require_matplotlib",
    "svg_for_page",
]
