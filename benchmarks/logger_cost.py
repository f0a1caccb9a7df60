"""Does it cost anything to record the rates of every step?

Small networks, trained by `model.fit` with and without a `LearningRateLogger`, in turn. Training
without a callback is also timed against itself: the distance of that ratio from 1 is noise. Without
XLA.

    python -m benchmarks.logger_cost [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks import common, schedule_cost
from dlr_tf import LearningRateLogger

BATCH_SIZE = 32
MODELS: dict[str, Callable[[], keras.Model]] = {
    "3 dense layers": schedule_cost.network,
    "2 convolutions, 32 x 32 pixels": functools.partial(common.small_convnet, 32),
}

WITHOUT = "none"
AGAIN = "none, again"
EMPTY = "a callback that does nothing"
LOGGER = "LearningRateLogger"


class EmptyCallback(keras.callbacks.Callback):
    """What Keras itself does for a callback that asks for the logs of each batch."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        pass


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """One row per model and callback."""
    n_steps, rounds = (20, 3) if quick else (300, 31)
    rows = []
    for name, make_model in MODELS.items():
        model = make_model()
        optimizer = schedule_cost.multi_group(schedule_cost.IN_STEP, model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)
        generator = tf.random.Generator.from_seed(0)
        x = generator.normal((BATCH_SIZE, *model.input_shape[1:]))
        y = generator.uniform((BATCH_SIZE,), maxval=10, dtype=tf.int64)
        data = tf.data.Dataset.from_tensors((x, y)).repeat()
        fit = functools.partial(model.fit, data, steps_per_epoch=n_steps, shuffle=False, verbose=0)
        competitors = {
            WITHOUT: fit,
            AGAIN: fit,
            EMPTY: lambda fit=fit: fit(callbacks=[EmptyCallback()]),
            LOGGER: lambda fit=fit: fit(callbacks=[LearningRateLogger()]),
        }
        times = common.time_in_turn(competitors, rounds, warm_up=1)
        rows += [
            {
                "model": name,
                "callback": callback,
                "steps_per_second": n_steps / statistics.median(seconds),
                "time_to_none": common.ratio_of(seconds, times[WITHOUT]),
            }
            for callback, seconds in times.items()
        ]
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the ratios are of times, with their quartiles."""
    lines = [
        [
            row["model"],
            row["callback"],
            common.number(row["steps_per_second"], 0),
            common.number_with_quartiles(row["time_to_none"]),
        ]
        for row in rows
    ]
    columns = ["model", "callback", "steps/s", "time to none"]
    return common.markdown_table(columns, lines, n_left=2)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("logger_cost", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
