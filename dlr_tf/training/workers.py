"""What the workers of a training on several machines tell each other.

Everything goes through the collective operations of `tf.distribute`: there are no other ports.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf.training.distribution import is_chief

_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
_ANSWERS_WITHIN = 5.0  # seconds
_WORKERS = "workers"  # the array that tells how many workers wrote a state
_DIGEST = 16  # bytes


class Workers:
    """The processes that train together: those of a `MultiWorkerMirroredStrategy`, or this alone.

    What a method says to be called by all workers has to be called by all of them, in the same
    order; it waits for the others.

    Args:
        strategy: The strategy of the training.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.is_chief = is_chief(strategy)
        self.addresses: dict[str, str] = {}
        self.own = "worker 0"
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            cluster = resolver.cluster_spec().as_dict()
            self.addresses = {
                f"{job} {index}": address
                for job in ("chief", "worker")
                for index, address in enumerate(cluster.get(job, ()))
            }
            self.own = f"{resolver.task_type or 'worker'} {resolver.task_id or 0}"
        self.names = list(self.addresses) or [self.own]
        self.are_several = len(self.names) > 1

    @property
    def number(self) -> int:
        """The place of this worker among all. That of the chief is 0."""
        return self.names.index(self.own)

    def gather(self, data: bytes = b"") -> list[bytes]:
        """Return what each worker passes, in the order of their names. All call it."""
        if not self.are_several:
            return [data]
        sizes = self._gather_rows(np.array([[len(data)]], np.int32))[:, 0]
        row = np.zeros((1, -(-int(sizes.max()) // 4) or 1), np.int32)
        row.view(np.uint8)[0, : len(data)] = np.frombuffer(data, np.uint8)
        return [
            each.tobytes()[:size] for each, size in zip(self._gather_rows(row), sizes, strict=True)
        ]

    def _gather_rows(self, row: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self._gathered(tf.constant(row)).numpy()
        return rows[:: len(rows) // len(self.names)]  # a worker has one per device

    @functools.cached_property
    def _gathered(self) -> Callable[[tf.Tensor], tf.Tensor]:
        @tf.function(input_signature=[tf.TensorSpec((1, None), tf.int32)])
        def gathered(row: tf.Tensor) -> tf.Tensor:
            return self._strategy.gather(self._strategy.run(tf.identity, (row,)), axis=0)

        return gathered

    def gather_values(self, value: Any) -> list[Any]:
        """Return what each worker passes, as JSON can hold it. All call it."""
        return [json.loads(each) for each in self.gather(json.dumps(value).encode())]

    def of_chief(self, value: Any) -> Any:
        """Return what the chief passes, as JSON can hold it. All call it."""
        return self.gather_values(value if self.is_chief else None)[0]

    def any(self, value: bool) -> bool:
        """Return whether a worker passes `True`. All call it."""
        if not self.are_several:
            return value
        flag, total = self._flag
        flag.values[0].assign(int(value))
        return bool(total())

    @functools.cached_property
    def _flag(self) -> tuple[Any, Any]:
        """A variable of which each worker has a copy, and a function that returns their sum."""
        with self._strategy.scope():
            flag = tf.Variable(
                0,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        return flag, tf.function(flag.read_value)

    def collected(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the state of all workers, from the state of each of them. All call it.

        The names, shapes and dtypes are the same everywhere. Most arrays are too, and are there
        once, those of the chief. What is not, such as sums of metrics, is there once per worker.
        """
        own = dict(arrays)
        if not self.are_several:
            return own
        digests = self.gather(b"".join(_digest(array) for array in own.values()))
        differing = [
            name
            for number, name in enumerate(own)
            if len({each[number * _DIGEST : (number + 1) * _DIGEST] for each in digests}) > 1
        ]
        parts = self.gather(b"".join(np.ascontiguousarray(own[n]).tobytes() for n in differing))
        found = own | {_WORKERS: np.array(len(self.names))}
        for worker, part in enumerate(parts):
            begin = 0
            for name in differing:
                array = np.frombuffer(part, own[name].dtype, own[name].size, begin)
                begin += array.nbytes
                found[_name(worker, name)] = array.reshape(own[name].shape)
        return found

    def own_part(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the state of this worker from what `collected` returned.

        If another number of workers wrote it, sums of metrics go to the chief, and of all else each
        worker gets what the chief had.
        """
        own = {name: array for name, array in arrays.items() if not _IS_PART.match(name)}
        if number_of_workers(arrays) == len(self.names):
            own |= _part(self.number, arrays)
        elif arrays:
            written_by = range(number_of_workers(arrays))
            parts = [own | _part(worker, arrays) for worker in written_by]
            own = dict(parts[0])
            for name in (name for name in own if name.startswith("metrics/")):
                own[name] = sum(part[name] for part in parts) * np.array(
                    self.number == 0, own[name].dtype
                )
        own.pop(_WORKERS, None)
        return own

    def lost(self, error: tf.errors.OpError) -> list[str] | None:
        """Return which workers have ended or cannot be reached, where that is why an error came.

        Returns:
            Their names, empty if that cannot be told; `None` if the error has another reason.
        """
        if not self.are_several:
            return None
        others = [name for name in self.names if name != self.own]
        gone = [name for name in others if not _answers(self.addresses[name])]
        if not gone and not isinstance(error, _LOST):
            return None
        tasks = re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", str(error))
        named = {f"{job} {index}" for job, index in tasks}
        return gone or [name for name in others if name in named]


_IS_PART = re.compile(r"worker (\d+)/")


def number_of_workers(arrays: Mapping[str, np.ndarray]) -> int:
    """Return how many workers wrote a state.

    >>> number_of_workers({"model/0/0": np.zeros(2)})
    1
    """
    return int(arrays.get(_WORKERS, 1))


def _name(worker: int, name: str) -> str:
    return f"worker {worker}/{name}"


def _part(worker: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = _name(worker, "")
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=_DIGEST).digest()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN).close()
    except OSError:
        return False
    return True
