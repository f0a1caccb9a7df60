"""A training that is stopped goes on bit for bit."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from app_helpers import FILES, everything_below, write_garments

from dlr_tf.app import cli
from dlr_tf.app.commands import finetune
from dlr_tf.app.data import digits
from dlr_tf.app.run import Run, checkpoint, tasks
from dlr_tf.core._keras import moving_averages
from tests.scripts import kill_and_resume, kill_workers

# Two steps in an epoch, and a checkpoint after each of them.
QUICK = ["finetune", "--epochs", "3", "--batch-size", "50", "--compare-seeds", "1"]
QUICK += ["--learning-rate", "1e-3:1e-2", "--frozen-epochs", "1", "--checkpoint-every", "1"]
QUICK += ["--warmup", "0.25", "--weight-decay", "0.02"]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_after(patch: pytest.MonkeyPatch, writes: int) -> None:
    """End the process after so many checkpoints, or in the middle of the next one."""
    write, left = checkpoint.write_checkpoint, [writes]

    def counted(*arguments: Any) -> None:
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        write(*arguments)

    patch.setattr(checkpoint, "write_checkpoint", counted)


def results(run: Path) -> dict[str, bytes]:
    """Everything that a run gives, apart from times."""
    found = kill_and_resume.results(run)
    # Automatic names, which the manifest holds, go on counting in one process.
    del found["model.keras: optimizer/vars/manifest"]
    with zipfile.ZipFile(run / "model.keras") as archive:
        frozen = archive.read("config.json").count(b'"trainable": false')
    return found | {"frozen layers": str(frozen).encode()}


def assert_equal(run: Path, expected: dict[str, bytes]) -> None:
    found = results(run)
    names = found.keys() | expected.keys()
    assert [name for name in sorted(names) if found.get(name) != expected.get(name)] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a run without a stop."""
    from app_helpers import pretrain_nothing

    output = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "pretrain_on_digits", pretrain_nothing)
        assert cli.main([*QUICK, "--output", str(output)]) == 0
    return results(output)


# Checkpoints of a run: the start; then for each training its epochs of two steps.
@pytest.mark.parametrize(
    "writes",
    [
        # before the first step, and within an epoch that is frozen
        pytest.param([1, 2], marks=pytest.mark.slow),
        [3, 3],  # after the frozen epoch, and in the comparison
        pytest.param([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], marks=pytest.mark.slow),
    ],
    ids=["early", "late", "everywhere"],
)
def test_a_killed_run_goes_on(
    quick_digits: None,
    whole: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    writes: list[int],
) -> None:
    for count in writes:
        started = Path("out/settings.json").exists()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
            kill_after(patch, count)
            cli.main(["finetune", "--resume", "out"] if started else [*QUICK, "--output", "out"])
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), whole)
    assert not Path("out/checkpoint").exists()
    capsys.readouterr()
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert capsys.readouterr() == ("", "The run 'out' is finished: nothing is left to do.\n")
    assert cli.main(["finetune", "--resume", "out", "--epochs", "9"]) == 2
    assert "--epochs 9 differs from the run's 3. A run is resumed with" in capsys.readouterr().err


def test_a_head_start_goes_on_after_a_kill(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "--epochs", "2", "--batch-size", "50", "--checkpoint-every", "1"]
    arguments += ["--head-start", "--no-compare"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    shown = capsys.readouterr().err
    report = json.loads(Path("whole/report.json").read_text())
    alone = report["head_alone"]
    assert f"the head alone: test accuracy {alone:.4f}\n" in shown
    assert f"the head alone reached {alone:.4g}" in Path("whole/report.html").read_text()
    assert (
        "peak learning rate 0.00018: 0.00018 is usual for Adam, and a range test allows " in shown
    )
    assert report["settings"]["average_weights"]
    # Checkpoints: the start, the rates, and one for each step. The first kill comes before that.
    for count in (2, 2):
        started = Path("out/settings.json").exists()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
            kill_after(patch, count)
            cli.main(
                ["finetune", "--resume", "out"] if started else [*arguments, "--output", "out"]
            )
    capsys.readouterr()
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert "the head alone" not in capsys.readouterr().err  # it was trained once
    assert json.loads(Path("out/report.json").read_text())["head_alone"] == alone
    assert_equal(Path("out"), results(Path("whole")))


def test_averaged_weights_go_on_after_a_kill(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "--epochs", "2", "--batch-size", "50", "--checkpoint-every", "1"]
    arguments += ["--average-weights", "--learning-rate", "1e-3:1e-2", "--no-compare"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    shown = capsys.readouterr()
    assert "the model at the end has the mean of the weights after every step\n" in shown.err
    model = keras.models.load_model("whole/model.keras")
    averages = keras.tree.flatten([one.numpy() for one in moving_averages(model.optimizer)])
    weights = [one.numpy() for one in model.trainable_variables]
    assert [*map(np.ndarray.tobytes, averages)] == [*map(np.ndarray.tobytes, weights)]
    report = json.loads(Path("whole/report.json").read_text())
    assert report["test_accuracy"] == pytest.approx(report["scores"]["accuracy"])
    with Path("whole/log.csv").open() as file:
        assert report["test_loss"] != float([*csv.DictReader(file)][-1]["val_loss"])
    # Checkpoints: the start, and one for each step.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 2)
        cli.main([*arguments, "--output", "out"])

    def killed(run: Run, path: Path, target: Any) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        patch.setattr(Run, "save_model", killed)  # when the training is finished
        cli.main(["finetune", "--resume", "out"])
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), results(Path("whole")))


