"""How far a training is: the best epoch, and the log."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from dlr_tf.app.run.state import best_epoch, log_text


def test_the_best_epoch() -> None:
    accuracy, loss = [0.5, 0.9, 0.9, 0.9], [1.0, 0.4, 0.3, 0.3]
    assert best_epoch({"val_accuracy": accuracy, "val_loss": loss}, "accuracy") == 3
    assert best_epoch({"val_accuracy": [0.9, 0.9], "val_loss": [math.nan, 5.0]}, "accuracy") == 2


def test_the_log() -> None:
    nan = math.nan
    history = {"loss": [2.0, 0.5, math.inf], "learning_rate/body": [nan, nan, 1e-4]}
    text = log_text(history)
    assert text == "epoch,loss,learning_rate/body\n1,2.0,\n2,0.5,\n3,inf,0.0001\n"
    assert log_text(history, first=2) == "3,inf,0.0001\n"
    assert log_text({}) == ""
