"""Fine-tuning: phases, rates and losses."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import unwrap
from dlr_tf.core.schedules import SGDR, OneCycle
from dlr_tf.training import fine_tuning
from dlr_tf.training.fine_tuning import fine_tune, make_schedule, steps_in_epoch

N_INPUTS, N_CLASSES, N_IMAGES = 6, 3, 24


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(11)


def small_model(activation: str | None = "softmax", units: int = N_CLASSES) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((N_INPUTS,)),
            keras.layers.Dense(5, name="stem"),
            keras.layers.BatchNormalization(name="norm", momentum=0.5),
            keras.layers.Dense(4, activation="tanh", name="body"),
            keras.layers.Dense(units, activation=activation, name="top"),
        ]
    )


def three_groups(model: keras.Model) -> tuple[LayerGroup, ...]:
    return split_layers(model, ["body", "top"])


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, (N_IMAGES, N_INPUTS)).astype("float32")
    return x, np.arange(N_IMAGES) % N_CLASSES


def batches(batch_size: int = 8) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays()).batch(batch_size)


class Watch(keras.callbacks.Callback):
    """What changes from batch to batch: the rates, the optimizer, and the weights by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[list[float]] = []
        self.optimizers: list[Any] = []
        self.weights: list[dict[str, list[np.ndarray]]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.on_epoch_end(-1)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.rates.append(unwrap(self.model.optimizer).learning_rates)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.optimizers.append(self.model.optimizer)
        self.weights.append({layer.name: layer.get_weights() for layer in self.model.layers})

    def moved(self, layer: str, epoch: int) -> bool:
        before, after = self.weights[epoch - 1][layer], self.weights[epoch][layer]
        return any((a != b).any() for a, b in zip(before, after))


def test_head_first_then_all_with_one_optimizer() -> None:
    model, watch = small_model(), Watch()
    history = fine_tune(
        model,
        three_groups(model),
        batches(),
        learning_rate=1e-2,
        epochs=4,
        frozen_epochs=2,
        validation_data=batches(),
        callbacks=[watch],
        verbose=0,
    )
    assert history.epoch == [0, 1, 2, 3]
    assert [len(values) for values in history.history.values()] == [4] * 4
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for epoch in (1, 2):
        assert watch.moved("top", epoch)
        assert not watch.moved("stem", epoch)
        assert not watch.moved("body", epoch)
    for epoch in (3, 4):
        assert watch.moved("top", epoch)
        assert watch.moved("stem", epoch)
        assert watch.moved("body", epoch)
    assert len({id(optimizer) for optimizer in watch.optimizers}) == 1
    assert int(model.optimizer.iterations.numpy()) == 4 * 3
    assert [layer.trainable for layer in model.layers] == [True, False, True, True]


def test_only_the_head_all_the_way_and_no_frozen_epoch() -> None:
    model, watch = small_model(), Watch()
    groups = three_groups(model)
    settings_ = {"learning_rate": 1e-2, "epochs": 2, "verbose": 0}
    fine_tune(model, groups, batches(), frozen_epochs=2, callbacks=[watch], **settings_)
    assert [watch.moved("body", epoch) for epoch in (1, 2)] == [False, False]
    assert model.get_layer("body").trainable
    watch = Watch()
    fine_tune(model, groups, batches(), frozen_epochs=0, callbacks=[watch], **settings_)
    assert [watch.moved("body", epoch) for epoch in (1, 2)] == [True, True]


def test_fine_tuning_equals_gradient_descent_by_hand() -> None:
    """SGD on a linear network, head alone for an epoch, in NumPy float64."""
    model = keras.Sequential(
        [
            keras.Input((N_INPUTS,)),
            keras.layers.Dense(4, use_bias=False, name="body"),
            keras.layers.Dense(2, use_bias=False, name="top"),
        ]
    )
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(16, N_INPUTS)), rng.normal(size=(16, 2))
    body, top = (weights.astype(np.float64) for weights in model.get_weights())
    data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y.astype("float32")))
    losses = fine_tune(
        model,
        split_layers(model, ["top"]),
        data.batch(8),
        learning_rate=[0.02, 0.1],
        epochs=3,
        schedule="sgdr",
        optimizer=keras.optimizers.SGD(),
        loss="mse",
        metrics=[],
        verbose=0,
    ).history["loss"]
    expected = []
    # Three epochs hold cycles of 1 and 2 epochs: 2 and 4 steps.
    annealing = [(1 + math.cos(math.pi * t / 2)) / 2 for t in range(2)]
    annealing += [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    for step, factor in enumerate(annealing):
        rows = slice(0, 8) if step % 2 == 0 else slice(8, 16)
        hidden = x[rows] @ body
        error = hidden @ top - y[rows]
        expected.append(np.mean(error**2))
        slope = 2 * error / error.size
        body_slope, top_slope = x[rows].T @ (slope @ top.T), hidden.T @ slope
        top = top - 0.1 * factor * top_slope
        if step >= 2:
            body = body - 0.02 * factor * body_slope
    np.testing.assert_allclose(model.get_weights()[0], body, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], top, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, np.mean(np.reshape(expected, (3, 2)), axis=1), rtol=1e-5)


