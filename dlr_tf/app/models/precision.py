"""A model that computes in 32 bits, whatever it was trained in."""

from __future__ import annotations

from typing import Any

import keras


def in_float32(model: keras.Model) -> keras.Model:
    """Return a model with the same weights whose layers have no mixed precision.

    >>> layer = keras.layers.Dense(2, dtype="mixed_float16")
    >>> model = in_float32(keras.Sequential([keras.Input((3,)), layer]))
    >>> model.layers[0].compute_dtype
    'float32'
    """
    n_changed = 0

    def change(node: Any) -> None:
        nonlocal n_changed
        if isinstance(node, dict):
            config: Any = node.get("config")
            if node.get("class_name") == "DTypePolicy" and "mixed" in config["name"]:
                config["name"] = "float32"
                n_changed += 1
            node = list(node.values())
        for entry in node if isinstance(node, (list, tuple)) else ():
            change(entry)

    config = keras.saving.serialize_keras_object(model)
    change(config)
    if not n_changed:
        return model
    rebuilt = keras.saving.deserialize_keras_object(config)
    rebuilt.set_weights(model.get_weights())
    return rebuilt
