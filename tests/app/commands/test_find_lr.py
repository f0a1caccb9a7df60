"""The command `find-lr`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlr_tf.app import cli
from dlr_tf.app.arguments import parse_arguments

pytest.importorskip("matplotlib")

from dlr_tf.app.commands import finetune
from dlr_tf.app.commands.find_lr import why_it_stopped
from dlr_tf.training.auto_rates import SWEEP
from dlr_tf.training.lr_finder import LearningRateSweep


def test_suggestions_picture_and_the_next_command(
    quick_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["find-lr", "--start", "1e-5", "--end", "1e3", "--steps", "60", "--output", "sweep.svg"]
    argv += ["--groups", "2", "--optimizer", "sgd", "--learning-rate", ":0.5"]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    *lines, written, last = out.splitlines()
    suggestions = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert next(iter(suggestions)) == "recommended"
    assert set(suggestions) <= {"recommended", "valley", "slide", "steep", "minimum"}
    assert all(1e-5 < rate < 1e3 for rate in suggestions.values())
    assert "a tenth of the rate with the lowest loss" in out
    assert written == "written to sweep.svg"
    rate = f":{suggestions['recommended']:.1e}"
    command = f"finetune --groups 2 --learning-rate {rate} --optimizer sgd"
    assert last == f"next: dlr-tf {command}"
    args = parse_arguments(command.split())
    assert (args.groups, args.optimizer, args.learning_rate) == (2, "sgd", rate)
    assert re.search(r"stopped after \d+ of 60 steps, at the rate .*: the loss is ", err)
    assert max(map(len, lines)) <= 80
    picture = Path("sweep.svg").read_text()
    assert picture.startswith("<?xml")


def test_without_a_suggestion(quick_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["find-lr", "--steps", "2", "--batch-norm", "train"]) == 0
    out, err = capsys.readouterr()
    recommended, written, _ = out.splitlines()
    assert recommended == "recommended  1.00e-03  taken without a head start: usual for Adam"
    assert written == "written to find-lr.png"
    assert "the range test found no rate at which the loss falls: taking 0.0001 / " in err
    assert "stopped" not in err
    assert Path("find-lr.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_that_is_not_finite(
    quick_digits: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = LearningRateSweep(np.array([1e-5]), np.array([np.nan]))
    monkeypatch.setattr("dlr_tf.app.run.tasks.auto_sweep", lambda *_, **__: sweep)
    assert cli.main(["find-lr"]) == 1
    out, err = capsys.readouterr()
    assert out == "written to find-lr.png\n"
    assert "no rate can be recommended. The loss is not finite at the rate 1.0e-05" in err


def test_the_next_command_has_the_images_and_what_was_chosen(
    tiny_applications: None, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder("my photos", count=10)
    argv = ["find-lr", "my photos", "--weights", "none", "--image-size", "16", "--steps", "20"]
    argv += ["--weight-decay", "0.1"]
    assert cli.main(argv) in (0, 1)
    out, _ = capsys.readouterr()
    if "next" in out:
        last = out.splitlines()[-1]
        assert last.startswith("next: dlr-tf finetune 'my photos' --image-size 16 --weights none")
        assert "--weight-decay 0.1" in last


def test_the_rate_is_the_one_that_finetune_takes(
    quick_digits: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert cli.main(["find-lr", "--seed", "3", "--optimizer", "sgd", "--output", "a.svg"]) == 0
    (line, *_) = capsys.readouterr().out.splitlines()
    shown = Path("a.svg").read_text()
    assert "<!-- recommended: " in shown
    assert "<!-- minimum: " in shown
    monkeypatch.setattr(finetune, "train", no_training)
    argv = ["finetune", "--seed", "3", "--optimizer", "sgd", "--no-compare", "--output", "run"]
    assert cli.main(argv) == 130
    (chosen,) = re.findall(r"peak learning rates .* / (.*): for", capsys.readouterr().err)
    assert float(chosen) == pytest.approx(float(line.split()[1]), rel=0.05)


def test_its_sweep_is_that_of_finetune_unless_options_say_otherwise() -> None:
    args = parse_arguments(["find-lr"])
    assert (args.start, args.end, args.steps) == (SWEEP.start, SWEEP.end, SWEEP.steps)


def test_why_it_stopped() -> None:
    rates = np.array([0.1, 1.0])
    assert why_it_stopped(rates, np.array([2.0, np.inf]), 9).endswith(": the loss is not finite")


def test_a_head_without_a_rate(
    quick_digits: None, assert_mistake: Callable[[list[str], str], None]
) -> None:
    assert_mistake(["find-lr", "--learning-rate", "0.1,0.1,0"], "above 0 for the head")
