"""Image files: one decoder for all of them, and a quick check that a file is whole.

Everything goes through Pillow, which is imported when the first image is read.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf.core._validation import warn_user

# A file with one of these endings should be an image. Its content decides of which format.
ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
# Pillow reads more formats. Some of them start other programs.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "MPO", "PPM")
_BACKGROUND = "white"  # below transparent pixels
_LIMIT = "DLR_TF_MAX_IMAGE_PIXELS"  # environment variable
_MAX_12_BITS = 4095
# How whole files end. Files of other formats are decoded to find out.
_ENDS = {
    "GIF": b"\0;",
    "JPEG": b"\xff\xd9",
    "MPO": b"\xff\xd9",
    "PNG": b"\0\0\0\0IEND\xaeB`\x82",
}


class ImageFileError(ValueError):
    """An image file that cannot be read, and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The image file {path!r} cannot be read: {reason}. Repair or remove it.")
        self.reason = reason


def failed_image(error: Exception) -> str | None:
    """Return the message of the `ImageFileError` behind an error of TensorFlow, or `None`.

    >>> failed_image(RuntimeError("At step 3: ImageFileError: The image file 'a.png' ...\\nmore"))
    "The image file 'a.png' ..."
    """
    found = re.search(rf"{ImageFileError.__name__}: (.*)", str(error))
    return None if found is None else found[1]


def require_pillow() -> Any:
    """Return the module `PIL.Image`, with the limit that an environment variable may set.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If the environment variable is not a number.
    """
    try:
        import PIL.Image as Image
    except ImportError as error:
        raise ImportError(
            "Reading image files needs Pillow, which is not installed. "
            'Run: pip install "dlr_tf[demo]"'
        ) from error
    limit = os.environ.get(_LIMIT)
    if limit is not None:
        if not limit.isdecimal() or int(limit) == 0:
            raise ValueError(
                f"The environment variable {_LIMIT} should be the largest number of pixels of an "
                f"image, such as 400000000. Received: {limit!r}"
            )
        Image.MAX_IMAGE_PIXELS = int(limit)
    return Image


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    channels: int = 3,
) -> np.ndarray:
    """Return an image file as the command `dlr-tf` reads it, for a model that it trained.

    The content decides about the format, not the ending. The rotation that EXIF asks for is
    applied. Grey images, palettes and CMYK become RGB; transparent pixels show a white background,
    as in most programs; an animation gives its first frame. Of 16-bit grey values, 65535 becomes
    255; where none is above 4095, they are taken as 12-bit values, and 4095 becomes 255.

    Args:
        path: The file.
        size: Height and width in pixels, two ints, to resize to (bilinear, without keeping the
            proportions, as `tf.image.resize`). Defaults to `None`: the size of the image. Models
            of `dlr-tf finetune` take images of any size and resize them alike.
        channels: 3 for RGB, 1 for grey. Defaults to 3.

    Returns:
        Array of float32 and shape `(height, width, channels)`, with values from 0 to 255.

    Raises:
        ValueError: If the file cannot be read: it is missing, damaged, too large, of a format that
            the installed Pillow does not read, or its pixels are floating-point numbers, 32-bit
            integers, or 12-bit colours in 16 bits. The message says which.
        ImportError: If Pillow is not installed.

    Example:

    >>> from PIL import Image
    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/grey.png"
    >>> Image.new("L", (3, 2), 7).save(path)
    >>> read_image(path).shape, read_image(path)[0, 0].tolist()
    ((2, 3, 3), [7.0, 7.0, 7.0])
    >>> read_image(path, (97, 97), channels=1).shape
    (97, 97, 1)
    """
    return resize(read_pixels(path), size, channels=channels).numpy()


