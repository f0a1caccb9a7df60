"""Workers meet before TensorFlow is used: each says that it is there, or why it cannot begin.

TensorFlow waits for the workers in a call that Python cannot interrupt, and knows nothing of a
worker that cannot begin. This module imports no TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from dlr_tf._clusters import Cluster

_logger = logging.getLogger(__name__)

_PAUSE = 0.2  # seconds between two attempts
_ANSWERS_WITHIN = 2.0  # seconds
_TELLS_FOR = 120.0  # seconds in which one that cannot begin tells it to others
_STRANGER = 5.0  # seconds until what answers at the address of the chief is taken for TensorFlow


@dataclasses.dataclass(frozen=True)
class Meeting:
    """What the workers said.

    Args:
        troubles: Why a worker cannot begin, by its name.
        missing: The names of those that did not come.
        said: What the chief says to all, as JSON can hold it. `None` if it has begun already.
        is_over: Whether there is nothing left to do.
    """

    troubles: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    said: Any = None
    is_over: bool = False


def meet(
    cluster: Cluster,
    *,
    wait: float,
    trouble: str | None = None,
    said: Any = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Meeting:
    """Wait until all workers are there. All call it; every worker returns what all said.

    Args:
        cluster: The workers.
        wait: Float, seconds that a worker waits for the others.
        trouble: Why this worker cannot begin. It then waits for less time. Defaults to `None`.
        said: What the chief says to all.
        is_over: Whether there is nothing left to do, so that the chief will not come.

    Raises:
        OSError: If the port of the chief cannot be used.
    """
    if not cluster.others:
        return Meeting({} if trouble is None else {cluster.own: trouble}, said=said)
    if trouble is None:
        # A warning, which is shown on stderr where nobody has set up logging.
        _logger.warning(
            "%s of %d: waiting up to %g s for %s",
            cluster.own,
            len(cluster.workers),
            wait,
            ", ".join(f"{name} at {address}" for name, address in cluster.others.items()),
        )
    else:
        wait = min(wait, _TELLS_FOR)
        _logger.warning(
            "%s cannot begin, and tells the others why for up to %g s: %s",
            cluster.own,
            wait,
            trouble,
        )
    end = time.monotonic() + wait
    if cluster.is_chief:
        return _as_chief(cluster, end, trouble, said)
    return _as_other(cluster, end, wait, trouble, is_over)


def missing_line(cluster: Cluster, meeting: Meeting, wait: float) -> str:
    """Return what to say of the workers that did not come."""
    others = ", ".join(f"{name} at {cluster.workers[name]}" for name in meeting.missing)
    return (
        f"{cluster.own.capitalize()} has waited {wait:g} s for {others}. Start all workers with "
        "the same cluster and each with its own index, and check that their ports can be reached."
    )


def _as_chief(cluster: Cluster, end: float, trouble: str | None, said: Any) -> Meeting:
    troubles = {} if trouble is None else {cluster.own: trouble}
    missing = dict.fromkeys(cluster.others)
    waiting: dict[str, socket.socket] = {}

    def answer(missing: list[str]) -> Meeting:
        meeting = Meeting(dict(troubles), missing, said)
        for connection in waiting.values():
            with contextlib.suppress(OSError), connection:
                connection.settimeout(_ANSWERS_WITHIN)
                connection.sendall(_line(dataclasses.asdict(meeting)))
        waiting.clear()
        return meeting

    with _listening(cluster.workers[cluster.own], end) as server:
        while missing and time.monotonic() < end:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                name, other_trouble = _hello(connection)
                if name not in cluster.others:
                    connection.close()
                    continue
                waiting[name] = connection
                missing.pop(name, None)
                if other_trouble is not None:
                    troubles[name] = other_trouble
                    end = min(end, time.monotonic() + _TELLS_FOR)
            if troubles:
                answer([])
            # Last in the loop: one may have ended before the last one came.
            for name in [name for name, each in waiting.items() if _has_gone(each)]:
                waiting.pop(name).close()
                missing[name] = None
        return answer([*missing] if not troubles else [])


def _hello(connection: socket.socket) -> tuple[str, str | None]:
    """Return the name of a worker and why it cannot begin; of anything else an empty name."""
    connection.settimeout(_ANSWERS_WITHIN)
    try:
        with connection.makefile() as file:
            hello = json.loads(file.readline())
        return str(hello["worker"]), hello["trouble"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", None


def _as_other(
    cluster: Cluster,
    end: float,
    wait: float,
    trouble: str | None,
    is_over: Callable[[], bool],
) -> Meeting:
    host, _, port = cluster.workers[cluster.chief].rpartition(":")
    stranger_until = None
    while not is_over():
        now = time.monotonic()
        if now > end:
            return Meeting({} if trouble is None else {cluster.own: trouble}, [cluster.chief], None)
        try:
            with socket.create_connection(
                (host.strip("[]"), int(port)), _ANSWERS_WITHIN
            ) as connection:
                connection.sendall(_line({"worker": cluster.own, "trouble": trouble}))
                # The chief, which may have come later, waits as long, and says who is missing.
                connection.settimeout(wait + _ANSWERS_WITHIN)
                first = connection.recv(1)
                if first == b"{":
                    text = first + connection.makefile("rb").readline()
                    return Meeting(**json.loads(text))
            stranger_until = stranger_until or now + _STRANGER
            if now > stranger_until:
                return Meeting()  # the chief has begun: TensorFlow lets this one in, or not
        except (OSError, ValueError):
            stranger_until = None
        time.sleep(_PAUSE)
    return Meeting(is_over=True)


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _has_gone(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _listening(address: str, end: float) -> socket.socket:
    """Return a socket that listens on all interfaces, as TensorFlow does."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    while True:
        try:
            server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            # A process that ends now may have it still.
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise OSError(
                    f"The port {port} of this worker cannot be used: {error.strerror or error}."
                ) from error
            time.sleep(_PAUSE)
        else:
            server.settimeout(_PAUSE)
            return server
