"""Ctrl-C and SIGTERM: at once, or after the step that runs."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dlr_tf.app.run.interrupts import StoppedError, StopRequests


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_at_once(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=f"signal {int(number)}") as caught, StopRequests():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_after_a_step_and_the_second_time_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequests() as stop:
        with stop.deferred():
            assert not stop.agree()
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            stop.check()  # the other workers do not know of it yet
            assert stop.agree()
            assert "stopping after this step" in capfd.readouterr().err
            with pytest.raises(StoppedError, match="signal 2"):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StoppedError, match="signal 15"):
            stop.check()


def test_a_thread_does_not_handle_signals() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopRequests() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("another", [True, False])
def test_a_signal_to_another_worker_stops_this_one_too(another: bool) -> None:
    stop = StopRequests()
    stop.any_worker = lambda own: own or another
    assert stop.agree() == another
    if another:
        with pytest.raises(StoppedError) as caught:
            stop.check()
        assert caught.value.exit_code == 143
