"""Schedules: one file each, with the pure formula first and the Keras schedule second."""

from dlr_tf.core.schedules.known import known_end, known_peak
from dlr_tf.core.schedules.one_cycle import OneCycle, OneCycleMomentum
from dlr_tf.core.schedules.schedule import LARGEST_RATE
from dlr_tf.core.schedules.sgdr import SGDR, cycle_length
from dlr_tf.core.schedules.stacked import is_own, stack_schedules
from dlr_tf.core.schedules.triangular import Triangular
from dlr_tf.core.schedules.warm_up import WarmUp

__all__ = [
    "LARGEST_RATE",
    "SGDR",
    "OneCycle",
    "OneCycleMomentum",
    "Triangular",
    "WarmUp",
    "cycle_length",
    "is_own",
    "known_end",
    "known_peak",
    "stack_schedules",
]
