from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.transfer import arms, tasks, training
from benchmarks.transfer.arms import Arm
from dlr_tf import GradualUnfreezing, fine_tune
from dlr_tf.app.applications import HEAD


def toy_task(**changes: Any) -> tasks.Task:
    """A task in which a run takes milliseconds."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((6,))
        for number in range(3):
            x = keras.layers.Dense(5, name=f"dense_{number}")(x)
            x = keras.layers.BatchNormalization(name=f"norm_{number}")(x)
            x = keras.layers.ReLU(name=f"relu_{number}")(x)
        x = keras.layers.Dropout(0.2, name="dropout")(x)
        return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name=HEAD)(x))

    def part(size: int, seed: int) -> tasks.Part:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, size).astype("int32")
        x = generator.normal(size=(size, 6)) + labels[:, None]
        return tasks.Part(x.astype("float32"), labels)

    task = tasks.Task(
        name="toy",
        title="a toy",
        build=build,
        split=lambda seed: tasks.Split(part(22, seed), part(30, 100)),
        test=lambda: part(31, 101),
        blocks=("dense_1", "dense_2", HEAD),
        epochs=4,
        batch_size=8,
        has_batch_norm=True,
        seconds=0.1,
    )
    return dataclasses.replace(task, **changes)


@pytest.fixture(scope="module")
def trainer() -> training.Trainer:
    return training.Trainer(toy_task())


REPRESENTATIVE = (arms.DEFAULT, "decay 0.75, one-cycle")


class Recorder(keras.callbacks.Callback):
    """The rates and weights after each step of `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[np.ndarray] = []
        self.weights: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rates.append(self.model.optimizer.last_learning_rates)
        self.weights.append(self.model.get_weights())


def fine_tuned(task: tasks.Task, arm: Arm, learning_rate: float, seed: int) -> Recorder:
    """The arm by the product: `fine_tune` with real schedules, on the same batches."""
    model = task.build()
    training.start_head_and_dropout(model, seed)
    x, y = task.split(seed).train
    batches = training.batches_of(len(y), task.batch_size, task.epochs, seed)
    inputs = [x[indices] for epoch in batches for indices in epoch]
    labels = [y[indices] for epoch in batches for indices in epoch]
    data = tf.data.Dataset.from_generator(
        lambda: zip(inputs, labels),
        output_signature=(tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int32)),
    )
    groups = arms.groups_of(arm, model, task.blocks)
    peaks = arms.peak_rates(arm, learning_rate, len(groups))
    steps = task.steps_per_epoch()
    # The trainer does not use XLA, which has other random numbers.
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    recorder = Recorder()
    fine_tune(
        model,
        groups,
        data,
        learning_rate=None,
        schedule=[arms.schedule_of(arm, peak, task.epochs, steps) for peak in peaks],
        epochs=task.epochs,
        steps_per_epoch=steps,
        frozen_epochs=task.epochs if arm.head_only else arm.frozen_epochs,
        batch_norm=arm.batch_norm,
        callbacks=[recorder, *([GradualUnfreezing(groups)] if arm.gradual else [])],
        verbose=0,
    )
    return recorder


@pytest.mark.filterwarnings("ignore:Only the head:UserWarning")
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(arm, id=arm.name, marks=[] if arm.name in REPRESENTATIVE else pytest.mark.slow)
        for arm in arms.ARMS
    ],
)
def test_a_run_is_the_one_of_the_product(trainer: training.Trainer, arm: Arm) -> None:
    rates: list[np.ndarray] = []
    weights: list[list[np.ndarray]] = []

    def on_step(step: int) -> None:
        rates.append(trainer.optimizer.last_learning_rates)
        weights.append(trainer.model.get_weights())

    trainer.run(arm, 0.01, 3, with_test=False, on_step=on_step)
    expected = fine_tuned(trainer.task, arm, 0.01, 3)
    assert len(rates) == len(expected.rates) == 4 * 3
    dense = [
        number
        for number, group in enumerate(trainer.layer_groups)
        if not group.layers[0].startswith("norm")  # frozen: it has no rate of its own then
    ]
    of_layer = np.array(trainer.group_of_each_layer(arm))[dense]
    # Keras' own schedule rounds differently in a graph; those of the product do not.
    rtol = 3e-7 if arm.schedule == arms.COSINE else 0
    for mine, theirs in zip(rates, expected.rates):
        np.testing.assert_allclose(mine[dense], theirs[of_layer], rtol=rtol)
    for step, (ours, theirs) in enumerate(zip(weights, expected.weights)):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=f"step {step}")


def test_nothing_is_traced_twice_and_a_run_repeats_exactly() -> None:
    trainer = training.Trainer(toy_task())
    by_name = {arm.name: arm for arm in arms.ARMS}
    first = trainer.run(by_name[arms.DEFAULT], 0.01, 0, with_test=True)
    traces = dict(trainer.n_traces)
    assert traces == {"6, frozen": 1, "0, frozen": 1, "predict": 1}
    others = (arms.RIVAL, "decay 0.6, one-cycle", "ratio 10, SGDR 1", "head only")
    for name in (*others, "one rate, one-cycle, batch norm trains"):
        trainer.run(by_name[name], 0.1, 1, with_test=False)
    assert trainer.n_traces == {**traces, "0, train": 1}
    assert trainer.run(by_name[arms.DEFAULT], 0.01, 0, with_test=True) == first
    assert trainer.run(by_name[arms.DEFAULT], 0.01, 1, with_test=True) != first
    assert trainer.n_traces == {**traces, "0, train": 1}
