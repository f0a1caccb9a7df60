"""The network to start from: a name, a `.keras` file or a preset of KerasHub becomes a classifier.

What is wrong with it is found when it is opened, before any image is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf.app.models import applications
from dlr_tf.app.models.trained import MODEL_FILE, known_class_names, load_model_file
from dlr_tf.app.terminal.messages import one_line
from dlr_tf.core import _keras
from dlr_tf.core._validation import did_you_mean, some_of
from dlr_tf.core.model_graph import output_positions
from dlr_tf.core.model_tree import variables_by_layer
from dlr_tf.training.losses import last_activation

HUB = "hub:"
_PROBABILITIES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Source:
    """A network to start from, which is known to exist.

    Args:
        name: What it is called, in the spelling of its library.
        weights: Where its weights come from.
        image_size: Height and width in pixels that images are resized to.
        build: A function from the names of the classes to a classifier, not compiled. It takes raw
            images of any size, with values from 0 to 255.
        note: What is done to the network, to be told to the user. May be empty.
        kept_classes: If the head stays, the names of its classes, or their numbers where the names
            are not known.
    """

    name: str
    weights: str
    image_size: int
    build: Callable[[Sequence[str]], keras.Model]
    note: str = ""
    kept_classes: tuple[str, ...] | None = None


def open_source(
    name: str,
    *,
    weights: str | None = None,
    image_size: int | None = None,
    keep_head: bool = False,
) -> Source:
    """Find the network that a name means, and check what is asked of it.

    Args:
        name: A model of `keras.applications` in upper or lower case, the path of a `.keras` file or
            of a folder with `model.keras`, or `hub:` and a preset of KerasHub.
        weights: `"imagenet"`, `"none"` (random), or a weights file of the network without its head.
            Defaults to `None`: those of ImageNet, of the file, or of the preset.
        image_size: Height and width in pixels. Defaults to those of the network.
        keep_head: Whether the head of a `.keras` file stays. Defaults to `False`: it is replaced.

    Raises:
        ValueError: If there is no such network, or it cannot be used like this.
        ImportError: If a preset is asked for, and KerasHub is not installed.
    """
    file = model_file(name)
    if keep_head and file is None:
        raise ValueError(
            f"--keep-head is for a .keras file, which has a head to keep. Received: --model {name}"
        )
    if file is not None:
        if weights is not None:
            raise ValueError(
                f"--weights is not for a .keras file, which has weights: leave it out. "
                f"Received: --model {name} --weights {weights}"
            )
        return file_source(file, image_size=image_size, keep_head=keep_head)
    if name.startswith(HUB):
        return _hub_source(name, weights, image_size)
    try:
        name = applications.application_name(name)
    except ValueError as error:
        raise ValueError(
            f"{error} Or give the path of a .keras file, or hub:NAME for a preset of KerasHub."
        ) from None
    applications.check_weights(weights)
    size = image_size or applications.default_image_size(name)
    chosen = weights or "imagenet"

    def build(class_names: Sequence[str]) -> keras.Model:
        return applications.application_model(
            name, len(class_names), weights=chosen, image_size=size
        )

    return Source(name, chosen, size, build)


def model_file(name: str) -> Path | None:
    """Return the `.keras` file that a name means, `None` if it means something else.

    Raises:
        ValueError: If it should be a file, and there is none.
    """
    path = Path(name)
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if path.suffix == ".keras" and path.is_file():
        return path
    known = [application.lower() for application in applications.application_names()]
    is_folder = path.is_dir() and name.lower() not in known
    is_path = is_folder or path.suffix == ".keras" or len(path.parts) > 1
    if is_path and not name.startswith(HUB):
        raise ValueError(
            f"The model {name!r} {'holds no ' + MODEL_FILE if is_folder else 'does not exist'}: "
            f"expected a .keras file, or a folder that holds {MODEL_FILE}."
        )
    return None


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
    size = _input_size(label, shape, image_size)
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
                return applications.with_head(
                    model.inputs[0], features, len(class_names), name=model.name
                )
            body = keras.Model(model.inputs, features, name=model.name)
            return applications.classifier(body, len(class_names), image_size=size)
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
            inputs, images = applications.raw_images(shape, size)
            x, name = model(images), f"{model.name}_classifier"
        if has_logits:
            x = keras.layers.Softmax(dtype="float32", name="softmax")(x)
        return keras.Model(inputs, x, name=name)

    return Source(str(path), "of the file", size, build, note, kept_classes)


def image_shape(model: keras.Model) -> tuple[int | None, int | None, int] | None:
    """Return height, width and channels of the images that a model is trained on.

    Height and width are `None` where any will do.

    Returns:
        The shape; `None` if the model has several inputs, or takes no images.
    """
    shape = getattr(model, "input_shape", None)
    if (
        not isinstance(shape, tuple)
        or len(shape) != 4
        or not all(size is None or isinstance(size, int) for size in shape)
    ):
        return None
    resizing = resizing_of(model)
    if resizing is not None:
        return resizing.height, resizing.width, shape[3]
    return shape[1:]


def resizing_of(model: keras.Model) -> keras.layers.Resizing | None:
    """Return the layer that makes a model take images of any size, `None` if there is none."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    if not layers or not isinstance(layers[0], keras.layers.Resizing):
        return None
    takes_any_size = model.input_shape[1:3] == (None, None)
    source, _ = _keras.tensor_source(_keras.first_inputs(layers[0])[0])
    is_first = isinstance(source, keras.layers.InputLayer)
    return layers[0] if takes_any_size and is_first else None


