"""Networks in `.keras` files, among them those of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from dlr_tf._names import some_of
from dlr_tf.app.models.heads import classifier, features_of, with_head
from dlr_tf.app.models.inputs import image_shape, input_size, raw_images, resizing_of
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.trained import known_class_names, load_model_file
from dlr_tf.training.losses import last_activation


def file_source(path: Path, *, image_size: int | None = None, keep_head: bool = False) -> Source:
    """Return a `.keras` file as a network to start from.

    The head is the last layer with weights that gives the output. A network that ends with features
    gets a head. A file that this command wrote keeps its layers at their paths; another network
    becomes a nested model, behind the resizing. Preprocessing is taken to be inside the file.

    Args:
        path: The file.
        image_size: Height and width in pixels. Defaults to those of the network.
        keep_head: Whether its head stays. Defaults to `False`: it is replaced.

    Raises:
        ValueError: If the file cannot be loaded, takes no RGB images or not this size, or its head
            cannot be found.
    """
    model = load_model_file(path)
    label = f"The model {str(path)!r}"
    shape = image_shape(model)
    if shape is None or shape[2] != 3:
        received = "other inputs" if shape is None else f"images with {shape[2]} channels"
        raise ValueError(
            f"{label} should take RGB images, of shape (batch, height, width, 3). "
            f"Received: {received}"
        )
    size = input_size(label, shape, image_size)
    known, kept_classes = known_class_names(path) if keep_head else None, None
    if keep_head:
        n_outputs = _kept_outputs(label, model)
        note = f"the head of {str(path)!r} is kept"
        kept_classes = known or tuple(str(number) for number in range(n_outputs))
    else:
        features, head = features_of(model, label)
        note = f"{label} ends with features: it gets a head"
        if head is not None:
            note = (
                f"the head of {str(path)!r}, layer {head.name!r}, is replaced (--keep-head keeps "
                "it)"
            )

    def build(class_names: Sequence[str]) -> keras.Model:
        is_raw = resizing_of(model) is not None
        if not keep_head:
            if is_raw:
                return with_head(model.inputs[0], features, len(class_names), name=model.name)
            body = keras.Model(model.inputs, features, name=model.name)
            return classifier(body, len(class_names), image_size=size)
        if n_outputs != len(class_names):
            raise ValueError(
                f"{label} gives {n_outputs} outputs and DATA has {len(class_names)} classes. Leave "
                "--keep-head out, to get a new head."
            )
        if known is not None and list(known) != list(class_names):
            raise ValueError(
                f"{label} knows the classes {some_of(known)}, and DATA has {some_of(class_names)}. "
                "Leave --keep-head out, to get a new head."
            )
        has_logits = last_activation(model) == "linear"
        if is_raw and not has_logits:
            return model
        if is_raw:
            inputs, x, name = model.inputs[0], model.outputs[0], model.name
        else:
            inputs, images = raw_images(shape, size)
            x, name = model(images), f"{model.name}_classifier"
        if has_logits:
            x = keras.layers.Softmax(dtype="float32", name="softmax")(x)
        return keras.Model(inputs, x, name=name)

    return Source(str(path), "of the file", size, build, note, kept_classes)


def _kept_outputs(label: str, model: keras.Model) -> int:
    """Return the number of outputs of a head that stays, and check its activation."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        raise ValueError(
            f"{label} has no head to keep: expected one output per class. Leave --keep-head out. "
            f"Received: output shape {shape}"
        )
    activation = last_activation(model)
    if activation not in ("softmax", "linear"):
        raise ValueError(
            f"{label} has a head that cannot be kept: expected a softmax, or no activation. Leave "
            f"--keep-head out. Received: activation {activation!r}"
        )
    return shape[1]
