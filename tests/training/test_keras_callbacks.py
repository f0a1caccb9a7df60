"""Keras' own callbacks around a `MultiGroupOptimizer`, each in a real `fit`.

In float32 with SGDR, and in mixed_float16 (where Keras wraps the optimizer) with constant rates;
the callback that sets a rate and the one test of all callbacks run with all four. Whatever a
callback does to the one rate it knows, the ratio between the groups stays.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training.freezing import freeze_to
from tests import reference

RATES = (1e-3, 1e-2)
EPOCHS, STEPS, BATCH, WIDTH = 3, 4, 3, 4
# A cycle is as long as an epoch, so that every epoch begins at the peak.
SCHEDULES = {"constant": lambda rate: rate, "SGDR": lambda rate: SGDR(rate, STEPS, t_mul=1.0)}


@pytest.fixture(params=["float32", "mixed_float16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rates(policy: str) -> str:
    return {"float32": "SGDR", "mixed_float16": "constant"}[policy]


all_rates = pytest.mark.parametrize("rates", SCHEDULES)


def make_model(rates: str, seed: int = 0, **arguments: Any) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(WIDTH, "tanh", name="body"),
            keras.layers.Dense(WIDTH, name="head"),
        ]
    )
    groups = split_layers(model, ["head"], ["body", "head"])
    optimizer = MultiGroupOptimizer(groups, [SCHEDULES[rates](r) for r in RATES], **arguments)
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(0).normal(size=(2, STEPS * BATCH, WIDTH)).astype("float32"))


class Watch(keras.callbacks.Callback):
    """The rates of every step, the weights after it, and what `fit` logged for each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[np.ndarray] = []
        self.weights: list[list[np.ndarray]] = []
        self.epochs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rates.append(unwrap(self.model.optimizer).last_learning_rates)
        self.weights.append(self.model.get_weights())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(logs))


def fit(model: keras.Model, *callbacks: Any, epochs: int = EPOCHS, **arguments: Any) -> Watch:
    watch = Watch()
    x, y = data()
    options = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=[*callbacks, watch], **options, **arguments)
    return watch


def base_rates(rates: str, steps: int) -> np.ndarray:
    """The head's rates if no callback interferes, from the formula."""
    if rates == "constant":
        return np.full(steps, RATES[1])
    return np.array([reference.sgdr_rate(step, RATES[1], STEPS, 1.0) for step in range(steps)])


def assert_rates(watch: Watch, head: np.ndarray) -> None:
    found = np.array(watch.rates)
    np.testing.assert_allclose(found[:, 1], head, rtol=1e-6)
    np.testing.assert_allclose(found[:, 0], 0.1 * head, rtol=1e-6)


def per_epoch(*factors: float) -> np.ndarray:
    return np.repeat(factors, STEPS)


@all_rates
def test_learning_rate_scheduler(policy, rates):
    model = make_model(rates)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    watch = fit(model, halve)
    assert_rates(watch, base_rates(rates, 12) * per_epoch(0.5, 0.25, 0.125))
    # At the end of an epoch Keras logs the rate of the step to come, which starts a cycle here.
    logged = [logs["learning_rate"] for logs in watch.epochs]
    np.testing.assert_allclose(logged, RATES[1] * np.array([0.5, 0.25, 0.125]), rtol=1e-6)


def test_learning_rate_scheduler_with_rates_of_its_own(policy, rates):
    plan = (4e-3, 2e-4, 8e-2)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: plan[epoch])
    expected = base_rates(rates, 12) / RATES[1] * per_epoch(*plan)
    if rates == "constant":
        watch = fit(make_model(rates), scheduler)
    else:
        # A rate above the schedule's peak holds at the step where it is set.
        with pytest.warns(UserWarning, match="set above what the group's schedule gives"):
            watch = fit(make_model(rates), scheduler)
        expected[9:] = np.minimum(expected[9:], RATES[1])
    assert_rates(watch, expected)


def test_reduce_on_plateau(policy, rates):
    reduce = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.1, patience=1, min_delta=1e9, min_lr=5e-4
    )
    watch = fit(make_model(rates), reduce, epochs=4)
    # No loss improves by that much, so epochs 1 and 2 end with a cut; the second meets `min_lr`.
    assert_rates(watch, base_rates(rates, 16) * per_epoch(1.0, 1.0, 0.1, 0.05))


def scalars(folder: Path, tag: str) -> list[float]:
    (path,) = folder.glob("train/events*")
    events = (
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    )
    values = itertools.chain.from_iterable(event.summary.value for event in events)
    return [float(tf.make_ndarray(value.tensor)) for value in values if value.tag == tag]


