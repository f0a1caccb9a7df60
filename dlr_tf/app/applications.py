"""Classifiers on the pretrained networks of `keras.applications`."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from dlr_tf.core._validation import did_you_mean, some_of

# The layer that gives the probabilities of the classes.
HEAD = "probabilities"
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


def check_application(name: str) -> None:
    """Check that `keras.applications` has a model of this name.

    Raises:
        ValueError: If it has none.
    """
    names = application_names()
    if name not in names:
        raise ValueError(
            f"There is no model {name!r} in keras.applications.{did_you_mean(name, names)} "
            f"Known: {some_of(names)}."
        )


def default_image_size(name: str) -> int:
    """Return the height and width of the images that a model of `keras.applications` expects.

    Raises:
        ValueError: If there is no such model.

    >>> default_image_size("MobileNetV2"), default_image_size("InceptionV3")
    (224, 299)
    """
    check_application(name)
    return _IMAGE_SIZES.get(name, 224)


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

    The model's own preprocessing is inside, so it takes RGB images with values from 0 to 255, and
    returns the probabilities of the classes.

    Args:
        name: Name in `keras.applications`, such as `"MobileNetV2"`.
        n_classes: Int, 2 or more.
        weights: `"imagenet"` (downloaded once), `"none"` or `None` (random), or the path of a
            weights file made with `include_top=False`. Defaults to `"imagenet"`.
        image_size: Height and width in pixels. Defaults to what the model was made for.

    Returns:
        The model, not compiled: preprocessing, `name` as a nested model, pooling, `probabilities`.

    Raises:
        ValueError: If there is no such model or file, the file holds the weights of another model,
            or the images are too small for the model.

    Example:

    >>> model = application_model("MobileNetV2", 10, weights="none", image_size=32)
    >>> model.output_shape
    (None, 10)
    """
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
        _load_weights(backbone, weights, name)
    return classifier(backbone, n_classes, preprocess=preprocess)


def classifier(
    backbone: keras.Model,
    n_classes: int,
    *,
    preprocess: Callable[[Any], Any] | None = None,
    dropout: float = 0.2,
) -> keras.Model:
    """Put a new head on a pretrained network.

    Args:
        backbone: Network from images to feature maps or vectors; becomes a nested model.
        n_classes: Int, 2 or more.
        preprocess: Function that is applied to the images first. Defaults to `None`: nothing.
        dropout: Float in [0, 1): fraction of the features that training drops. Defaults to 0.2.

    Returns:
        A model from images to the probabilities of the classes; the head is the layer
        `probabilities`.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """
    if n_classes < 2:
        raise ValueError(
            "Argument `n_classes` should be at least 2: with one class there is nothing to learn. "
            f"Received: n_classes={n_classes}"
        )
    inputs = keras.Input(backbone.input_shape[1:], name="images")
    x = backbone(inputs if preprocess is None else preprocess(inputs))
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    # Probabilities need float32 under a mixed-precision policy.
    outputs = keras.layers.Dense(n_classes, activation="softmax", dtype="float32", name=HEAD)(x)
    return keras.Model(inputs, outputs, name=f"{backbone.name}_classifier")


def _application(name: str) -> tuple[Callable[..., keras.Model], Callable[[Any], Any]]:
    """Return the function that builds a model of `keras.applications`, and its preprocessing."""
    check_application(name)
    function = getattr(keras.applications, name)
    family = function.__module__.rpartition(".")[2]
    module = importlib.import_module(f"keras.applications.{family}")
    return function, module.preprocess_input


def _load_weights(backbone: keras.Model, path: str, name: str) -> None:
    """Load a weights file completely, or raise."""
    try:
        with warnings.catch_warnings():
            # Keras only warns if parts of the model are not in the file.
            warnings.filterwarnings("error", message="Skipping nested container")
            backbone.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ValueError(
            f"The weights file {path!r} does not hold the weights of {name} without its top. Give "
            "a file saved from keras.applications."
            f"{name}(include_top=False), or the model the file belongs to."
        ) from error
