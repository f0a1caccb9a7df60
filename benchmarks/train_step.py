"""What does a whole training step cost with three groups, against the same model with one Adam?

Forward pass, gradients and update: in the step that `model.fit` compiles, and in a custom loop
(`tf.function` around a `GradientTape`). `MultiGroupOptimizer` has three groups; plain Keras Adam
trains a second copy of the model. With two of the three groups frozen, both copies have the same
layers frozen. A third copy, with Keras Adam too, is timed beside them: the distance of its ratio to
the other one from 1 is noise. Large networks run without XLA. Images have 224 by 224 pixels on a
GPU. On a CPU they have 64 by 64 for MobileNetV2 and 32 by 32 for ResNet50, and half precision,
which is slow there, runs at batch 1 only. Small networks, of 9 thousand to a million weights, run
in `fit` as it comes (with XLA), with 1 and 10 steps per execution, and in a custom loop without
XLA; one of them has an embedding, whose gradients are sparse.

    python -m benchmarks.train_step [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import functools
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
N_WORDS = 100  # of the networks with an embedding


class Case(NamedTuple):
    """One model compiled in one way.

    Args:
        model: Its name.
        make_model: Builds it.
        loop: `"fit"` or `"custom"`.
        policy: Keras' dtype policy.
        n_frozen: How many of the three groups are frozen.
        rounds_by_batch_size: How often each competitor is timed, by number of examples in a step.
        xla: Whether `fit` compiles the step by XLA.
        steps_per_execution: As in `compile`.
        repeat: Calls in one timing: a call shorter than a millisecond is timed badly.
    """

    model: str
    make_model: Callable[[], keras.Model]
    loop: str
    policy: str
    n_frozen: int
    rounds_by_batch_size: Mapping[int, int]
    xla: bool = False
    steps_per_execution: int = 1
    repeat: int = 1

    def __str__(self) -> str:
        return f"{self.model}, {_loop(self._asdict())}, {self.policy}, {self.n_frozen} frozen"


class Trainer(NamedTuple):
    """A model and its training step on the next batch of an iterator."""

    model: keras.Model
    step: Callable[[Iterator[Any]], Any]
    first_seconds: float


def batches(model: keras.Model, batch_size: int) -> tf.data.Dataset:
    """Repeat one random batch without end; its size is not known when the step is traced."""
    generator = tf.random.Generator.from_seed(0)
    images = generator.uniform((batch_size, *model.input_shape[1:]))
    if model.inputs[0].dtype == "int32":
        images = tf.cast(images * N_WORDS, tf.int32)
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
    if case.loop == "custom":
        return custom_trainer(model, optimizer, loss)
    return fit_trainer(case, model, optimizer, loss)


def fit_trainer(case: Case, model: keras.Model, optimizer: Any, loss: Any) -> Trainer:
    steps = case.steps_per_execution
    model.compile(optimizer, loss, jit_compile=case.xla, steps_per_execution=steps)
    data = batches(model, 1)
    seconds = common.seconds_of(
        lambda: model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
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


def repeated(step: Callable[[Iterator[Any]], Any], data: Iterator[Any], times: int) -> Callable:
    """Return a function that makes several steps."""

    def steps() -> None:
        for _ in range(times):
            step(data)

    return steps


def measure(case: Case) -> list[dict[str, Any]]:
    """One row per batch size."""
    trainers = {name: make_trainer(case, name) for name in (KERAS_ADAM, OURS, KERAS_ADAM_AGAIN)}
    rows = []
    for batch_size, rounds in case.rounds_by_batch_size.items():
        steps = {
            name: repeated(trainer.step, iter(batches(trainer.model, batch_size)), case.repeat)
            for name, trainer in trainers.items()
        }
        n_steps = case.repeat * case.steps_per_execution
        times = common.time_in_turn(steps, rounds, warm_up=1)
        first = {name: trainer.first_seconds for name, trainer in trainers.items()}
        rows.append(
            {
                "model": case.model,
                "loop": case.loop,
                "policy": case.policy,
                "batch_size": batch_size,
                "n_frozen": case.n_frozen,
                "n_parameters": trainers[OURS].model.count_params(),
                "xla": case.xla,
                "steps_per_execution": case.steps_per_execution,
                "keras_adam_seconds": statistics.median(times[KERAS_ADAM]) / n_steps,
                "seconds": statistics.median(times[OURS]) / n_steps,
                "to_keras_adam": common.ratio_of(times[OURS], times[KERAS_ADAM]),
                "noise": common.ratio_of(times[KERAS_ADAM_AGAIN], times[KERAS_ADAM]),
                "keras_adam_first_seconds": first[KERAS_ADAM],
                "first_seconds": first[OURS],
            }
        )
    return rows


def dense_network(width: int) -> keras.Model:
    """Return two hidden layers on 64 numbers."""
    layers = keras.layers
    hidden = [layers.Dense(width, activation="relu", name=f"dense_{i}") for i in range(2)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, name="head")])


def convolutional_network(filters: int) -> keras.Model:
    """Return three convolutions with batch normalization on images of 16 by 16 pixels."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((16, 16, 3))])
    for block, count in enumerate((filters, filters, 2 * filters)):
        model.add(layers.Conv2D(count, 3, 2, padding="same", name=f"conv_{block}"))
        model.add(layers.BatchNormalization(name=f"norm_{block}"))
        model.add(layers.ReLU(name=f"relu_{block}"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10, name="head"))
    return model


def embedding_network(width: int) -> keras.Model:
    """Return an embedding of 16 words, one hidden layer and a head."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((16,), dtype="int32"),
            layers.Embedding(N_WORDS, width, name="embedding"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(width, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ]
    )


# The networks of about 9 thousand, 100 thousand and a million weights.
SMALL_NETWORKS = {
    "dense": (dense_network, (64, 270, 960)),
    "convolutional": (convolutional_network, (16, 58, 187)),
    "embedding": (embedding_network, (53, 265, 945)),
}


def small_cases() -> list[Case]:
    found = []
    for name, (make, widths) in SMALL_NETWORKS.items():
        for width in widths:
            case = Case(
                f"{name}, width {width}", functools.partial(make, width), "fit", "float32", 0,
                {16: 60}, repeat=10,
            )  # fmt: skip
            found += [
                case._replace(xla=True),
                case._replace(xla=True, steps_per_execution=10, repeat=2),
                case._replace(loop="custom"),
            ]
    return found


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        small = common.small_convnet
        return [
            Case(
                "dense", functools.partial(dense_network, 8), "fit", "float32", 0, {2: 2}, xla=True
            ),
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
    return [*small_cases(), *found]


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows."""
    return common.rows_of_cases(cases(device, quick), measure)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the ratios are of times, with their quartiles."""
    lines = [
        [
            row["model"],
            f"{row['n_parameters']:,}",
            _loop(row),
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
        "model", "weights", "loop", "dtype", "batch", "frozen", "Keras Adam, ms", "ours, ms",
        "ours to Keras", "Keras to itself", "Keras, first step s", "ours, first step s",
    ]  # fmt: skip
    return common.markdown_table(columns, lines, n_left=4)


def _loop(row: Mapping[str, Any]) -> str:
    parts = [row["loop"], *(["XLA"] if row["xla"] else [])]
    if row["steps_per_execution"] > 1:
        parts.append(f"{row['steps_per_execution']} steps per execution")
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("train_step", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
