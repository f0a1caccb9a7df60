"""The command `evaluate`: which images, what it prints, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from app_helpers import write_images
from test_predict import NAMES, brightness_model

from dlr_tf.app import cli
from dlr_tf.app.evaluate import new_folder
from dlr_tf.app.evaluation import Evaluation
from dlr_tf.app.trained import write_class_names


def write_run(folder: str, **settings: object) -> Path:
    path = Path(folder)
    path.mkdir()
    brightness_model().save(path / "model.keras")
    write_class_names(path / "classes.json", NAMES)
    if settings:
        (path / "settings.json").write_text(json.dumps({"settings": settings}))
    return path


@pytest.fixture
def photos() -> Path:
    write_images(Path("photos/bright"), 3, value=250)
    write_images(Path("photos/dark"), 4, value=0)
    # One image in the wrong folder.
    write_images(Path("other"), 1, value=255)
    Path("other/000.png").rename("photos/dark/light.png")
    return Path("photos")


def test_a_folder(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run("run")
    assert cli.main(["evaluate", "run", "photos"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "accuracy on photos: 7 of 8, 0.875",
        "class   precision  recall     F1  images",
        "dark        1.000   0.800  0.889       5",
        "middle          -       -      -       0",
        "bright      0.750   1.000  0.857       3",
        "the worst mistakes:",
        "image                  class  predicted  probability",
        "photos/dark/light.png  dark   bright           1.000",
        "written to run/evaluation: confusion.png, evaluation.json",
    ]
    assert "photos has no images of 1 classes: ['middle']" in err
    assert Path("run/evaluation/confusion.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert (written["right"], written["count"], written["accuracy"]) == (7, 8, 0.875)
    assert written["confusion_matrix"] == [[4, 0, 1], [0, 0, 0], [0, 0, 3]]
    assert written["classes"][1] == {
        "name": "middle",
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    (mistake,) = written["worst_mistakes"]
    assert mistake.pop("probability") == pytest.approx(1, abs=1e-4)
    assert mistake == {"name": "photos/dark/light.png", "class": "dark", "predicted": "bright"}
    assert written["unreadable"] == []


def test_nothing_is_overwritten(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run("run")
    for name in ("evaluation", "evaluation-2"):
        assert cli.main(["evaluate", "run", "photos"]) == 0
        assert f"written to run/{name}: " in capsys.readouterr().out
    assert new_folder(Path("run/evaluation")) == Path("run/evaluation-3")
    assert cli.main(["evaluate", "run/model.keras", "photos", "--output", "scores"]) == 0
    assert sorted(path.name for path in Path("scores").iterdir()) == [
        "confusion.png",
        "evaluation.json",
    ]


def test_an_image_that_cannot_be_read(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run("run")
    Path("photos/bright/broken.png").write_bytes(b"no image")
    assert cli.main(["evaluate", "run", "photos"]) == 1
    out, err = capsys.readouterr()
    assert "7 of 8, 0.875" in out
    assert "'photos/bright/broken.png' cannot be read" in err
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert written["unreadable"] == ["photos/bright/broken.png"]


def test_the_part_for_testing(capsys: pytest.CaptureFixture[str]) -> None:
    write_run("run")
    for part, count in (("train", 3), ("test", 2), ("val", 1)):
        for name, value in (("dark", 0), ("bright", 250)):
            write_images(Path("photos") / part / name, count, value=value)
    assert cli.main(["evaluate", "run", "photos"]) == 0
    assert capsys.readouterr().out.startswith("accuracy on photos/test: 4 of 4, 1.000\n")


def test_names_of_parts_in_any_case_and_csv_files(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("run")
    for part, count in (("Train", 3), ("Testing", 2)):
        for name, value in (("dark", 0), ("bright", 250)):
            write_images(Path("split") / part / name, count, value=value)
    Path("split/Testing/dark/._000.png").write_bytes(b"no image")
    assert cli.main(["evaluate", "run", "split"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("accuracy on split/Testing: 4 of 4, 1.000\n")
    assert "left aside: 1 hidden file" in err
    rows = [
        "path,label,split",
        "photos/dark/000.png,dark,train",
        "photos/bright/000.png,bright,test",
    ]
    Path("some.csv").write_text("\n".join(rows))
    assert cli.main(["evaluate", "run", "some.csv"]) == 0
    assert capsys.readouterr().out.startswith("accuracy on some.csv: 1 of 1, 1.000\n")


def test_the_images_that_the_training_kept(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("run", data="photos", seed=0, image_size=4)
    assert cli.main(["evaluate", "run"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("accuracy on photos: 2 of 2, 1.000\n")  # one of each class
    assert "the 2 images of photos that the training kept for testing" in err
    assert cli.main(["evaluate", "run", "./photos/"]) == 0
    assert "2 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    argv = ["finetune", "--epochs", "2", "--no-compare", "--seed", "1", "--output", "run"]
    assert cli.main(argv) == 0
    report = json.loads(Path("run/report.json").read_text())
    Path("run/settings.json").write_text(json.dumps({"settings": {"data": None, "seed": 1}}))
    capsys.readouterr()
    assert cli.main(["evaluate", "run"]) == 0
    right = round(report["test_accuracy"] * 796)
    assert f"accuracy on digits 5-9: {right} of 796" in capsys.readouterr().out
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert written["worst_mistakes"][0]["name"].startswith("digit ")


def test_mistakes(photos: Path, assert_mistake: Callable[[list[str], str], None]) -> None:
    write_run("run")
    assert_mistake(["evaluate", "run"], "not known what 'run/model.keras' was trained on")
    assert_mistake(["evaluate", "run", "missing"], "The data folder 'missing' does not exist")
    Path("empty").mkdir()
    assert_mistake(
        ["evaluate", "run", "empty"], "'empty' holds no images in sub-folders: expected one"
    )
    assert_mistake(["evaluate", "run", "photos", "--output", "photos"], "'photos' is not empty")
    write_images(Path("photos/drak"), 1)
    message = "does not know: ['drak']. Did you mean 'dark'? The model knows ['dark', 'middle', 'b"
    assert_mistake(["evaluate", "run", "photos"], message)


def test_the_confusion_matrix_is_drawn_for_any_number_of_classes() -> None:
    from dlr_tf.training.plotting import plot_confusion_matrix

    for count, n_names, n_numbers in ((2, 2, 2), (30, 30, 0), (300, 0, 0)):
        names = tuple(f"class {number} with a long name of its own" for number in range(count))
        labels = np.arange(count)
        matrix = Evaluation(names, labels, np.eye(count)).confusion_matrix()
        figure = plot_confusion_matrix(matrix, names, title="a title")
        (axes,) = figure.axes
        shown = [text.get_text() for text in axes.get_yticklabels() if "…" in text.get_text()]
        assert len(shown) == n_names
        assert len(axes.texts) == n_numbers
