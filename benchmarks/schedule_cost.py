"""Does it cost anything to change the learning rate at every step?

A small network, trained by `model.fit`, where the step itself is cheap and any overhead shows. The
rate is constant; or follows cosine restarts inside the compiled step (`SGDR`, and Keras'
`CosineDecayRestarts`); or is set by a callback before every batch, which is how it is often done
by hand. All are timed in turn. The constant rate is also timed against itself: the distance of that
ratio from 1 is noise. Without XLA.

    python -m benchmarks.schedule_cost [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks import common
from dlr_tf import MultiGroupOptimizer, split_evenly
from dlr_tf.core.schedules import SGDR

RATE = 1e-3
FIRST_DECAY_STEPS = 50
BATCH_SIZE = 32
N_GROUPS = 3

KERAS_ADAM = "Keras Adam"
CONSTANT = "constant"
AGAIN = "constant, again"
IN_STEP = "in the step"
CALLBACK = "callback"


class RestartsByHand(keras.callbacks.Callback):
    """Cosine restarts in plain Python, set before every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._step = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        cycle = int(math.log2(self._step / FIRST_DECAY_STEPS + 1))
        length = FIRST_DECAY_STEPS * 2**cycle
        position = (self._step - FIRST_DECAY_STEPS * (2**cycle - 1)) / length
        # Never 0: no factor turns 0 into another rate.
        rate = RATE * max(1e-6, (1 + math.cos(math.pi * position)) / 2)
        self.model.optimizer.learning_rate = rate
        self._step += 1


def network() -> keras.Model:
    """Three dense layers, 9 thousand parameters."""
    layers = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])


def keras_adam(way: str, model: keras.Model) -> Any:
    restarts = keras.optimizers.schedules.CosineDecayRestarts(RATE, FIRST_DECAY_STEPS)
    return keras.optimizers.Adam(restarts if way == IN_STEP else RATE)


def multi_group(way: str, model: keras.Model) -> Any:
    groups = split_evenly(model, N_GROUPS)
    rates = [RATE / 100, RATE / 10, RATE]
    schedules = [SGDR(rate, FIRST_DECAY_STEPS) for rate in rates]
    return MultiGroupOptimizer(groups, schedules if way == IN_STEP else rates)


OPTIMIZERS: dict[str, Callable[[str, keras.Model], Any]] = {
    KERAS_ADAM: keras_adam,
    f"MultiGroupOptimizer, {N_GROUPS} groups": multi_group,
}


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """One row per optimizer and way to set the rate."""
    n_steps, rounds = (20, 3) if quick else (300, 31)
    generator = tf.random.Generator.from_seed(0)
    x = generator.normal((BATCH_SIZE, 64))
    y = generator.uniform((BATCH_SIZE,), maxval=10, dtype=tf.int64)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    competitors: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, make_optimizer in OPTIMIZERS.items():
        for way in (CONSTANT, AGAIN, IN_STEP, CALLBACK):
            model = network()
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(make_optimizer(way, model), loss, jit_compile=False)
            competitors[name, way] = functools.partial(
                model.fit,
                data,
                steps_per_epoch=n_steps,
                shuffle=False,
                callbacks=[RestartsByHand()] if way == CALLBACK else [],
                verbose=0,
            )
    times = common.time_in_turn(competitors, rounds, warm_up=1)
    return [
        {
            "optimizer": name,
            "rate": way,
            "steps_per_second": n_steps / statistics.median(seconds),
            "time_to_constant": common.ratio_of(seconds, times[name, CONSTANT]),
            "time_to_callback": common.ratio_of(seconds, times[name, CALLBACK]),
        }
        for (name, way), seconds in times.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the ratios are of times, with their quartiles."""
    lines = [
        [
            row["optimizer"],
            row["rate"],
            common.number(row["steps_per_second"], 0),
            common.number_with_quartiles(row["time_to_constant"]),
            common.number_with_quartiles(row["time_to_callback"]),
        ]
        for row in rows
    ]
    columns = ["optimizer", "rate", "steps/s", "time to constant", "time to callback"]
    return common.markdown_table(columns, lines, n_left=2)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("schedule_cost", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