def rates_seen(**arguments: Any) -> np.ndarray:
    model, watch = small_model(), Watch()
    fine_tune(model, three_groups(model), batches(), callbacks=[watch], verbose=0, **arguments)
    return np.array(watch.rates)


def test_rates_of_every_step_by_default() -> None:
    seen = rates_seen(learning_rate=slice(1e-5, 1e-3), epochs=7)
    # 3 steps an epoch; cycles of 1, 2 and 4 epochs.
    factor = [(1 + math.cos(math.pi * t / n)) / 2 for n in (3, 6, 12) for t in range(n)]
    np.testing.assert_allclose(seen, np.outer(factor, [1e-5, 1e-4, 1e-3]), rtol=1e-6)


def test_other_schedules() -> None:
    constant = rates_seen(learning_rate=slice(1e-3), epochs=2, schedule="constant")
    np.testing.assert_allclose(constant, [[1e-4, 1e-4, 1e-3]] * 6, rtol=1e-6)
    one_cycle = rates_seen(learning_rate=[1e-4, 1e-3, 1e-2], epochs=4, schedule="onecycle")
    assert np.argmax(one_cycle[:, 2]) == 3  # a quarter of 12 steps
    np.testing.assert_allclose(one_cycle[0] * 25, [1e-4, 1e-3, 1e-2], rtol=1e-6)
    np.testing.assert_allclose(one_cycle[:, 0] * 100, one_cycle[:, 2], rtol=1e-6)
    halves = keras.optimizers.schedules.ExponentialDecay
    called = rates_seen(
        learning_rate=[1e-3, 2e-3, 4e-3], epochs=1, schedule=lambda rate: halves(rate, 1, 0.5)
    )
    np.testing.assert_allclose(called[:, 0], [1e-3, 5e-4, 2.5e-4], rtol=1e-6)
    np.testing.assert_allclose(called[:, 2], [4e-3, 2e-3, 1e-3], rtol=1e-6)


def test_schedules_given_one_by_one() -> None:
    schedules = [SGDR(rate, 2, t_mul=1.0) for rate in (1e-4, 1e-3, 1e-2)]
    listed = rates_seen(learning_rate=None, epochs=1, schedule=schedules)
    np.testing.assert_allclose(listed[:, 1], [1e-3, 5e-4, 1e-3], rtol=1e-6)
    mixed = rates_seen(learning_rate=[1e-4, schedules[1], 1e-2], epochs=1)
    np.testing.assert_allclose(mixed[:, 1], [1e-3, 5e-4, 1e-3], rtol=1e-6)
    np.testing.assert_allclose(mixed[1, 0], 1e-4 * 0.75, rtol=1e-6)


def test_make_schedule_takes_the_length_of_the_first_cycle() -> None:
    make = make_schedule("sgdr", steps_per_epoch=10, epochs=20, cycle_epochs=0.5, t_mul=3)
    schedule = make(0.1)
    assert isinstance(schedule, SGDR)
    assert schedule.restart_steps(100) == [0, 5, 20, 65]
    assert make_schedule("constant", steps_per_epoch=10, epochs=20)(0.1) == 0.1
    one_cycle = make_schedule("onecycle", steps_per_epoch=10, epochs=20)(0.1)
    assert isinstance(one_cycle, OneCycle)
    assert one_cycle.total_steps == 200