def test_tensorboard(policy, rates, tmp_path):
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(make_model(rates), halve, keras.callbacks.TensorBoard(tmp_path, update_freq=1))
    logged = scalars(tmp_path, "epoch_learning_rate")
    np.testing.assert_allclose(logged, RATES[1] * np.array([0.5, 0.25, 0.125]), rtol=1e-6)
    assert len(scalars(tmp_path, "epoch_loss")) == EPOCHS


def test_csv_logger(policy, rates, tmp_path):
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    watch = fit(make_model(rates), halve, logger, validation_data=data())
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [set(row) for row in rows] == [{"epoch", "learning_rate", "loss", "val_loss"}] * EPOCHS
    for row, logs in zip(rows, watch.epochs):
        assert float(row["loss"]) == pytest.approx(logs["loss"], rel=1e-6)
        assert float(row["learning_rate"]) == pytest.approx(logs["learning_rate"], rel=1e-6)
    assert_rates(watch, base_rates(rates, 12) * per_epoch(0.5, 0.25, 0.125))


class Interrupted(Exception):  # noqa: N818 - no error, an end
    pass


class Interrupt(keras.callbacks.Callback):
    """Ends `fit` in the middle of an epoch, as a signal would: its callbacks hear of no end."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if int(unwrap(self.model.optimizer).iterations) == STEPS + 2:
            raise Interrupted


def test_backup_and_restore(policy, rates, tmp_path):
    def callbacks() -> list[keras.callbacks.Callback]:
        return [
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        ]

    expected = fit(make_model(rates), *callbacks())
    with pytest.raises(Interrupted):
        fit(make_model(rates), *callbacks(), Interrupt())
    resumed = fit(make_model(rates, seed=1), *callbacks())
    assert len(resumed.rates) == 2 * STEPS
    np.testing.assert_array_equal(resumed.rates, expected.rates[STEPS:])
    for found, known in zip(resumed.weights, expected.weights[STEPS:]):
        for value, other in zip(found, known):
            np.testing.assert_array_equal(value, other)


def test_model_checkpoint(policy, rates, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    model = make_model(rates)
    watch = fit(model, checkpoint)
    resumed = keras.models.load_model(tmp_path / "1.keras")
    assert unwrap(resumed.optimizer).groups == unwrap(model.optimizer).groups
    again = fit(resumed, epochs=EPOCHS - 1)
    np.testing.assert_array_equal(again.rates, watch.rates[STEPS:])
    for value, other in zip(again.weights[-1], watch.weights[-1]):
        np.testing.assert_array_equal(value, other)


def test_model_checkpoint_of_the_best_weights(policy, tmp_path):
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", monitor="loss", save_best_only=True, save_weights_only=True
    )
    model = make_model("constant")
    watch = fit(model, best, EpochRates(0.1, 0.1, 1e4))
    twin = make_model("constant", seed=1)
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(tmp_path / "best.weights.h5")
    assert min(watch.epochs, key=lambda logs: logs["loss"]) == watch.epochs[1]
    for value, other in zip(twin.get_weights(), watch.weights[2 * STEPS - 1]):
        np.testing.assert_array_equal(value, other)
    assert int(twin.optimizer.iterations) == 2 * STEPS
    np.testing.assert_allclose(unwrap(twin.optimizer).learning_rates, [0.01, 0.1], rtol=1e-6)


class EpochRates(keras.callbacks.Callback):
    """A head's rate for every epoch."""

    def __init__(self, *rates: float) -> None:
        super().__init__()
        self.rates = rates

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self.rates[epoch]


def test_early_stopping(policy, rates):
    stop = keras.callbacks.EarlyStopping(
        monitor="loss", patience=2, min_delta=1e9, restore_best_weights=True
    )
    model = make_model(rates)
    watch = fit(model, stop, epochs=10)
    assert len(watch.epochs) == 3
    for value, other in zip(model.get_weights(), watch.weights[STEPS - 1]):
        np.testing.assert_array_equal(value, other)
    # The optimizer goes on where it was.
    assert_rates(fit(model, epochs=1), base_rates(rates, 16)[12:])


