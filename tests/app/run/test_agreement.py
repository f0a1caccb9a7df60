"""Workers begin a run together, or say why not."""

from __future__ import annotations

import pytest
import tensorflow as tf

from dlr_tf.app.results import WriteError
from dlr_tf.app.run.agreement import ChiefError, LostWorkerError, all_make, by_chief, lost_workers
from dlr_tf.app.terminal import CommandError
from dlr_tf.training.workers import Workers
from tests.training.test_workers import on_all


def test_all_make_the_same() -> None:
    assert on_all(2, lambda workers: all_make(workers, "settings", lambda: 3)) == [3, 3]


def test_a_worker_with_other_settings_is_named_everywhere() -> None:
    def settings(workers: Workers) -> dict[str, int]:
        return {"batch size": 16 if workers.number == 1 else 32, "epochs": 3}

    said = on_all(3, lambda w: all_make(w, "settings", lambda: settings(w), dict))
    assert said == [said[0]] * 3
    assert "Worker 1 has settings that worker 0 does not have: batch size 16, not 32." in said[0]


def test_a_worker_that_cannot_begin_is_named_everywhere() -> None:
    def folder(workers: Workers) -> None:
        if workers.number == 1:
            raise ValueError("there is no folder\n'photos'")

    said = on_all(2, lambda workers: all_make(workers, "data", lambda: folder(workers)))
    assert said[0] == "Worker 1 cannot begin. It says: there is no folder 'photos'"
    assert said[1] == "there is no folder\n'photos'"


def test_the_chief_writes_and_the_others_wait() -> None:
    assert on_all(3, lambda workers: by_chief(workers, lambda: workers.own)) == [
        "worker 0",
        None,
        None,
    ]


def test_an_error_of_the_chief_ends_all() -> None:
    def write() -> None:
        raise WriteError("'out' could not be written:\nNo space left on device.")

    def on_one(workers: Workers) -> str:
        with pytest.raises(CommandError, match="No space left on device") as caught:
            by_chief(workers, write)
        assert type(caught.value) is (WriteError if workers.is_chief else ChiefError)
        assert getattr(caught.value, "exit_code", None) == 1
        return str(caught.value)

    said = on_all(2, on_one)
    assert said[1] == (
        "Worker 0 has ended. It says: 'out' could not be written: No space left on device."
    )


class Lost(Workers):
    def lost(self, error: tf.errors.OpError) -> list[str] | None:
        return None if isinstance(error, tf.errors.InvalidArgumentError) else ["worker 1"]


def test_the_end_of_a_worker_is_one_line() -> None:
    workers = Lost(tf.distribute.get_strategy())
    workers.addresses = {"worker 1": "b:1"}
    expected = "^worker 1 at b:1 has ended or cannot be reached. Resume.$"
    with pytest.raises(LostWorkerError, match=expected), lost_workers(workers, lambda: "Resume."):
        raise tf.errors.UnavailableError(None, None, "Connection reset by peer")
    with (
        pytest.raises(tf.errors.InvalidArgumentError),
        lost_workers(workers, lambda: "Resume."),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "a broken image")
    assert LostWorkerError.exit_code == 75