@given(
    steps=st.integers(1, 500),
    epochs=st.integers(1, 60),
    t_mul=st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0]),
)
@settings(max_examples=200, deadline=None)
def test_default_cycles_end_with_the_training(steps: int, epochs: int, t_mul: float) -> None:
    total = steps * epochs
    first = fine_tuning.first_cycle_steps(total, epochs, t_mul)
    assert first >= steps  # at least an epoch
    starts = SGDR(0.1, first, t_mul=t_mul).restart_steps(10 * total + 1)
    end = next(step for step in starts if step >= total)
    # Rounding the first length up cuts the last cycle by no more than this.
    cycles = sum(step < total for step in starts)
    assert end - total <= sum(t_mul**i for i in range(cycles)) + cycles
    if steps > 20:
        # With cycles from one epoch on, one more would not fit.
        assert sum(t_mul**i for i in range(cycles)) <= epochs
        assert sum(t_mul**i for i in range(cycles + 1)) > epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "cosine"}, r"one of \('sgdr', 'onecycle', 'constant'\).*'cosine'"),
        ({"schedule": [SGDR(0.1, 3)] * 3}, r"pass `learning_rate=None` with it"),
        ({"epochs": 0}, "`epochs` should be at least 1. Received: epochs=0"),
        ({"frozen_epochs": -1}, "`frozen_epochs` should be at least 0"),
        ({"frozen_epochs": 3}, "should not be above `epochs`.*frozen_epochs=3, epochs=2"),
        ({"batch_norm": "off"}, r"one of \('frozen', 'train'\). Received: batch_norm='off'"),
        ({"learning_rate": [1e-3, 1e-2]}, "3 groups, 3 rates. Received 2 rates"),
        ({"learning_rate": -1e-3}, "finite and not negative"),
        ({"groups": [LayerGroup("head", ("tip",))]}, "'tip', which the model does not have.*'top'"),
        ({"train_data": batches().repeat()}, "not known or not finite.*assert_cardinality"),
        ({"train_data": batches().filter(lambda x, y: True)}, "not known or not finite"),
        ({"train_data": batches().take(0)}, "holds no batches"),
        ({"train_data": (np.ones((4, N_INPUTS)),)}, r"\(inputs, labels, .* Received 1 entries"),
    ],
)
def test_mistakes_are_told_before_the_model_is_touched(
    arguments: dict[str, Any], message: str
) -> None:
    model = small_model()
    groups = arguments.pop("groups", three_groups(model))
    data = arguments.pop("train_data", batches())
    with pytest.raises(ValueError, match=message):
        fine_tune(model, groups, data, **{"learning_rate": 1e-3, "epochs": 2, **arguments})
    assert not model.compiled
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 2.0}, "`epochs` should be an integer. Received: epochs=2.0 of type float"),
        ({"schedule": SGDR(0.1, 3)}, "one schedule for all groups, pass it as `learning_rate`"),
        ({"schedule": 3}, "a function from a rate to a `LearningRateSchedule`.*schedule=3"),
        ({"train_data": [1, 2]}, r"should be a `tf.data.Dataset`.*Received: \[1, 2\] of type list"),
        ({"groups": ["top"]}, "sequence of `LayerGroup`"),
    ],
)
def test_wrong_types(arguments: dict[str, Any], message: str) -> None:
    model = small_model()
    groups = arguments.pop("groups", three_groups(model))
    data = arguments.pop("train_data", batches())
    with pytest.raises(TypeError, match=message):
        fine_tune(model, groups, data, **{"learning_rate": 1e-3, "epochs": 2, **arguments})
    assert not model.compiled


def test_make_schedule_refuses_bad_numbers() -> None:
    with pytest.raises(ValueError, match=r"`t_mul` should be at least 1\. Received: t_mul=0\.5"):
        make_schedule("sgdr", steps_per_epoch=3, epochs=2, t_mul=0.5)
    with pytest.raises(ValueError, match=r"epochs above 0\. Received: cycle_epochs=0"):
        make_schedule("sgdr", steps_per_epoch=3, epochs=2, cycle_epochs=0)


# Keras warns at the end of any data set whose size it was not told.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_a_schedule_without_a_length_needs_no_count_of_batches() -> None:
    model = small_model()
    uncounted = batches().filter(lambda x, y: True)
    history = fine_tune(
        model,
        three_groups(model),
        uncounted,
        learning_rate=1e-3,
        epochs=2,
        schedule="constant",
        verbose=0,
    )
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_batch_norm(batch_norm: str) -> None:
    model = small_model()
    before = model.get_layer("norm").get_weights()
    fine_tune(
        model,
        three_groups(model),
        batches(),
        learning_rate=1e-2,
        epochs=2,
        batch_norm=batch_norm,
        verbose=0,
    )
    after = model.get_layer("norm").get_weights()
    moved = [bool((a != b).any()) for a, b in zip(before, after)]
    assert moved == [batch_norm == "train"] * 4  # scale, shift, mean and variance


class Sequence(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = arrays()
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]


@pytest.mark.parametrize(
    ("train_data", "steps"),
    [
        (batches(), 3),
        (batches(7), 4),
        (Sequence(), 3),
        (arrays(), 1),
        ((*arrays(), np.ones(N_IMAGES)), 1),
        (tuple(np.repeat(part, 2, axis=0) for part in arrays()), 2),
    ],
    ids=["dataset", "uneven", "sequence", "arrays", "weighted", "two_batches"],
)
def test_kinds_of_data(train_data: Any, steps: int) -> None:
    assert steps_in_epoch(train_data) == steps
    model = small_model()
    fine_tune(model, three_groups(model), train_data, learning_rate=1e-3, epochs=1, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == steps


def test_sample_weights_are_used() -> None:
    model = small_model()
    weights = model.get_weights()
    data = (*arrays(), np.zeros(N_IMAGES))
    fine_tune(model, three_groups(model), data, learning_rate=1e-1, epochs=2, verbose=0)
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)


def test_models_of_every_kind(sample: Any) -> None:
    model = sample.model()
    x, y = sample.data()
    history = fine_tune(
        model,
        sample.groups(model),
        (x, y),
        learning_rate=slice(1e-4, 1e-2),
        epochs=3,
        loss="mse",
        metrics=[],
        verbose=0,
    )
    losses = history.history["loss"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
