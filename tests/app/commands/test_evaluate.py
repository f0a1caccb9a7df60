"""The command `evaluate`: which images, what it prints, and what it writes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from app_helpers import NAMES, brightness_model, write_class_names, write_images

from dlr_tf.app import cli
from dlr_tf.app import data as image_data
from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.commands import evaluate
from dlr_tf.app.commands.evaluate import new_folder
from dlr_tf.app.results import OneClass
from dlr_tf.app.results import files as output
from dlr_tf.app.run.settings import run_settings


def write_run(
    folder: str,
    model: keras.Model | None = None,
    images: tuple[int, int] = (6, 2),
    names: tuple[str, ...] = ("bright", "dark"),
    **settings: object,
) -> Path:
    """Write what is left of a run: by default one that was trained on `photos`."""
    path = Path(folder)
    path.mkdir()
    (model or brightness_model()).save(path / "model.keras")
    write_class_names(path / "classes.json", NAMES)
    if settings:
        content = {
            "folder": os.getcwd(),
            "settings": settings,
            "class_names": names,
            "data": {"train_images": images[0], "test_images": images[1]},
        }
        (path / "settings.json").write_text(json.dumps(content))
    return path


def any_size(channels: int = 3) -> keras.Model:
    """A model without a size of its own."""
    inputs = keras.Input((None, None, channels))
    features = keras.layers.GlobalAveragePooling2D()(inputs / 255.0)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(features))


def image_data_of(batches: tf.data.Dataset, **settings: Any) -> image_data.ImageData:
    """Stands for `image_data.load`: four images to test on."""
    size = settings["image_size"]
    return image_data.ImageData(
        name="tfds:some",
        train_from=lambda step: batches,
        steps_per_epoch=1,
        validation=batches,
        test=batches,
        class_names=("dark", "bright", "unused"),
        image_shape=(size, size, 3),
        test_names=[f"test {number}" for number in range(4)],
        class_counts={"train": [4, 4, 0], "test": [2, 2, 0]},
    )


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
        "the most confident errors:",
        "image                  true class  predicted class  probability",
        "photos/dark/light.png  dark        bright                 1.000",
        "written to run/evaluation: confusion.png, evaluation.json",
    ]
    assert "photos has no images of 1 of 3 classes: ['middle']" in err
    assert Path("run/evaluation/confusion.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert (written["n_correct"], written["count"], written["accuracy"]) == (7, 8, 0.875)
    assert written["confusion_matrix"] == [[4, 0, 1], [0, 0, 0], [0, 0, 3]]
    assert written["classes"][1] == {
        "name": "middle",
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    (mistake,) = written["most_confident_errors"]
    assert mistake.pop("probability") == pytest.approx(1, abs=1e-4)
    assert mistake.pop("index") == 7
    assert mistake == {
        "name": "photos/dark/light.png",
        "true_class": "dark",
        "predicted_class": "bright",
    }
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
    assert "ignored: hidden files (1)" in err
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


def test_a_run_is_evaluated_from_another_folder(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = write_run("run", data="photos", seed=0).resolve(), str(photos.resolve())
    assert run_settings(run)["data"] == "photos"
    write_images(Path("elsewhere/photos/dark"), 1)
    monkeypatch.chdir("elsewhere")
    assert run_settings(run) == {"data": whole, "seed": 0}
    for data in ([], [whole]):
        assert cli.main(["evaluate", str(run), *data]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"accuracy on {whole}: 2 of 2, 1.000\n")
        assert f"the 2 images of {whole} that the training kept for testing" in err
    # Other images with the same name.
    assert cli.main(["evaluate", str(run), "photos"]) == 0
    assert capsys.readouterr().out.startswith("accuracy on photos: 1 of 1, 1.000\n")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": []}', '{"settings": {}}'])
def test_settings_that_cannot_be_read_are_not_known(text: str) -> None:
    Path("settings.json").write_text(text)
    assert run_settings(Path()) == run_settings(Path("nowhere")) == {}


@pytest.mark.filterwarnings("default::UserWarning")
def test_images_that_changed_since_the_training(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("run", data="photos", seed=0, validation_fraction=0.2)
    run = write_run("same", images=(4, 2), data="photos", seed=0, validation_fraction=0.2)
    assert cli.main(["evaluate", "run"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 2" in out
    warning = "dlr-tf: warning: The images of 'photos' have changed since the training, so another"
    assert sum(line.startswith(warning) for line in err.splitlines()) == 1
    # What the training held out for the scores after each epoch counts.
    assert cli.main(["evaluate", str(run)]) == 0
    assert "warning" not in capsys.readouterr().err


def test_images_in_batches_have_the_size_of_the_model_and_are_read_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sizes = [], []

    def load(source: str, **settings: Any) -> image_data.ImageData:
        def batches() -> Any:
            read.append(source)
            for value in (10.0, 250.0):
                yield np.full((2, 4, 4, 3), value, "float32"), np.full(2, value > 100)

        sizes.append(settings["image_size"])
        spec = (tf.TensorSpec((None, 4, 4, 3)), tf.TensorSpec((None,), tf.int64))
        return image_data_of(
            tf.data.Dataset.from_generator(batches, output_signature=spec), **settings
        )

    monkeypatch.setattr(image_data, "load", load)
    write_run("run", data="photos", image_size=None)
    write_run("grey", brightness_model(channels=1))
    for run in ("run", "grey"):
        assert cli.main(["evaluate", run, "tfds:some"]) == 0
        assert capsys.readouterr().out.startswith("accuracy on tfds:some: 4 of 4, 1.000\n")
    assert (read, sizes) == (["tfds:some"] * 2, [4, 4])


def test_a_model_without_a_size(
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    assert_mistake: Callable[[list[str], str], None],
) -> None:
    write_run("run", any_size(), data="photos", seed=0, image_size=4)
    message = "'run/model.keras' should have a size that images are resized to, the same height"
    assert_mistake(["evaluate", "run"], message)
    assert_mistake(["evaluate", "run", "tfds:mnist"], "Received: no size")
    # Other images are read one by one.
    photos.rename("moved")
    assert cli.main(["evaluate", "run", "moved"]) == 0
    assert " of 8, " in capsys.readouterr().out
    inputs = keras.Input((4, 5, 3))
    features = keras.layers.GlobalAveragePooling2D()(inputs)
    write_run("oblong", keras.Model(inputs, keras.layers.Dense(3)(features)))
    assert_mistake(["evaluate", "oblong", "tfds:mnist"], "Received: 4 x 5 pixels")


def test_a_full_disk(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("run")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output.os, "fsync", full)
    config = parse_arguments(["evaluate", "run", "photos", "--output", "some/where"])
    message = "where/evaluation.json' could not be written: No space left on device"
    with pytest.raises(output.WriteError, match=message):
        evaluate.run(config)
    assert capsys.readouterr().out.startswith("accuracy on photos: 7 of 8, 0.875\nclass ")
    assert list(Path("some/where").iterdir()) == []


def test_the_plot_is_whole_or_not_there(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlr_tf.training import plotting

    def stopped(matrix: np.ndarray, names: tuple[str, ...], path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt("signal 2")

    monkeypatch.setattr(plotting, "plot_confusion_matrix", stopped)
    write_run("run")
    assert cli.main(["evaluate", "run", "photos"]) == 130
    assert "7 of 8" in capsys.readouterr().out
    assert os.listdir("run/evaluation") == ["evaluation.json"]


def test_folders_and_links_that_cannot_be_read(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    write_run("run")
    Path("photos/dark/closed").mkdir()
    for name in ("link", "link.png"):
        Path("photos/dark", name).symlink_to("gone")
    assert cli.main(["evaluate", "run", "photos"]) == 1
    out, err = capsys.readouterr()
    assert "7 of 8, 0.875" in out
    lines = err.splitlines()
    assert "photos/dark/closed: permission to open this folder is denied" in lines
    assert "photos/dark/link: it is a link to 'gone', which does not exist" in lines
    for name in ("closed", "link:", "link.png"):
        assert sum(f"photos/dark/{name}" in line for line in lines) == 1
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert sorted(written["unreadable"]) == [
        f"photos/dark/{name}" for name in ("closed", "link", "link.png")
    ]
    assert written["count"] == 8


def test_a_model_that_gives_nan_says_so(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = keras.Input((4, 4, 3))
    means = keras.layers.GlobalAveragePooling2D()(inputs)
    # The square root of what is negative for dark images.
    roots = keras.ops.sqrt(means - 100.0)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(roots))
    run = write_run("run", model)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert cli.main(["evaluate", "run", "photos"]) == 1
    out, err = capsys.readouterr()
    assert "the model's probabilities are not finite for 4 of 8 images, which count as wrong" in err
    written = json.loads((run / "evaluation/evaluation.json").read_text(), parse_constant=refuse)
    assert written["n_not_finite"] == 4
    assert np.sum(written["confusion_matrix"]) == 4
    assert all(mistake["probability"] <= 1 for mistake in written["most_confident_errors"])
    assert f"{written['n_correct']} of 8" in out
    assert cli.main(["predict", "run", "photos", "--json"]) == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out, parse_constant=refuse)) == 4
    assert err.count("the model answers with numbers that are not finite") == 4
    assert "4 of 8 images have no prediction" in err


def test_class_names_with_dollars_are_drawn(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run("run")
    for name, other in (("bright", "$bright_{"), ("dark", "dark$")):
        (photos / name).rename(photos / other)
    write_class_names(run / "classes.json", ["dark$", "middle", "$bright_{"])
    assert cli.main(["evaluate", "run", "photos"]) == 0
    assert "confusion.png" in capsys.readouterr().out


@pytest.mark.slow
def test_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    argv = ["finetune", "--epochs", "2", "--no-compare", "--seed", "1", "--output", "run"]
    assert cli.main(argv) == 0
    report = json.loads(Path("run/report.json").read_text())
    capsys.readouterr()
    assert cli.main(["evaluate", "run"]) == 0
    right = round(report["test_accuracy"] * 796)
    assert f"accuracy on digits 5-9: {right} of 796" in capsys.readouterr().out
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert written["most_confident_errors"][0]["name"].startswith("digit ")


def test_mistakes(photos: Path, assert_mistake: Callable[[list[str], str], None]) -> None:
    write_run("run")
    assert_mistake(["evaluate", "run"], "not known what 'run/model.keras' was trained on")
    assert_mistake(["evaluate", "run", "missing"], "The data 'missing' do not exist")
    Path("empty").mkdir()
    assert_mistake(
        ["evaluate", "run", "empty"], "'empty' holds no images in sub-folders: expected one"
    )
    assert_mistake(["evaluate", "run", "photos", "--output", "photos"], "'photos' is not empty")
    write_images(Path("photos/drak"), 1)
    message = "does not know: ['drak']. Did you mean 'dark'? The model knows ['dark', 'middle', 'b"
    assert_mistake(["evaluate", "run", "photos"], message)


def test_texts_for_a_model_of_images(assert_mistake: Callable[[list[str], str], None]) -> None:
    write_run("run")
    Path("texts.csv").write_text("text,label\nhello there,bright\ngood bye,dark\n")
    message = "The model 'run' takes images, and 'texts.csv' holds something else. Give other DATA."
    assert_mistake(["evaluate", "run", "texts.csv"], message)


def test_the_confusion_matrix_is_drawn_for_any_number_of_classes() -> None:
    from dlr_tf.training.plotting import plot_confusion_matrix

    for count, n_names, n_numbers in ((2, 2, 2), (30, 30, 0), (300, 0, 0)):
        names = tuple(f"class {number} with a long name of its own" for number in range(count))
        labels = np.arange(count)
        matrix = OneClass(names).evaluate(labels, np.eye(count)).confusion_matrix()
        figure = plot_confusion_matrix(matrix, names, title="a title")
        (axes,) = figure.axes
        shown = [text.get_text() for text in axes.get_yticklabels() if "…" in text.get_text()]
        assert len(shown) == n_names
        assert len(axes.texts) == n_numbers
