"""Every private name of Keras and TensorFlow that dlr_tf uses.

Each stands behind a function that says why it is needed. `tests/core/test_keras.py` fails when
Keras or TensorFlow changes one of them.
"""

# ruff: noqa: F403

from __future__ import annotations

import keras

from dlr_tf._versions import unknown_version_error

try:
    from dlr_tf.core._keras.averaging import *
    from dlr_tf.core._keras.generators import *
    from dlr_tf.core._keras.graphs import *
    from dlr_tf.core._keras.layers import *
    from dlr_tf.core._keras.optimizer_state import *
    from dlr_tf.core._keras.saving import *
    from dlr_tf.core._keras.training import *
    from dlr_tf.core._keras.update_parts import *
    from dlr_tf.core._keras.variables import *
except ImportError as error:
    raise unknown_version_error(keras.__version__, error) from error
