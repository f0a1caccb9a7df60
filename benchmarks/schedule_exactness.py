"""Do the cosine restarts of `SGDR` and of Keras' `CosineDecayRestarts` come at the right step?

Each schedule is called as an optimizer calls it, one scalar step at a time inside a `tf.function`,
at every restart up to step 2**40 and at the steps before and after it. A restart is *missed* if its
rate is wrong by more than 0.1 % of the peak. It is *blurred* if the rate one step before or after
is wrong. Each schedule is compared with its own definition of a cycle, in exact arithmetic:
lengths rounded to integers for `SGDR`, not rounded for Keras.

    python -m benchmarks.schedule_exactness [--quick] [--device CPU:0] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import bisect
import datetime
import json
import math
import os
import platform
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core.schedules import SGDR

FIRST_DECAY_STEPS: tuple[int, ...] = (1, 7, 10, 100, 390, 1000)
T_MUL: tuple[float, ...] = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 10.0)
QUICK_FIRST_DECAY_STEPS: tuple[int, ...] = (1, 10, 100)
QUICK_T_MUL: tuple[float, ...] = (1.0, 1.5, 2.0, 10.0)
HORIZONS = {"2 M": 2_000_000, "2**40": 2**40}
LAST = 2**40
TOLERANCE = 1e-3


class Cycles:
    """Starts and lengths of all cycles up to 2**40, exactly."""

    def __init__(self, first: int, t_mul: float, *, rounded: bool) -> None:
        self.first, self.constant = first, t_mul == 1
        self.starts: list[Fraction] = []
        self.lengths: list[Fraction] = []
        if self.constant:
            last = LAST // first
            near_powers = {2**k + d for k in range(41) for d in (-1, 0, 1)}
            sample = {*range(50), *range(last - 50, last + 1), *near_powers}
            self.starts = [Fraction(i * first) for i in sorted(sample) if i <= last]
            return
        start = length = Fraction(0)
        while (start := start + length) <= LAST:
            cycle = len(self.starts)
            length = Fraction(first) * Fraction(t_mul) ** cycle
            if rounded:
                length = Fraction(round(first * t_mul**cycle))
            self.starts.append(start)
            self.lengths.append(length)

    def restarts(self) -> list[int]:
        """The first whole step of every cycle; for `t_mul=1` of a sample of them."""
        return [math.ceil(start) for start in self.starts]

    def rate(self, step: int) -> float:
        """The rate at a step for a peak of 1."""
        if self.constant:
            fraction = Fraction(step % self.first, self.first)
        else:
            cycle = bisect.bisect_right(self.starts, step) - 1
            fraction = (step - self.starts[cycle]) / self.lengths[cycle]
        return 0.5 * (1.0 + math.cos(math.pi * float(fraction)))


def check(schedule: Callable[[Any], Any], cycles: Cycles, device: str) -> dict[str, dict[str, int]]:
    """Counts of restarts checked, missed and blurred, up to each horizon."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64)])
    def run(step: tf.Tensor) -> tf.Tensor:
        with tf.device(device):
            return schedule(step)

    call = run.get_concrete_function()

    def wrong(step: int) -> bool:
        return not abs(float(call(tf.constant(step, tf.int64))) - cycles.rate(step)) <= TOLERANCE

    counts = {name: {"restarts": 0, "missed": 0, "blurred": 0} for name in HORIZONS}
    for restart in cycles.restarts():
        missed = wrong(restart)
        blurred = wrong(restart + 1) or (restart > 0 and wrong(restart - 1))
        for name, horizon in HORIZONS.items():
            if restart <= horizon:
                counts[name]["restarts"] += 1
                counts[name]["missed"] += missed
                counts[name]["blurred"] += blurred
    return counts


def measure(first_decay_steps: tuple[int, ...], t_mul: tuple[float, ...], device: str) -> list[Any]:
    keras_restarts = keras.optimizers.schedules.CosineDecayRestarts
    rows = []
    for factor in t_mul:
        for first in first_decay_steps:
            ours = check(SGDR(1.0, first, factor), Cycles(first, factor, rounded=True), device)
            theirs = check(
                keras_restarts(1.0, first, factor), Cycles(first, factor, rounded=False), device
            )
            row = {"first_decay_steps": first, "t_mul": factor}
            rows.append(row | {"SGDR": ours, "CosineDecayRestarts": theirs})
    return rows


def table(rows: list[Any]) -> str:
    """Markdown, summed over the first lengths, with a last line for all."""
    names = ("SGDR", "CosineDecayRestarts")
    lines = [
        "| t_mul | up to step | SGDR missed | SGDR blurred | Keras missed | Keras blurred |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    factors = sorted({row["t_mul"] for row in rows})
    for label, factor in [*((f"{factor:g}", factor) for factor in factors), ("all", None)]:
        chosen = [row for row in rows if factor in (None, row["t_mul"])]
        for horizon in HORIZONS:
            cells = []
            for name in names:
                total = sum(row[name][horizon]["restarts"] for row in chosen)
                for kind in ("missed", "blurred"):
                    count = sum(row[name][horizon][kind] for row in chosen)
                    cells.append(f"{count} of {total}")
            lines.append(f"| {label} | {horizon} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a part of the grid")
    parser.add_argument("--device", default="CPU:0", help="TensorFlow device of the schedule")
    parser.add_argument("--output", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args(argv)

    grid = (QUICK_FIRST_DECAY_STEPS, QUICK_T_MUL) if arguments.quick else (FIRST_DECAY_STEPS, T_MUL)
    rows = measure(*grid, arguments.device)
    print(table(rows))

    if arguments.output is not None:
        report = {
            "benchmark": "schedule_exactness",
            "date": datetime.date.today().isoformat(),
            "device": f"{arguments.device}, {platform.machine()}, {os.cpu_count()} cores",
            "versions": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
            },
            "quick": arguments.quick,
            "tolerance": TOLERANCE,
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
