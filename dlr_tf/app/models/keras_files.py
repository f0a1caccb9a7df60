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
from dlr_tf.app.models.text_inputs import TextInput
from dlr_tf.app.models.texts import takes_texts, text_columns
from dlr_tf.app.models.trained import load_model_file
from dlr_tf.core.model_graph import output_activations

WEIGHTS = "of the file"


def file_source(path: Path, *, image_size: int | None = None, keep_head: bool = False) -> Source:
    """Return a `.keras` file as a network to start from.

    The head is the last layer with weights that gives the output. A network that ends with features
    gets a head. A file that this command wrote keeps its layers at their paths; another network
    becomes a nested model, behind the resizing. Preprocessing is taken to be inside the file.

    Raises:
        ValueError: If the file cannot be loaded, takes neither texts nor RGB images or not this
            size, or its head cannot be found.
    """
    model, size, texts = load_model_file(path), None, None
    label, notes = f"The model {str(path)!r}", []
    if takes_texts(model):
        if image_size is not None:
            raise ValueError(f"{label} takes texts: leave --image-size out.")
        texts = TextInput(label, columns=text_columns(model))
    else:
        height, width, channels = image_shape(model, label)
        if channels != 3:
            raise ValueError(
                f"{label} should take RGB images, of shape (batch, height, width, 3). Save a model "
                "that begins with keras.Input((height, width, 3)). Received: input shape "
                f"{model.input_shape}"
            )
        before, (model, size) = model, in_size(label, model, image_size)
        if model is not before:
            notes.append(
                f"{str(path)!r} was trained on images of {height} x {width} pixels, and is built "
                f"for {size} x {size} now"
            )
    own_classes, kept_classes = None, None
    if keep_head:
        kept = KeptHead.of(path, label, model)

        def build_kept(names: Sequence[str], kind: str = "class") -> keras.Model:
            built = kept.build(names, kind)
            return _with_probabilities(built, size) if kind == "class" else built

        build, kept_classes = build_kept, kept.names
        notes.append(kept.note())
    else:
        features, layer = features_of(model, label)

        def build_new(names: Sequence[str], kind: str = "class") -> keras.Model:
            if size is None or resizing_of(model) is not None:
                inputs = model.inputs[0]
                return with_head(inputs, features, len(names), name=model.name, kind=kind)
            body = keras.Model(model.inputs, features, name=model.name)
            return classifier(body, len(names), image_size=size, kind=kind)

        build, note = build_new, f"{label} ends with features: it gets a head"
        if layer is not None:
            own_classes = class_count(model)
            what = f"the head of {str(path)!r}, layer {layer.name!r}"
            note = f"{what}, is replaced (--keep-head keeps it)"
        notes.append(note)
    return Source(
        name=str(path),
        weights=WEIGHTS,
        image_size=size,
        build=build,
        note="; ".join(notes),
        own_classes=own_classes,
        kept_classes=kept_classes,
        texts=texts,
    )


def _with_probabilities(model: keras.Model, size: int | None) -> keras.Model:
    """Return a classifier that gives probabilities, and takes images of any size if of any."""
    inputs, outputs, name = model.inputs[0], model.outputs[0], model.name
    if size is not None and resizing_of(model) is None:
        inputs, images = raw_images(model.input_shape[1:], size)
        outputs, name = model(images), f"{model.name}_classifier"
    if output_activations(model) == ("linear",):
        outputs = keras.layers.Softmax(dtype="float32", name="softmax")(outputs)
    elif inputs is model.inputs[0]:
        return model
    return keras.Model(inputs, outputs, name=name)
