"""The command `predict`: the images it finds, its three forms, and what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from app_helpers import NAMES, brightness_model, network, write_class_names, write_images

from dlr_tf.app import cli
from dlr_tf.app.data import list_images
from dlr_tf.app.models import classifier


@pytest.fixture
def run_folder() -> Path:
    folder = Path("run")
    folder.mkdir()
    brightness_model().save(folder / "model.keras")
    write_class_names(folder / "classes.json", NAMES)
    return folder


@pytest.fixture
def photos() -> Path:
    write_images(Path("photos/b"), 2, size=6, value=250)
    write_images(Path("photos/a"), 3, size=9, value=0)
    Path("photos/notes.txt").write_text("no image")
    Path("photos/._b.png").write_bytes(b"of a Mac")
    write_images(Path("photos/.hidden"), 1)
    write_images(Path("photos/__MACOSX"), 1)
    return Path("photos")


def test_list_images(photos: Path) -> None:
    folder = ["photos/a/000.png", "photos/a/001.png", "photos/a/002.png"]
    folder += ["photos/b/000.png", "photos/b/001.png"]
    assert list(list_images(["photos/b/001.png", "photos", "photos/notes.txt"])) == [
        "photos/b/001.png",
        *folder,
        "photos/notes.txt",
    ]


def test_text(run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "run", "photos/b", "photos/a/000.png", "--top", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "photos/b/000.png  bright 1.000  middle 0.000",
        "photos/b/001.png  bright 1.000  middle 0.000",
        "photos/a/000.png  dark   1.000  middle 0.000",
    ]


def test_csv(run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "run/model.keras", "photos", "--csv", "--top", "9"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["class_1"] for row in rows] == ["dark"] * 3 + ["bright"] * 2
    assert list(rows[0])[-2:] == ["class_3", "probability_3"]  # no more than there are
    assert sum(float(rows[0][f"probability_{n}"]) for n in (1, 2, 3)) == pytest.approx(1, abs=1e-5)


def test_json(run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "run", "photos", "--json", "--top", "1"]) == 0
    items = json.loads(capsys.readouterr().out)
    assert items[0] == {
        "path": "photos/a/000.png",
        "classes": [{"class": "dark", "probability": pytest.approx(1, abs=1e-4)}],
    }
    assert len(items) == 5


@pytest.mark.parametrize(
    ("name", "form"), [("a.csv", ["--csv"]), ("a.JSON", ["--json"]), ("a", [])]
)
def test_a_file(
    run_folder: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    form: list[str],
) -> None:
    assert cli.main(["predict", "run", "photos", *form]) == 0
    expected = capsys.readouterr().out
    assert cli.main(["predict", "run", "photos", "--output", name]) == 0
    assert capsys.readouterr().out == f"written to {name}\n"
    assert Path(name).read_text(encoding="utf-8") == expected
    assert cli.main(["predict", "run", "photos", "--output", name]) == 2
    assert f"The output {name!r} exists already" in capsys.readouterr().err
    assert Path(name).read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_unreadable_images_are_named_and_the_others_predicted(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    Path("photos/a/001.png").write_bytes(b"not an image")
    assert cli.main(["predict", "run", "photos", "photos/notes.txt", *form]) == 1
    out, err = capsys.readouterr()
    assert "'photos/a/001.png' cannot be read" in err
    assert "'photos/notes.txt' cannot be read" in err
    assert err.splitlines()[-1] == "2 of 6 images have no prediction"
    assert all(f"photos/{name}.png" in out for name in ("a/000", "a/002", "b/000", "b/001"))
    assert "001.png" not in out.replace("photos/b/001.png", "")
    if form == ["--json"]:
        assert len(json.loads(out)) == 4


def test_nothing_that_can_be_read(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.png").write_bytes(b"no image")
    assert cli.main(["predict", "run", "broken.png", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_mistakes(run_folder: Path, assert_mistake: Callable[[list[str], str], None]) -> None:
    Path("empty").mkdir()
    Path("unfinished/checkpoint").mkdir(parents=True)
    Path("not finished/checkpoint").mkdir(parents=True)
    Path("other").mkdir()
    Path("other/some.txt").write_text("x")
    write_class_names(Path("other/classes.json"), NAMES)
    assert_mistake(["predict", "run", "missing.png"], "'missing.png' does not exist")
    assert_mistake(["predict", "run", "empty"], "There are no images in 'empty'")
    assert_mistake(["predict", "nowhere", "empty"], "The model 'nowhere' does not exist")
    assert_mistake(["predict", "empty", "empty"], "holds no model.keras. Give a folder that")
    assert_mistake(["predict", "unfinished", "empty"], "finetune --resume unfinished")
    assert_mistake(["predict", "not finished", "empty"], "finetune --resume 'not finished'")
    assert_mistake(["predict", "other/some.txt", "empty"], "'other/some.txt' is no .keras file")
    write_class_names(Path("run/classes.json"), NAMES[:2])
    assert_mistake(["predict", "run", "empty"], "one probability for each of the 2 classes in cl")
    Path("run/classes.json").unlink()
    assert_mistake(["predict", "run", "empty"], "no classes.json beside 'run/model.keras'. Write")


def test_the_python_code_of_the_page_predicts_as_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs = keras.Input((4, 4, 3))
    features = keras.layers.Flatten()(inputs / 255.0)
    model = classifier(keras.Model(inputs, features, name="pixels"), 2)
    # Which half is brighter.
    kernel = np.repeat([[1.0, -1.0], [-1.0, 1.0]], 2 * 4 * 3, axis=0)
    model.get_layer("probabilities").set_weights([kernel, np.zeros(2)])
    Path("run").mkdir()
    model.save("run/model.keras")
    write_class_names(Path("run/classes.json"), ["sky above", "sky below"])
    Path("new_photos").mkdir()
    pixels = np.repeat(np.uint8([[[255] * 3], [[0] * 3]]), 8, axis=0).repeat(16, axis=1)
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    Image.fromarray(pixels).save("new_photos/a.jpg")
    Image.fromarray(pixels[::-1]).save("new_photos/b.jpg", exif=upside_down)
    page = (Path(__file__).parents[3] / "docs" / "command.md").read_text(encoding="utf-8")
    code = page.partition("### In Python\n")[2]
    exec(textwrap.dedent("\n".join(re.findall("^(?:    .*)?$", code, re.MULTILINE))), {})
    expected = [f"new_photos/{name}.jpg sky above" for name in "ab"]
    assert capsys.readouterr().out.splitlines() == expected
    assert cli.main(["predict", "run", "new_photos", "--top", "1"]) == 0
    lines = [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()]
    assert [" ".join(line).rpartition(" ")[0] for line in lines] == expected


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_unit_for_two_classes(
    photos: Path, capsys: pytest.CaptureFixture[str], activation: str | None
) -> None:
    model = network(keras.layers.Rescaling(1 / 255), keras.layers.Dense(1, activation=activation))
    model.layers[-1].set_weights([np.full((3, 1), 4.0), np.array([-6.0])])
    Path("run").mkdir()
    model.save("run/model.keras")
    write_class_names(Path("run/classes.json"), ["dark", "bright"])
    assert cli.main(["predict", "run", "photos/b/000.png", "photos/a/000.png"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "photos/b/000.png  bright 0.997  dark   0.003",
        "photos/a/000.png  dark   0.998  bright 0.002",
    ]


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_model_whose_probabilities_are_nan(
    photos: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    """The weights are finite: it divides 0 by 0 for black images alone."""
    model = network(lambda x: x / keras.ops.max(x, axis=-1, keepdims=True), keras.layers.Dense(3))
    Path("run").mkdir()
    model.save("run/model.keras")
    write_class_names(Path("run/classes.json"), NAMES)
    assert cli.main(["predict", "run", "photos/a", *form]) == 1
    out, err = capsys.readouterr()
    assert "nan" not in out.lower()
    assert "photos/a/002.png" in out
    assert "photos/a/000.png: the model answers with numbers that are not finite" in err
    assert err.splitlines()[-1] == "1 of 3 images have no prediction"
    if form == ["--json"]:
        assert len(json.loads(out)) == 2


def test_a_model_that_diverged(
    run_folder: Path, photos: Path, assert_mistake: Callable[[list[str], str], None]
) -> None:
    model = brightness_model()
    model.get_layer("probabilities").bias.assign([np.nan] * 3)
    model.save("run/model.keras")
    assert_mistake(["predict", "run", "photos", "--json"], "'run/model.keras' holds weights that")


def test_files_of_the_old_format(
    photos: Path, assert_mistake: Callable[[list[str], str], None]
) -> None:
    brightness_model().save("x.h5")
    write_class_names(Path("classes.json"), NAMES)
    convert = "keras.models.load_model('x.h5', compile=False).save('x.keras')"
    assert_mistake(["predict", "x.h5", "photos"], convert)


def test_a_reader_that_has_enough(
    run_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlr_tf.app.commands.predict._write_text", _broken_pipe)
    monkeypatch.setattr("dlr_tf.app.cli.silence_stdout", lambda: None)
    assert cli.main(["predict", "run", "photos"]) == 0


def _broken_pipe(*_: Any) -> None:
    raise BrokenPipeError
