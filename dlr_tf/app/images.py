"""Read image files."""

from __future__ import annotations

import os

import numpy as np

# What the name of an image file ends with, where a folder holds other files too.
ENDINGS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg"),
    *(".jpg", ".png", ".tif", ".tiff", ".webp"),
)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as RGB.

    Args:
        path: The file.

    Returns:
        uint8 array of shape `(height, width, 3)`.

    Raises:
        ValueError: If the file cannot be read as an image.
        ImportError: If Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            'Image files need Pillow, which is not installed. Run: pip install "dlr_tf[demo]"'
        ) from error
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"The image file {str(path)!r} cannot be read: it is damaged or not an image. "
            f"Received: {error}"
        ) from error
