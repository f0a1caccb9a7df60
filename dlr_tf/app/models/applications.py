"""Networks of `keras.applications`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import keras

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app.models.heads import classifier
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.weights import check_weights, load_backbone_weights

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

    >>> default_image_size("MobileNetV2"), default_image_size("InceptionV3")
    (224, 299)
    """
    return _IMAGE_SIZES.get(application_name(name), 224)


def application_source(name: str, weights: str | None, image_size: int | None) -> Source:
    """Return a model of `keras.applications` as a network to start from.

    Raises:
        ValueError: If the weights file does not exist.
    """
    check_weights(weights)
    size = image_size or default_image_size(name)
    chosen = weights or "imagenet"

    def build(class_names: Sequence[str], kind: str = "class") -> keras.Model:
        return application_model(name, len(class_names), weights=chosen, image_size=size, kind=kind)

    return Source(name, chosen, size, build)


def application_model(
    name: str,
    n_classes: int,
    *,
    weights: str | None = "imagenet",
    image_size: int | None = None,
    kind: str = "class",
) -> keras.Model:
    """Build a classifier on a model of `keras.applications`.

    Resizing and the model's own preprocessing are inside, so it takes RGB images of any size with
    values from 0 to 255, and returns the probabilities of the classes.

    Args:
        name: Name in `keras.applications`, such as `"MobileNetV2"`, in upper or lower case.
        n_classes: Int, 2 or more.
        weights: `"imagenet"` (downloaded once), `"none"` or `None` (random), or the path of a
            weights file made with `include_top=False`.
        image_size: Height and width in pixels. Defaults to what the model was made for.
        kind: The kind of target, as for `classifier`. Defaults to "class".

    Raises:
        ValueError: If there is no such model or file, the file holds the weights of another model,
            or the images are too small for the model.

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
        reason = str(error).rstrip(".")
        raise ValueError(
            f"{name} cannot be built for images of {size} x {size} pixels: {reason}. Give a larger "
            "--image-size."
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
    return classifier(backbone, n_classes, preprocess=preprocess, kind=kind)


def _application(name: str) -> tuple[Callable[..., keras.Model], Callable[[Any], Any]]:
    """Return the function that builds a model of `keras.applications`, and its preprocessing."""
    function = getattr(keras.applications, application_name(name))
    family = function.__module__.rpartition(".")[2]
    module = importlib.import_module(f"keras.applications.{family}")
    return function, module.preprocess_input
