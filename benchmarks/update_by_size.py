"""From which size on is TensorFlow's Adam kernel faster than elementwise operations?

One, 8, 64 and 200 variables of 10 to 10^7 elements each; cases of more than 10^8 elements are left
out. Every competitor updates the same variables with the same gradients, in one `tf.function`, with
and without XLA, on an idle machine and beside a process that keeps one core busy. A second Keras
Adam with its own state is timed too: the distance of its ratio from 1 is noise. `FusedAdam` chooses
between the two ways by these ratios.

    python -m benchmarks.update_by_size [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from benchmarks import common
from benchmarks.update_step import BETA_1, BETA_2, EPSILON, KernelLoop
from dlr_tf import FusedAdam, MultiGroupOptimizer, split_layers, split_layerwise

KERAS_ADAM = "Keras Adam"
KERAS_ADAM_AGAIN = "Keras Adam again"
KERNEL = "kernel"
OPERATIONS = "operations"
FUSED = "FusedAdam"
GROUPS = "MultiGroupOptimizer, 3 groups"
RATE = 1e-3
MOST_ELEMENTS = 10**8


class OperationsLoop(KernelLoop):
    """Adam as a loop over elementwise operations. Shared values are computed once."""

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        step = tf.cast(self._step + 1, tf.float32)
        step_size = self._rate * tf.sqrt(1 - tf.pow(BETA_2, step)) / (1 - tf.pow(BETA_1, step))
        for gradient, variable, (m, v) in zip(gradients, variables, self._slots):
            m.assign_add((gradient - m) * (1 - BETA_1))
            v.assign_add((tf.square(gradient) - v) * (1 - BETA_2))
            variable.value.assign_sub(step_size * m / (tf.sqrt(v) + EPSILON))
        self._step.assign_add(1)


class Weights(keras.layers.Layer):
    """A layer with one variable."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights_alone = self.add_weight(shape=(size,))

    def call(self, inputs: Any) -> Any:
        return inputs


def make_model(count: int, size: int) -> keras.Model:
    """Return a model with this many variables of this many elements."""
    return keras.Sequential([keras.Input((1,)), *(Weights(size) for _ in range(count))])


def makers(model: keras.Model) -> dict[str, Callable[[], Any]]:
    """Return functions that make each competitor's optimizer."""
    found: dict[str, Callable[[], Any]] = {
        KERAS_ADAM: lambda: keras.optimizers.Adam(RATE),
        KERAS_ADAM_AGAIN: lambda: keras.optimizers.Adam(RATE),
        KERNEL: lambda: KernelLoop(RATE),
        OPERATIONS: lambda: OperationsLoop(RATE),
        FUSED: lambda: FusedAdam(RATE),
    }
    layers = split_layerwise(model)
    if len(layers) >= 3:
        cuts = [layers[len(layers) * part // 3].layers[0] for part in (1, 2)]
        groups = split_layers(model, cuts)
        found[GROUPS] = lambda: MultiGroupOptimizer(groups, [1e-5, 1e-4, RATE])
    return found


@contextlib.contextmanager
def one_core_busy(busy: bool) -> Iterator[None]:
    """Keep one core busy with another process, if asked for."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Case(NamedTuple):
    """Variables of one size: how many, of how many elements, and whether XLA compiles the step."""

    count: int
    size: int
    xla: bool


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """One row per competitor, on the idle machine and on the busy one."""
    count, size, xla = case
    model = make_model(count, size)
    variables, make = model.trainable_variables, makers(model)
    generator = tf.random.Generator.from_seed(0)
    gradients = [generator.normal(v.shape, stddev=1e-2) for v in variables]
    # Several steps in one timed call: a call shorter than a millisecond is timed badly.
    repeat = max(1, min(50, 10**5 // (count * 100 + count * size // 10)))

    sizes: dict[str, dict[str, int]] = {}

    def repeated(name: str, optimizer: Any) -> Callable[[], None]:
        optimizer.build(variables)

        @tf.function(jit_compile=xla)
        def step() -> None:
            optimizer.apply(gradients, variables)

        graph = step.get_concrete_function().graph
        # The gradients are captured too.
        used = sum(captured.dtype == tf.resource for captured, _ in graph.captures)
        sizes[name] = {"operations": len(graph.get_operations()), "variables": used}

        def steps() -> None:
            for _ in range(repeat):
                step()

        return steps

    steps = {name: repeated(name, make_one()) for name, make_one in make.items()}
    rows = []
    for busy in (False, True):
        with one_core_busy(busy):
            times = common.time_in_turn(steps, rounds)
        for name, seconds in times.items():
            rows.append(
                {
                    **case._asdict(),
                    "busy": busy,
                    "competitor": name,
                    **sizes[name],
                    "seconds": statistics.median(seconds) / repeat,
                    "to_keras_adam": common.ratio_of(seconds, times[KERAS_ADAM]),
                }
            )
    return rows


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows."""
    counts, sizes, rounds = ((1, 8, 64, 200), [10**power for power in range(1, 8)], 30)
    if quick:
        counts, sizes, rounds = (1, 8), [100], 2
    cases = [
        Case(count, size, xla)
        for xla, count, size in itertools.product((False, True), counts, sizes)
        if count * size <= MOST_ELEMENTS
    ]
    return common.rows_of_cases(cases, functools.partial(measure, rounds=rounds))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with and without XLA: times to Keras Adam's, idle and busy."""
    names = (KERAS_ADAM_AGAIN, KERNEL, OPERATIONS, FUSED, GROUPS)
    parts = []
    for xla in dict.fromkeys(row["xla"] for row in rows):
        of_kind = [row for row in rows if row["xla"] == xla]
        lines = []
        for count, size in dict.fromkeys((row["count"], row["size"]) for row in of_kind):
            chosen = [row for row in of_kind if (row["count"], row["size"]) == (count, size)]
            ratios = {(row["competitor"], row["busy"]): row["to_keras_adam"][0] for row in chosen}
            keras_row = next(row for row in chosen if row["competitor"] == KERAS_ADAM)
            cells = [
                "-"
                if (name, False) not in ratios
                else f"{ratios[name, False]:.2f} / {ratios[name, True]:.2f}"
                for name in names
            ]
            lines.append(
                [str(count), f"{size:,}", common.number(1e6 * keras_row["seconds"], 0), *cells]
            )
        columns = ["variables", "elements each", "Keras Adam, us", *names]
        parts.append(f"{'With' if xla else 'Without'} XLA, idle / beside a busy process:")
        parts.append(common.markdown_table(columns, lines, n_left=0))
    return "\n\n".join(
        [
            *parts,
            "Operations in a step / variables that it reads or writes:",
            _table_of_graphs(rows),
        ]
    )


def _table_of_graphs(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many operations a step has, and how many variables it reads or writes."""
    names = (KERAS_ADAM, KERNEL, OPERATIONS, FUSED, GROUPS)
    sizes: dict[tuple[str, ...], list[str]] = {}
    for count, size in dict.fromkeys((row["count"], row["size"]) for row in rows):
        graphs = {
            row["competitor"]: f"{row['operations']:,} / {row['variables']:,}"
            for row in rows
            if (row["count"], row["size"]) == (count, size) and not (row["xla"] or row["busy"])
        }
        cells = (str(count), *(graphs.get(name, "-") for name in names))
        sizes.setdefault(cells, []).append(f"{size:,}")
    lines = [[cells[0], "; ".join(of_size), *cells[1:]] for cells, of_size in sizes.items()]
    return common.markdown_table(["variables", "elements each", *names], lines, n_left=2)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("update_by_size", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
