"""What do several processes send each other in a step, and how long does a step wait for that?

1, 2 and 4 processes on this machine train dense layers under `MultiWorkerMirroredStrategy`. What
they send is what the loopback device of a network of their own counts (Linux, as root), and is
compared with what any all-reduce has to send: `2 (n - 1) / n` of the gradients per process. The
time of a step is compared with that of the same step in the same processes at the same time, each
for itself. Once all groups are trained, and once only the head: frozen groups should send nothing.

From the bytes follows the time that a step takes at least on a network, for three networks.

    python -m benchmarks.workers [--device cpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import common
from dlr_tf import MultiGroupOptimizer, distributed_fit, freeze_to, make_strategy, split_layers

BATCH = 32  # per process
RANGES = {"all groups": 0, "the head": -1}
# Trainable weights, with a head for 1000 classes.
NETWORKS = {"MobileNetV2": 3_504_872, "ResNet50": 25_583_592, "ViT-B/16": 86_567_656}
MANY = (8, 64, 512)
GBITS = (10, 100)


def sent_by_all_reduce(gradient_bytes: float, workers: int) -> float:
    """Return the bytes that each of some workers has to send.

    Source: Patarasuk and Yuan, 2009, https://doi.org/10.1016/j.jpdc.2008.09.002.

    >>> sent_by_all_reduce(4e6, 1), sent_by_all_reduce(4e6, 2), sent_by_all_reduce(4e6, 4)
    (0.0, 4000000.0, 6000000.0)
    """
    return 2 * (workers - 1) / workers * gradient_bytes


def network(width: int) -> keras.Model:
    layers = [keras.layers.Dense(width, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input((width,)), *layers, keras.layers.Dense(10, name="head")])


def sent_bytes() -> int:
    """Return what the loopback device has sent, of all processes together."""
    (line,) = (
        line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line.split()
    )
    return int(line.split()[9])


def work(width: int, steps: int, output: Path | None) -> None:
    """Train as one of the processes; the first one writes what it has measured."""
    workers = len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"])
    several = make_strategy("multi-worker")
    generator = np.random.default_rng(0)
    rows = []
    for strategy in (several, None):
        batch = BATCH * workers if strategy is several else BATCH
        x = generator.normal(size=(batch, width)).astype("float32")
        data = tf.data.Dataset.from_tensors((x, np.arange(batch) % 10)).repeat()
        with (strategy or tf.distribute.get_strategy()).scope():
            model = network(width)
            groups = split_layers(model, ["head"])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(MultiGroupOptimizer(groups, 1e-3), loss, jit_compile=False)
        for trained, first in RANGES.items():
            freeze_to(model, groups, first)

            def fit(count: int, model: keras.Model = model, data: Any = data) -> tuple[float, int]:
                begun, before = time.perf_counter(), sent_bytes()
                model.fit(data, steps_per_epoch=count, verbose=0)
                return time.perf_counter() - begun, sent_bytes() - before

            with distributed_fit(model, data.element_spec):
                fit(2)  # traces the step
                # The difference of two lengths leaves out what is done once per epoch.
                pairs = [(fit(steps), fit(4 * steps)) for _ in range(3)]
            gradients = sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables)
            rows.append(
                {
                    "workers": workers,
                    "trained": trained,
                    "together": strategy is several,
                    "gradient_bytes": gradients,
                    "seconds": statistics.median(
                        (long[0] - short[0]) / (3 * steps) for short, long in pairs
                    ),
                    "sent": statistics.median(
                        (long[1] - short[1]) / (3 * steps) / workers for short, long in pairs
                    ),
                }
            )
    if output is not None:
        output.write_text(json.dumps(rows))


def measure(workers: int, width: int, steps: int) -> list[dict[str, Any]]:
    """Start processes in a network of their own, and return a row per kind of training."""
    addresses = [f"127.0.0.1:{2222 + number}" for number in range(workers)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "rows.json")
        commands = ["ip link set lo up"]
        for number in range(workers):
            task = {"type": "worker", "index": number}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            command = [sys.executable, "-m", "benchmarks.workers", "--work", str(width), str(steps)]
            command += ["--output", str(output)] if number == 0 else []
            commands.append(f"TF_CONFIG={shlex.quote(config)} {shlex.join(command)} &")
        script = "\n".join([*commands, "wait"])
        subprocess.run(
            ["unshare", "--net", "sh", "-c", script],
            check=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        found = json.loads(output.read_text())
    together = {row["trained"]: row for row in found if row["together"]}
    alone = {row["trained"]: row for row in found if not row["together"]}
    return [
        {
            "workers": workers,
            "trained": trained,
            "gradient_bytes": row["gradient_bytes"],
            "limit_bytes": sent_by_all_reduce(row["gradient_bytes"], workers),
            "sent_bytes": row["sent"],
            "seconds": row["seconds"],
            "seconds_alone": alone[trained]["seconds"],
        }
        for trained, row in together.items()
    ]


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """One row per number of processes and kind of training."""
    counts, width, steps = ((1, 2), 64, 3) if quick else ((1, 2, 4), 1024, 4)
    return common.rows_of_cases(counts, lambda workers: measure(workers, width, steps))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two Markdown tables: what was measured, and what follows for large networks."""
    lines = [
        [
            str(row["workers"]),
            row["trained"],
            common.number(row["gradient_bytes"] / 1e6),
            common.number(row["limit_bytes"] / 1e6),
            common.number(row["sent_bytes"] / 1e6),
            common.number(row["sent_bytes"] / row["limit_bytes"] if row["limit_bytes"] else None),
            common.number(1e3 * row["seconds"], 1),
            common.number(1e3 * row["seconds_alone"], 1),
            common.number(100 * (1 - row["seconds_alone"] / row["seconds"]), 0),
        ]
        for row in rows
    ]
    columns = ["processes", "trained", "gradients, MB", "limit, MB", "sent, MB", "sent to limit"]
    columns += ["ms per step", "ms alone", "not computing, %"]
    measured = common.markdown_table(columns, lines, n_left=2)
    ratios = [row["sent_bytes"] / row["limit_bytes"] for row in rows if row["limit_bytes"]]
    factor = min(ratios, default=1.0)
    paper = [
        [
            name,
            common.number(4 * weights / 1e6, 0),
            *(
                common.number(1e3 * factor * seconds_on_network(weights, workers, gbit), 0)
                for gbit in GBITS
                for workers in MANY
            ),
        ]
        for name, weights in NETWORKS.items()
    ]
    headings = [f"{workers} at {gbit} Gbit/s" for gbit in GBITS for workers in MANY]
    on_paper = common.markdown_table(["network", "gradients, MB", *headings], paper)
    return (
        f"{measured}\n\nMilliseconds per step that the gradients take on a network, on paper, if "
        f"workers send {factor:.2f} of the limit, as above for the longest gradients, and nothing "
        f"is computed meanwhile:\n\n{on_paper}"
    )


def seconds_on_network(weights: int, workers: int, gbit: float) -> float:
    """Return the time that an all-reduce of float32 gradients takes at least.

    >>> round(seconds_on_network(25_000_000, 2, 10), 3)
    0.08
    """
    return 8 * sent_by_all_reduce(4 * weights, workers) / (gbit * 1e9)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--work" in arguments:  # one of the processes
        parser = argparse.ArgumentParser()
        parser.add_argument("--work", type=int, nargs=2)
        parser.add_argument("--output", type=Path)
        options = parser.parse_args(arguments)
        work(*options.work, options.output)
        return 0
    return common.main("workers", __doc__, run, table, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