def test_a_mean_over_all_epochs_and_the_best_epoch_exclude_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["finetune", "--average-weights", "--keep", "best"]) == 2
    assert "--average-weights and --keep best exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--frozen-epochs", "1"], "the head is trained alone in the frozen epochs"),
        (["--optimizer", "sgd"], "--head-start takes the usual rates of Adam"),
    ],
)
def test_why_there_is_no_head_start(
    quick_digits: None, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    arguments = ["finetune", "--epochs", "2", "--batch-size", "50", "--no-compare", *options]
    assert cli.main([*arguments, "--output", "out"]) == 0
    assert f"without a head start: {reason}" in capsys.readouterr().err
    settings = json.loads(Path("out/settings.json").read_text())["settings"]
    assert settings["head_start"] is settings["average_weights"] is False


def test_who_gives_rates_gets_no_head_start(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "--epochs", "1", "--batch-size", "50", "--no-compare"]
    assert cli.main([*arguments, "--learning-rate", "1e-3", "--output", "out"]) == 0
    assert "head start" not in capsys.readouterr().err
    settings = json.loads(Path("out/settings.json").read_text())["settings"]
    assert settings["head_start"] is settings["average_weights"] is False


def test_a_head_start_has_no_rates_for_other_optimizers(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["finetune", "--head-start", "--optimizer", "sgd", "--output", "out"]) == 2
    message = "--head-start takes the usual rates of Adam. Give --learning-rate with --optimizer"
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_killed_comparison_goes_on(quick_digits: None) -> None:
    arguments = ["finetune", "--epochs", "1", "--batch-size", "50", "--compare-seeds", "2"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    # Checkpoints: the start; then for each of four trainings its rates, its epoch, and the results
    # of those that compare.
    for count in (2, 5):  # after the first rates; after those of our second seed
        started = Path("out/settings.json").exists()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
            kill_after(patch, count)
            cli.main(
                ["finetune", "--resume", "out"] if started else [*arguments, "--output", "out"]
            )
    names = {path.name for path in Path("out/checkpoint").iterdir()}
    # Of a training that is finished, its results are kept, and not its weights.
    assert {"comparison-0-result.npz", "training-1-rates.npz"} <= names
    assert not names & {"comparison-0.npz", "training-1.npz"}
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), results(Path("whole")))


@pytest.mark.parametrize(
    "name",
    [
        "report.json",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("model.keras", "classes.json", "report.html")
        ),
    ],
)
def test_a_run_that_was_killed_at_the_end(
    quick_digits: None, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise KilledError
        write(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KilledError, match="^$"):
        cli.main([*QUICK, "--output", "out"])
    assert not Path("out", name).exists()
    assert Path("out/model.keras").exists() == (name != "model.keras")
    monkeypatch.setattr(os, "replace", write)
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), whole)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_ends_the_step(
    quick_digits: None,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    class Signal(keras.callbacks.Callback):
        def __init__(self, *_: Any) -> None:
            super().__init__()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if int(self.model.optimizer.iterations) == 2:
                os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "ShowGroups", Signal)
        assert cli.main([*QUICK, "--checkpoint-every", "100", "--output", "out"]) == (128 + number)
    assert capsys.readouterr().err.endswith(
        "dlr-tf: stopped. To resume: dlr-tf finetune --resume out\n"
    )
    _, record = checkpoint.read_checkpoint(Path("out/checkpoint/training.npz"))
    assert (record["epoch"], record["step"]) == (1, 1)
    assert cli.main(["finetune", "--resume", "out"]) == 0
    found = results(Path("out"))
    assert found.pop("report.json: settings") != whole["report.json: settings"]
    assert found == {name: value for name, value in whole.items() if name in found}


