"""Networks in `.keras` files, among them those of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from dlr_tf._names import some_of
from dlr_tf.app.models.heads import CLASSES, Head, classifier, features_of, with_head
from dlr_tf.app.models.inputs import image_shape, in_size, raw_images, resizing_of
from dlr_tf.app.models.kept_head import KeptHead
from dlr_tf.app.models.outputs import class_count
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.text_inputs import TextInput
from dlr_tf.app.models.texts import takes_texts, text_columns
from dlr_tf.app.models.trained import known_target, load_model_file
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
    if takes_texts(model):
        return _text_source(path, label, model, image_size, keep_head)
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
    if keep_head and known_target(path).kind != "class":
        return _kept_outputs(path, label, network, size, notes)
    if keep_head:
        head = KeptHead.of(path, label, network)
        return Source(
            name=str(path),
            weights=WEIGHTS,
            image_size=size,
            build=lambda class_names, new=CLASSES: _with_raw_images(
                head.build(class_names, new), size
            ),
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

    def build(class_names: Sequence[str], head: Head = CLASSES) -> keras.Model:
        n_outputs = len(class_names)
        if resizing_of(network) is not None:
            return with_head(network.inputs[0], features, n_outputs, name=network.name, head=head)
        body = keras.Model(network.inputs, features, name=network.name)
        return classifier(body, n_outputs, image_size=size, head=head)

    return Source(
        name=str(path),
        weights=WEIGHTS,
        image_size=size,
        build=build,
        note="; ".join(notes),
        own_classes=None if layer is None else class_count(network),
    )


def _kept_outputs(
    path: Path,
    label: str,
    network: keras.Model,
    size: int | None,
    notes: Sequence[str],
    texts: TextInput | None = None,
) -> Source:
    """Return a network that keeps its head for labels or for numbers."""
    known = known_target(path)

    def build(names: Sequence[str], head: Head = CLASSES) -> keras.Model:
        if tuple(names) != known.names or head == CLASSES:
            raise ValueError(
                f"{label} knows the {known.nouns} {some_of(known.names)}, and DATA has "
                f"{some_of(names)}. Leave --keep-head out, to get a new head."
            )
        return network

    return Source(
        name=str(path),
        weights=WEIGHTS,
        image_size=size,
        build=build,
        note="; ".join([*notes, f"the head of {str(path)!r} is kept"]),
        own_classes=len(known.names),
        kept_classes=known.names,
        texts=texts,
    )


def _text_source(
    path: Path, label: str, model: keras.Model, image_size: int | None, keep_head: bool
) -> Source:
    """Return a `.keras` file that takes strings as a network to start from."""
    if image_size is not None:
        raise ValueError(f"{label} takes texts: leave --image-size out.")
    texts = TextInput(label, columns=text_columns(model))
    if keep_head and known_target(path).kind != "class":
        return _kept_outputs(path, label, model, None, [], texts)
    if keep_head:
        kept = KeptHead.of(path, label, model)
        return Source(
            name=str(path),
            weights=WEIGHTS,
            image_size=None,
            build=lambda names, new=CLASSES: _with_probabilities(kept.build(names, new)),
            note=kept.note(),
            own_classes=kept.n_classes,
            kept_classes=kept.classes,
            texts=texts,
        )
    features, layer = features_of(model, label)
    note = f"{label} ends with features: it gets a head"
    if layer is not None:
        note = (
            f"the head of {str(path)!r}, layer {layer.name!r}, is replaced (--keep-head keeps it)"
        )

    def build(names: Sequence[str], head: Head = CLASSES) -> keras.Model:
        inputs = model.inputs[0]
        return with_head(inputs, features, len(names), name=model.name, head=head)

    return Source(
        name=str(path),
        weights=WEIGHTS,
        image_size=None,
        build=build,
        note=note,
        own_classes=None if layer is None else class_count(model),
        texts=texts,
    )


def _with_probabilities(model: keras.Model) -> keras.Model:
    if output_activations(model) != ("linear",):
        return model
    softmax = keras.layers.Softmax(dtype="float32", name="softmax")
    return keras.Model(model.inputs[0], softmax(model.outputs[0]), name=model.name)


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
