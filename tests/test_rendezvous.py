"""Workers meet, with threads in the place of processes."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dlr_tf import _rendezvous
from dlr_tf._clusters import Cluster
from dlr_tf._rendezvous import Meeting, meet, missing_line


@pytest.fixture(autouse=True)
def _quickly(monkeypatch, caplog):
    caplog.set_level(logging.ERROR, _rendezvous.__name__)
    monkeypatch.setattr(_rendezvous, "_PAUSE", 0.01)
    monkeypatch.setattr(_rendezvous, "_ANSWERS_WITHIN", 0.3)
    monkeypatch.setattr(_rendezvous, "_STRANGER", 0.1)


def addresses(count: int) -> dict[str, str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = {f"worker {n}": f"127.0.0.1:{s.getsockname()[1]}" for n, s in enumerate(sockets)}
    for each in sockets:
        each.close()
    return found


def on_all(
    workers: Mapping[str, str], settings: Callable[[int], dict[str, Any]], *numbers: int
) -> list[Meeting]:
    """What each of these workers returns, the last one first."""

    def on_one(number: int) -> Meeting:
        cluster = Cluster(dict(workers), f"worker {number}")
        return meet(cluster, **{"wait": 10.0, **settings(number)})

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(on_one, reversed(numbers)))


def test_all_are_there():
    found = on_all(addresses(3), lambda number: {"said": {"from": number}}, 0, 1, 2)
    assert found == [Meeting(said={"from": 0})] * 3


def test_one_alone_does_not_wait():
    assert meet(Cluster({"worker 0": "a:1"}, "worker 0"), wait=0.0, said=3) == Meeting(said=3)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_one_that_cannot_begin_says_so_to_all(who):
    def settings(number: int) -> dict[str, Any]:
        return {"trouble": "there is no folder 'photos'"} if number == who else {}

    expected = {f"worker {who}": "there is no folder 'photos'"}
    assert [each.troubles for each in on_all(addresses(3), settings, 0, 1, 2)] == [expected] * 3


@pytest.mark.parametrize(
    ("numbers", "missing"), [((0, 1), "worker 2"), ((0,), "worker 1"), ((1,), "worker 0")]
)
def test_one_that_does_not_come_is_named(numbers, missing):
    workers = addresses(3)
    for meeting in on_all(workers, lambda number: {"wait": 0.2}, *numbers):
        assert missing in meeting.missing
        cluster = Cluster(workers, f"worker {numbers[0]}")
        line = missing_line(cluster, meeting, 0.2)
        assert f"has waited 0.2 s for {meeting.missing[0]} at 127.0.0.1:" in line


def test_one_that_ends_while_it_waits_comes_again():
    workers = addresses(3)
    host, port = workers["worker 0"].split(":")
    with ThreadPoolExecutor(2) as pool:
        chief = pool.submit(on_all, workers, lambda number: {}, 0)
        while True:
            try:
                first = socket.create_connection((host, int(port)))
                break
            except OSError:
                time.sleep(0.01)
        first.sendall(b'{"worker": "worker 1", "trouble": null}\n')
        time.sleep(0.05)
        first.close()
        last = pool.submit(on_all, workers, lambda number: {}, 2)
        with pytest.raises(TimeoutError):
            last.result(0.2)
        assert on_all(workers, lambda number: {}, 1) == [Meeting()]
        assert chief.result() == last.result() == [Meeting()]


def test_strangers_are_not_counted():
    workers = addresses(2)
    host, port = workers["worker 0"].split(":")
    with ThreadPoolExecutor(1) as pool:
        chief = pool.submit(on_all, workers, lambda number: {"wait": 0.5}, 0)
        for words in (b"PRI * HTTP/2.0\r\n\r\n", b'{"worker": "worker 7", "trouble": null}\n'):
            while True:
                try:
                    with socket.create_connection((host, int(port))) as stranger:
                        stranger.sendall(words)
                        assert stranger.recv(1) == b""
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
        assert chief.result() == [Meeting(missing=["worker 1"])]


def test_a_chief_that_has_begun_is_left_to_tensorflow():
    """At its address a server of TensorFlow answers, which does not know these words."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        ended = threading.Event()

        def answer() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(1)
                    connection.sendall(b"\0\0\x18\4")

        thread = threading.Thread(target=answer)
        thread.start()
        workers = {"worker 0": f"127.0.0.1:{server.getsockname()[1]}", "worker 1": "127.0.0.1:1"}
        try:
            assert on_all(workers, lambda number: {}, 1) == [Meeting()]
        finally:
            ended.set()
            thread.join()


def test_nothing_is_left_to_do():
    looks = iter([False, False, True])
    found = on_all(addresses(2), lambda number: {"is_over": lambda: next(looks)}, 1)
    assert found == [Meeting(is_over=True)]


def test_a_port_that_another_process_keeps():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cluster = Cluster({"worker 0": f"127.0.0.1:{port}", "worker 1": "127.0.0.1:1"}, "worker 0")
        with pytest.raises(OSError, match=f"The port {port} of this worker cannot be used: "):
            meet(cluster, wait=0.05)
