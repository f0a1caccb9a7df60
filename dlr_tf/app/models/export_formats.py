"""The formats of other tools that a model can be written in. A new one is an entry of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.models.tflite import (
    load_tflite,
    require_tflite,
    without_warnings,
    write_tflite,
)

# A function from images, or from tokens by name, to probabilities.
Predict = Callable[[Any], np.ndarray]


class Format(NamedTuple):
    """How a model is written.

    The default name of the file or folder, a check that what is needed is installed, a function
    that writes a model to a path (TFLite: with more arguments), and one from the path to what
    predicts.
    """

    file_name: str
    require: Callable[[], Any]
    write: Callable[..., None]
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
    inputs = model.input if isinstance(model.input, dict) else {"images": model.inputs[0]}
    signature = [tf.TensorSpec(t.shape, t.dtype, name=name) for name, t in inputs.items()]

    @tf.function(input_signature=signature, autograph=False)
    def probabilities(*tensors: tf.Tensor) -> tf.Tensor:
        named = dict(zip(inputs, tensors, strict=True))
        return model(named if isinstance(model.input, dict) else tensors[0], training=False)

    with without_warnings():
        converter.convert.from_function(
            probabilities, input_signature=signature, output_path=str(path)
        )


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, x if isinstance(x, dict) else {name: x})[0]


FORMATS = {
    "saved-model": Format("saved_model", lambda: None, _write_saved_model, _load_saved_model),
    "tflite": Format("model.tflite", require_tflite, write_tflite, load_tflite),
    "onnx": Format("model.onnx", _require_onnx, _write_onnx, _load_onnx),
}
