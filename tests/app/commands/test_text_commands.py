"""The commands on texts, with a tiny BERT."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from text_helpers import CLASSES, OTHERS, write_preset, write_texts

from dlr_tf.app import cli, models
from dlr_tf.app.run import checkpoint
from tests.scripts import kill_and_resume

pytest.importorskip("keras_hub")
pytestmark = pytest.mark.filterwarnings("ignore")  # of KerasHub itself

Mistake = Callable[[list[str], str], None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a preset, texts, and a run on them."""
    folder: Path = tmp_path_factory.mktemp("texts")
    write_preset(folder / "preset")
    write_texts(folder / "texts.csv")
    assert cli.main([*finetune(folder), "--output", str(folder / "run")]) == 0
    return folder


def finetune(folder: Path, *, data: str = "texts.csv") -> list[str]:
    options = ["--epochs", "8", "--batch-size", "4", "--learning-rate", "1e-2"]
    model = ["--model", f"hub:{folder / 'preset'}"]
    return ["finetune", str(folder / data), *model, *options]


def test_finetune_and_evaluate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((place / "run/report.json").read_text())
    assert report["data"]["train_images"] == 12
    assert report["settings"]["sequence_length"] == 8
    assert [group["name"].rsplit("/", 1)[-1] for group in report["groups"]] == [
        "token_embedding",
        "transformer_layer_0",
        "transformer_layer_1",
        "probabilities",
    ]
    page = (place / "run/report.html").read_text(encoding="utf-8")
    assert "training texts" in page
    assert " image" not in page.partition("</style>")[2]
    assert cli.main(["evaluate", str(place / "run"), "--output", "scores"]) == 0
    out, err = capsys.readouterr()
    scores = json.loads(Path("scores/evaluation.json").read_text())
    assert (scores["count"], scores["accuracy"]) == (4, report["test_accuracy"])
    assert "class  precision  recall     F1  texts\n" in out
    assert "the 4 texts of " in err
    other = Path("other.tsv")
    other.write_text("label\ttext\ndog\tthe loud cat meows\ndog\ta loud dog barks\n\t\ndog\t\n")
    assert cli.main(["evaluate", str(place / "run"), str(other), "--output", "others"]) == 0
    out, err = capsys.readouterr()
    assert "other.tsv:5: its text is empty" in err
    found = json.loads(Path("others/evaluation.json").read_text())
    assert found["count"] == 2
    assert [error["name"] for error in found["most_confident_errors"]] == ["the loud cat meows"]


