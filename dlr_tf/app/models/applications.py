"""Classifiers on the pretrained networks of `keras.applications`."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from dlr_tf.core._validation import did_you_mean, some_of

# The layer that gives the probabilities of the classes.
HEAD = "probabilities"
INPUT = "images"
# The input sizes of `keras.applications` that are not 224: what the ImageNet weights were made for.
_IMAGE_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}


def application_names() -> list[str]:
    """Return the names of the models in `keras.applications`."""
    return [name for name in dir(keras.applications) if name[0].isupper()]


def application_name(name: str) -> str:
    """Return the name of a model as `keras.applications` spells it.

    Args:
        name: The name, in upper or lower case.

    Raises:
        ValueError: If there is no such model.

    >>> application_name("mobilenetv2")
    'MobileNetV2'
    """
    names = application_names()
    spelled = {known.lower(): known for known in names}
    if name.lower() not in spelled:
        raise ValueError(
            f"There is no model {name!r} in keras.applications.{did_you_mean(name, names)} "
            f"Known: {some_of(names)}."
        )
    return spelled[name.lower()]


def default_image_size(name: str) -> int:
    """Return the height and width of the images that a model of `keras.applications` expects.

    Raises:
        ValueError: If there is no such model.

    >>> default_image_size("MobileNetV2"), default_image_size("InceptionV3")
    (224, 299)
    """
    return _IMAGE_SIZES.get(application_name(name), 224)


def check_weights(weights: str | None) -> None:
    """Check that weights are `"imagenet"`, `"none"` or the path of a file.

    Raises:
        ValueError: If there is no such file.
    """
    if weights not in ("imagenet", "none", None) and not Path(weights).is_file():
        raise ValueError(
            f"The weights file {weights!r} does not exist: expected 'imagenet', 'none' or the path "
            "of a weights file made with include_top=False."
        )


def application_model(
    name: str, n_classes: int, *, weights: str | None = "imagenet", image_size: int | None = None
) -> keras.Model:
    """Build a classifier on a model of `keras.applications`.

    Resizing and the model's own preprocessing are inside, so it takes RGB images of any size with
    values from 0 to 255, and returns the probabilities of the classes.

    Args:
        name: Name in `keras.applications`, such as `"MobileNetV2"`, in upper or lower case.
        n_classes: Int, 2 or more.
        weights: `"imagenet"` (downloaded once), `"none"` or `None` (random), or the path of a
            weights file made with `include_top=False`. Defaults to `"imagenet"`.
        image_size: Height and width in pixels that the images are resized to. Defaults to what the
            model was made for.

    Returns:
        The model, not compiled: resizing, preprocessing, `name` as a nested model, pooling,
        `probabilities`.

    Raises:
        ValueError: If there is no such model or file, the file holds the weights of another model,
            or the images are too small for the model.

    Example:

    >>> model = application_model("MobileNetV2", 10, weights="none", image_size=32)
    >>> model.input_shape, model.output_shape
    ((None, None, None, 3), (None, 10))
    """
    name = application_name(name)
    function, preprocess = _application(name)
    check_weights(weights)
    size = image_size or default_image_size(name)
    try:
        backbone = function(
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_shape=(size, size, 3),
        )
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be built for images of {size} x {size} pixels: {error} Give a larger "
            "`image_size`."
        ) from error
    except Exception as error:
        # `keras.utils.get_file` raises a plain `Exception`.
        if weights != "imagenet":
            raise
        raise ValueError(
            f"The ImageNet weights of {name} could not be downloaded. Check the network, or give "
            f"the path of a weights file, or 'none' for random weights. Received: {error}"
        ) from error
    if weights not in ("imagenet", "none", None):
        load_backbone_weights(
            backbone, weights, name, f"keras.applications.{name}(include_top=False)"
        )
    return classifier(backbone, n_classes, preprocess=preprocess)


def classifier(
    backbone: keras.Model,
    n_classes: int,
    *,
    preprocess: Callable[[Any], Any] | None = None,
    dropout: float = 0.2,
    image_size: int | None = None,
) -> keras.Model:
    """Put a new head on a pretrained network, and resizing before it.

    Args:
        backbone: Network from images to feature maps or vectors; becomes a nested model.
        n_classes: Int, 2 or more.
        preprocess: Function that is applied to the resized images. Defaults to `None`: nothing.
        dropout: Float in [0, 1): fraction of the features that training drops. Defaults to 0.2.
        image_size: Height and width in pixels that the images are resized to. Defaults to `None`:
            the input size of the network.

    Returns:
        A model from images of any size to the probabilities of the classes; the head is the layer
        `probabilities`. A network that takes no images gets no resizing.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """
    inputs, x = raw_images(backbone.input_shape[1:], image_size)
    x = backbone(x if preprocess is None else preprocess(x))
    return with_head(inputs, x, n_classes, name=f"{backbone.name}_classifier", dropout=dropout)


def raw_images(shape: Sequence[int | None], image_size: int | None = None) -> tuple[Any, Any]:
    """Return an input for images of any size, and these images in the size that a network takes.

    Images that have this size already are not changed, so training on resized images costs nothing
    more. The numbers are those of `tf.image.resize`.

    Args:
        shape: Height, width and channels that the network takes, or the shape of something that is
            no image: then nothing is resized.
        image_size: Height and width in pixels. Defaults to those of `shape`.

    >>> inputs, resized = raw_images((8, 8, 1))
    >>> inputs.shape, resized.shape
    ((None, None, None, 1), (None, 8, 8, 1))
    """
    is_image = len(shape) == 3
    height, width = shape[:2] if is_image and image_size is None else (image_size, image_size)
    if not is_image or height is None or width is None:
        inputs = keras.Input(shape, name=INPUT)
        return inputs, inputs
    inputs = keras.Input((None, None, shape[-1]), name=INPUT)
    # Half precision, under a mixed-precision policy, cannot hold all values of a resized image.
    resizing = keras.layers.Resizing(height, width, dtype="float32", name="resizing")
    # Its own default is `training=True`, which Keras hands on to the layers after it where the
    # model is called without a word on training: their batch normalization would move.
    return inputs, resizing(inputs, training=False)


def with_head(
    inputs: Any, features: Any, n_classes: int, *, name: str, dropout: float = 0.2
) -> keras.Model:
    """Return a model with a new head on features: pooling where it is needed, dropout, a layer.

    Args:
        inputs: The input of the model.
        features: Symbolic tensor: one vector, one sequence of vectors, or one feature map per
            image.
        n_classes: Int, 2 or more.
        name: Name of the model.
        dropout: Float in [0, 1): fraction of the features that training drops. Defaults to 0.2.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """
    if n_classes < 2:
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
    x = keras.layers.Dropout(dropout, name=free("dropout"))(x)
    # Probabilities need float32 under a mixed-precision policy.
    outputs = keras.layers.Dense(n_classes, activation="softmax", dtype="float32", name=free(HEAD))(
        x
    )
    return keras.Model(inputs, outputs, name=name)


def _application(name: str) -> tuple[Callable[..., keras.Model], Callable[[Any], Any]]:
    """Return the function that builds a model of `keras.applications`, and its preprocessing."""
    function = getattr(keras.applications, application_name(name))
    family = function.__module__.rpartition(".")[2]
    module = importlib.import_module(f"keras.applications.{family}")
    return function, module.preprocess_input


def load_backbone_weights(backbone: keras.Model, path: str, name: str, maker: str) -> None:
    """Load a weights file completely, or raise.

    Args:
        backbone: The network.
        path: The weights file.
        name: What to call the network in an error.
        maker: The expression that makes such a network.

    Raises:
        ValueError: If the file does not hold the weights of this network.
    """
    try:
        with warnings.catch_warnings():
            # Keras only warns if parts of the model are not in the file.
            warnings.filterwarnings("error", message="Skipping nested container")
            backbone.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ValueError(
            f"The weights file {path!r} does not hold the weights of {name} without its top. Give "
            f"a file saved from {maker}, or the model the file belongs to."
        ) from error