def _input_size(label: str, shape: Sequence[int | None], wanted: int | None) -> int:
    """Return the size that images are resized to."""
    height, width = shape[:2]
    if height is None or width is None:
        if wanted is None:
            raise ValueError(
                f"{label} takes images of any size. Give --image-size, the height and width that "
                "all images are resized to."
            )
        return wanted
    if height != width:
        raise ValueError(
            f"{label} takes images of {height} x {width} pixels, and images are resized to "
            "squares. Save it with a square input."
        )
    if wanted not in (None, height):
        raise ValueError(
            f"{label} takes images of {height} x {height} pixels alone. Leave --image-size out. "
            f"Received: --image-size {wanted}"
        )
    return height


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


def features_of(
    model: keras.Model, label: str = "The model"
) -> tuple[Any, keras.layers.Layer | None]:
    """Return what stands before the head of a model, and the head.

    The head is a dense layer, without an activation or with a softmax or sigmoid, from which only
    layers without weights lead to the output; or, where such an activation stands before the
    output, any layer. Dropout before it belongs to it.

    Args:
        model: A model with a graph, also with nested ones.
        label: What to call the model in an error.

    Returns:
        A symbolic tensor, the features; and the head, or `None` if the model ends with features.

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
    features, head, _ = _cut(model.outputs[0], False, label)
    return features, head


def _cut(
    tensor: Any, is_probability: bool, label: str
) -> tuple[Any, keras.layers.Layer | None, bool]:
    """Follow a tensor back to the head.

    Args:
        tensor: A symbolic tensor.
        is_probability: Whether a softmax or sigmoid stands between it and the output.
        label: What to call the model in an error.

    Returns:
        The features, the head if there is one, and whether an activation was passed.
    """
    current = tensor
    while True:
        operation, inputs = _keras.tensor_source(current)
        if isinstance(operation, keras.layers.InputLayer):
            return tensor, None, is_probability
        if _keras.is_graph_model(operation):
            inside, head, is_probability = _cut(operation.outputs[0], is_probability, label)
            if head is not None:
                body = keras.Model(operation.inputs, inside, name=operation.name)
                return body(inputs if len(inputs) > 1 else inputs[0]), head, is_probability
            if operation.weights:
                return tensor, None, is_probability
        elif getattr(operation, "weights", None):
            is_probability |= _activation(operation) in _PROBABILITIES
            if is_probability and (len(inputs) != 1 or isinstance(operation, keras.Model)):
                break
            is_logits = isinstance(operation, keras.layers.Dense) and (
                _activation(operation) == "linear" and len(current.shape) == 2
            )
            if is_probability or is_logits:
                return _before_dropout(inputs[0]), operation, is_probability
            return tensor, None, is_probability
        is_probability |= _activation(operation) in _PROBABILITIES
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


def _activation(operation: Any) -> str:
    """Return the name of the activation that an operation applies, `"linear"` if it has none."""
    if type(operation).__name__.lower() in _PROBABILITIES:
        return type(operation).__name__.lower()
    return getattr(getattr(operation, "activation", None), "__name__", "linear")


def _before_dropout(tensor: Any) -> Any:
    operation, inputs = _keras.tensor_source(tensor)
    return inputs[0] if isinstance(operation, keras.layers.Dropout) else tensor


def head_paths(model: keras.Model) -> list[str]:
    """Return the paths of the layers that give the outputs of a model: its head.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="top")])
    >>> head_paths(model)
    ['top']
    """
    weighted = [entry for entry in variables_by_layer(model) if entry.leaf and entry.variables]
    return [weighted[position].path for position in output_positions(model, weighted)]


def _hub_source(name: str, weights: str | None, image_size: int | None) -> Source:
    """Return a preset of KerasHub as a network to start from."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            f"The model {name!r} needs KerasHub, which is not installed. Run: pip install keras-hub"
        ) from error
    applications.check_weights(weights)
    preset = name[len(HUB) :]
    known = sorted(keras_hub.models.ImageClassifier.presets)
    is_folder = Path(preset).is_dir()
    if not is_folder and preset not in known and "/" not in preset:
        raise ValueError(
            f"KerasHub has no preset {preset!r} for image classification."
            f"{did_you_mean(preset, known)} Known: {some_of(known)}. Or give hub: and the folder "
            "of a preset."
        )
    try:
        backbone = keras_hub.models.Backbone.from_preset(
            preset, load_weights=weights in (None, "imagenet")
        )
    except Exception as error:  # whatever the library behind the preset's address raises
        raise ValueError(
            f"The preset {preset!r} of KerasHub could not be loaded. Check the network, or give "
            f"hub: and the folder of a preset. Received: {one_line(error)[:300]}"
        ) from error
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except ValueError:  # the preset has none
        converter = None
    label = f"The preset {preset!r}"
    shape, output = image_shape(backbone), backbone.output
    if shape is None or shape[2] != 3 or not isinstance(output, keras.KerasTensor):
        raise ValueError(f"{label} of KerasHub is not a network for images: choose another one.")
    size = image_size
    if size is None and shape[0] is None and getattr(converter, "image_size", None):
        size = converter.image_size[0]
    size = _input_size(label, shape, size)
    if weights not in (None, "imagenet", "none"):
        applications.load_backbone_weights(
            backbone, weights, preset, f"keras_hub.models.Backbone.from_preset({preset!r})"
        )

    def preprocess(images: Any) -> Any:
        scale, offset = (
            1.0 if value is None else np.asarray(value, "float32")
            for value in (converter.scale, converter.offset)
        )
        return images * scale + (0.0 if converter.offset is None else offset)

    def build(class_names: Sequence[str]) -> keras.Model:
        return applications.classifier(
            backbone,
            len(class_names),
            preprocess=None if converter is None else preprocess,
            image_size=size,
        )

    return Source(name, weights or "of the preset", size, build)
