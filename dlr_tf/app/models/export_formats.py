"""The formats of other tools that a model can be written in. A new one is an entry of `FORMATS`."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# A function from images to probabilities.
Predict = Callable[[np.ndarray], np.ndarray]


class Format(NamedTuple):
    """How a model is written.

    The default name of the file or folder, a check that what is needed is installed, a function
    that writes a model to a path, and one from the path to what predicts.
    """

    file_name: str
    require: Callable[[], Any]
    write: Callable[[keras.Model, Path], None]
    load: Callable[[Path], Predict]


def _write_saved_model(model: keras.Model, path: Path) -> None:
    model.export(str(path), verbose=False)


def _load_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))

    def predict(images: np.ndarray) -> np.ndarray:
        # Found anew each time, since a signature does not keep its variables alive.
        (probabilities,) = loaded.signatures["serving_default"](tf.constant(images)).values()
        return probabilities.numpy()

    return predict


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
