"""Options of a training through the whole command: what they change, and what they leave out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from app_helpers import write_garments

from dlr_tf.app import cli
from dlr_tf.app.run import checkpoint
from dlr_tf.training.losses import ClassCrossentropy
from tests.scripts import kill_and_resume

QUICK = ["--weights", "none", "--image-size", "16", "--epochs", "1", "--learning-rate", "1e-3"]


def test_a_quick_try_without_a_word(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    image_folder("images", count=20)
    arguments = ["finetune", "images", *QUICK, "--limit", "10", "--label-smoothing", "0.1"]
    assert cli.main([*arguments, "--quiet", "--output", "run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == ["test", "written", "next:"]
    report = json.loads(Path("run/report.json").read_text())
    assert (report["data"]["train_images"], report["data"]["test_images"]) == (16, 4)
    loss = keras.models.load_model("run/model.keras").loss
    assert isinstance(loss, ClassCrossentropy)
    assert loss.label_smoothing == 0.1
    card = Path("run/README.md").read_text()
    assert "- Data: images, with 16 images to train on and 4 to test on\n- Training: " in card
    assert "## Classes\n\n- class_0\n- class_1\n\n## Scores" in card
    assert f"- accuracy: {report['test_accuracy']:.4g}\n" in card
    # The same images are kept for testing.
    assert cli.main(["evaluate", "run"]) == 0
    out, err = capsys.readouterr()
    assert "the 4 images of images that the training kept for testing\n" in err
    assert f"of 4, {report['test_accuracy']:.3f};" in out
    assert cli.main(["export", "run", "--format", "tflite", "--quantize", "int8"]) == 0
    before, after, written, line = capsys.readouterr().out.splitlines()
    assert before.startswith(f"on the 4 test images, before: accuracy {report['test_accuracy']}")
    assert after.startswith("on the 4 test images, after (int8): accuracy ")
    assert written.startswith("written to run/model_int8.tflite (")
    assert line.startswith('to run it: python -c "')
    assert cli.main(["evaluate", "run", "--quiet", "--output", "again"]) == 0
    assert capsys.readouterr().err == ""


def test_label_smoothing_of_labels_and_numbers(
    tiny_applications: None, assert_mistake: Callable[[list[str], str], None]
) -> None:
    table = str(write_garments(Path("garments")))
    arguments = ["finetune", table, *QUICK, "--label-smoothing", "0.2"]
    assert_mistake([*arguments, "--label-column", "price,size"], "hold numbers: leave it out.")
    assert_mistake([*arguments[:-1], "1"], "expected a number from 0 to below 1, received '1'")
    assert cli.main([*arguments, "--label-column", "tags", "--output", "run"]) == 0
    loss = keras.models.load_model("run/model.keras").loss
    assert loss.get_config()["label_smoothing"] == 0.2
    card = Path("run/README.md").read_text()
    assert "## Labels\n\n- bright\n- red\n" in card
    assert "- f1 micro: " in card


BALANCED = ["--class-weights", "balanced"]
RANDOM = ["--augment", "flip,crop,colour,rotation,mixup", "--label-smoothing", "0.1"]


@pytest.mark.parametrize(
    ("columns", "more"),
    [
        ("tags", []),
        pytest.param("is_red", ["--target", "class"], marks=pytest.mark.slow),
        pytest.param("price,size", ["--precision", "mixed_bfloat16"], marks=pytest.mark.slow),
        pytest.param(
            "is_red",
            ["--precision", "mixed_float16", "--target", "class", *BALANCED],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_run_with_all_changes_goes_on(
    tiny_applications: None, columns: str, more: list[str]
) -> None:
    table = str(write_garments(Path("garments"), count=40))
    arguments = ["finetune", table, "--label-column", columns, *QUICK, "--epochs", "2"]
    arguments += RANDOM if columns != "price,size" else RANDOM[:2]
    arguments += ["--checkpoint-every", "1", "--batch-size", "16"]
    arguments += more
    assert cli.main([*arguments, "--output", "whole"]) == 0
    write, left = checkpoint.write_checkpoint, [2]  # the start, and one step

    def killed(*given: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", killed)
        assert cli.main([*arguments, "--output", "out"]) == 130
    assert cli.main(["finetune", "--resume", "out"]) == 0
    expected = kill_and_resume.results(Path("whole"))
    differs = kill_and_resume.differences(expected, Path("out"))
    # Automatic names, which the manifest holds, go on counting in one process.
    assert [name for name in differs if not name.endswith("manifest")] == []
    assert keras.models.load_model("out/model.keras").loss is not None
    assert keras.config.dtype_policy().name == "float32"
    assert cli.main(["evaluate", "out", "--tta"]) == 0
    assert json.loads(Path("out/evaluation/evaluation.json").read_text())["tta"] is True
    if "mixed_float16" in more:
        layers = keras.models.load_model("out/model.keras").layers
        assert "float16" in {layer.compute_dtype for layer in layers}
        assert cli.main(["export", "out", "--format", "tflite"]) == 0
        again = ["finetune", table, "--model", "out", *more[:2]]
        assert cli.main(again) == 2