def test_terminate_on_nan(policy, rates):
    model = make_model(rates)
    x, y = data()
    y[2 * BATCH] = np.nan
    watch = Watch()
    callbacks = [keras.callbacks.TerminateOnNaN(), watch]
    model.fit(x, y, BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    assert len(watch.rates) == 3
    optimizer = unwrap(model.optimizer)
    steps = [int(member.iterations) for member in optimizer.group_optimizers]
    if policy == "float32":
        assert steps == [3, 3]
        assert all(np.isnan(weight).any() for weight in watch.weights[-1])
    else:
        assert steps == [2, 2]  # the loss scale has kept the NaN out of every group
        assert all(np.isfinite(weight).all() for weight in watch.weights[-1])


@pytest.mark.slow
@all_rates
def test_all_of_them_in_one_fit(policy, rates, tmp_path):
    model = make_model(rates, use_ema=True)
    watch = fit(
        model,
        keras.callbacks.SwapEMAWeights(),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=1, min_delta=1e9),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.EarlyStopping(monitor="loss", patience=9),
        keras.callbacks.TensorBoard(tmp_path),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
        validation_data=data(),
    )
    # The plateau's cut comes at the end of epoch 1.
    assert_rates(watch, base_rates(rates, 12) * per_epoch(0.5, 0.25, 0.0125))
    assert len(watch.epochs) == EPOCHS


def averages(history: list[np.ndarray], momentum: float, first: int = 0) -> np.ndarray:
    """The average of one weight in float64.

    Args:
        history: Its value after every step.
        momentum: Decay of the average per step.
        first: The step the weight joined at; its average then begins at the value it had.
    """
    average = np.float64(history[0] if first == 0 else history[first - 1])
    for value in history[max(first, 1) :]:
        average = momentum * average + (1 - momentum) * np.float64(value)
    return average


class AtEvaluation(keras.callbacks.Callback):
    """The weights that each evaluation runs with."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self.weights.append(self.model.get_weights())


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_swap_ema_weights(policy, rates, swap_on_epoch):
    model = make_model(rates, use_ema=True, ema_momentum=0.7)
    evaluated = AtEvaluation()
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)
    watch = fit(model, swap, evaluated, validation_data=data())
    assert_rates(watch, base_rates(rates, 12))
    for number, weight in enumerate(model.get_weights()):
        history = [values[number] for values in watch.weights]
        np.testing.assert_allclose(weight, averages(history, 0.7), rtol=1e-5, atol=1e-6)
        for epoch, seen in enumerate(evaluated.weights):
            expected = averages(history[: STEPS * (epoch + 1)], 0.7)
            np.testing.assert_allclose(seen[number], expected, rtol=1e-5, atol=1e-6)
    assert len(evaluated.weights) == EPOCHS


class FreezeTo(keras.callbacks.Callback):
    """The first group that learns, for every epoch."""

    def __init__(self, *firsts: int) -> None:
        super().__init__()
        self.firsts = firsts

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        freeze_to(self.model, unwrap(self.model.optimizer).groups, self.firsts[epoch])


@pytest.mark.parametrize(
    "plan",
    [(0, 1, 0), pytest.param((1, 0, 0), marks=pytest.mark.slow)],
    ids=["frozen late", "unfrozen late"],
)
def test_averages_stay_with_their_weights_when_layers_freeze_and_unfreeze(policy, plan):
    """Both layers have one shape: an average in the other's place would raise nothing."""
    # Up to Keras 3.14 the callback leaves out the weights that are frozen now.
    swaps_frozen = hasattr(keras.callbacks.SwapEMAWeights, "_apply_to_ema_optimizers")
    model = make_model("constant", use_ema=True, ema_momentum=0.7)
    evaluated = AtEvaluation()
    watch = fit(
        model,
        FreezeTo(*plan),
        keras.callbacks.SwapEMAWeights(),
        evaluated,
        validation_data=data(),
    )
    joined = [STEPS * plan.index(0)] * 2 + [0, 0]
    for number, first in enumerate(joined):
        history = [values[number] for values in watch.weights]
        expected = averages(history, 0.7, first)
        weight = model.get_weights()[number]
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
        for epoch, seen in enumerate(evaluated.weights):
            steps = STEPS * (epoch + 1)
            expected = history[0] if steps <= first else averages(history[:steps], 0.7, first)
            if number < 2 and plan[epoch] == 1 and not swaps_frozen:
                expected = history[steps - 1]
            np.testing.assert_allclose(seen[number], expected, rtol=1e-5, atol=1e-6)


def test_the_end_of_fit_leaves_frozen_weights_alone(policy):
    """Keras itself hands the averages out by position, among what is trainable by then."""
    model = make_model("constant", use_ema=True, ema_momentum=0.7)
    watch = fit(model, FreezeTo(0, 0, 1))
    body, head = model.get_weights()[:2], model.get_weights()[2:]
    for value, last in zip(body, watch.weights[-1][:2]):
        np.testing.assert_array_equal(value, last)
    for number, value in enumerate(head, start=2):
        history = [values[number] for values in watch.weights]
        np.testing.assert_allclose(value, averages(history, 0.7), rtol=1e-5, atol=1e-6)
