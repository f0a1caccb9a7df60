"""The settings of a run, and the arguments beside `--resume`."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

import pytest

from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.config import RunConfig
from dlr_tf.app.run.settings import (
    check_same_data,
    read_settings,
    resumed_config,
    write_place_of_data,
    write_settings,
)


def data(**changes: Any) -> Any:
    numbers = {
        "class_names": ("cat", "dog"),
        "train_images": 8,
        "test_images": 2,
        "fingerprint": "a",
        "unit": "image",
        "kind": "class",
    }
    return types.SimpleNamespace(**{**numbers, **changes})


def resumed(*arguments: str, run: str = "out") -> RunConfig:
    """What a run does that is resumed with these arguments."""
    given = parse_arguments(["finetune", "--resume", run, *arguments]).given
    return resumed_config(Path(run), given)


@pytest.fixture
def run() -> Path:
    Path("out").mkdir()
    arguments = ["finetune", "images", "--epochs", "7", "--image-size", "32", "--compare"]
    config = parse_arguments([*arguments, "--output", "out"])
    write_settings(Path("out"), config.new_run, config.command_line, data())
    Path("images").mkdir()
    return Path("out")


def test_what_is_stored(run: Path) -> None:
    content = json.loads((run / "settings.json").read_text())
    assert content["command"][:3] == ["dlr-tf", "finetune", "images"]
    assert content["settings"]["epochs"] == 7
    assert "output" not in content["settings"]
    assert content["class_names"] == ["cat", "dog"]
    assert set(content["versions"]) > {"keras", "tensorflow"}


def test_a_run_is_resumed_with_its_own_settings(run: Path) -> None:
    config = resumed("--verbose", "--epochs", "7")
    assert (config.data, config.epochs, config.image_size, config.compare) == (
        *("images", 7, 32),
        True,
    )
    assert resumed("--output", "./out") == config
    other = parse_arguments(["finetune", "images", "--epochs", "7", "--image-size", "32"])
    assert config == dataclasses.replace(other.new_run, compare=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "10"], "--epochs 10 differs from the run's 7. A run is resumed with its "),
        (["tfds:mnist"], "DATA tfds:mnist differs from the run's images. "),
        # The default of an option is refused too, if it is given.
        (["--batch-size", "8", "--seed", "1"], "size 8 differs .* 16; --seed 1 differs .* 0. "),
        (["--no-compare"], "--compare off differs from the run's on. "),
        (["--tensorboard"], "--tensorboard on differs from the run's off. "),
        (["--boundaries", "a,b"], "--boundaries a,b differs from the run's none. "),
        (["--output", "new"], "--output new differs from the run's out. "),
    ],
)
def test_other_settings_are_refused(run: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resumed(*arguments)


def test_images_that_have_moved(run: Path) -> None:
    Path("images").rename("moved")
    with pytest.raises(ValueError, match="no longer in 'images'. Give .* --resume out DATA"):
        resumed()
    config = resumed("moved")
    assert config.data == "moved"
    write_place_of_data(run, config)
    assert resumed().data == str(Path("moved").absolute())


def test_from_another_working_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Path("images").absolute()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    config = resumed(run="../out")
    assert (config.data, config.weights, config.model) == (str(images), None, "MobileNetV2")
    settings = json.loads(Path("../out/settings.json").read_text())
    settings["settings"]["model"] = "hub:preset"
    Path("../out/settings.json").write_text(json.dumps(settings))
    assert resumed(run="../out").model == "hub:preset"  # a name
    Path("../preset").mkdir()
    assert resumed(run="../out").model == f"hub:{images.parent / 'preset'}"


def test_no_run() -> None:
    with pytest.raises(ValueError, match="the folder 'nowhere' does not exist. Give the folder"):
        resumed(run="nowhere")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"the folder 'empty' holds no settings.json"):
        resumed(run="empty")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 1}'])
def test_settings_of_something_else(content: str) -> None:
    Path("settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"'settings.json' is not one that dlr-tf wrote"):
        read_settings(Path())


def test_data_that_changed(run: Path) -> None:
    check_same_data(run, data())
    with pytest.raises(ValueError, match="train images: 8, .* Found now: train images: 9, "):
        check_same_data(run, data(train_images=9))
    with pytest.raises(ValueError, match=r"began with the classes .'cat', 'dog'.. Found now: "):
        check_same_data(run, data(class_names=("cat", "mouse")))
    with pytest.raises(
        ValueError, match="as many images as before, but other ones, or with other classes"
    ):
        check_same_data(run, data(fingerprint="b"))


def test_images_to_choose_by() -> None:
    assert parse_arguments(["finetune"]).validation_fraction == 0.0
    assert parse_arguments(["finetune", "--keep", "best"]).validation_fraction == 0.1
    assert parse_arguments(["finetune", "--patience", "3"]).validation_fraction == 0.1
    assert parse_arguments(["find-lr"]).validation_fraction == 0.0


def test_names_are_no_paths(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("imagenet", "MobileNetV2", "elsewhere"):
        Path(name).mkdir()
    config = resumed("--model", "MobileNetV2", "./images")
    assert (config.model, config.data) == ("MobileNetV2", "./images")
    monkeypatch.chdir("elsewhere")
    config = resumed("../images", run="../out")
    assert (config.model, config.weights) == ("MobileNetV2", None)
    with pytest.raises(ValueError, match="--model VGG16 differs from the run's MobileNetV2"):
        resumed("--model", "VGG16", run="../out")
