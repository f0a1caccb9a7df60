"""How many kernels does a step launch, and how long does the device wait between them?

TensorFlow's profiler records some updates, and some whole steps of a custom loop, with one Keras
Adam and with three groups. On a GPU a launch is one kernel on one of its streams, and the device is
busy while at least one of them runs; the rest, up to the end of the last kernel, are gaps. On a CPU
the operations of the executor stand for the kernels, and under XLA there are none to count.

    python -m benchmarks.launches [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import collections
import functools
import itertools
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from benchmarks import common, train_step, update_step

UPDATE, STEP = "update", "whole step"
# What the executor of the CPU calls an operation: its name and its kind.
_OPERATION = re.compile(r"[\w./-]+:[A-Z_]\w*")


class Profile(NamedTuple):
    """What the device did in one step; seconds and counts are means over the steps recorded."""

    launches: float
    busy_seconds: float
    gap_seconds: float
    launches_of_kind: dict[str, float]


def profile_of(call: Callable[[], Any], device: str, steps: int) -> Profile:
    """Record some steps with TensorFlow's profiler.

    Args:
        call: One step. It has run before.
        device: `"cpu"` or `"gpu"`.
        steps: How many to record.
    """
    with tempfile.TemporaryDirectory() as folder:
        common.synchronize()
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            call()
        common.synchronize()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        events = _events(path.read_bytes(), device)
    busy, gaps = busy_and_gaps([(start, end) for _, start, end in events])
    counts = collections.Counter(_kind(name) for name, _, _ in events)
    of_kind = {name: count / steps for name, count in counts.most_common()}
    return Profile(len(events) / steps, busy / steps, gaps / steps, of_kind)


def busy_and_gaps(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return how long at least one span lasts, and how long none does between the first and last.

    >>> busy_and_gaps([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    (4.0, 2.0)
    """
    busy = gaps = 0.0
    until: float | None = None
    for start, end in sorted(spans):
        if until is None:
            until = start
        gaps += max(0.0, start - until)
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy, gaps


def _events(record: bytes, device: str) -> list[tuple[str, float, float]]:
    """Return name, start and end in seconds of everything that the device ran."""
    # TensorFlow ships the format of its profiles, but no reader.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(record)
    found = []
    for plane in space.planes:
        if not plane.name.startswith("/device:GPU" if device == "gpu" else "/host:CPU"):
            continue
        names = {number: entry.name for number, entry in plane.event_metadata.items()}
        for line in plane.lines:
            if device == "gpu" and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = names[event.metadata_id]
                if device == "cpu" and not _OPERATION.fullmatch(name):
                    continue
                start = 1e-9 * line.timestamp_ns + 1e-12 * event.offset_ps
                found.append((name, start, start + 1e-12 * event.duration_ps))
    return found


def _kind(name: str) -> str:
    return name.rsplit(":", 1)[-1]


class Case(NamedTuple):
    """One model, and whether XLA compiles the update. Whole steps run without XLA."""

    model: str
    make_model: Callable[[], keras.Model]
    xla: bool
    steps: int

    def __str__(self) -> str:
        return self.model + (", XLA" if self.xla else "")


def measure(case: Case, device: str) -> list[dict[str, Any]]:
    """One row per competitor for the update and, without XLA, for the whole step."""
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    model = case.make_model()
    variables = model.trainable_variables
    gradients = [tf.fill(v.shape, 1e-2) for v in variables]
    makers = update_step.optimizer_makers(model, [train_step.N_GROUPS])
    for competitor, make in makers.items():
        first = update_step.first_call(make, variables, gradients, case.xla)
        calls[UPDATE, competitor.name] = first.step
    if not case.xla:
        for name in (train_step.KERAS_ADAM, train_step.OURS):
            whole = train_step.Case(case.model, case.make_model, "custom", "float32", 0, {1: 1})
            trainer = train_step.make_trainer(whole, name)
            data = iter(train_step.batches(trainer.model, 1))
            calls[STEP, name] = functools.partial(trainer.step, data)
    rows = []
    for (part, name), call in calls.items():
        call()
        rows.append(
            {
                "model": case.model,
                "xla": case.xla,
                "part": part,
                "competitor": name,
                **profile_of(call, device, case.steps)._asdict(),
            }
        )
    return rows


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows."""
    makers: dict[str, Callable[[], keras.Model]] = {"small convnet": common.small_convnet}
    if not quick:
        size = 224 if device == "gpu" else 32
        makers = {
            "ResNet50": functools.partial(common.classifier, "ResNet50", size),
            "ViT-B/16": common.transformer,
        }
    cases = [
        Case(name, make, xla, steps=2 if quick else 10)
        for name, make in makers.items()
        for xla in (False, True)
        if device == "gpu" or not xla
    ]
    return common.rows_of_cases(cases, functools.partial(measure, device=device))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: launches to Keras Adam's, busy seconds, gaps, and what runs most often."""
    lines = []
    for row in rows:
        same = ("model", "xla", "part")
        (keras_adam,) = (
            other["launches"]
            for other in rows
            if all(other[key] == row[key] for key in same)
            and other["competitor"] == train_step.KERAS_ADAM
        )
        most = itertools.islice(row["launches_of_kind"].items(), 3)
        lines.append(
            [
                row["model"],
                row["part"] + (", XLA" if row["xla"] else ""),
                row["competitor"],
                common.number(row["launches"], 0),
                common.number(row["launches"] / keras_adam if keras_adam else None),
                common.number(1e3 * row["busy_seconds"], 1),
                common.number(1e3 * row["gap_seconds"], 1),
                ", ".join(f"{name} {count:.0f}" for name, count in most),
            ]
        )
    columns = [
        "model", "what", "competitor", "launches", "to Keras Adam's", "busy, ms", "gaps, ms",
        "most often",
    ]  # fmt: skip
    return common.markdown_table(columns, lines, n_left=3)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("launches", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
