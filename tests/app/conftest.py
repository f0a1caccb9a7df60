"""A folder of its own for every test, and small networks in the place of those that take long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from app_helpers import (
    everything_below,
    pretrain_nothing,
    tiny_application,
    tiny_backbone,
    write_images,
)

from dlr_tf.app import cli, models
from dlr_tf.app.run import tasks


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits, with a network that is not pretrained."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(models, "digits_backbone", tiny_backbone)
    monkeypatch.setattr(tasks, "pretrain_on_digits", pretrain_nothing)


@pytest.fixture
def tiny_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network under the name of MobileNetV2, and one with other shapes as VGG16."""

    def other(**arguments: object) -> keras.Model:
        inputs = keras.Input(arguments["input_shape"])
        return keras.Model(inputs, keras.layers.Conv2D(5, 3, name="stem")(inputs), name="other")

    other.__module__ = "keras.src.applications.vgg16"
    monkeypatch.setattr(keras.applications, "MobileNetV2", tiny_application)
    monkeypatch.setattr(keras.applications, "VGG16", other)


@pytest.fixture
def image_folder() -> Callable[..., Path]:
    """A function that makes a folder of images, by default with two classes of five."""

    def make(name: str, classes: int = 2, count: int = 5) -> Path:
        for label in range(classes):
            write_images(Path(name) / f"class_{label}", count, size=16, value=100 * label)
        return Path(name)

    return make


@pytest.fixture
def assert_mistake(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], str], None]:
    """Check that a command ends with one line that says what is wrong, and writes nothing."""

    def check(argv: list[str], message: str) -> None:
        before = everything_below(Path.cwd())
        assert cli.main(argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        *_, last = err.splitlines()
        assert last.startswith("dlr-tf: error: ")
        assert message in last
        assert "Traceback" not in err
        assert last.count("'") <= 2 * 15  # at most ten names, and those of the mistake
        assert everything_below(Path.cwd()) == before

    return check
