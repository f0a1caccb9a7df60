"""The head of a network: where it is, and a new one in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from dlr_tf.app.models.inputs import raw_images
from dlr_tf.core import _keras
from dlr_tf.core.model_graph import operation_activation, output_positions
from dlr_tf.core.model_tree import variables_by_layer

# The layer that gives the probabilities of the classes.
HEAD = "probabilities"
UNIT = "unit"  # the layer after it, which scales numbers
# The last activation by the kind of target.
ACTIVATIONS = {"class": "softmax", "labels": "sigmoid", "number": "linear"}
_PROBABILITIES = ("softmax", "sigmoid")
_DROPOUT = 0.2  # of the features, in the training


def set_scaling(model: keras.Model, mean: Sequence[float], deviation: Sequence[float]) -> None:
    """Give the numbers of a new head their unit, before the model is called for the first time.

    A head that was kept has the unit that it was trained in.
    """
    layer = model.get_layer(UNIT)
    layer.scale, layer.offset = list(deviation), list(mean)


def classifier(
    backbone: keras.Model,
    n_classes: int,
    *,
    preprocess: Callable[[Any], Any] | None = None,
    image_size: int | None = None,
    kind: str = "class",
) -> keras.Model:
    """Put a new head on a pretrained network, and resizing before it.

    Args:
        backbone: Network from images to feature maps or vectors; becomes a nested model.
        n_classes: Int, 2 or more.
        preprocess: Function that is applied to the resized images. Defaults to `None`: nothing.
        image_size: Height and width in pixels that the images are resized to. Defaults to `None`:
            the input size of the network.
        kind: The kind of target: "class": the outputs are the probabilities of the classes;
            "labels": of each label; "number": numbers, in the unit of the person after
            `set_scaling`. Defaults to "class".

    Returns:
        A model from images of any size to the probabilities of the classes; the head is the layer
        `probabilities`. A network that takes no images gets no resizing.
    """
    inputs, x = raw_images(backbone.input_shape[1:], image_size)
    x = backbone(x if preprocess is None else preprocess(x))
    return with_head(inputs, x, n_classes, name=f"{backbone.name}_classifier", kind=kind)


def with_head(
    inputs: Any, features: Any, n_classes: int, *, name: str, kind: str = "class"
) -> keras.Model:
    """Return a model with a new head on features: pooling where it is needed, dropout, a layer.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """
    if n_classes < 2 and kind == "class":
        raise ValueError(
            "Argument `n_classes` should be at least 2: with one class there is nothing to learn. "
            f"Received: n_classes={n_classes}"
        )
    pooling = {
        3: keras.layers.GlobalAveragePooling1D,
        4: keras.layers.GlobalAveragePooling2D,
    }
    taken = {layer.name for layer in keras.Model(inputs, features).layers}

    def free(wanted: str) -> str:
        return next(n for n in (wanted, *(f"{wanted}_{i}" for i in range(1, 99))) if n not in taken)

    x = features
    if len(x.shape) in pooling:
        x = pooling[len(x.shape)](name=free("pooling"))(x)
    x = keras.layers.Dropout(_DROPOUT, name=free("dropout"))(x)
    # Probabilities need float32 under a mixed-precision policy.
    x = keras.layers.Dense(
        n_classes, activation=ACTIVATIONS[kind], dtype="float32", name=free(HEAD)
    )(x)
    if kind == "number":
        ones, zeros = [1.0] * n_classes, [0.0] * n_classes
        x = keras.layers.Rescaling(ones, zeros, dtype="float32", name=UNIT)(x)
    return keras.Model(inputs, x, name=name)


def head_paths(model: keras.Model) -> list[str]:
    """Return the paths of the layers that give the outputs of a model: its head.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="top")])
    >>> head_paths(model)
    ['top']
    """
    weighted = [entry for entry in variables_by_layer(model) if entry.leaf and entry.variables]
    return [weighted[position].path for position in output_positions(model, weighted)]


def features_of(
    model: keras.Model, label: str = "The model", *, keep_dropout: bool = False
) -> tuple[Any, keras.layers.Layer | None]:
    """Return what stands before the head of a model, and the head, or `None` if it has none.

    The head is a dense layer, without an activation or with a softmax or sigmoid, from which only
    layers without weights lead to the output; or, where such an activation stands before the
    output, any layer. With `keep_dropout`, dropout before the head belongs to the features.

    Raises:
        ValueError: If the model has no graph, has several outputs, or its head cannot be found.
    """
    if not _keras.is_graph_model(model):
        raise ValueError(
            f"{label} is a subclassed model, whose head cannot be replaced. Give a Sequential or "
            "Functional model, or --keep-head."
        )
    if len(model.outputs) != 1:
        raise ValueError(
            f"{label} should have one output. Received: {len(model.outputs)} outputs. Save a model "
            "of one of them."
        )
    features, head, _ = _cut(model.outputs[0], False, label, keep_dropout)
    return features, head


def _cut(
    tensor: Any, is_probability: bool, label: str, keep_dropout: bool
) -> tuple[Any, keras.layers.Layer | None, bool]:
    """Follow a tensor back to the head.

    Args:
        tensor: A symbolic tensor.
        is_probability: Whether a softmax or sigmoid stands between it and the output.
        label: What to call the model in an error.
        keep_dropout: As in `features_of`.

    Returns:
        The features, the head if there is one, and whether an activation was passed.
    """
    current = tensor
    while True:
        operation, inputs = _keras.tensor_source(current)
        activation = operation_activation(operation, len(current.shape))
        if isinstance(operation, keras.layers.InputLayer):
            return tensor, None, is_probability
        if _keras.is_graph_model(operation):
            output = operation.outputs[_keras.output_index(current)]
            inside, head, is_probability = _cut(output, is_probability, label, keep_dropout)
            if head is not None:
                body = keras.Model(operation.inputs, inside, name=operation.name)
                return body(inputs if len(inputs) > 1 else inputs[0]), head, is_probability
            if operation.weights:
                return tensor, None, is_probability
        elif getattr(operation, "weights", None):
            is_probability |= activation in _PROBABILITIES
            if is_probability and (len(inputs) != 1 or isinstance(operation, keras.Model)):
                break
            is_logits = (
                isinstance(operation, keras.layers.Dense)
                and activation == "linear"
                and len(current.shape) == 2
            )
            if is_probability or is_logits:
                before = inputs[0] if keep_dropout else _before_dropout(inputs[0])
                return before, operation, is_probability
            return tensor, None, is_probability
        is_probability |= activation in _PROBABILITIES
        if len(inputs) != 1:
            if is_probability:
                break
            return tensor, None, is_probability
        current = inputs[0]
    raise ValueError(
        f"{label} has a head that cannot be replaced: its probabilities come from "
        f"{operation.name!r}, which is not one layer with one input. Save a model that ends with "
        "the features, or give --keep-head."
    )


def _before_dropout(tensor: Any) -> Any:
    operation, inputs = _keras.tensor_source(tensor)
    return inputs[0] if isinstance(operation, keras.layers.Dropout) else tensor
