"""The command `finetune`: training, results and files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from app_helpers import FILES, everything_below, pretrain_nothing, write_images

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from dlr_tf import MultiGroupOptimizer
from dlr_tf.app import cli
from dlr_tf.app.commands import finetune
from dlr_tf.app.commands.finetune import name_of_rates
from dlr_tf.app.config import OPTIMIZERS, RunConfig
from dlr_tf.app.data import digits, image_files
from dlr_tf.app.run import comparison_lines, tasks
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.training import fine_tuning
from tests.conftest import newer_optimizer


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def report_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "report.json").read_text())


def optimizer_of(model: keras.Model) -> MultiGroupOptimizer:
    return unwrap_optimizer(model.optimizer, MultiGroupOptimizer)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a person sees after the command."""

    output: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run that trains and compares, for all tests that only look at what it gave."""
    output = tmp_path_factory.mktemp("run") / "out"
    out, err = io.StringIO(), io.StringIO()
    arguments = ["--epochs", "3", "--batch-size", "20", "--learning-rate", "1e-4:1e-2"]
    arguments += ["--schedule", "sgdr", "--frozen-epochs", "1", "--compare-seeds", "2"]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(tasks, "pretrain_on_digits", pretrain_nothing)
        assert cli.main(["finetune", *arguments, "--output", str(output)]) == 0
    return Run(output, out.getvalue(), err.getvalue())


def test_results_on_stdout(trained: Run) -> None:
    report = report_of(trained.output)
    first, *compared, third, last = trained.out.splitlines()
    accuracy = report["test_accuracy"]
    right = round(796 * accuracy)
    assert first == f"test accuracy {accuracy:.4f} ({right} of 796) with differential rates"
    ours, theirs = report["test_accuracies"], report["compare"]["test_accuracies"]
    assert compared == comparison_lines("differential rates", ours, theirs)
    assert third == f"written to {trained.output}: {', '.join(FILES)}"
    assert last == "next: dlr-tf finetune PHOTOS"


def test_files(trained: Run) -> None:
    assert everything_below(trained.output.parent) == [
        str(trained.output),
        *(str(trained.output / name) for name in FILES),
    ]


def test_progress_on_stderr(trained: Run) -> None:
    # The table of groups, with parameters and rates.
    for word in ("group_0", "group_1", "head", "0.0001", "0.001", "0.01", "frozen"):
        assert word in trained.err
    assert re.search(r"^ +3/3 .* / ", trained.err, re.MULTILINE)
    assert max(map(len, trained.err.splitlines())) <= 120  # the table; the lines of epochs have 80
    lines = trained.err.splitlines()
    starts = [line for line in lines if line.startswith("for comparison")]
    assert starts == [
        "for comparison (1 of 3): one rate for all layers, seed 0",
        "for comparison (2 of 3): differential rates, seed 1",
        "for comparison (3 of 3): one rate for all layers, seed 1",
    ]
    # The rates were given; only the one rate is chosen.
    assert sum(line.startswith("choosing the learning rate by a range") for line in lines) == 2
    assert sum(bool(re.search(r"\b3/3\b", line)) for line in lines) == 1


def test_history(trained: Run) -> None:
    history = rows_of(trained.output / "log.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    accuracy = report_of(trained.output)["test_accuracy"]
    assert float(history[-1]["val_accuracy"]) == pytest.approx(accuracy)
    head = [float(row["learning_rate/head"]) for row in history]
    # Cycles of 5 and 10 steps: the rates of steps 4, 9 and 14.
    expected = [0.01 * (1 + np.cos(np.pi * t)) / 2 for t in (4 / 5, 4 / 10, 9 / 10)]
    np.testing.assert_allclose(head, expected, rtol=1e-5)


def test_report(trained: Run) -> None:
    report = report_of(trained.output)
    assert report["data"]["class_names"] == ["5", "6", "7", "8", "9"]
    assert (report["data"]["train_images"], report["data"]["test_images"]) == (100, 796)
    rates = [group["learning_rate"] for group in report["groups"]]
    np.testing.assert_allclose(rates, [1e-4, 1e-3, 1e-2])
    assert report["settings"]["batch_size"] == 20
    assert report["settings"]["learning_rate"] == "1e-4:1e-2"
    assert report["pretraining_accuracy"] == 0.5
    assert report["seed"] == 0
    assert {"dlr_tf", "keras", "tensorflow", "numpy", "python"} == set(report["versions"])
    compared = report["compare"]
    assert len(compared["history"]["val_accuracy"]) == 3
    assert compared["seeds"] == [0, 1]
    assert report["test_accuracies"][0] == report["test_accuracy"]
    assert len(compared["learning_rates"]) == len(compared["test_accuracies"]) == 2
    # Another seed has another head and another order.
    assert len({*report["test_accuracies"], *compared["test_accuracies"]}) > 2
    assert "ours" not in compared
    seconds = report["seconds"]
    parts = {"reading", "range_test", "training", "saving", "evaluation", "comparison", "page"}
    assert seconds.keys() == report["processor_seconds"].keys() == {*parts, "total"}
    # What lies between the parts is short.
    assert 0.9 * seconds["total"] < sum(seconds[part] for part in parts) <= seconds["total"] + 0.5
    assert 0 < report["processor_seconds"]["total"] < os.cpu_count() * seconds["total"]


def test_page(trained: Run) -> None:
    text = (trained.output / "report.html").read_text(encoding="utf-8")
    report = report_of(trained.output)
    assert f"test accuracy: {round(796 * report['test_accuracy'])} of 796" in text
    assert "Comparison" in text
    assert text.count("data:image/png") == 10
    assert text.count("<svg") == 3
    parameters = [group["parameters"] for group in report["groups"]]
    assert f"{parameters[0]:,}" in text
    assert sum(parameters) == 64 * 16 + 16 + 4 * 16 + 16 * 16 + 16 + 16 * 5 + 5


def test_the_saved_model_predicts_and_trains_on(trained: Run) -> None:
    loaded = keras.models.load_model(trained.output / "model.keras")
    optimizer = optimizer_of(loaded)
    assert int(optimizer.iterations.numpy()) == 15
    assert [group.name for group in optimizer.groups] == ["group_0", "group_1", "head"]
    _, task = digits.load_digits(batch_size=20)
    scores = loaded.evaluate(task.test, verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx(report_of(trained.output)["test_accuracy"])
    loaded.fit(task.train.take(2), verbose=0, shuffle=False)
    assert int(optimizer.iterations.numpy()) == 17


def test_options(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("--epochs", "2", "--frozen-epochs", "0", "--batch-size", "50", "--seed", "3"),
        *("--boundaries", "late,probabilities", "--learning-rate", "0.01,0.02,0.1"),
        *("--optimizer", "sgd", "--schedule", "sgdr", "--cycle-epochs", "0.5", "--t-mul", "1"),
        *("--batch-norm", "train", "--no-compare"),
    ]
    assert cli.main(["finetune", *arguments]) == 0
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 3
    (output,) = Path("runs").iterdir()  # runs/<date-time>
    assert sorted(path.name for path in output.iterdir()) == FILES
    report = report_of(output)
    assert "compare" not in report
    assert report["groups"][1]["layers"][0] == "backbone/late"
    # Every cycle is one step long, so every step is at the peak.
    for row in rows_of(output / "log.csv"):
        assert float(row["learning_rate/group_0"]) == pytest.approx(0.01)
        assert float(row["learning_rate/head"]) == pytest.approx(0.1)
    loaded = keras.models.load_model(output / "model.keras")
    assert all(layer.trainable for layer in loaded.layers)
    inner = optimizer_of(loaded).group_optimizers[0]
    assert isinstance(inner, keras.optimizers.SGD)
    assert inner.momentum == 0.9


# No group but the head moves here, of which `fine_tune` may warn.
@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")
def test_frozen_epochs_train_only_the_head_if_the_last_boundary_stands_before_it(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    initial = []

    def pretrain(task: Any, **_: Any) -> tuple[keras.Model, float]:
        backbone, accuracy = pretrain_nothing(task)
        initial.extend(backbone.get_weights())
        return backbone, accuracy

    monkeypatch.setattr(tasks, "pretrain_on_digits", pretrain)
    Path("out").mkdir()  # an empty folder may be used
    arguments = ["--epochs", "1", "--frozen-epochs", "1", "--boundaries", "late"]
    arguments += ["--learning-rate", "0.01,0.02,0.1"]
    assert cli.main(["finetune", *arguments, "--no-compare", "--output", "out"]) == 0
    out, err = capsys.readouterr()
    report = report_of(Path("out"))
    assert [group["name"] for group in report["groups"]] == ["group_0", "group_1", "head"]
    assert report["groups"][-1]["layers"] == ["probabilities"]
    assert "becomes a group of its own, which makes 3 groups" in err
    assert " of 796) with only the head trained, at 0.1\n" in out
    backbone = keras.models.load_model("out/model.keras").get_layer("backbone")
    for after, before in zip(backbone.get_weights(), initial, strict=True):
        np.testing.assert_array_equal(after, before)


def test_one_cycle(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "1", "--frozen-epochs", "0", "--schedule", "onecycle"]
    arguments += ["--learning-rate", ":0.1", "--no-compare", "--output", "out"]
    assert cli.main(["finetune", *arguments]) == 0
    (row,) = rows_of(Path("out/log.csv"))
    body, head = float(row["learning_rate/group_0"]), float(row["learning_rate/head"])
    assert head == pytest.approx(10 * body)
    assert 0 < head < 0.05
    assert capsys.readouterr().out.splitlines()[0].endswith(" with differential rates")


@pytest.mark.slow
def test_linear_decay_after_a_warm_up(quick_digits: None) -> None:
    arguments = ["--epochs", "2", "--batch-size", "50", "--learning-rate", ":0.1", "--no-compare"]
    arguments += ["--schedule", "linear", "--warmup", "0.5", "--weight-decay", "0.02"]
    assert cli.main(["finetune", *arguments, "--output", "out"]) == 0
    settings = report_of(Path("out"))["settings"]
    assert (settings["schedule"], settings["warmup"], settings["weight_decay"]) == (
        "linear",
        0.5,
        0.02,
    )
    # Two steps rise from 0, two fall to 0: the rates are 0, 0.05, 0.1 and 0.05.
    rates = [float(row["learning_rate/head"]) for row in rows_of(Path("out/log.csv"))]
    assert rates == pytest.approx([0.05, 0.05])
    loaded = optimizer_of(keras.models.load_model("out/model.keras"))
    assert [inner.weight_decay for inner in loaded.group_optimizers] == [0.02] * 3


@pytest.mark.slow
def test_rates_that_a_range_test_chooses(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "--epochs", "2", "--no-compare", "--no-head-start", "--seed", "4"]
    assert cli.main([*arguments, "--output", "out"]) == 0
    report = report_of(Path("out"))
    assert report["settings"]["learning_rate"] == "auto"
    early, late, head = (group["learning_rate"] for group in report["groups"])
    assert (early / head, late / head) == pytest.approx((0.1, 0.1**0.5))
    err = capsys.readouterr().err
    rates = f"{early:.2g} / {late:.2g} / {head:.2g}"
    assert f"\npeak learning rates {rates}: for the head, 0.001 is usual for Adam, " in err
    # The same seed, the same choice: and the rates given by hand train the same model.
    given = ["--learning-rate", ",".join(map(repr, (early, late, head))), "--output", "again"]
    assert cli.main([*arguments, *given]) == 0
    assert rows_of(Path("again/log.csv")) == rows_of(Path("out/log.csv"))


def test_a_range_test_that_fails(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("the message for Python") from ValueError("The loss\nnever falls.")

    monkeypatch.setattr("dlr_tf.app.run.tasks.auto_sweep", fail)
    arguments = ["finetune", "--epochs", "1", "--batch-size", "50", "--compare-seeds", "1"]
    assert cli.main([*arguments, "--no-head-start", "--output", "out"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    message = "No learning rate can be chosen for this model and these data. Give it with "
    assert last == f"dlr-tf: error: {message}--learning-rate. The loss never falls."
    # The training itself is not lost if there is no rate for the comparison.
    assert cli.main([*arguments, "--learning-rate", "1e-3", "--output", "two"]) == 0
    assert "there is no comparison. No learning rate can be" in capsys.readouterr().err
    assert sorted(path.name for path in Path("two").iterdir()) == FILES
    assert "compare" not in report_of(Path("two"))


def test_names_of_rates() -> None:
    config = RunConfig(epochs=3, frozen_epochs=1, schedule="sgdr")
    assert name_of_rates(config, [0.1, 0.2]) == "differential rates"
    assert name_of_rates(config, [0.2, 0.2]) == "one rate, 0.2"
    config = RunConfig(epochs=3, frozen_epochs=3)
    assert name_of_rates(config, [0.1, 0.2]) == "only the head trained, at 0.2"


DIVERGING = ["finetune", "--optimizer", "sgd", "--schedule", "constant", "--batch-size", "50"]
DIVERGING += ["--no-compare", "--output", "out"]


def finite_at(path: Path) -> bool:
    weights = keras.models.load_model(path).get_weights()
    return all(np.isfinite(weight).all() for weight in weights)


def test_a_training_that_diverges_at_once(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*DIVERGING, "--epochs", "1", "--learning-rate", "1e38"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("dlr-tf: error: The training diverged: ")
    assert (
        "at step 2, with the learning rates 1e+38 / 1e+38 / 1e+38. Give lower rates than " in last
    )
    assert "--learning-rate 1e38, for example a tenth, or let dlr-tf choose them: " in last
    # Nothing was trained that could be kept.
    assert {path.name for path in Path("out").iterdir()} == {
        *("settings.json", "log.csv", "checkpoint")
    }
    assert cli.main(["finetune", "--resume", "out"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(last)
    assert message.endswith(
        " This run cannot be resumed, since it would diverge again. Start another one."
    )


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--keep", "best"], marks=pytest.mark.slow),
        pytest.param(["--checkpoint-every", "1"], marks=pytest.mark.slow),
    ],
)
def test_a_training_that_diverges_late(
    quick_digits: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    class Break(keras.callbacks.Callback):
        """The weights become NaN after the last step of the third epoch."""

        def __init__(self, *_: Any) -> None:
            super().__init__()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(optimizer_of(self.model).iterations) == 6:
                self.model.trainable_variables[0].assign_add(self.model.trainable_variables[0])
                self.model.trainable_variables[-1].assign([math.nan] * 5)

    monkeypatch.setattr(finetune, "ShowGroups", Break)
    arguments = [*DIVERGING, "--epochs", "5", "--learning-rate", "1e-3", *options]
    assert cli.main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "The training diverged: its loss on the validation data is nan at step 6, " in last
    when = "step 1 of epoch 3" if "--checkpoint-every" in options else "epoch [12]"
    assert re.search(f"The model after {when} is kept: out/last_finite.keras.$", last)
    names = {path.name for path in Path("out").iterdir()}
    assert "last_finite.keras" in names
    assert not names & {"model.keras", "report.json", "report.html"}
    assert finite_at(Path("out/last_finite.keras"))
    assert [row["epoch"] for row in rows_of(Path("out/log.csv"))] == ["1", "2"]


@pytest.mark.slow
def test_a_comparison_that_diverges(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rates(*_: Any) -> list[float]:
        return [1e38] * 3

    monkeypatch.setattr(finetune.Run, "rates", rates)
    arguments = [*DIVERGING[:-3], "--compare", "--compare-seeds", "1", "--epochs", "1"]
    assert cli.main([*arguments, "--learning-rate", "1e-3", "--output", "out"]) == 0
    err = capsys.readouterr().err
    assert "warning: there is no comparison. One of its trainings diverged: " in err
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    assert finite_at(Path("out/model.keras"))


def test_a_wrong_setting_is_found_before_training(
    quick_digits: None, assert_mistake: Callable[[list[str], str], None]
) -> None:
    argv = ["finetune", "--schedule", "sgdr", "--t-mul", "0.5"]
    assert_mistake(argv, "`t_mul` should be at least 1")
    assert_mistake(["finetune", "--warmup", "9999"], "`warmup` should leave steps of the training")


def test_a_batch_that_does_not_divide_over_the_devices(
    monkeypatch: pytest.MonkeyPatch, assert_mistake: Callable[[list[str], str], None]
) -> None:
    strategy = types.SimpleNamespace(num_replicas_in_sync=3)
    monkeypatch.setattr(finetune, "make_strategy", lambda name, **_: strategy)
    message = "--batch-size 16 cannot be split evenly over 3 devices. Give a multiple of 3, such as"
    assert_mistake(["finetune", "--strategy", "mirrored"], f"{message} 18.")


def test_an_error_of_the_training_is_no_mistake(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(fine_tuning, "fine_tune", broken)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["finetune", "--output", "out"])


def test_a_folder_of_images(tiny_applications: None, image_folder: Callable[..., Path]) -> None:
    image_folder("images/train", count=4)
    image_folder("images/test", count=2)
    arguments = ["--weights", "none", "--image-size", "16", "--epochs", "1", "--frozen-epochs", "0"]
    assert cli.main(["finetune", "images", *arguments, "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    report = report_of(Path("out"))
    assert (report["data"]["train_images"], report["data"]["test_images"]) == (8, 4)
    assert report["settings"]["model"] == "MobileNetV2"
    assert report["pretraining_accuracy"] is None
    assert "compare" not in report
    loaded = keras.models.load_model("out/model.keras")
    image = keras.utils.load_img("images/test/class_1/000.png", target_size=(16, 16))
    probabilities = loaded.predict(np.array([image]), verbose=0)
    assert probabilities.shape == (1, 2)
    assert probabilities.sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_a_kept_head_whose_classes_are_numbers() -> None:
    """As text, the classes would be 0, 1, 10, 11, 2, ..."""
    for number in range(12):
        write_images(Path(f"grey/{number}"), 5, size=8, value=20 * number)
    # The class is the brightness. The only layer with weights is the head.
    inputs = keras.Input((8, 8, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    head = keras.layers.Dense(12, activation="softmax")
    model = keras.Model(inputs, head(mean))
    centers = 20.0 * np.arange(12) + 2
    head.set_weights([np.repeat(centers[None] / 3, 3, axis=0), -(centers**2) / 2])
    model.save("net.keras")
    arguments = ["--model", "net.keras", "--keep-head", "--epochs", "1", "--frozen-epochs", "0"]
    arguments += ["--learning-rate", "1e-9", "--output", "out"]
    assert cli.main(["finetune", "grey", *arguments]) == 0
    assert json.loads(Path("out/classes.json").read_text()) == [str(n) for n in range(12)]
    assert report_of(Path("out"))["test_accuracy"] == 1.0


@pytest.mark.slow
def test_class_weights_reach_the_training(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def record(*_: Any, class_weight: Any, **__: Any) -> None:
        given.append(class_weight)
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "fine_tune", record)
    assert cli.main(["finetune", "--output", "one"]) == 130
    assert cli.main(["finetune", "--class-weights", "balanced", "--output", "two"]) == 130
    assert given == [None, dict.fromkeys(range(5), 1.0)]


def test_an_image_that_fails_during_the_training_is_named(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("PIL")
    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    path = image_folder("images") / "class_0" / "000.png"
    content = bytearray(path.read_bytes())
    content[-20:-12] = b"\0" * 8  # between the beginning and the end, which are checked
    path.write_bytes(content)
    arguments = ["--weights", "none", "--image-size", "16", "--epochs", "1", "--output", "out"]
    assert cli.main(["finetune", "images", *arguments, "--frozen-epochs", "0"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    start = "dlr-tf: error: The image file 'images/class_0/000.png' cannot be read: it is damaged ("
    assert last.startswith(start)
    assert last.endswith("). Repair or remove it.")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer(quick_digits: None, name: str) -> None:
    if name == "muon":
        newer_optimizer("Muon")
    arguments = ["--epochs", "2", "--optimizer", name, "--no-compare", "--output", "out"]
    assert cli.main(["finetune", *arguments, "--learning-rate", "1e-3"]) == 0
    losses = [float(row["val_loss"]) for row in rows_of(Path("out/log.csv"))]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    loaded = optimizer_of(keras.models.load_model("out/model.keras"))
    assert int(loaded.iterations.numpy()) == 14


@pytest.mark.slow
def test_the_default_without_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", "--epochs", "7", "--output", "out"]) == 0
    report = report_of(Path("out"))
    assert report["pretraining_accuracy"] > 0.9
    assert report["test_accuracy"] > 0.8
    assert "one rate" in capsys.readouterr().out


def test_few_images_get_more_epochs(
    tiny_applications: None, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three images for each of two classes make one step in an epoch."""
    image_folder("images/train", count=3)
    image_folder("images/test", count=2)
    arguments = ["--weights", "none", "--image-size", "16", "--learning-rate", "1e-3"]
    assert cli.main(["finetune", "images", *arguments, "--output", "out"]) == 0
    shown = capsys.readouterr().err
    assert "training for 21 epochs: 7 would be only 7 steps (--epochs" in shown
    assert "\n21/21 " in shown
    assert json.loads(Path("out/settings.json").read_text())["settings"]["epochs"] == 21


@pytest.mark.slow
def test_a_folder_of_images_with_a_model_of_keras(image_folder: Callable[..., Path]) -> None:
    image_folder("images", count=6)
    arguments = ["--weights", "none", "--image-size", "32", "--epochs", "2"]
    assert cli.main(["finetune", "images", *arguments, "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    groups = report_of(Path("out"))["groups"]
    assert groups[-1]["layers"] == ["probabilities"]
    assert groups[0]["layers"][0] == "resizing"
    assert groups[0]["layers"][-1].startswith("mobilenetv2_1.00_32/")
