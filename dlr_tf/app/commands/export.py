"""The command `export`: write a model for another tool, and check that it is the same."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app import models
from dlr_tf.app.results import atomic_write, check_new
from dlr_tf.app.terminal import messages_to_stderr, one_line, print_stderr, usage_errors

# Largest difference of a probability that is allowed.
TOLERANCE = 1e-4

# A function from images to probabilities.
Predict = Callable[[np.ndarray], np.ndarray]


class ExportError(Exception):
    """The model cannot be written in this format, or what was written is not the same."""


class Format(NamedTuple):
    """A format to write a model in.

    Args:
        file_name: The name that the file or folder has by default.
        require: A function that checks that what it needs is installed.
        write: A function from a model and a path, which writes it.
        load: A function from a path to what predicts.
    """

    file_name: str
    require: Callable[[], Any]
    write: Callable[[keras.Model, Path], None]
    load: Callable[[Path], Predict]


def run(args: argparse.Namespace) -> int:
    """Write the model, load it again, and compare its predictions.

    Args:
        args: What `parse_arguments` returns for `export`.

    Returns:
        The exit code: 0, or 1 if the model cannot be written in this format, or is not the same
        there. Nothing is left behind then.

    Raises:
        UsageError: If there is no such model, the output exists, or a package is missing.
    """
    form = FORMATS[args.format]
    with messages_to_stderr(), usage_errors():
        path = models.model_path(args.run)
        output = Path(args.output) if args.output else path.parent / form.file_name
        check_new(output)
        form.require()
        model = models.load_model_file(path)
        examples = example_images(model)
    try:
        with messages_to_stderr():
            difference = export(model, form, output, examples)
    except ExportError as error:
        print_stderr(f"dlr-tf: error: {one_line(error)}")
        return 1
    sizes = " and ".join(f"{images.shape[1]} x {images.shape[2]}" for images in examples)
    print(
        f"the largest difference of a probability is {difference:.1e}, on images of {sizes} pixels"
    )
    print(f"written to {output}")
    return 0


def example_images(model: keras.Model) -> list[np.ndarray]:
    """Return images to compare predictions on, of two sizes if the model takes any size.

    Args:
        model: A model that takes images with values from 0 to 255.

    Raises:
        ValueError: If it does not.
    """
    shape = models.image_shape(model)
    if shape is None:
        raise ValueError(
            "The model should take images, of shape (batch, height, width, channels). "
            f"Received: input shape {getattr(model, 'input_shape', None)}"
        )
    height, width = shape[0] or 64, shape[1] or 64
    sizes = [(height, width)]
    if model.input_shape[1:3] == (None, None):
        sizes.append((height + height // 2 + 1, width - width // 4))
    random = np.random.default_rng(0)
    # Coarse patterns have more of a real image than noise of single pixels.
    return [
        np.asarray(
            tf.image.resize(random.uniform(0, 255, (4, 5, 5, shape[2])), size), dtype="float32"
        )
        for size in sizes
    ]


def export(model: keras.Model, form: Format, output: Path, examples: list[np.ndarray]) -> float:
    """Write a model, and check what was written.

    Args:
        model: The model.
        form: The format.
        output: The new file or folder.
        examples: Batches of images.

    Returns:
        The largest difference of a prediction.

    Raises:
        ExportError: If the model cannot be written in this format, or its predictions differ by
            more than 1e-4. Then nothing is left of it.
        WriteError: If the operating system refuses, for example because the disk is full.
    """
    expected = [np.asarray(model(images, training=False)) for images in examples]
    # What is not checked yet never has the final name.
    with atomic_write(output) as partial:
        try:
            form.write(model, partial)
            predict = form.load(partial)
            found = [predict(images) for images in examples]
        except Exception as error:  # whatever a converter or a runtime raises
            raise ExportError(
                f"{model.name} cannot be written in this format by the versions that are "
                f"installed. Try another --format. Received: {one_line(error)[:300]}"
            ) from error
        difference = max(
            float(np.abs(a - b).max()) if a.shape == b.shape else np.inf
            for a, b in zip(expected, found)
        )
        if not difference <= TOLERANCE:
            raise ExportError(
                f"The predictions of the exported model differ by {difference:.1e}, and "
                f"{TOLERANCE:g} is allowed. The output was removed. Try another --format."
            )
    return difference


# --- SavedModel ----------------------------------------------------------------------------------


def _write_saved_model(model: keras.Model, path: Path) -> None:
    model.export(str(path), verbose=False)


def _load_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))

    def predict(images: np.ndarray) -> np.ndarray:
        # Found anew each time, since a signature does not keep its variables alive.
        (probabilities,) = loaded.signatures["serving_default"](tf.constant(images)).values()
        return probabilities.numpy()

    return predict


# --- TFLite --------------------------------------------------------------------------------------


def _require_tflite() -> Any:
    try:
        return tf.lite.TFLiteConverter
    except (AttributeError, ImportError) as error:
        raise ImportError(
            "This TensorFlow has no TFLite converter. Use another version of TensorFlow, or "
            "--format saved-model."
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_tflite(model: keras.Model, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        _write_saved_model(model, Path(folder, "model"))
        converter = _require_tflite().from_saved_model(str(Path(folder, "model")))
        path.write_bytes(converter.convert())


def _load_tflite(path: Path) -> Predict:
    with _without_warnings():  # TensorFlow announces that its interpreter moves to LiteRT
        interpreter = tf.lite.Interpreter(model_path=str(path))
    images_in = interpreter.get_input_details()[0]["index"]
    probabilities_out = interpreter.get_output_details()[0]["index"]

    def predict(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(images_in, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(images_in, images)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities_out)

    return predict


# --- ONNX ----------------------------------------------------------------------------------------


def _require_onnx() -> Any:
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            "ONNX needs tf2onnx and onnxruntime, which are not installed. "
            'Run: pip install "dlr_tf[export]"'
        ) from error
    return tf2onnx


def _write_onnx(model: keras.Model, path: Path) -> None:
    # Keras' own export calls this too, and refuses a model that was loaded and not called.
    converter = _require_onnx()
    signature = [tf.TensorSpec(model.input_shape, "float32", name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    with _without_warnings():
        converter.convert.from_function(
            probabilities, input_signature=signature, output_path=str(path)
        )


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


FORMATS = {
    "saved-model": Format("saved_model", lambda: None, _write_saved_model, _load_saved_model),
    "tflite": Format("model.tflite", _require_tflite, _write_tflite, _load_tflite),
    "onnx": Format("model.onnx", _require_onnx, _write_onnx, _load_onnx),
}
