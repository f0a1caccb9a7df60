"""The workers of a run meet before TensorFlow is used. If one cannot begin, all end with a line.

This module imports no TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from dlr_tf._clusters import Cluster, is_cluster, read_cluster
from dlr_tf._names import WAIT
from dlr_tf._rendezvous import Meeting, meet, missing_line
from dlr_tf.app.terminal import MISTAKES, CommandError, UsageError, one_line


class LostWorkerError(CommandError):
    """Another worker has ended or cannot be reached. The same command can be tried again."""

    exit_code = 75  # EX_TEMPFAIL


@contextlib.contextmanager
def told_to_workers(is_one_of_several: bool) -> Iterator[None]:
    """Tell the other workers if this one cannot begin because of an error in this block."""
    try:
        yield
    except (UsageError, *MISTAKES) as error:
        if is_one_of_several and is_cluster(os.environ):
            with contextlib.suppress(OSError):
                meet(read_cluster(os.environ), wait=WAIT, trouble=one_line(error))
        raise


def meet_workers(
    cluster: Cluster, *, wait: float, said: Any, is_over: Callable[[], bool]
) -> Meeting:
    """Return what the workers of a run say, when all are there.

    Raises:
        UsageError: If one of them cannot begin.
        LostWorkerError: If one does not come.
    """
    meeting = meet(cluster, wait=wait, said=said, is_over=is_over)
    for name, trouble in meeting.troubles.items():
        raise UsageError(f"{name.capitalize()} cannot begin. It says: {trouble}")
    if meeting.missing:
        raise LostWorkerError(missing_line(cluster, meeting, wait))
    return meeting
