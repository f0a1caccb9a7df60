"""Layers: those inside a model or a layer, and their variables."""

from __future__ import annotations

import re
from typing import Any

import keras
from keras.src.utils.naming import to_snake_case

from dlr_tf.core._keras.graphs import is_graph_model


def direct_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds directly, those kept as attributes beside a graph too.

    `model.layers` lacks the latter in Functional models.
    """
    return list(model._flatten_layers(include_self=False, recursive=False))


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """All layers inside a layer, those inside composite layers too, parents before children.

    No public attribute lists the layers inside a composite layer, such as `Bidirectional`.
    """
    return list(model._flatten_layers(include_self=False, recursive=True))


# Attributes in which Keras and TensorFlow list what they track, layers among them.
_RECORDS = ("_layers", "_self_unconditional_", "_self_name_based_", "_self_tracked_")


def layer_attributes(model: keras.layers.Layer) -> dict[str, Any]:
    """The attributes in which a user keeps layers, without the records of Keras and TensorFlow.

    In a model with a graph, Keras' records are private attributes that cannot be told from a
    user's. So a private one counts only if a property of the class shows it, as `backbone` of a
    task of KerasHub shows `_backbone`; its name is the property's.
    """
    if not is_graph_model(model):
        return {k: v for k, v in vars(model).items() if not k.startswith(_RECORDS)}
    found = {}
    for name, value in vars(model).items():
        shown = name.lstrip("_")
        if shown == name:
            found[name] = value
        elif (
            isinstance(value, keras.layers.Layer)
            and isinstance(getattr(type(model), shown, None), property)
            and getattr(model, shown) is value
        ):
            found[shown] = value
    return found


def is_named_by_keras(layer: keras.layers.Layer) -> bool:
    """Whether a layer has an automatic name, such as `dense_3`."""
    stem = to_snake_case(type(layer).__name__)
    return re.fullmatch(rf"{re.escape(stem)}(_\d+)?", layer.name) is not None


def flagged_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables whose flag `trainable` changes when `layer.trainable` is set.

    These are the layer's own, not those of layers inside it. `trainable_variables` lists only the
    ones whose flag is on now.
    """
    return list(layer._trainable_variables)


def lora_base_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables that `layer.enable_lora` froze; empty where LoRA is off.

    Keras has no list of them. They are the weights of the layer itself, except LoRA's own and the
    bias.
    """
    if not getattr(layer, "lora_enabled", False):
        return []
    others = [*lora_variables(layer), getattr(layer, "bias", None)]
    return [v for v in flagged_variables(layer) if not any(v is other for other in others)]


def lora_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables that `layer.enable_lora` made; empty where LoRA is off."""
    names = ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b")
    found = [getattr(layer, name, None) for name in names]
    return [variable for variable in found if variable is not None]
