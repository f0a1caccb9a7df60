"""The progress of a training: its lines, and the bar of a terminal."""

from __future__ import annotations

import io
import math
import re

import keras
import numpy as np
import pytest

from dlr_tf import LearningRateLogger, split_layers
from dlr_tf.app.terminal.progress import Progress, bar_text, epoch_line, format_rates, header
from dlr_tf.training.fine_tuning import fine_tune

RATES = {f"learning_rate/group_{n}": 1e-5 * 10**n for n in range(3)}
METRICS = {"accuracy": 0.25, "loss": 0.5, "val_accuracy": 0.75, "val_loss": 1.0}
X, Y = np.ones((12, 2), "float32"), np.arange(12) % 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What was drawn, without the codes that move the cursor."""
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


def model_of(n_groups: int = 2) -> keras.Model:
    names = [f"d{n}" for n in range(n_groups)]
    layers = [keras.layers.Dense(2, name=name) for name in names[:-1]]
    head = keras.layers.Dense(2, activation="softmax", name=names[-1])
    return keras.Sequential([keras.Input((2,)), *layers, head])


def train(progress: Progress, n_groups: int = 2) -> None:
    model = model_of(n_groups)
    groups = split_layers(model, [f"d{n}" for n in range(1, n_groups)])
    callbacks = [LearningRateLogger(), progress]
    fine_tune(
        model, groups, (X, Y), learning_rate=slice(1e-5, 1e-3), epochs=3, batch_size=4,
        frozen_epochs=1, schedule="constant", verbose=0, validation_data=(X, Y),
        callbacks=callbacks,
    )  # fmt: skip


def test_lines_are_aligned_and_fit_80_columns() -> None:
    logs = {**METRICS, **RATES}
    lines = [
        header(100, logs),
        epoch_line(7, 100, logs, 4.0),
        epoch_line(100, 100, {**logs, "loss": 1.25e30, "val_loss": math.nan}, 12345.6),
    ]
    assert lines == [
        "  epoch      loss  accuracy  val_loss   val_acc     sec  learning rates",
        "  7/100    0.5000    0.2500    1.0000    0.7500     4.0  1e-05 / 1e-04 / 1e-03",
        "100/100  1.25e+30    0.2500       nan    0.7500   12346  1e-05 / 1e-04 / 1e-03",
    ]
    assert max(map(len, lines)) <= 80


def test_rates_of_many_groups() -> None:
    assert format_rates([1e-5, 1e-4, 1e-3]) == "1e-05 / 1e-04 / 1e-03"
    assert format_rates([10.0**-n for n in range(9, 2, -1)]) == "1e-09 .. 1e-03"
    assert format_rates([math.nan, math.nan, 1e-4, 1e-3, 1e-2]) == "- .. 1e-02"


def test_the_bar_says_where_the_training_is() -> None:
    text = bar_text(3, 7, 45, 75, {"accuracy": 0.871, "loss": 0.412, **RATES})
    assert text == "epoch 3/7  45/75  loss 0.4120  accuracy 0.8710"
    assert bar_text(1, 7, 5, None, {}) == "epoch 1/7  5/?"


def test_one_line_per_epoch_without_a_terminal() -> None:
    stream = io.StringIO()
    with Progress(3, stream=stream) as progress:
        train(progress)
    columns, first, *others = stream.getvalue().splitlines()
    names = ["epoch", "loss", "accuracy", "val_loss", "val_acc", "sec", "learning", "rates"]
    assert columns.split() == names
    # Two calls of `fit`: the head alone, then all groups.
    assert first.endswith("  - / 1e-03")
    assert [line.split()[0] for line in others] == ["2/3", "3/3"]
    assert all(line.endswith("  1e-05 / 1e-03") for line in others)


def test_resuming_counts_on() -> None:
    stream = io.StringIO()
    model = model_of()
    model.compile("sgd", "sparse_categorical_crossentropy")
    progress = Progress(5, stream=stream)
    for first in (3, 4):
        model.fit(X, Y, epochs=first + 1, initial_epoch=first, verbose=0, callbacks=[progress])
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "4/5", "5/5"]
    assert "learning rates" not in lines[0]  # without a LearningRateLogger


@pytest.mark.parametrize(
    "columns", [80, *(pytest.param(width, marks=pytest.mark.slow) for width in (200, 50))]
)
def test_on_a_terminal_no_line_is_wider_than_80_columns(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with Progress(3, stream=stream) as progress:
        train(progress, n_groups=5)
    lines = stream.lines()
    bars = [line for line in lines if line.startswith("epoch ") and "/3" in line]
    assert any("3/3" in line for line in bars)
    assert any(line.split("  ")[1].startswith("validation") for line in bars)
    assert max(map(len, bars)) <= min(columns, 80)
    if columns >= 80:
        assert all(re.search(r" (\d\d|--):(\d\d|--)$", line) for line in bars)  # time left
    assert any(line.lstrip().startswith("3/3") for line in lines)
    assert max(map(len, lines)) <= 80


def test_an_epoch_that_was_begun_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    model = model_of()
    model.compile("sgd", "sparse_categorical_crossentropy")
    progress = Progress(2, first_step=5, stream=stream)
    # Every fit has 3 steps. A draw at each end of an epoch shows the last of them.
    arguments = {"validation_data": (X, Y), "batch_size": 4, "verbose": 0}
    model.fit(X, Y, epochs=2, callbacks=[progress], **arguments)
    first = [line for line in stream.lines() if line.startswith("epoch 1/2 ")]
    assert first[0].startswith("epoch 1/2  5/3 ")
    second = [line for line in stream.lines() if line.startswith("epoch 2/2 ")]
    assert second[0].startswith("epoch 2/2  0/3 ")


def test_the_cursor_is_shown_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"), Progress(3, stream=stream) as progress:
        model = model_of()
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(X, Y, verbose=0, callbacks=[progress, stop])
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert stream.getvalue().rindex(show) > stream.getvalue().rindex(hide)
