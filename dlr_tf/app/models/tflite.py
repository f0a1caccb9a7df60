"""TFLite files: one image of one size, as phones need it, in full, half or integer precision."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.models.inputs import image_shape
from dlr_tf.app.models.tflite_metadata import with_class_names


def require_tflite() -> Any:
    """Return the converter, or raise an `ImportError`."""
    try:
        return tf.lite.TFLiteConverter
    except (AttributeError, ImportError) as error:
        raise ImportError(
            "This TensorFlow has no TFLite converter. Use another version of TensorFlow, or "
            "--format saved-model."
        ) from error


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Show no Python warning in this block: converters and interpreters give many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_tflite(
    model: keras.Model,
    path: Path,
    *,
    class_names: Sequence[str] = (),
    quantize: str | None = None,
    calibration: Iterable[np.ndarray] = (),
) -> None:
    """Write a model of images. Its input and its output are float32 at any precision.

    Args:
        model: The model.
        path: The file.
        class_names: The names of its outputs, to be written into the file. Defaults to none.
        quantize: `"float16"`: the weights are stored in half precision; `"int8"`: weights and
            activations are integers, but for the head, whose probabilities would be equal too often
            in steps of 1/256. Defaults to `None`: float32.
        calibration: The images that tell the range of the activations, for `"int8"`.
    """
    shape = (1, *image_shape(model))
    with tempfile.TemporaryDirectory() as folder, without_warnings():
        signature = [tf.TensorSpec(shape, tf.float32, name=model.inputs[0].name)]
        model.export(folder, input_signature=signature, verbose=False)
        converter = require_tflite().from_saved_model(folder)
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            content = _in_integers(converter, [*calibration], _has_one_dense_layer(model))
        else:
            content = converter.convert()
    if class_names:
        content = with_class_names(content, class_names, shape[-1])
    path.write_bytes(content)


def _has_one_dense_layer(model: keras.Model) -> bool:
    return sum(v.name == "kernel" and len(v.shape) == 2 for v in model.weights) == 1


def _in_integers(converter: Any, images: Sequence[np.ndarray], has_one_dense_layer: bool) -> bytes:
    """Return a model in integers but for its head, which is told by the kinds of operations."""

    def dataset() -> Iterator[list[np.ndarray]]:
        return ([image[None]] for image in images)

    converter.representative_dataset = dataset
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    head = ["SOFTMAX", "LOGISTIC", *(["FULLY_CONNECTED"] if has_one_dense_layer else [])]
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=head)
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=dataset, debug_options=options
    )
    content: bytes = debugger.get_nondebug_quantized_model()
    return content


def load_tflite(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from images to the outputs of a TFLite file, which takes one by one."""
    with without_warnings():  # TensorFlow announces that its interpreter moves to LiteRT
        interpreter = tf.lite.Interpreter(model_path=str(path))
    given = interpreter.get_input_details()[0]
    found = interpreter.get_output_details()[0]["index"]

    def predict(images: np.ndarray) -> np.ndarray:
        if tuple(given["shape"]) != (1, *images.shape[1:]):  # a model that takes any size
            interpreter.resize_tensor_input(given["index"], (1, *images.shape[1:]))
        interpreter.allocate_tensors()
        rows = []
        for image in np.asarray(images):
            interpreter.set_tensor(given["index"], image[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(found)[0])
        return np.stack(rows)

    return predict


def line_of_python(path: Path) -> str:
    """Return a line for a shell that runs a TFLite file on a photo."""
    with without_warnings():
        interpreter = tf.lite.Interpreter(model_path=str(path))
    (given,) = interpreter.get_input_details()
    (name,) = interpreter.get_signature_list()["serving_default"]["inputs"]
    _, height, width, channels = (int(size) for size in given["shape"])
    more = "" if channels == 3 else f", channels={channels}"
    return (
        'python -c "import dlr_tf, tensorflow as tf; run = tf.lite.Interpreter('
        f"'{path}').get_signature_runner(); print(run({name}=dlr_tf.read_image('photo.jpg', "
        f'({height}, {width}){more})[None]))"'
    )
