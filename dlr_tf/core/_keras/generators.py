"""The global random generators of Keras and TensorFlow."""

from __future__ import annotations

import random
from typing import Any

from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from tensorflow.python.eager import context as eager_context
from tensorflow.python.ops import stateful_random_ops

# Before Keras 3.13 the name had no constant.
_GLOBAL_SEED_GENERATOR = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")


def keras_generator() -> Any:
    """Keras' global seed generator, `None` before its first use."""
    return global_state.get_global_attribute(_GLOBAL_SEED_GENERATOR)


def set_keras_generator(generator: Any) -> None:
    global_state.set_global_attribute(_GLOBAL_SEED_GENERATOR, generator)


def tensorflow_generator() -> Any:
    """TensorFlow's global generator, `None` before its first use; the public getter creates one."""
    return stateful_random_ops.global_generator


def set_tensorflow_generator(generator: Any) -> None:
    stateful_random_ops.global_generator = generator


def operation_seeds() -> random.Random | None:
    """The generator of the seeds of eager random operations; `None` without a global seed."""
    return getattr(eager_context.context(), "_rng", None)


def set_operation_seeds(generator: random.Random) -> None:
    eager_context.context()._rng = generator
