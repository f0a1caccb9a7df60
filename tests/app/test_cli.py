"""The command: results, files, and a line for every mistake."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import dlr_tf
from dlr_tf.app import cli, digits, tasks
from dlr_tf.core.optimizer import unwrap
from dlr_tf.training import fine_tuning

FILES = ["history.csv", "history.png", "learning_rates.png", "model.keras", "report.json"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network for the digits that is not trained for long, in the place of the real one."""

    def pretrain(task: Any, **_: Any) -> tuple[keras.Model, float]:
        backbone = keras.Sequential(
            [
                keras.Input(task.image_shape),
                keras.layers.Rescaling(1 / 16, name="rescaling"),
                keras.layers.Flatten(name="flatten"),
                keras.layers.Dense(16, activation="relu", name="early"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Dense(16, activation="relu", name="late"),
            ],
            name="backbone",
        )
        return backbone, 0.5

    monkeypatch.setattr(digits, "pretrain_on_digits", pretrain)


def make_images(folder: Path, *, classes: int = 2, count: int = 5) -> Path:
    for label in range(classes):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 1), 100 * label + number, np.uint8)
            path = folder / f"class_{label}" / f"{number}.png"
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_finetune_trains_compares_and_writes_five_files(
    quick_digits: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--epochs", "3", "--batch-size", "20", "--learning-rate", "1e-4:1e-2"]
    assert cli.main(["finetune", *arguments, "--output", "out"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(Path("out/report.json").read_text())

    first, second, last = out.splitlines()
    assert first == f"test accuracy {report['test_accuracy']:.4f} with differential rates"
    other = report["compare"]
    assert second == f"test accuracy {other['test_accuracy']:.4f} with one rate, 0.01, throughout"
    assert last == f"written to out: {', '.join(FILES)}"
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    assert everything_below(tmp_path) == [
        str(tmp_path / "out"),
        *(str(tmp_path / "out" / name) for name in FILES),
    ]
    # The table of groups, with parameters (64 * 16 + 16 in the first) and rates.
    for word in ("group_0", "group_1", "head", "1,040", "0.0001", "0.001", "0.01", "frozen"):
        assert word in err
    assert "Epoch 3/3" in err

    history = rows_of(Path("out/history.csv"))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert float(history[-1]["val_accuracy"]) == pytest.approx(report["test_accuracy"])
    head = [float(row["learning_rate/head"]) for row in history]
    # Cycles of 5 and 10 steps: the rates of steps 4, 9 and 14.
    np.testing.assert_allclose(
        head,
        [0.01 * (1 + np.cos(np.pi * t)) / 2 for t in (4 / 5, 4 / 10, 9 / 10)],
        rtol=1e-5,
    )
    assert report["data"]["class_names"] == ["5", "6", "7", "8", "9"]
    assert report["data"]["train_images"] == 100
    rates = [group["learning_rate"] for group in report["groups"]]
    np.testing.assert_allclose(rates, [1e-4, 1e-3, 1e-2])
    assert report["settings"]["batch_size"] == 20
    assert report["pretraining_accuracy"] == 0.5
    assert report["seed"] == 0
    assert {"dlr_tf", "keras", "tensorflow", "numpy", "python"} == set(report["versions"])
    assert len(other["history"]["val_accuracy"]) == 3
    assert 0 < report["seconds"]["training"] <= report["seconds"]["total"]
    for picture in ("history.png", "learning_rates.png"):
        assert (Path("out") / picture).read_bytes().startswith(b"\x89PNG")

    # The model takes images as the files hold them, and can train on where it stopped.
    loaded = keras.models.load_model("out/model.keras")
    optimizer = unwrap(loaded.optimizer)
    assert int(optimizer.iterations.numpy()) == 15
    assert [group.name for group in optimizer.groups] == ["group_0", "group_1", "head"]
    _, task = digits.load_digits(batch_size=20)
    scores = loaded.evaluate(task.test, verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx(report["test_accuracy"])
    loaded.fit(task.train, verbose=0, shuffle=False)
    assert int(optimizer.iterations.numpy()) == 20


def test_finetune_options(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("--epochs", "2", "--frozen-epochs", "0", "--batch-size", "50", "--seed", "3"),
        *("--boundaries", "late,probabilities", "--learning-rate", "0.01,0.02,0.1"),
        *("--optimizer", "sgd", "--schedule", "sgdr", "--cycle-epochs", "0.5", "--t-mul", "1"),
        *("--batch-norm", "train", "--no-compare"),
    ]
    assert cli.main(["finetune", *arguments]) == 0
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 2
    (output,) = Path("runs").iterdir()  # runs/<date-time>
    assert sorted(path.name for path in output.iterdir()) == FILES
    report = json.loads((output / "report.json").read_text())
    assert "compare" not in report
    assert report["groups"][1]["layers"][0] == "backbone/late"
    # Every cycle is one step long, so every step is at the peak.
    for row in rows_of(output / "history.csv"):
        assert float(row["learning_rate/group_0"]) == pytest.approx(0.01)
        assert float(row["learning_rate/head"]) == pytest.approx(0.1)
    loaded = keras.models.load_model(output / "model.keras")
    assert all(layer.trainable for layer in loaded.layers)
    inner = unwrap(loaded.optimizer).group_optimizers[0]
    assert isinstance(inner, keras.optimizers.SGD)
    assert inner.momentum == 0.9


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_finetune_other_schedules(quick_digits: None, schedule: str) -> None:
    arguments = ["--epochs", "1", "--schedule", schedule, "--learning-rate", ":0.1"]
    assert cli.main(["finetune", *arguments, "--no-compare", "--output", "out"]) == 0
    (row,) = rows_of(Path("out/history.csv"))
    body, head = float(row["learning_rate/group_0"]), float(row["learning_rate/head"])
    assert head == pytest.approx(10 * body)
    assert (head == pytest.approx(0.1)) is (schedule == "constant")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tasks.OPTIMIZERS))
def test_finetune_every_optimizer(quick_digits: None, name: str) -> None:
    arguments = ["--epochs", "2", "--optimizer", name, "--no-compare", "--output", "out"]
    assert cli.main(["finetune", *arguments, "--learning-rate", "1e-3"]) == 0
    losses = [float(row["val_loss"]) for row in rows_of(Path("out/history.csv"))]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    loaded = unwrap(keras.models.load_model("out/model.keras").optimizer)
    assert int(loaded.iterations.numpy()) == 14


@pytest.mark.slow
def test_finetune_default_without_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", "--epochs", "7", "--output", "out"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["pretraining_accuracy"] > 0.9
    assert report["test_accuracy"] > 0.8
    assert "one rate" in capsys.readouterr().out


@pytest.mark.slow
def test_finetune_on_a_folder_of_images(tmp_path: Path) -> None:
    make_images(tmp_path / "images" / "train", count=4)
    make_images(tmp_path / "images" / "test", count=2)
    arguments = ["--model", "MobileNetV2", "--weights", "none", "--image-size", "32"]
    assert cli.main(["finetune", "images", *arguments, "--epochs", "1", "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    report = json.loads(Path("out/report.json").read_text())
    assert report["data"]["train_images"], report["data"]["test_images"] == (8, 4)
    assert report["settings"]["model"] == "MobileNetV2"
    loaded = keras.models.load_model("out/model.keras")
    image = keras.utils.load_img("images/test/class_1/0.png", target_size=(32, 32))
    probabilities = loaded.predict(np.array([image]), verbose=0)
    assert probabilities.shape == (1, 2)
    assert probabilities.sum() == pytest.approx(1.0)


def test_a_diverged_training_is_reported_in_valid_json(quick_digits: None) -> None:
    arguments = ["--epochs", "2", "--optimizer", "sgd", "--learning-rate", "1e30", "--no-compare"]
    assert cli.main(["finetune", *arguments, "--output", "out"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(Path("out/report.json").read_text(), parse_constant=refuse)
    assert report["test_loss"] is None


def assert_one_line_and_nothing_written(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_below(Path.cwd())
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *_, last = err.splitlines()
    assert last.startswith("dlr-tf: error: ")
    assert message in last
    assert "Traceback" not in err
    assert everything_below(Path.cwd()) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], "invalid choice: 'train' (choose from"),
        (["finetune", "--epoch", "3"], "unrecognized arguments: --epoch"),
        (["finetune", "--epochs", "0"], "--epochs: expected a whole number of at least 1"),
        (["finetune", "--epochs", "x"], "--epochs: expected a whole number of at least 1"),
        (["finetune", "--epochs", "2", "--frozen-epochs", "3"], "not be above --epochs"),
        (["finetune", "--cycle-epochs", "0"], "--cycle-epochs: expected a number above 0"),
        (["finetune", "--t-mul", "0.5"], "`t_mul` should be at least 1"),
        (["finetune", "--optimizer", "adamm"], "invalid choice: 'adamm' (choose from"),
        (["finetune", "--schedule", "cosine"], "invalid choice: 'cosine' (choose from"),
        (["finetune", "--batch-norm", "off"], "invalid choice: 'off' (choose from"),
        (["finetune", "--groups", "2", "--boundaries", "late"], "not allowed with argument"),
        (["finetune", "--groups", "9"], "`n_groups` should be from 1 to 4"),
        (["finetune", "--boundaries", "lat"], "Did you mean 'late'?"),
        (["finetune", "--boundaries", "late,early"], "out of order"),
        (["finetune", "--boundaries", "late,late"], "would have no weights"),
        (["finetune", "--learning-rate", "fast"], "should be LO:HI, :HI, one number"),
        (["finetune", "--learning-rate", "1e-3:"], "should be LO:HI, :HI, one number"),
        (["finetune", "--learning-rate", "1e-3,1e-2"], "3 groups, 3 rates. Received 2 rates"),
        (["finetune", "--learning-rate", "-1e-3"], "finite and not negative"),
        (["finetune", "--learning-rate", "nan"], "finite and not negative"),
        (["finetune", "--learning-rate", "0:1"], "both should be above 0"),
        (["finetune", "--model", "VGG16"], "--model needs DATA"),
        (["finetune", "--weights", "none"], "--weights needs DATA"),
        (["finetune", "--image-size", "32"], "--image-size needs DATA"),
        (["find-lr", "--start", "1", "--end", "0.1"], "--start should be above 0 and below"),
        (["find-lr", "--output", "sweep.pdf"], "should end in .png or .svg"),
        (["find-lr", "--output", "no/such/sweep.png"], "'no/such' of the output file does not"),
        (["schedule"], "required: KIND"),
        (["schedule", "sgdr", "--t-mul", "0.5"], "`t_mul` must be a finite number at least 1"),
        (["schedule", "sgdr", "--learning-rate=-1"], "`initial_learning_rate` must be"),
        (["schedule", "onecycle", "--pct-start", "2"], "`pct_start` must be above 0"),
        (["schedule", "sgdr", "--steps", "1000001"], "--steps should be from 1 to 1000000"),
    ],
    ids=" ".join,
)
def test_mistakes_without_data(
    quick_digits: None, capsys: pytest.CaptureFixture[str], argv: Any, message: str
) -> None:
    assert_one_line_and_nothing_written(argv, message, capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "'nowhere' does not exist: expected one sub-folder of images per class"),
        (["empty"], "'empty' holds no images in sub-folders"),
        (["one"], "'one' has one class only, 'class_0'"),
        (["broken"], "'broken/class_1/3.png' cannot be read: it is damaged or not an image"),
        (["good", "--weights", "missing.h5"], "weights file 'missing.h5' does not exist"),
        (
            ["good", "--weights", "other.weights.h5", "--model", "MobileNet", "--image-size", "32"],
            "does not hold the weights of MobileNet without its top",
        ),
        (["good", "--model", "MobileNetV9"], "no model 'MobileNetV9' in keras.applications. Did"),
        (["good", "--weights", "none", "--image-size", "8"], "8 x 8 pixels: Input size must"),
        (["tfds:no_such_data_set"], "has no data set 'no_such_data_set'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_data_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    if argv[0].startswith("tfds:"):
        pytest.importorskip("tensorflow_datasets")
    make_images(tmp_path / "good")
    make_images(tmp_path / "one", classes=1)
    make_images(tmp_path / "broken")
    (tmp_path / "broken" / "class_1" / "3.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]).save_weights("other.weights.h5")
    assert_one_line_and_nothing_written(["finetune", *argv], message, capsys)


def test_output_folder_that_is_not_empty(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/precious").write_text("x")
    argv = ["finetune", "--output", "out"]
    assert_one_line_and_nothing_written(argv, "'out' is not empty. Give another", capsys)
    argv = ["finetune", "--output", "out/precious"]
    assert_one_line_and_nothing_written(argv, "'out/precious' is a file. Give another", capsys)
    argv = ["finetune", "--output", "out/precious/deeper"]
    assert_one_line_and_nothing_written(argv, "No permission to write to", capsys)


def test_an_empty_output_folder_may_be_used(quick_digits: None) -> None:
    Path("out").mkdir()
    assert cli.main(["finetune", "--epochs", "1", "--no-compare", "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == FILES


def test_no_permission_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not by the mode of a folder: the superuser may write anywhere.
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode)
    )
    message = f"No permission to write to {str(tmp_path)!r}. Give another --output"
    for argv in (["finetune"], ["finetune", "--output", "deep/er"], ["find-lr"]):
        assert_one_line_and_nothing_written(argv, message, capsys)
    assert_one_line_and_nothing_written(["schedule", "sgdr"], message, capsys)


def test_existing_output_files(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("find-lr.png", "sgdr.png"):
        Path(name).write_text("precious")
    message = "exists already. Give another --output"
    assert_one_line_and_nothing_written(["find-lr"], message, capsys)
    assert_one_line_and_nothing_written(["schedule", "sgdr"], message, capsys)
    assert Path("sgdr.png").read_text() == "precious"


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure"])
def test_missing_extras(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert_one_line_and_nothing_written(["finetune"], 'pip install "dlr_tf[', capsys)


def test_verbose_shows_where_a_mistake_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", "nowhere", "--weights", "none", "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("dlr-tf: error: The data folder 'nowhere'")


def test_errors_of_training_are_not_taken_for_mistakes(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(fine_tuning, "fine_tune", broken)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["finetune", "--output", "out"])


def test_ctrl_c(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "fine_tune", interrupted)
    assert cli.main(["finetune", "--output", "out"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "dlr-tf: stopped"


def test_find_lr(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["find-lr", "--start", "1e-5", "--end", "10", "--steps", "60", "--output", "sweep.svg"]
    assert cli.main(argv) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    suggestions = dict(line.split() for line in lines)
    assert set(suggestions) <= {"valley", "slide", "steep", "minimum"}
    assert "valley" in suggestions
    assert all(1e-5 < float(rate) < 10 for rate in suggestions.values())
    assert last == "written to sweep.svg"
    assert Path("sweep.svg").read_text().startswith("<?xml")


def test_find_lr_without_a_suggestion(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["find-lr", "--steps", "2"]) == 1
    out, err = capsys.readouterr()
    assert out == "written to find-lr.png\n"
    assert "valley: The sweep of 2 points" in err
    assert Path("find-lr.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["sgdr", "onecycle", "triangular"])
def test_schedule_writes_a_picture(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schedule", kind]) == 0
    assert capsys.readouterr().out == f"written to {kind}.png\n"
    assert Path(f"{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_schedule_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["schedule", "sgdr", "--first-decay-steps", "10", "--learning-rate", "0.5", "--ascii"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "0.5"
    assert lines[0].count("*") >= 3  # the peaks of three cycles
    assert lines[-1].split()[1] == "69"  # the last of 10 + 20 + 40 steps
    assert list(Path.cwd().iterdir()) == []
    assert cli.main([*argv, "--output", "both.svg"]) == 0
    assert Path("both.svg").exists()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "finetune" in capsys.readouterr().out
    assert cli.main(["finetune", "--help"]) == 0
    assert "--frozen-epochs" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == dlr_tf.__version__


def test_python_m_dlr_tf() -> None:
    root = str(Path(cli.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "dlr_tf", "schedule", "onecycle", "--steps", "1", "--ascii"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "expected a whole number of at least 2" in done.stderr.splitlines()[-1]
