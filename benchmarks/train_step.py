"""What does a whole training step cost with three groups, against the same model with one Adam?

Forward pass, gradients and update: in the step that `model.fit` compiles, and in a custom loop
(`tf.function` around a `GradientTape`). `MultiGroupOptimizer` has three groups; plain Keras Adam
trains a second copy of the model. With two of the three groups frozen, both copies have the same
layers frozen. Keras Adam is also timed against itself: the distance of that ratio from 1 is noise.
Without XLA. Images have 224 by 224 pixels on a GPU. On a CPU they have 64 by 64 for MobileNetV2 and
32 by 32 for ResNet50, and half precision, which is slow there, runs at batch 1 only.

    python -m benchmarks.train_step [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import functools
import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from benchmarks import common
from dlr_tf import MultiGroupOptimizer, freeze_to, split_evenly

OURS = "MultiGroupOptimizer"
KERAS_ADAM = "Keras Adam"
KERAS_ADAM_AGAIN = "Keras Adam again"
RATES = slice(1e-5, 1e-4)
N_GROUPS = 3


class Case(NamedTuple):
    """One model compiled in one way.

    Args:
        model: Its name.
        make_model: Builds it.
        loop: `"fit"` or `"custom"`.
        policy: Keras' dtype policy.
        n_frozen: How many of the three groups are frozen.
        rounds_by_batch_size: How often each competitor is timed, by number of images in a step.
    """

    model: str
    make_model: Callable[[], keras.Model]
    loop: str
    policy: str
    n_frozen: int
    rounds_by_batch_size: Mapping[int, int]


class Trainer(NamedTuple):
    """A model and its training step on the next batch of an iterator."""

    model: keras.Model
    step: Callable[[Iterator[Any]], Any]
    first_seconds: float


def batches(model: keras.Model, batch_size: int) -> tf.data.Dataset:
    """Repeat one random batch without end; its size is not known when the step is traced."""
    generator = tf.random.Generator.from_seed(0)
    images = generator.uniform((batch_size, *model.input_shape[1:]))
    labels = generator.uniform((batch_size,), maxval=model.output_shape[-1], dtype=tf.int64)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size).cache().repeat()


def make_trainer(case: Case, competitor: str) -> Trainer:
    """A model of its own for each competitor, after its first step."""
    keras.config.set_dtype_policy(case.policy)
    try:
        model = case.make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    groups = split_evenly(model, N_GROUPS)
    freeze_to(model, groups, case.n_frozen)
    if competitor == OURS:
        optimizer: Any = MultiGroupOptimizer(groups, RATES)
    else:
        optimizer = keras.optimizers.Adam(RATES.stop)
    if case.policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    make = fit_trainer if case.loop == "fit" else custom_trainer
    return make(model, optimizer, loss)


def fit_trainer(model: keras.Model, optimizer: Any, loss: Any) -> Trainer:
    model.compile(optimizer, loss, jit_compile=False)
    data = batches(model, 1)
    seconds = common.seconds_of(
        lambda: model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    )
    return Trainer(model, model.train_function, seconds)


def custom_trainer(model: keras.Model, optimizer: Any, loss: Any) -> Trainer:
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(iterator: Iterator[Any]) -> None:
        images, labels = next(iterator)
        with tf.GradientTape() as tape:
            scaled = optimizer.scale_loss(loss(labels, model(images, training=True)))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables))

    iterator = iter(batches(model, 1))
    return Trainer(model, step, common.seconds_of(lambda: step(iterator)))


def measure(case: Case) -> list[dict[str, Any]]:
    """One row per batch size."""
    trainers = {name: make_trainer(case, name) for name in (KERAS_ADAM, OURS)}
    rows = []
    for batch_size, rounds in case.rounds_by_batch_size.items():
        steps = {
            name: functools.partial(trainer.step, iter(batches(trainer.model, batch_size)))
            for name, trainer in trainers.items()
        }
        steps[KERAS_ADAM_AGAIN] = steps[KERAS_ADAM]
        times = common.time_in_turn(steps, rounds, warm_up=1)
        first = {name: trainer.first_seconds for name, trainer in trainers.items()}
        rows.append(
            {
                "model": case.model,
                "loop": case.loop,
                "policy": case.policy,
                "batch_size": batch_size,
                "n_frozen": case.n_frozen,
                "keras_adam_seconds": statistics.median(times[KERAS_ADAM]),
                "seconds": statistics.median(times[OURS]),
                "to_keras_adam": common.ratio_of(times[OURS], times[KERAS_ADAM]),
                "noise": common.ratio_of(times[KERAS_ADAM_AGAIN], times[KERAS_ADAM]),
                "keras_adam_first_seconds": first[KERAS_ADAM],
                "first_seconds": first[OURS],
            }
        )
    return rows


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        small = common.small_convnet
        return [
            Case("small convnet", small, "fit", "float32", 0, {1: 3}),
            Case("small convnet", small, "custom", "mixed_float16", N_GROUPS - 1, {4: 3}),
        ]
    n_frozen = N_GROUPS - 1
    single = {1: 30, 32: 12}
    half = single if device == "gpu" else {1: 12}
    found = []
    for name, size in (("MobileNetV2", 64), ("ResNet50", 32)):
        make = functools.partial(common.classifier, name, 224 if device == "gpu" else size)
        found += [
            Case(name, make, "fit", "float32", 0, single),
            Case(name, make, "custom", "float32", 0, single),
            Case(name, make, "fit", "float32", n_frozen, single),
            Case(name, make, "custom", "float32", n_frozen, single),
            Case(name, make, "fit", "mixed_float16", 0, half),
        ]
    return found


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    for case in cases(device, quick):
        rows += measure(case)
        keras.backend.clear_session()
        gc.collect()
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the ratios are of times, with their quartiles."""
    lines = [
        [
            row["model"],
            row["loop"],
            row["policy"],
            str(row["batch_size"]),
            f"{row['n_frozen']} of {N_GROUPS}",
            common.number(1e3 * row["keras_adam_seconds"], 1),
            common.number(1e3 * row["seconds"], 1),
            common.number_with_quartiles(row["to_keras_adam"]),
            common.number_with_quartiles(row["noise"]),
            common.number(row["keras_adam_first_seconds"], 1),
            common.number(row["first_seconds"], 1),
        ]
        for row in rows
    ]
    columns = [
        "model", "loop", "dtype", "batch", "frozen", "Keras Adam, ms", "ours, ms", "ours to Keras",
        "Keras to itself", "Keras, first step s", "ours, first step s",
    ]  # fmt: skip
    return common.markdown_table(columns, lines, n_left=3)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("train_step", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
