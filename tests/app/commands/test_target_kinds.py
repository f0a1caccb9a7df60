"""Several labels and numbers through all commands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from app_helpers import write_garments

import dlr_tf
from dlr_tf.app import cli

OPTIONS = ["--weights", "none", "--image-size", "16", "--batch-size", "8", "--epochs", "8"]
OPTIONS += ["--learning-rate", "2e-2"]


def train(columns: str, *more: str) -> dict[str, Any]:
    table = Path("garments/garments.csv")
    if not table.exists():
        write_garments(Path("garments"), count=60)
    arguments = ["finetune", str(table), "--label-column", columns, *OPTIONS, *more]
    assert cli.main([*arguments, "--output", "run"]) == 0
    return json.loads(Path("run/report.json").read_text())


def test_several_labels(tiny_applications: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = train("tags", "--compare", "--compare-seeds", "1")
    out, err = capsys.readouterr()
    assert "several labels: 2, of which a row has 0 to 2\nlabel " in err
    assert out.splitlines()[1].startswith("mean average precision ")
    assert "\ntest area under the precision-recall curve with one seed" in out
    known = json.loads(Path("run/classes.json").read_text())
    assert (known["kind"], known["names"]) == ("labels", ["bright", "red"])
    scores = report["scores"]
    assert [*scores] == ["mean_average_precision", "f1_micro", "f1_macro", "exact_match"]
    assert scores["mean_average_precision"] > 0.9
    page = Path("run/report.html").read_text()
    assert "Area under the precision-recall curve" in page
    assert "mean average precision" in page

    assert cli.main(["predict", "--json", "run", "garments/000.png", "garments/001.png"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = keras.models.load_model("run/model.keras")
    for item, path in zip(found, ("garments/000.png", "garments/001.png")):
        row = model(dlr_tf.read_image(path)[None], training=False)[0].numpy()
        above = {name for name, p, t in zip(known["names"], row, known["thresholds"]) if p >= t}
        assert set(item["labels"]) == above
        assert item["probabilities"] == pytest.approx(dict(zip(known["names"], row)), abs=1e-5)
    assert cli.main(["predict", "--csv", "run", "garments/000.png"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["labels"].split("|") == found[0]["labels"] or row["labels"] == ""

    assert cli.main(["evaluate", "run"]) == 0
    capsys.readouterr()
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert written["scores"] == pytest.approx(scores)
    # Other data may lack a label, and have the labels in columns.
    Path("garments/other.csv").write_text("file,red\n000.png,0\n001.png,1\n")
    other = ["evaluate", "run", "garments/other.csv"]
    assert cli.main(other) == 2
    assert "Missing: ['tags']" in capsys.readouterr().err
    Path("garments/other.csv").write_text("file,tags\n000.png,\n001.png,red\n")
    assert cli.main(other) == 0
    assert "scores on garments/other.csv, of 2 images:" in capsys.readouterr().out
    Path("garments/other.csv").write_text("file,tags\n000.png,blue\n001.png,red\n")
    assert cli.main(other) == 2
    assert "labels that the model does not know: ['blue']" in capsys.readouterr().err


def test_numbers(tiny_applications: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = train("price,size", "--compare", "--compare-seeds", "1")
    out, err = capsys.readouterr()
    assert "numbers: price from 1000 to 1500, size from 0.01 to 0.51" in err
    assert "test loss with one seed" in out
    scores = report["scores"]
    assert scores["mean_absolute_error"] < scores["mean_absolute_error_of_the_mean"]
    page = Path("run/report.html").read_text()
    assert "Predicted against true" in page
    assert page.count("<circle") == 2 * report["data"]["test_images"]

    # The model answers in the unit of the table.
    assert cli.main(["predict", "--json", "run", "garments/001.png"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert [*found["values"]] == ["price", "size"]
    assert 900 < found["values"]["price"] < 1600
    model = keras.models.load_model("run/model.keras")
    row = model(dlr_tf.read_image("garments/001.png")[None], training=False)[0].numpy()
    np.testing.assert_allclose([*found["values"].values()], row, rtol=1e-5)
    assert cli.main(["evaluate", "run"]) == 0
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert written["scores"] == pytest.approx(scores)
    assert cli.main(["export", "run"]) == 0
    capsys.readouterr()

    # Its head stays, or makes room for one of another kind.
    again = ["finetune", "garments/garments.csv", *OPTIONS[2:6], "--epochs", "1"]
    again += ["--learning-rate", "1e-3", "--model", "run"]
    kept = [*again, "--keep-head", "--label-column", "price,size", "--output", "kept"]
    assert cli.main(kept) == 0
    assert cli.main([*again, "--label-column", "tags", "--output", "tags"]) == 0
    capsys.readouterr()
    wrong = [*again, "--keep-head", "--label-column", "price", "--target", "number"]
    assert cli.main(wrong) == 2
    assert "knows the numbers ['price', 'size'], and DATA has ['price']" in capsys.readouterr().err


def test_mistakes(
    tiny_applications: None, assert_mistake: Callable[[list[str], str], None]
) -> None:
    table = str(write_garments(Path("garments")))
    start = ["finetune", table, *OPTIONS]
    balanced = [*start, "--label-column", "tags", "--class-weights", "balanced"]
    assert_mistake(balanced, "--class-weights balanced is for one class of each example")
    assert_mistake([*start, "--label-column", "prise"], "Missing: ['prise']")
    text = [*start, "--target", "number", "--label-column", "tags"]
    assert_mistake(text, "24 rows of the data 'garments/garments.csv' cannot be used")
    assert_mistake(["finetune", "--target", "number"], "--target needs DATA")
    assert_mistake(["finetune", "garments", "--label-column", "a"], "--label-column is for a CSV")