@pytest.mark.slow
def test_on_several_devices(quick_digits: None) -> None:
    arguments = [*QUICK[:5], *QUICK[7:], "--no-compare", "--strategy", "mirrored"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 4)
        cli.main([*arguments, "--output", "out"])
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), results(Path("whole")))


TWO_DEVICES = """
import sys
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
from dlr_tf.app import cli
raise SystemExit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_on_two_devices() -> None:
    arguments = ["--strategy", "mirrored", "--epochs", "2", "--no-compare", "--output", "out"]
    command = [sys.executable, "-c", TWO_DEVICES, "finetune", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "training on 2 devices" in done.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    assert json.loads(Path("out/report.json").read_text())["test_accuracy"] > 0.85


@pytest.mark.slow
def test_a_run_on_the_model_of_another_run_goes_on(
    tiny_applications: None, image_folder: Callable[..., Path]
) -> None:
    images = str(image_folder("images"))
    first = ["finetune", images, "--weights", "none", "--image-size", "16", "--epochs", "2"]
    assert cli.main([*first, "--model", "mobilenetv2", "--output", "first"]) == 0
    arguments = ["finetune", images, "--model", "first", "--epochs", "3"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 2)
        cli.main([*arguments, "--output", "out"])
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), results(Path("whole")))
    seconds = json.loads(Path("out/report.json").read_text())["seconds"]
    assert seconds["total"] >= seconds["training"]


@pytest.mark.slow
def test_a_run_whose_images_have_moved(
    tiny_applications: None, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", str(image_folder("images")), "--weights", "none"]
    arguments += ["--image-size", "16", "--epochs", "2"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 2)
        cli.main([*arguments, "--output", "out"])
    Path("elsewhere").mkdir()
    Path("images").rename("elsewhere/photos")
    capsys.readouterr()
    assert cli.main(["finetune", "--resume", "out"]) == 2
    assert "finetune --resume out DATA" in capsys.readouterr().err.splitlines()[-1]
    # Other images are not taken for them.
    assert cli.main(["finetune", "--resume", "out", str(image_folder("others", count=6))]) == 2
    assert "The data have changed since the run began" in capsys.readouterr().err
    assert cli.main(["finetune", "--resume", "out", "elsewhere/photos"]) == 0
    found, expected = results(Path("out")), results(Path("whole"))
    for name in ("report.json: data", "report.json: settings"):  # they name the place
        del found[name], expected[name]
    assert found == expected
    assert cli.main(["evaluate", "out"]) == 0


def test_a_folder_that_another_process_writes_to_meanwhile(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = finetune.load_task

    def load_and_write(config: Any, **options: Any) -> Any:
        Path("out").mkdir()
        Path("out/precious").write_text("x")
        return load(config, **options)

    monkeypatch.setattr(finetune, "load_task", load_and_write)
    assert cli.main([*QUICK, "--output", "out"]) == 2
    assert "'out' is not empty. Give another --output" in capsys.readouterr().err
    assert everything_below(Path("out")) == ["out/precious"]


def test_a_full_disk(
    quick_digits: None,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(model: Any, path: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "save", full)
        assert cli.main([*QUICK, "--output", "out"]) == 1
    out, err = capsys.readouterr()
    assert out == ""  # the model is the first result
    assert err.splitlines()[-1] == (
        "dlr-tf: error: 'out/model.keras' could not be written: No space left on device. "
        "When that is corrected, resume with: dlr-tf finetune --resume out"
    )
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"log.csv", "settings.json", "checkpoint"}
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), whole)


def test_the_best_epoch_is_kept(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    # A rate at which the later epochs are worse.
    arguments = [*QUICK[:3], "--epochs", "4", "--frozen-epochs", "0", "--no-compare"]
    arguments += ["--learning-rate", "0.05,0.05,3", "--schedule", "constant", "--keep", "best"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    report = json.loads(Path("whole/report.json").read_text())
    with Path("whole/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert report["kept_epoch"] == int(best["epoch"])
    # A tenth of the training images chose it; the test images had no part in that.
    assert report["data"]["train_images"] == 90
    loaded = keras.models.load_model("whole/model.keras")
    test = digits.load_digits()[1].test
    scores = loaded.evaluate(test, verbose=0, return_dict=True)
    assert report["test_accuracy"] == pytest.approx(scores["accuracy"])
    assert report["test_loss"] == pytest.approx(scores["loss"])
    assert int(loaded.optimizer.iterations.numpy()) == 6 * report["kept_epoch"]
    # The best epoch so far is in the checkpoint too.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 4)
        cli.main([*arguments, "--output", "out"])
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), results(Path("whole")))


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["tags", "price,size"])
def test_labels_and_numbers_go_on_after_a_kill(tiny_applications: None, columns: str) -> None:
    table = write_garments(Path("garments"))
    arguments = ["finetune", str(table), "--label-column", columns, "--weights", "none"]
    arguments += ["--image-size", "16", "--batch-size", "8", "--epochs", "3", "--keep", "best"]
    arguments += ["--learning-rate", "1e-3:1e-2", "--checkpoint-every", "1"]
    assert cli.main([*arguments, "--output", "whole"]) == 0
    assert cli.main([*arguments, "--output", "other", "--seed", "1"]) == 0
    assert results(Path("other")) != results(Path("whole"))
    for count in (2, 2):  # within the first epoch, and within the second
        started = Path("out/settings.json").exists()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
            kill_after(patch, count)
            cli.main(
                ["finetune", "--resume", "out"] if started else [*arguments, "--output", "out"]
            )
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), results(Path("whole")))


def test_patience(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    # No epoch is better than the first: nothing moves.
    arguments = ["finetune", "--epochs", "9", "--learning-rate", "1e-30", "--patience", "2"]
    assert cli.main([*arguments, "--no-compare", "--output", "out"]) == 0
    assert len(Path("out/log.csv").read_text().splitlines()) == 1 + 3
    assert json.loads(Path("out/report.json").read_text())["kept_epoch"] == 3


def test_the_log_grows_and_loses_what_is_trained_again(
    quick_digits: None, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 4)  # the second epoch has ended, but its checkpoint is not written
        cli.main([*QUICK, "--output", "out"])
    log = Path("out/log.csv")
    assert len(log.read_text().splitlines()) == 1 + 2
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 0)
        cli.main(["finetune", "--resume", "out"])
    assert log.read_bytes().splitlines() == whole["log.csv"].splitlines()[: 1 + 2]


@pytest.mark.slow
def test_a_damaged_checkpoint(
    quick_digits: None, capsys: pytest.CaptureFixture[str], whole: dict[str, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 3)
        cli.main([*QUICK, "--output", "out"])
    path = Path("out/checkpoint/training.npz")
    path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    assert cli.main(["finetune", "--resume", "out"]) == 2
    assert "Remove it to start that training again" in capsys.readouterr().err
    path.unlink()
    assert cli.main(["finetune", "--resume", "out"]) == 0
    assert_equal(Path("out"), whole)


def test_resume_needs_what_it_began_with(
    quick_digits: None, assert_mistake: Callable[[list[str], str], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError, match="^$"):
        kill_after(patch, 1)
        cli.main([*QUICK, "--output", "out"])
    settings = json.loads(Path("out/settings.json").read_text())
    settings["data"]["train_images"] = 99
    Path("out/settings.json").write_text(json.dumps(settings))
    assert_mistake(["finetune", "--resume", "out"], "train images: 99, test images: 796. Found")
    assert_mistake(["finetune", "--resume", "out", "--seed", "1"], "--seed 1 differs from the run")
    assert_mistake(["finetune", "--resume", "nowhere"], "'nowhere' does not exist")


def test_tensorboard_is_missing(
    quick_digits: None,
    monkeypatch: pytest.MonkeyPatch,
    assert_mistake: Callable[[list[str], str], None],
) -> None:
    monkeypatch.setattr(finetune.importlib.util, "find_spec", lambda name: None)
    assert_mistake(["finetune", "--tensorboard"], "Run: pip install tensorboard")


@pytest.mark.slow
def test_tensorboard(quick_digits: None) -> None:
    pytest.importorskip("tensorboard")
    arguments = ["finetune", "--epochs", "1", "--frozen-epochs", "0", "--compare-seeds", "1"]
    assert cli.main([*arguments, "--tensorboard", "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out/tensorboard").iterdir()) == [
        "comparison-0",
        "training",
    ]
    assert list(Path("out/tensorboard/training").rglob("events.*"))


@pytest.mark.slow
def test_real_processes_that_are_really_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(Path(kill_and_resume.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert kill_and_resume.main(["--quick"]) == 0, capsys.readouterr().out
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("2 kills in ")
    assert "1 of them left a half-written checkpoint: all runs equal" in last


@pytest.mark.slow
def test_two_workers_that_are_killed_end_as_two_that_were_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(kill_workers.__file__).parents[2]))
    assert kill_workers.main(["--kills", "2"]) == 0, capsys.readouterr().out
