"""Small pictures inside a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

_SIZE = 160  # pixels


def examples_at(dataset: tf.data.Dataset, indices: Iterable[int]) -> dict[int, Any]:
    """Return the examples of a data set at these indices, in one pass: images as uint8, or texts.

    The two of a pair are separated by a line.
    """
    wanted, found, first = set(indices), dict[int, Any](), 0
    if not wanted:
        return found
    for images, *_ in dataset:
        count = len(images)
        for index in wanted.intersection(range(first, first + count)):
            if images.dtype == tf.string:
                parts = np.ravel(images[index - first].numpy())
                found[index] = "\n".join(part.decode() for part in parts)
                continue
            pixels = np.asarray(images[index - first])
            found[index] = np.clip(pixels.round(), 0, 255).astype(np.uint8)
        first += count
        if first > max(wanted):
            break
    return found


def picture_uri(image: np.ndarray) -> str:
    """Return an image as a PNG in a `data:` address, for `src`. A large one is made smaller.

    Args:
        image: uint8 array of shape `(height, width, channels)` or `(height, width)`.
    """
    pixels = tf.convert_to_tensor(image if np.ndim(image) == 3 else image[..., np.newaxis])
    if max(pixels.shape[:2]) > _SIZE:
        pixels = tf.image.resize(
            tf.cast(pixels, tf.float32), (_SIZE, _SIZE), preserve_aspect_ratio=True, antialias=True
        )
        pixels = tf.saturate_cast(tf.round(pixels), tf.uint8)
    png = tf.io.encode_png(pixels).numpy()
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
