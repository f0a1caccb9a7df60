"""A model that is built again with other settings and the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from dlr_tf.core.model_tree import leaf_layers


def rebuilt(model: keras.Model, change: Callable[[dict[str, Any]], None]) -> keras.Model:
    """Build a model again with the same weights, after a change of each dict of its configuration.

    Raises:
        ValueError: If its layers do not fit each other any more.
    """

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            change(node)
            node = list(node.values())
        for entry in node if isinstance(node, (list, tuple)) else ():
            visit(entry)

    config = keras.saving.serialize_keras_object(model)
    visit(config)
    made = keras.saving.deserialize_keras_object(config)
    made.set_weights(model.get_weights())
    return made


def in_float32(model: keras.Model) -> keras.Model:
    """Return a model with the same weights whose layers have no mixed precision.

    >>> layer = keras.layers.Dense(2, dtype="mixed_float16")
    >>> model = in_float32(keras.Sequential([keras.Input((3,)), layer]))
    >>> model.layers[0].compute_dtype
    'float32'
    """

    def change(node: dict[str, Any]) -> None:
        if node.get("class_name") == "DTypePolicy" and "mixed" in node["config"]["name"]:
            node["config"]["name"] = "float32"

    is_mixed = any("mixed" in leaf.layer.dtype_policy.name for leaf in leaf_layers(model))
    return rebuilt(model, change) if is_mixed else model
