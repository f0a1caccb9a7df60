"""Image files of every kind: their pixels, and what is wrong with them."""

from __future__ import annotations

import os
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

import tensorflow as tf
from PIL import Image, features

import dlr_tf
from dlr_tf.app.data import images
from dlr_tf.app.data.images import ImageFileError, problem_of, read_pixels

Image.init()
HAS_AVIF = "AVIF" in Image.OPEN and features.check("avif")
RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def png_of_16_bits(path: Path, pixels: np.ndarray) -> Path:
    """Pillow writes no PNG with 16-bit colours."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def tiff_of_16_bits(path: Path, pixels: np.ndarray, order: str) -> Path:
    height, width, channels = pixels.shape
    content = pixels.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    place = 8 + 2 + 12 * 9 + 4
    tags = [
        *((256, 1, width), (257, 1, height), (258, channels, place), (259, 1, 1), (262, 1, 2)),
        *((273, 1, place + len(bits)), (277, 1, channels), (278, 1, height)),
        (279, 1, len(content)),
    ]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, n, value) for tag, n, value in tags)
    # The type of the bits is a 16-bit number.
    entries = entries.replace(struct.pack(f"{order}HH", 258, 4), struct.pack(f"{order}HH", 258, 3))
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    start += struct.pack(f"{order}H", len(tags))
    path.write_bytes(start + entries + struct.pack(f"{order}I", 0) + bits + content)
    return path


@pytest.mark.parametrize(
    "name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.jp2", "a.webp", "é 照.PNG"]
)
def test_lossless_formats(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, RGB, **options)
    pixels = read_pixels(path)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RGB)
    assert problem_of(path) is None


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.gif"])
def test_lossy_formats(tmp_path: Path, name: str) -> None:
    if name == "a.avif" and not HAS_AVIF:
        pytest.skip("This Pillow has no AVIF.")
    smooth = np.full((6, 9, 3), (200, 100, 30), np.uint8)
    path = save(tmp_path / name, smooth)
    assert np.abs(read_pixels(path).astype(int) - smooth).max() < 6
    assert problem_of(path) is None


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    path = save(tmp_path / "a.webp", RGB, lossless=True)
    renamed = path.rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_pixels(renamed), RGB)
    assert problem_of(renamed) is None


def test_grey_bilevel_and_cmyk(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey.png", RGB[..., 0])
    np.testing.assert_array_equal(read_pixels(grey), np.repeat(RGB[..., :1], 3, axis=2))
    bilevel = save(tmp_path / "bilevel.png", RGB[..., 0] > 99)
    np.testing.assert_array_equal(read_pixels(bilevel)[..., 1], 255 * (RGB[..., 0] > 99))
    for ending in ("jpg", "tif"):
        path = tmp_path / f"cmyk.{ending}"
        Image.new("CMYK", (9, 6), (0, 255, 255, 0)).save(path)
        assert np.abs(read_pixels(path).astype(int) - [255, 0, 0]).max() < 6


def test_transparent_pixels_show_a_white_background(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, (0, 255, 51)
    expected = [[[255, 255, 255], [200, 0, 0], [244, 204, 204]]]
    np.testing.assert_array_equal(read_pixels(save(tmp_path / "a.png", pixels)), expected)
    grey = np.array([[[9, 0], [9, 255]]], np.uint8)
    expected = [[[255] * 3, [9] * 3]]
    np.testing.assert_array_equal(read_pixels(save(tmp_path / "grey.png", grey)), expected)


def test_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), [[[10, 20, 30], [40, 50, 60]]])
    for transparency in (1, b"\xff\0"):
        image.save(tmp_path / "b.png", transparency=transparency)
        np.testing.assert_array_equal(read_pixels(tmp_path / "b.png"), [[[10, 20, 30], [255] * 3]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_rotation_of_exif_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{ending}", RGB, exif=exif)
    turned = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.swapaxes(0, 1),
        6: RGB.swapaxes(0, 1)[:, ::-1],
        7: RGB[::-1, ::-1].swapaxes(0, 1),
        8: RGB.swapaxes(0, 1)[::-1],
    }
    np.testing.assert_array_equal(read_pixels(path), turned[orientation])


def test_damaged_exif_data_are_no_reason_to_refuse_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise SyntaxError("not a TIFF file")

    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image.Image, "getexif", broken)
    np.testing.assert_array_equal(read_pixels(path), RGB)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled_in_png(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    path = png_of_16_bits(tmp_path / "a.png", pixels)
    colours = pixels[..., :3] if channels > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    # Pillow keeps the high bytes of 16-bit colours.
    np.testing.assert_allclose(read_pixels(path), colours / 257, atol=0.5 if channels == 1 else 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_are_scaled_in_tiff(tmp_path: Path, order: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (6, 9, 3)).astype(np.uint16)
    path = tiff_of_16_bits(tmp_path / "a.tif", pixels, order)
    np.testing.assert_allclose(read_pixels(path), pixels / 257, atol=1)
    assert problem_of(path) is None
    grey = save(tmp_path / "grey.tif", pixels[..., 0])
    np.testing.assert_array_equal(read_pixels(grey)[..., 2], np.round(pixels[..., 0] / 257))


@pytest.mark.parametrize(
    ("kind", "words"), [("float32", "floating-point numbers"), ("int32", "32-bit integers")]
)
def test_pixels_without_a_range_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    path = save(tmp_path / "a.tif", RGB[..., 0].astype(kind))
    message = f"a.tif' cannot be read: its pixels are {words}, whose range is not known; convert it"
    with pytest.raises(ImageFileError, match=message):
        read_pixels(path)
    assert words in str(problem_of(path))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    for ending in ("gif", "png", "tif", "webp"):
        path = tmp_path / f"a.{ending}"
        first.save(path, save_all=True, append_images=[second])
        assert np.abs(read_pixels(path).astype(int) - [255, 0, 0]).max() < 6, ending
        assert problem_of(path) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty, no image, "),
        (b"hello", "it is empty, no image, damaged at its beginning, or of a format that Pillow"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is empty, no image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".* such as HEIC; convert it to JPEG"),
        (b"\x89PNG\r\n\x1a\nxx", "it is empty, no image, damaged at its beginning"),
    ],
    ids=["empty", "text", "program", "heic", "png"],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    message = f"a.jpg' cannot be read: {reason}.*Repair or remove"
    with pytest.raises(ImageFileError, match=message) as caught:
        read_pixels(path)
    assert problem_of(path) == caught.value.reason


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "a.png") == "No such file or directory"
    (tmp_path / "link.png").symlink_to("gone.png")
    assert problem_of(tmp_path / "link.png") == "No such file or directory"
    assert problem_of(tmp_path) == "Is a directory"
    (tmp_path / "circle.png").symlink_to("circle.png")
    assert problem_of(tmp_path / "circle.png") == "Too many levels of symbolic links"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert problem_of(tmp_path / "pipe.png") == "it is no file, but a pipe, a socket or a device"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    path.chmod(0)
    assert problem_of(path) == "Permission denied"


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "bmp", "tif", "avif"])
def test_truncated_files(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ending == "avif" and not HAS_AVIF:
        pytest.skip("This Pillow has no AVIF.")
    noise = np.random.default_rng(2).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    path = save(tmp_path / f"a.{ending}", noise)
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        if ending in ("jpg", "png", "gif", "webp"):
            # The end of a whole file is enough: nothing is decoded.
            patch.setattr(images, "read_pixels", None)
        assert problem_of(path) is None
    for length in (0, 20, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            reason = problem_of(path)
        assert reason, length
        assert reason.startswith(("it is empty, no image", "it is damaged")), reason


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    for ending in ("jpg", "png", "gif"):
        path = save(tmp_path / f"a.{ending}", RGB)
        path.write_bytes(path.read_bytes() + b"appended by a camera")
        assert problem_of(path) is None


def test_memory_errors_are_not_the_fault_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory")

    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError, match="no memory"):
        read_pixels(path)
    with pytest.raises(MemoryError, match="no memory"):
        problem_of(path)


def test_pillow_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'needs Pillow, .* pip install "dlr_tf\[demo\]"'):
        read_pixels("a.png")


def test_what_tensorflow_says_of_a_failed_image() -> None:
    error = ImageFileError("a.png", "it is empty")
    text = f"2 root error(s) found.\n  (0) {type(error).__name__}: {error}\nTraceback ..."
    assert images.failed_image(RuntimeError(text)) == str(error)
    assert images.failed_image(RuntimeError("shapes differ")) is None


def test_an_open_file_is_closed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        read_pixels(path)
        problem_of(path)


def test_an_image_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    reason = str(problem_of(path))
    assert reason.startswith("Image size (54 pixels) exceeds limit of 40 pixels")
    assert reason.endswith("; to allow more, set the environment variable DLR_TF_MAX_IMAGE_PIXELS")
    with pytest.raises(ImageFileError, match=r"Image size \(54 pixels\) exceeds limit of 40 pixe"):
        read_pixels(path)
    monkeypatch.setenv("DLR_TF_MAX_IMAGE_PIXELS", "54")
    np.testing.assert_array_equal(read_pixels(path), RGB)
    assert problem_of(path) is None
    monkeypatch.setenv("DLR_TF_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(ValueError, match="should be the largest number .* Received: 'many'"):
        images.require_pillow()


def test_12_bits_in_a_file_of_16_are_not_black(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, (6, 9, 1)).astype(np.uint16)
    pixels[0, 0] = 4095
    images._note_12_bits.cache_clear()
    with pytest.warns(UserWarning, match="taken as 12-bit images, in which 4095 is white"):
        read = read_pixels(png_of_16_bits(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(read, np.repeat(np.round(pixels / 4095 * 255), 3, axis=2))
    # Said once.
    read_pixels(png_of_16_bits(tmp_path / "b.png", pixels))
    pixels[0, 0] = 4096
    assert read_pixels(png_of_16_bits(tmp_path / "b.png", pixels)).max() == 16
    # Of colours, Pillow keeps too little.
    colours = np.repeat(pixels // 2, 3, axis=2)
    with pytest.raises(ImageFileError, match="its pixels are 12-bit colours in 16 bits, of which"):
        read_pixels(png_of_16_bits(tmp_path / "c.png", colours))


def test_black_is_no_sign_of_12_bits(tmp_path: Path) -> None:
    images._note_12_bits.cache_clear()
    black = np.zeros((6, 9, 1), np.uint16)
    assert read_pixels(png_of_16_bits(tmp_path / "a.png", black)).max() == 0


def test_the_size_and_the_channels_of_a_model(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    as_it_is = dlr_tf.read_image(path)
    assert (as_it_is.dtype, as_it_is.shape) == ("float32", (6, 9, 3))
    np.testing.assert_array_equal(as_it_is, RGB)
    resized = dlr_tf.read_image(path, (4, 5))
    np.testing.assert_array_equal(resized, tf.image.resize(RGB, (4, 5)))
    grey = dlr_tf.read_image(path, (4, 5), channels=1)
    np.testing.assert_array_equal(grey, tf.image.rgb_to_grayscale(resized))
    batch = images.resize(RGB[np.newaxis, ..., :1], (4, 5))
    np.testing.assert_array_equal(batch[0, ..., 2], tf.image.resize(RGB[..., :1], (4, 5))[..., 0])
    assert images.resize(RGB[..., :1], channels=1).shape == (6, 9, 1)


def test_a_damaged_file_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.png")
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(ImageFileError, match=r"\\udce9.png' cannot be read: it is empty, no image"):
        read_pixels(path)
