"""Networks in `.keras` files, among them those of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from dlr_tf.app.models.heads import classifier, features_of, with_head
from dlr_tf.app.models.inputs import image_shape, in_size, raw_images, resizing_of
from dlr_tf.app.models.kept_head import KeptHead
from dlr_tf.app.models.outputs import class_count
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.trained import load_model_file
from dlr_tf.core.model_graph import output_activations

WEIGHTS = "of the file"


def file_source(path: Path, *, image_size: int | None = None, keep_head: bool = False) -> Source:
    """Return a `.keras` file as a network to start from.

    The head is the last layer with weights that gives the output. A network that ends with features
    gets a head. A file that this command wrote keeps its layers at their paths; another network
    becomes a nested model, behind the resizing. Preprocessing is taken to be inside the file.

    Raises:
        ValueError: If the file cannot be loaded, takes no RGB images or not this size, or its head
            cannot be found.
    """
    model = load_model_file(path)
    label = f"The model {str(path)!r}"
    shape = image_shape(model, label)
    if shape[2] != 3:
        raise ValueError(
            f"{label} should take RGB images, of shape (batch, height, width, 3). Save a model "
            "that begins with keras.Input((height, width, 3)). Received: input shape "
            f"{model.input_shape}"
        )
    network, size = in_size(label, model, image_size)
    notes = []
    if network is not model:
        notes.append(
            f"{str(path)!r} was trained on images of {shape[0]} x {shape[1]} pixels, and is built "
            f"for {size} x {size} now"
        )
    if keep_head:
        head = KeptHead.of(path, label, network)
        return Source(
            name=str(path),
            weights=WEIGHTS,
            image_size=size,
            build=lambda class_names: _with_raw_images(head.build(class_names), size),
            note="; ".join([*notes, head.note()]),
            own_classes=head.n_classes,
            kept_classes=head.classes,
        )
    features, layer = features_of(network, label)
    if layer is None:
        notes.append(f"{label} ends with features: it gets a head")
    else:
        notes.append(
            f"the head of {str(path)!r}, layer {layer.name!r}, is replaced (--keep-head keeps it)"
        )

    def build(class_names: Sequence[str]) -> keras.Model:
        if resizing_of(network) is not None:
            return with_head(network.inputs[0], features, len(class_names), name=network.name)
        body = keras.Model(network.inputs, features, name=network.name)
        return classifier(body, len(class_names), image_size=size)

    return Source(
        name=str(path),
        weights=WEIGHTS,
        image_size=size,
        build=build,
        note="; ".join(notes),
        own_classes=None if layer is None else class_count(network),
    )


def _with_raw_images(model: keras.Model, size: int) -> keras.Model:
    """Return a classifier that takes images of any size and gives probabilities."""
    if resizing_of(model) is not None:
        inputs, outputs, name = model.inputs[0], model.outputs[0], model.name
    else:
        inputs, images = raw_images(model.input_shape[1:], size)
        outputs, name = model(images), f"{model.name}_classifier"
    if output_activations(model) == ("linear",):
        outputs = keras.layers.Softmax(dtype="float32", name="softmax")(outputs)
    elif inputs is model.inputs[0]:
        return model
    return keras.Model(inputs, outputs, name=name)
