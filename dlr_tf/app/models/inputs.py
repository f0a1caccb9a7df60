"""What a network takes: the shape of its images, and resizing before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.models.rebuilding import rebuilt
from dlr_tf.app.terminal import one_line
from dlr_tf.core import _keras

INPUT = "images"


def raw_images(shape: Sequence[int | None], image_size: int | None = None) -> tuple[Any, Any]:
    """Return an input for images of any size, and these images in the size that a network takes.

    Images that have this size already are not changed, so training on resized images costs nothing
    more. The numbers are those of `tf.image.resize`. What is no image is not resized.

    Args:
        shape: What the network takes, without the batch axis.
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


def image_shape(model: keras.Model, label: str = "The model") -> tuple[int | None, int | None, int]:
    """Return height, width and channels of the images that a model is trained on.

    Height and width are `None` where any will do.

    Raises:
        ValueError: If the model has several inputs, or takes no images.
    """
    shape = getattr(model, "input_shape", None)
    if (
        not isinstance(shape, tuple)
        or len(shape) != 4
        or not all(size is None or isinstance(size, int) for size in shape)
    ):
        raise ValueError(
            f"{label} should take images, of shape (batch, height, width, channels). "
            f"Received: input shape {shape}"
        )
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


def in_size(label: str, model: keras.Model, wanted: int | None) -> tuple[keras.Model, int]:
    """Return a model for square images of a size, and the size. `None` wants that of the model.

    Raises:
        ValueError: If the model has no size and none is wanted, is not for squares, or has layers
            for one size only.
    """
    height, width, _ = image_shape(model)
    if height is None or width is None:
        if wanted is None:
            raise ValueError(
                f"{label} takes images of any size. Give --image-size, the height and width that "
                "all images are resized to."
            )
        return model, wanted
    if wanted is not None and (height, width) != (wanted, wanted):
        return _resized(label, model, wanted), wanted
    if height != width:
        raise ValueError(
            f"{label} takes images of {height} x {width} pixels, and images are resized to "
            "squares. Give --image-size, or save it with a square input."
        )
    return model, height


def _resized(label: str, model: keras.Model, size: int) -> keras.Model:
    """Build a convolutional network again, with the same weights, for images of another size."""
    resizing = resizing_of(model)
    height, width, _ = image_shape(model)

    def change(node: dict[str, Any]) -> None:
        kind, config = node.get("class_name"), node.get("config", {})
        if kind == "InputLayer" and len(config["batch_shape"]) == 4:
            batch, *sizes, channels = config["batch_shape"]
            # What a nested model takes between is not known: any size will do.
            sizes = [size, size] if sizes == [height, width] else [None, None]
            config["batch_shape"] = [batch, *sizes, channels]
        elif kind == "Resizing" and resizing and config["name"] == resizing.name:
            config.update(height=size, width=size)

    try:
        made = rebuilt(model, change)
        made(np.zeros((1, size, size, model.input_shape[-1]), "float32"), training=False)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ValueError(
            f"{label} takes images of {height} x {width} pixels alone: its layers do not fit "
            f"{size} x {size}. Leave --image-size out. Received: {one_line(error)[:300]}"
        ) from error
    return made
