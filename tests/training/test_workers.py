"""What workers tell each other, with threads in the place of processes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.training.workers import Workers


class Threads(Workers):
    """One of several workers in one process."""

    def __init__(self, number: int, shared: dict[int, bytes], barrier: threading.Barrier) -> None:
        super().__init__(tf.distribute.get_strategy())
        count = barrier.parties
        self.addresses = {f"worker {n}": f"127.0.0.1:{n + 1}" for n in range(count)}
        self.names = list(self.addresses)
        self.own, self.is_chief, self.are_several = self.names[number], number == 0, count > 1
        self._shared, self._barrier = shared, barrier

    def gather(self, data: bytes = b"") -> list[bytes]:
        self._shared[self.number] = data
        self._barrier.wait(10)
        found = [self._shared[number] for number in range(len(self.names))]
        self._barrier.wait(10)
        return found


def on_all(count: int, work: Callable[[Workers], Any]) -> list[Any]:
    """What each of several workers returns, or the error that it raises."""
    shared: dict[int, bytes] = {}
    barrier = threading.Barrier(count)

    def on_one(number: int) -> Any:
        try:
            return work(Threads(number, shared, barrier))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(on_one, range(count)))


def state(workers: Workers) -> dict[str, np.ndarray]:
    """Weights that all workers share, and sums of their own."""
    return {
        "model/0/0": np.arange(3, dtype=np.float32),
        "model/1/0": np.array([10.0 * workers.number]),  # statistics of each worker
        "metrics/0/0": np.array(2.0 + workers.number),
        "metrics/1/0": np.array([[1, 2 + workers.number]], np.int64),
    }


def test_a_process_alone_tells_itself() -> None:
    workers = Workers(tf.distribute.get_strategy())
    assert (workers.names, workers.number, workers.is_chief) == (["worker 0"], 0, True)
    assert workers.gather(b"a") == [b"a"]
    assert workers.of_chief({"rate": 0.1}) == {"rate": 0.1}
    assert workers.any(True)
    assert not workers.any(False)
    assert workers.collected(state(workers)).keys() == state(workers).keys()
    assert workers.lost(tf.errors.UnavailableError(None, None, "gone")) is None


def test_the_chief_decides() -> None:
    assert on_all(3, lambda workers: workers.of_chief(workers.number)) == [0, 0, 0]


def test_each_worker_gets_its_own_state_back() -> None:
    for found in on_all(2, lambda workers: workers.collected(state(workers))):
        stored = {name for name in found if name.startswith("worker 1/")}
        assert stored == {"worker 1/model/1/0", "worker 1/metrics/0/0", "worker 1/metrics/1/0"}

    def again(workers: Workers) -> bool:
        found = workers.own_part(workers.collected(state(workers)))
        assert found.keys() == state(workers).keys()
        assert all(found[name].dtype == value.dtype for name, value in state(workers).items())
        return all(np.array_equal(found[name], value) for name, value in state(workers).items())

    assert on_all(2, again) == [True, True]


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_workers_keeps_the_sums(count: int) -> None:
    stored = on_all(2, lambda workers: workers.collected(state(workers)))[0]
    parts = on_all(count, lambda workers: workers.own_part(stored))
    assert [part["model/1/0"].tolist() for part in parts] == [[0.0]] * count
    assert sum(part["metrics/0/0"] for part in parts) == 5.0
    assert sum(part["metrics/1/0"] for part in parts).tolist() == [[2, 5]]


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield int(one.getsockname()[1])


def test_who_is_lost(listening: int) -> None:
    workers = Threads(0, {}, threading.Barrier(3))
    reset = tf.errors.UnavailableError(
        None, None, "from remote target /job:worker/replica:0/task:2 while calling"
    )
    assert workers.lost(reset) == ["worker 1", "worker 2"]  # nobody listens
    workers.addresses = dict.fromkeys(workers.names, f"127.0.0.1:{listening}")
    assert workers.lost(reset) == ["worker 2"]
    assert workers.lost(tf.errors.UnavailableError(None, None, "?")) == []
    assert workers.lost(tf.errors.InvalidArgumentError(None, None, "a broken image")) is None
