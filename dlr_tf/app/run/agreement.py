"""Workers begin a run together, or end it with a line that names the worker and what is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import tensorflow as tf

from dlr_tf._names import MAX_NAMES
from dlr_tf.app.meeting import LostWorkerError
from dlr_tf.app.terminal import MISTAKES, CommandError, one_line
from dlr_tf.training.workers import Workers

T = TypeVar("T")


def all_make(
    workers: Workers,
    what: str,
    make: Callable[[], T],
    described: Callable[[T], Mapping[str, Any]] = lambda made: {},
) -> T:
    """Return what this worker makes, after all workers have made theirs. All call it.

    Args:
        workers: The workers.
        what: What is made, for an error.
        make: Makes it.
        described: What has to be the same for all workers, by name, as JSON can hold it.

    Raises:
        ValueError: If another worker cannot make it, or makes another one than the chief.
        Exception: If this worker cannot make it.
    """
    made: Any = None
    failure: Exception | None = None
    said: dict[str, Any]
    try:
        made = make()
        said = {"values": dict(described(made))}
    except MISTAKES as error:
        failure, said = error, {"error": one_line(error)}
    everything = dict(zip(workers.names, workers.gather_values(said), strict=True))
    if failure is not None:
        raise failure
    for name, each in everything.items():
        if "error" in each:
            raise ValueError(f"{name.capitalize()} cannot begin. It says: {each['error']}")
    known = everything[workers.names[0]]["values"]
    for name, each in everything.items():
        values = each["values"]
        differing = [
            f"{key} {values.get(key)!r}, not {known.get(key)!r}"
            for key in {**known, **values}
            if values.get(key) != known.get(key)
        ]
        if differing:
            raise ValueError(
                f"{name.capitalize()} has {what} that {workers.names[0]} does not have: "
                f"{'; '.join(differing[:MAX_NAMES])}. Start all workers with the same arguments, "
                "data and versions, and an output folder that all of them share."
            )
    result: T = made
    return result


class ChiefError(CommandError):
    """The chief has ended with an error of the command, and so all others end."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def by_chief(workers: Workers, do: Callable[[], T]) -> T | None:
    """Let the chief do something that others cannot do or need not do, such as to write a file.

    All call it, and wait for the chief.

    Returns:
        What the chief has made; `None` for the others.

    Raises:
        CommandError: If the chief raises one.
        ChiefError: If the chief has raised one, on all others.
        Exception: Any other error of the chief. The others then lose it.
    """
    made, failure = None, None
    if workers.is_chief:
        try:
            made = do()
        except CommandError as error:
            failure = error
    said = workers.of_chief(failure and [one_line(failure), failure.exit_code])
    if failure is not None:
        raise failure
    if said is not None:
        raise ChiefError(f"{workers.names[0].capitalize()} has ended. It says: {said[0]}", said[1])
    return made


@contextlib.contextmanager
def lost_workers(workers: Workers, how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Turn the error of TensorFlow that follows the end of another worker into one line.

    Raises:
        LostWorkerError: If another worker has ended or cannot be reached.
    """
    try:
        yield
    except tf.errors.OpError as error:
        lost = workers.lost(error)
        if lost is None:
            raise
        who = " and ".join(f"{name} at {workers.addresses[name]}" for name in lost)
        raise LostWorkerError(
            f"{who or 'another worker'} has ended or cannot be reached. {how_to_go_on()}"
        ) from error