def resize(
    image: np.ndarray | tf.Tensor, size: Sequence[int] | None = None, *, channels: int = 3
) -> tf.Tensor:
    """Return an image of 1, 3 or 4 channels, or a batch of them, as a model takes it: float32."""
    if size is not None:
        image = tf.image.resize(image, size)
    image = tf.cast(image, tf.float32)
    if image.shape[-1] == 1:
        return tf.image.grayscale_to_rgb(image) if channels == 3 else image
    image = image[..., :3]
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the pixels of an image file, uint8 RGB, as described for `read_image`.

    Raises:
        ImageFileError: If it cannot be read.
    """
    require_pillow()
    name = os.fspath(path)
    try:
        with _open(name) as image:
            return _rgb(image)
    except MemoryError:
        raise
    # Decoders raise errors of many kinds on damaged files.
    except Exception as error:
        raise ImageFileError(name, _reason(error)) from error


def problem_of(path: str | os.PathLike[str]) -> str | None:
    """Return what is wrong with an image file, or `None`.

    Most files are only read at their beginning and their end: the beginning says what the image is,
    and the end that the file is whole. Damage in between is not found. Where the end does not tell,
    the image is decoded.

    >>> problem_of("missing.png")
    'No such file or directory'
    """
    require_pillow()
    name = os.fspath(path)
    try:
        with _open(name) as image:
            _check_range(image)
            whole = _is_whole(image, name)
        if not whole:
            read_pixels(name)
    except ImageFileError as error:
        return error.reason
    except MemoryError:
        raise
    except Exception as error:
        return _reason(error)
    return None


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(path: str) -> Any:
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        # Opening a pipe would wait for its other end, for ever.
        raise ValueError("it is no file, but a pipe, a socket or a device")
    return require_pillow().open(path, formats=_formats())


def _rgb(image: Any) -> np.ndarray:
    _check_range(image)
    has_16_bits = _is_16_bit(image)
    has_16_bit_colours = not has_16_bits and ";16" in str(image.tile)
    image.load()
    image = _turned(image)
    if has_16_bits:
        image = require_pillow().fromarray(_scaled(np.asarray(image).astype(np.uint32)))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        below = image.copy()
        below.paste(_BACKGROUND, (0, 0, *image.size))
        below.alpha_composite(image)
        image = below
    if image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.array(image)
    # Pillow keeps the high bytes of 16-bit colours.
    if has_16_bit_colours and 0 < pixels.max() <= _MAX_12_BITS >> 8:
        raise ValueError(
            "its pixels are 12-bit colours in 16 bits, of which black would be left; convert it to "
            "8 bits"
        )
    return pixels


def _turned(image: Any) -> Any:
    """Return a loaded image, turned as its EXIF data say."""
    from PIL import ImageOps

    if image.format == "TIFF":  # Pillow has done it, and some versions still name the rotation
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data do not make the pixels unreadable
        return image


def _is_16_bit(image: Any) -> bool:
    # Pillow reads some 16-bit files into 32-bit integers.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _check_range(image: Any) -> None:
    if image.mode == "F" or (image.mode == "I" and not _is_16_bit(image)):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(
            f"its pixels are {kind}, whose range is not known; convert it to 8 or 16 bits"
        )


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return 16-bit numbers as 8-bit numbers: 65535 becomes 255, or 4095 if none is larger."""
    largest = int(values.max())
    if 0 < largest <= _MAX_12_BITS:
        _note_12_bits()
    top = 65535 if largest > _MAX_12_BITS else _MAX_12_BITS
    return ((255 * values + top // 2) // top).astype(np.uint8)


@functools.cache
def _note_12_bits() -> None:
    """Warn once in a process: Python's own "once" forgets when other code changes its filters."""
    warn_user(
        "There are 16-bit images without a value above 4095. They are taken as 12-bit images, "
        "in which 4095 is white."
    )


def _is_whole(image: Any, path: str) -> bool:
    """Return whether the end of a file shows that it is whole; `False` if it does not tell."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(max(size - 16, 0))
        end = file.read()
    if image.format == "WEBP":
        return int.from_bytes(start[4:], "little") + 8 == size
    return image.format in _ENDS and end.endswith(_ENDS[image.format])


def _reason(error: Exception) -> str:
    """Return why a file cannot be read: in the words of the system or of Pillow, and what helps."""
    import PIL
    from PIL import Image, UnidentifiedImageError

    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return (
            "it is empty, no image, damaged at its beginning, or of a format that Pillow "
            f"{PIL.__version__} does not read, such as HEIC; convert it to JPEG"
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return f"{text}; to allow more, set the environment variable {_LIMIT}"
    if isinstance(error, ValueError) and text.startswith(("its pixels", "it is no file")):
        return text
    return f"it is damaged ({text})"
