"""What the benchmarks share: device, timing, models, and results as JSON and as tables."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

import dlr_tf

DEVICES = ("cpu", "gpu")
Name = TypeVar("Name", bound=Hashable)
Case = TypeVar("Case")


def make_parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; `output` is the help of `--output`."""
    parser = argparse.ArgumentParser(
        description=(description or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device", choices=DEVICES, help="where to run; by default the GPU if there is one"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small models and few repetitions: does it run at all?"
    )
    parser.add_argument("--output", type=Path, help=output)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and make TensorFlow use the device that it names."""
    arguments = parser.parse_args(argv)
    gpus = tf.config.list_physical_devices("GPU")
    if arguments.device is None:
        arguments.device = "gpu" if gpus else "cpu"
    if arguments.device == "gpu" and not gpus:
        parser.error("TensorFlow sees no GPU; run with --device cpu")
    if arguments.device == "cpu" and gpus:
        tf.config.set_visible_devices([], "GPU")
    return arguments


def main(
    benchmark: str,
    description: str | None,
    run: Callable[[str, bool], list[dict[str, Any]]],
    table: Callable[[Sequence[Mapping[str, Any]]], str],
    argv: Sequence[str] | None,
) -> int:
    """Run a benchmark as a command: print its table, and write its rows with `--output`.

    Args:
        benchmark: Its name.
        description: The module's docstring.
        run: Takes the device and whether the run is quick, and returns the rows.
        table: Turns the rows into Markdown.
        argv: Command line; `None` for the process's own.
    """
    arguments = parse(make_parser(description, "JSON file for the rows"), argv)
    rows = run(arguments.device, arguments.quick)
    print(table(rows))
    if arguments.output is not None:
        write_report(arguments.output, benchmark, arguments, rows)
    return 0


def device_name(device: str) -> str:
    """Return the name of the device, such as `"AMD EPYC, 2 cores"`."""
    if device == "gpu":
        gpu = tf.config.list_physical_devices("GPU")[0]
        return str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {_n_cores()} cores"


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rows_of_cases(
    cases: Sequence[Case], measure: Callable[[Case], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Measure one case after the other, say on stderr which one, and free its memory."""
    rows = []
    for number, case in enumerate(cases, 1):
        print(f"{number} of {len(cases)}: {case}", file=sys.stderr, flush=True)
        rows += measure(case)
        keras.backend.clear_session()
        gc.collect()
    return rows


def synchronize() -> None:
    """Wait until every device has finished its work."""
    tf.test.experimental.sync_devices()


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds of one call, with its work on the device."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def time_in_turn(
    competitors: Mapping[Name, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[Name, list[float]]:
    """Time the competitors in turn, in many rounds.

    So a slow period of the machine affects all of them. Entry `i` of all lists is one round, and
    entries of one round are compared. The order is another one in every round: what runs after
    itself, or after one that shares its variables, finds them in the cache.

    Args:
        competitors: What to call, by name.
        rounds: How often each is timed.
        warm_up: How often each is called before.

    Returns:
        Seconds by name, one entry per round.
    """
    names = list(competitors)
    for name in names * warm_up:
        competitors[name]()
    times: dict[Name, list[float]] = {name: [] for name in names}
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(names)
            for name in names:
                times[name].append(seconds_of(competitors[name]))
    finally:
        gc.enable()
    return times


class Ratio(NamedTuple):
    """Median of the ratios round by round, and the quartiles around it."""

    median: float
    low: float
    high: float


def ratio_of(times: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Compare two lists from `time_in_turn` round by round.

    >>> ratio_of([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    Ratio(median=2.0, low=2.0, high=2.5)
    """
    ratios = [mine / other for mine, other in zip(times, reference)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def peak_bytes_of(call: Callable[[], Any], device: str) -> int | None:
    """Return the peak memory of a call in bytes, beyond what was in use before it.

    On a GPU, TensorFlow's allocator gives it. On Linux, it is the peak of the process, which is not
    precise. `None` where neither is known.
    """
    synchronize()
    if device == "gpu":
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        call()
        synchronize()
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"] - before)
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise the call reuses freed memory
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status_bytes("VmRSS")
        call()
        synchronize()
        return max(0, _status_bytes("VmHWM") - before)
    except OSError:
        return None


def _status_bytes(entry: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no entry {entry}")


def transformer() -> keras.Model:
    """Return the layers of ViT-B/16, with 86 M weights, without class token and positions."""
    layers = keras.layers
    inputs = keras.Input((224, 224, 3))
    x = layers.Conv2D(768, 16, strides=16, name="patches")(inputs)
    x = layers.Reshape((-1, 768))(x)
    for block in range(12):
        y = layers.LayerNormalization(name=f"norm_{block}_a")(x)
        y = layers.MultiHeadAttention(12, 64, name=f"attention_{block}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(name=f"norm_{block}_b")(x)
        y = layers.Dense(3072, activation="gelu", name=f"dense_{block}_a")(y)
        y = layers.Dense(768, name=f"dense_{block}_b")(y)
        x = layers.Add()([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(1000, name="head")(x), name="transformer")


def small_convnet(size: int = 16) -> keras.Model:
    """Return two convolutions and a head, to test that a benchmark runs."""
    inputs = x = keras.Input((size, size, 3))
    for block in range(2):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name=f"conv_{block}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{block}")(x)
        x = keras.layers.ReLU(name=f"relu_{block}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    head = keras.layers.Dense(10, name="head", dtype="float32")(x)
    return keras.Model(inputs, head, name="small_convnet")


def classifier(name: str, size: int, n_classes: int = 10) -> keras.Model:
    """Return a network of `keras.applications` with random weights and a new head."""
    backbone = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    # In float32 also under mixed_float16, as Keras advises for logits.
    head = keras.layers.Dense(n_classes, name="head", dtype="float32")(backbone.output)
    return keras.Model(backbone.input, head, name=name)


def write_report(
    path: Path, benchmark: str, arguments: argparse.Namespace, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write a benchmark's rows, with date, device and versions."""
    report = {
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "device": device_name(arguments.device),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "dlr_tf": dlr_tf.__version__,
        },
        "quick": arguments.quick,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """Return a Markdown table, padded so that it can be read in a terminal too.

    Args:
        columns: Headings.
        rows: Cells.
        n_left: How many columns are aligned to the left; the others are numbers.

    >>> print(markdown_table(["who", "ms"], [["a loop", "12.5"], ["b", "3.0"]]))
    | who    |   ms |
    | :----- | ---: |
    | a loop | 12.5 |
    | b      |  3.0 |
    """
    widths = [max(4, *(len(line[i]) for line in [columns, *rows])) for i in range(len(columns))]
    rules = [
        ":" + "-" * (width - 1) if i < n_left else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    lines = []
    for line in [columns, rules, *rows]:
        cells = [
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def number_with_quartiles(ratio: Sequence[float]) -> str:
    """Return a `Ratio`, or the list that a report has for it, as text for a table.

    >>> number_with_quartiles(Ratio(0.5, 0.45, 0.6))
    '0.50 (0.45 to 0.60)'
    """
    median, low, high = ratio
    return f"{median:.2f} ({low:.2f} to {high:.2f})"
