"""The command `export`: formats, the check, and what is left after a failure."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from app_helpers import NAMES, brightness_model, everything_below, write_class_names, write_images
from tensorflow.lite.tools import flatbuffer_utils

from dlr_tf.app import cli
from dlr_tf.app.commands import export
from dlr_tf.app.commands.export import ExportError
from dlr_tf.app.models import FORMATS, Format, example_inputs


@pytest.fixture
def run_folder() -> Path:
    Path("run").mkdir()
    brightness_model().save("run/model.keras")
    return Path("run")


def test_saved_model(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "run"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("the largest difference of an output is ")
    assert first.endswith(", on images of 4 x 4 and 7 x 3 pixels")
    assert last == "written to run/saved_model"
    images = np.random.default_rng(0).uniform(0, 255, (2, 9, 5, 3)).astype("float32")
    expected = keras.models.load_model("run/model.keras")(images, training=False)
    loaded = tf.saved_model.load("run/saved_model")
    (found,) = loaded.signatures["serving_default"](tf.constant(images)).values()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_onnx(run_folder: Path) -> None:
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    assert cli.main(["export", "run/model.keras", "--format", "ONNX"]) == 0
    images = np.random.default_rng(0).uniform(0, 255, (2, 9, 5, 3)).astype("float32")
    expected = keras.models.load_model("run/model.keras")(images, training=False)
    found = FORMATS["onnx"].load(Path("run/model.onnx"))(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert sorted(path.name for path in Path("run").iterdir()) == ["model.keras", "model.onnx"]


@pytest.mark.filterwarnings("ignore:[\\s\\S]*tf.lite.Interpreter is deprecated")
def test_tflite_for_phones(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_class_names(run_folder / "classes.json", NAMES)
    assert cli.main(["export", "run", "--format", "tflite"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    path = Path("run/model.tflite")
    interpreter = tf.lite.Interpreter(str(path))
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 4, 4, 3]
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    expected = keras.models.load_model("run/model.keras")(images, training=False)
    np.testing.assert_allclose(FORMATS["tflite"].load(path)(images), expected, atol=1e-5)
    assert zipfile.ZipFile(path).read("labels.txt").decode().splitlines() == NAMES
    # The names of the outputs are in the metadata too, and these are aligned as a FlatBuffer.
    content = flatbuffer_utils.read_model(str(path))
    (entry,) = [e for e in content.metadata if e.name == b"TFLITE_METADATA"]
    metadata = bytes(content.buffers[entry.buffer].data)
    assert metadata[4:8] == b"M001"
    assert b"labels.txt" in metadata
    # The line that is printed runs.
    write_images(Path("photos"), 1, size=9, value=255)
    code = line.partition('python -c "')[2].removesuffix('"').replace("photo.jpg", "photos/000.png")
    exec(code)
    assert "output_0" in capsys.readouterr().out
    assert cli.main(["export", "run", "--format", "tflite", "--quantize", "float16"]) == 0
    captured = capsys.readouterr()
    assert "the scores are not measured" in captured.err
    assert Path("run/model_float16.tflite").exists()


def test_examples_have_two_sizes_where_any_will_do() -> None:
    assert [images.shape for images in example_inputs(brightness_model())] == [
        (4, 4, 4, 3),
        (4, 7, 3, 3),
    ]
    fixed = keras.Sequential([keras.Input((6, 8, 1)), keras.layers.Flatten()])
    assert [images.shape for images in example_inputs(fixed)] == [(4, 6, 8, 1)]
    with pytest.raises(ValueError, match="should take images, .* Received: input shape"):
        example_inputs(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]))


def test_what_a_converter_prints_is_not_shown(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def write(model: keras.Model, path: Path, **_: object) -> None:
        os.write(2, b"loc(callsite(fused: error\n")  # as C++ code does
        raise ValueError("no such operation")

    monkeypatch.setitem(FORMATS, "tflite", FORMATS["tflite"]._replace(write=write))
    assert cli.main(["export", "run", "--format", "tflite"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("Try another --format. Received: no such operation")


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda images: np.zeros((4, 3)), "The predictions of the exported model differ by"),
        (lambda images: np.zeros((4, 2)), "differ by inf, and 0.0001 is allowed. The output was"),
        (lambda images: np.full((4, 3), np.nan), "differ by nan"),
        (lambda images: 1 / 0, "cannot be written in this format .* division by zero"),
    ],
)
def test_an_export_that_is_not_the_same_is_removed(
    predict: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    def write(_: keras.Model, path: Path) -> None:
        path.mkdir()
        (path / "file").write_text("x")

    model = brightness_model()
    wrong = Format("wrong", lambda: None, write, lambda _: predict)
    Path("wrong.partial").mkdir()
    Path("wrong.partial/precious").write_text("of the user")
    with pytest.raises(ExportError, match=message):
        export.export(model, wrong, Path("wrong"), example_inputs(model))
    assert everything_below(Path.cwd()) == [
        f"{Path.cwd()}/wrong.partial",
        f"{Path.cwd()}/wrong.partial/precious",
    ]


def test_an_error_is_one_line(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object, **__: object) -> None:
        raise RuntimeError("no\nconverter")

    monkeypatch.setitem(FORMATS, "tflite", FORMATS["tflite"]._replace(write=write))
    assert cli.main(["export", "run", "--format", "tflite"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].endswith("Try another --format. Received: no converter")
    assert everything_below(Path("run")) == ["run/model.keras"]


def test_mistakes(
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_mistake: Callable[[list[str], str], None],
) -> None:
    assert_mistake(["export", "nowhere"], "The model 'nowhere' does not exist")
    assert_mistake(["export", "run", "--format", "pb"], "invalid choice: 'pb'")
    assert_mistake(["export", "run", "--output", "run"], "'run' exists already. Give another")
    assert_mistake(["export", "run", "--output", "no/x"], "folder 'no' of the output does not")
    assert_mistake(["export", "run", "--quantize", "int8"], "--quantize is for --format tflite.")
    integers = ["export", "run", "--format", "tflite", "--quantize", "int8"]
    assert_mistake(integers, "--quantize int8 needs the images that the model was trained on.")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    assert_mistake(["export", "run", "--format", "onnx"], 'Run: pip install "dlr_tf[export]"')
    monkeypatch.setattr(tf, "lite", object())
    assert_mistake(["export", "run", "--format", "tflite"], "TensorFlow has no TFLite converter")