def test_a_killed_run_on_texts_goes_on(place: Path) -> None:
    expected = kill_and_resume.results(place / "run")
    write, left = checkpoint.write_checkpoint, [3]

    def killed(*arguments: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", killed)
        assert cli.main([*finetune(place), "--output", "out"]) == 130
    assert cli.main(["finetune", "--resume", "out"]) == 0
    found = kill_and_resume.results(Path("out"))
    differs = [name for name in expected if found.get(name) != expected[name]]
    # Automatic names, which the manifest holds, go on counting in one process.
    assert [name for name in differs if not name.endswith("manifest")] == []


def test_predict(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(place / "run")
    lines = b"\xef\xbb\xbfthe small cat meows\r\n\na dog\xe9\na old dog barks\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert cli.main(["predict", run, "-", "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [(one["path"], one["text"]) for one in found] == [
        ("-:1", "the small cat meows"),
        ("-:4", "a old dog barks"),
    ]
    assert [one["classes"][0]["class"] for one in found] == ["cat", "dog"]
    assert err.splitlines()[-3:] == [
        "-:2: its text is empty",
        "-:3: the line is not in UTF-8",
        "2 of 4 texts have no prediction",
    ]
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("the old cat\nmeows")
    Path("more.jsonl").write_text('{"text": "a small dog barks"}\n')
    assert cli.main(["predict", run, "notes", "more.jsonl", "--csv", "--top", "1"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [(row["path"], row["text"], row["class_1"]) for row in rows] == [
        ("notes/a.txt", "the old cat\nmeows", "cat"),
        ("more.jsonl:1", "a small dog barks", "dog"),
    ]
    assert cli.main(["predict", run, "notes/a.txt", "--top", "1"]) == 0
    assert capsys.readouterr().out.startswith("the old cat meows  cat 0.")


def test_mistakes(place: Path, assert_mistake: Mistake) -> None:
    texts, run = str(place / "texts.csv"), str(place / "run")
    assert_mistake(["finetune", texts], "are texts, and the model 'MobileNetV2' takes images. Give")
    assert_mistake([*finetune(place), "--augment", "flip"], "--augment is for images")
    assert_mistake([*finetune(place), "--sequence-length", "99"], "should be from 8 to 32")
    assert_mistake(
        ["finetune", "--text-column", "a"], "--text-column needs DATA: give a folder of images"
    )
    assert_mistake(["predict", run, run], "There are no texts in")
    assert_mistake(
        ["finetune", texts, "--model", "hub:bert_tiny"], "has no preset 'bert_tiny' for the"
    )
    assert_mistake(["evaluate", run, texts, "--text-column", "no"], "those of --text-column")
    for text, message in [
        ("words,label\na,b\n", "should name the columns path and label"),
        ("text,label\n,cat\na,dog\n", "1 text of the data"),
        ("text,label,split\na,cat,train\nb,dog,train\nc,cow,test\n", "not in the training texts"),
    ]:
        (place / "wrong.csv").write_text(text)
        assert_mistake(finetune(place, data="wrong.csv"), message)


def write_targets(path: Path) -> Path:
    """Write texts with labels, and a number that their words tell."""
    rows = []
    for name, text in CLASSES.items():
        for number, other in enumerate(OTHERS):
            labels = f"{name}|loud" if "loud" in other else name
            rows.append(f"{text.format(other)},{labels},{10 * (name == 'cat') + number / 4}")
    path.write_text("\n".join(["review,tags,price", *rows, ""]), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "line", "item"),
    [
        ("tags", "several labels: 3, of which a row has 1 to 2", "labels"),
        ("price", "numbers: price from 0 to 11.75", "values"),
    ],
)
def test_labels_and_numbers_of_texts(
    place: Path, capsys: pytest.CaptureFixture[str], column: str, line: str, item: str
) -> None:
    table = write_targets(Path("texts.csv"))
    options = ["--label-column", column, "--output", "run", "--epochs", "2"]
    assert cli.main([*finetune(place, data=str(table.absolute())), *options]) == 0
    out, err = capsys.readouterr()
    assert line in err
    assert "texts with one rate, 0.01" in out
    assert "image" not in out
    assert " image" not in Path("run/report.html").read_text().partition("</style>")[2]
    report = json.loads(Path("run/report.json").read_text())
    assert cli.main(["evaluate", "run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"scores on {table.absolute()}, of ")
    assert " image" not in out
    written = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert written["scores"] == pytest.approx(report["scores"])
    assert cli.main(["predict", "run", str(table), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 16
    assert item in found[0]
    assert cli.main(["layers", "run"]) == 0
    count = "3 labels" if column == "tags" else "1 number"
    assert f", texts, a head for {count}: " in capsys.readouterr().out
    assert cli.main(["layers", "run", "--keep-head"]) == 0
    assert f", texts, its own head for {count}: " in capsys.readouterr().out
    again = ["finetune", str(table), "--label-column", column, "--model", "run", "--keep-head"]
    rest = ["--epochs", "1", "--learning-rate", "1e-12", "--output", "again"]
    assert cli.main([*again, *rest]) == 0
    kept = json.loads(Path("again/report.json").read_text())["scores"]
    assert kept == pytest.approx(report["scores"], abs=1e-5)
    capsys.readouterr()
    Path("other.csv").write_text("review,tags,price\na cat,cow,x\n")
    assert cli.main(["evaluate", "run", "other.csv"]) == 2
    err = capsys.readouterr().err
    assert ("has labels that the model does not know" if column == "tags" else "hold no") in err


def test_layers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["layers", f"hub:{place / 'preset'}"]) == 0
    out = capsys.readouterr().out
    assert ", texts, a head for 10 classes: " in out
    assert "transformer_layer_1" in out


@pytest.mark.slow
def test_a_run_is_the_model_of_another_one(place: Path) -> None:
    arguments = ["finetune", str(place / "texts.csv"), "--model", str(place / "run")]
    options = ["--keep-head", "--epochs", "1", "--learning-rate", "1e-12", "--output", "out"]
    assert cli.main([*arguments, *options]) == 0
    first, second = (
        json.loads((f / "report.json").read_text()) for f in (place / "run", Path("out"))
    )
    assert first["test_accuracy"] == second["test_accuracy"]


@pytest.mark.slow
def test_find_lr(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", f"hub:{place / 'preset'}", "--output", "curve.png"]
    assert cli.main(["find-lr", str(place / "texts.csv"), *arguments]) in (0, 1)
    assert Path("curve.png").exists()
    assert "0 of 16 are longer" in capsys.readouterr().err


@pytest.mark.slow
def test_export(place: Path, assert_mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / "run")
    tflite = ["export", run, "--format", "tflite"]
    assert_mistake(tflite, "tflite has no tokenizer. Give --format saved-model.")
    assert_mistake([*tflite, "--quantize", "int8"], "tflite has no tokenizer.")
    assert cli.main(["export", run, "--output", "saved"]) == 0
    loaded = tf.saved_model.load("saved")
    texts = tf.constant(["the cat meows", "a dog barks loudly"])
    (found,) = loaded.signatures["serving_default"](texts).values()
    model = models.load_model_file(place / "run/model.keras")
    expected = model(texts, training=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)

    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    capsys.readouterr()
    assert cli.main(["export", run, "--format", "onnx", "--output", "texts.onnx"]) == 0
    out = capsys.readouterr().out
    assert "it takes token ids instead of strings: " in out
    assert "on 4 texts" in out
    session = onnxruntime.InferenceSession("texts.onnx")
    tokens = {name: ids.numpy() for name, ids in model.get_layer("tokens")(texts).items()}
    assert {one.name for one in session.get_inputs()} == {*tokens}
    np.testing.assert_allclose(session.run(None, tokens)[0], expected, atol=1e-5)


@pytest.mark.slow
def test_the_task_of_the_page_on_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs/text.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_preset(Path("minilm"))
    rows = [
        f"{split},{name},{text.format(other)}"
        for split in ("train", "validation", "test")
        for name, text in CLASSES.items()
        for other in OTHERS
    ]
    Path("debian_sections.csv").write_text("\n".join(["split,section,text", *rows, ""]))
    page_names: dict[str, Any] = {}
    exec(block, page_names)
    out = capsys.readouterr().out
    assert "test: {'loss': " in out
    assert out.splitlines()[-1] in json.loads(Path("sections.json").read_text()) == ["cat", "dog"]
    texts = ["the loud cat meows", "a small old dog barks"]
    first, again = (page_names[name].predict(texts, verbose=0) for name in ("task", "again"))
    np.testing.assert_allclose(again, first, rtol=1e-5)
    assert first.shape == (2, 2)


@pytest.mark.slow
def test_options_of_a_training(
    place: Path, assert_mistake: Mistake, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--precision", "mixed_bfloat16", "--label-smoothing", "0.1", "--limit", "6"]
    assert cli.main([*finetune(place), *more, "--epochs", "1", "--output", "out"]) == 0
    model = models.load_model_file(Path("out/model.keras"))
    block = model.get_layer("bert_backbone").get_layer("transformer_layer_0")
    assert block.compute_dtype == "bfloat16"
    assert "with 10 texts to train on and 2 to test on" in Path("out/README.md").read_text()
    capsys.readouterr()
    assert_mistake(["predict", "out", str(place / "texts.csv"), "--tta"], "--tta mirrors images")
    assert_mistake([*finetune(place), "--augment", "mixup"], "--augment is for images.")
