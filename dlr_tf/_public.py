"""The public names of `dlr_tf`. Loading this module registers the classes that Keras saves."""

from __future__ import annotations

import keras
import tensorflow as tf

from dlr_tf._versions import check_backend, check_versions

check_versions(tf.__version__, keras.__version__)
check_backend(keras.backend.backend())

from dlr_tf.app.data import read_image
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers, split_layerwise
from dlr_tf.core.learning_rates import layerwise_rates
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.pattern_groups import split_by_pattern
from dlr_tf.core.schedules import SGDR, OneCycle, Triangular, WarmUp
from dlr_tf.training.distribution import distributed_fit, is_chief, make_strategy
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.freezing import freeze_batch_norm, freeze_to, unfreeze_batch_norm
from dlr_tf.training.gradual_unfreezing import GradualUnfreezing
from dlr_tf.training.learning_rate_logger import LearningRateLogger
from dlr_tf.training.lr_finder import LearningRateSweep, find_learning_rate
from dlr_tf.training.named_schedules import make_schedule
from dlr_tf.training.snapshot_ensemble import SnapshotEnsemble

__all__ = [
    "SGDR",
    "FusedAdam",
    "GradualUnfreezing",
    "LayerGroup",
    "LearningRateLogger",
    "LearningRateSweep",
    "MultiGroupOptimizer",
    "OneCycle",
    "SnapshotEnsemble",
    "Triangular",
    "WarmUp",
    "distributed_fit",
    "find_learning_rate",
    "fine_tune",
    "freeze_batch_norm",
    "freeze_to",
    "is_chief",
    "layerwise_rates",
    "make_schedule",
    "make_strategy",
    "read_image",
    "split_by_pattern",
    "split_evenly",
    "split_layers",
    "split_layerwise",
    "unfreeze_batch_norm",
]
