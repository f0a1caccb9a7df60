"""Fine-tuning: phases, rates and losses."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import uses_weight_decay
from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.pattern_groups import split_by_pattern
from dlr_tf.core.schedules import SGDR
from dlr_tf.training.compiling import make_optimizer
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.learning_rate_logger import LearningRateLogger
from dlr_tf.training.named_schedules import make_schedule
from dlr_tf.training.training_data import steps_in_epoch

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


def eager_model(activation: str | None = "softmax", units: int = N_CLASSES) -> keras.Model:
    """The same, without the time that tracing takes: `fine_tune` keeps `run_eagerly`."""
    model = small_model(activation, units)
    model.compile(run_eagerly=True)
    return model


def three_groups(model: keras.Model) -> tuple[LayerGroup, ...]:
    return split_layers(model, ["body", "top"], names=["stem", "body", "head"])


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, (N_IMAGES, N_INPUTS)).astype("float32")
    return x, np.arange(N_IMAGES) % N_CLASSES


def batches(batch_size: int = 8) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays()).batch(batch_size)


class Sequence(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = arrays()
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]


class Endless(Sequence):
    """A `PyDataset` that does not know its length."""

    num_batches = None

    def __len__(self) -> int:
        raise NotImplementedError


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
    model, watch = small_model(), Watch()  # traced
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
    model, watch = eager_model(), Watch()
    groups = three_groups(model)
    settings_ = {"learning_rate": 1e-2, "epochs": 2, "verbose": 0}
    with pytest.warns(UserWarning, match="Only the head, group 'head', learns .* epochs=2, froz"):
        fine_tune(model, groups, batches(), frozen_epochs=2, callbacks=[watch], **settings_)
    assert [watch.moved("body", epoch) for epoch in (1, 2)] == [False, False]
    assert model.get_layer("body").trainable
    watch = Watch()
    fine_tune(model, groups, batches(), frozen_epochs=0, callbacks=[watch], **settings_)
    assert [watch.moved("body", epoch) for epoch in (1, 2)] == [True, True]


def test_groups_of_variables_are_frozen_trained_recorded_and_drawn() -> None:
    pytest.importorskip("matplotlib")
    model, watch, logger = eager_model(), Watch(), LearningRateLogger()
    patterns = {"no_decay": "(bias|gamma|beta)$", "body": "^(stem|body)", "head": "^top"}
    settings: Any = {
        "weight_decay": {"no_decay": 0.0, "body": 0.1, "head": 0.1},
        "decay_to_start": {"no_decay": 0.0, "body": 0.1, "head": 0.0},
        "batch_norm": "train",
    }
    history = fine_tune(
        model,
        split_by_pattern(model, patterns),
        arrays(),
        learning_rate=[1e-3, 1e-3, 1e-2],
        epochs=2,
        frozen_epochs=1,
        batch_size=8,
        callbacks=[watch, logger],
        verbose=0,
        **settings,
    )
    start, first, second = ([w for one in each.values() for w in one] for each in watch.weights)
    paths = [v.path.split("/", 1)[-1] for v in model.weights]
    moved = [
        {path for path, one, other in zip(paths, *pair, strict=True) if (one != other).any()}
        for pair in ((start, first), (first, second))
    ]
    assert moved == [{"top/kernel"}, set(paths)]
    assert history.learning_rates == [1e-3, 1e-3, 1e-2]
    assert np.isnan(logger.history["no_decay"][:3]).all()
    assert not np.isnan([logger.history[name][3:] for name in patterns]).any()
    (axes,) = logger.plot_learning_rate().axes
    assert [line.get_label() for line in axes.get_lines()] == list(patterns)


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
        frozen_epochs=1,
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


def rates_seen(train_data: Any = None, **arguments: Any) -> np.ndarray:
    model, watch = eager_model(), Watch()
    data = batches() if train_data is None else train_data
    arguments = {"schedule": "sgdr", **arguments}
    fine_tune(model, three_groups(model), data, callbacks=[watch], verbose=0, **arguments)
    return np.array(watch.rates)


def test_the_defaults() -> None:
    model, watch = eager_model(), Watch()
    fine_tune(model, three_groups(model), batches(), epochs=4, callbacks=[watch], verbose=0)
    assert watch.moved("stem", 1)  # no frozen epoch
    config = model.optimizer.get_config()["learning_rate"]
    assert [rate["class_name"] for rate in config] == ["OneCycle"] * 3
    assert [rate["config"]["total_steps"] for rate in config] == [12] * 3
    peaks = [rate["config"]["max_learning_rate"] for rate in config]
    np.testing.assert_allclose(np.array(peaks) / peaks[-1], [0.1, 0.1**0.5, 1.0], rtol=1e-6)


def test_rates_of_every_step() -> None:
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


def test_linear_and_cosine_after_a_warm_up() -> None:
    peaks = np.array([1e-4, 1e-3, 1e-2])
    for schedule, warmup, expected in (
        ("linear", 0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("linear", 2, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", 1 / 3, [0, 1 / 2, *((1 + math.cos(math.pi * t / 4)) / 2 for t in range(4))]),
        ("sgdr", 4, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1 / 2]),
        ("constant", 0.5, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("onecycle", 2, [0, 0.02, 0.04, 1, 0.75, 0.25]),
    ):
        seen = rates_seen(learning_rate=peaks, epochs=2, schedule=schedule, warmup=warmup)
        np.testing.assert_allclose(seen, np.outer(expected, peaks), rtol=1e-4, err_msg=schedule)


def test_the_schedule_counts_steps_of_several_batches() -> None:
    arguments: Any = {"learning_rate": 1e-3, "epochs": 4, "schedule": "linear"}
    seen = rates_seen(gradient_accumulation_steps=3, **arguments)
    expected = np.repeat([1e-3, 7.5e-4, 5e-4, 2.5e-4], 3)
    np.testing.assert_allclose(seen[:, 2], expected, rtol=1e-5)
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=3)
    seen = rates_seen(optimizer=optimizer, **arguments)
    np.testing.assert_allclose(seen[:, 2], expected, rtol=1e-5)


def test_the_history_tells_what_was_done() -> None:
    model = eager_model()
    arguments: Any = {"epochs": 1, "verbose": 0}
    groups = three_groups(model)
    history = fine_tune(model, groups, batches(), learning_rate=slice(1e-4, 1e-2), **arguments)
    assert history.learning_rates == pytest.approx([1e-4, 1e-3, 1e-2])
    assert history.schedule == "onecycle"
    assert list(history.seconds) == ["preparation", "training"]
    assert all(seconds > 0 for seconds in history.seconds.values())
    schedules = [SGDR(1e-3, 3)] * 3
    history = fine_tune(
        model, groups, batches(), learning_rate=None, schedule=schedules, **arguments
    )
    assert history.learning_rates == [1e-3] * 3
    assert history.schedule is schedules
    history = fine_tune(model, groups, batches(), **arguments)
    assert list(history.seconds) == ["preparation", "range_test", "training"]
    first, _, head = history.learning_rates
    assert first / head == pytest.approx(0.1)


def test_schedules_given_one_by_one() -> None:
    schedules = [SGDR(rate, 2, t_mul=1.0) for rate in (1e-4, 1e-3, 1e-2)]
    listed = rates_seen(learning_rate=None, epochs=2, schedule=schedules)
    np.testing.assert_allclose(listed[:, 1], [1e-3, 5e-4] * 3, rtol=1e-6)
    mixed = rates_seen(learning_rate=[1e-4, schedules[1], 1e-2], epochs=2)
    np.testing.assert_allclose(mixed[:, 1], [1e-3, 5e-4] * 3, rtol=1e-6)
    np.testing.assert_allclose(mixed[3, 0], 1e-4 * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "cosin"}, r"one of \('sgdr', .*'constant'\).*Did you mean 'cosine'"),
        ({"warmup": 6}, "`warmup` should leave steps of the training, which has 6. .* warmup=6"),
        ({"warmup": -1}, "`warmup` should be a finite number, at least 0"),
        ({"schedule": lambda rate: rate, "warmup": 2}, "`warmup` belongs to a schedule by name"),
        ({"schedule": "one_cycle"}, "Received: schedule='one_cycle'. Did you mean 'onecycle'"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` should be at least 1"),
        ({"validation_split": 1.5, "train_data": arrays()}, r"`validation_split` .* in \[0, 1\]"),
        ({"validation_split": 1.0, "train_data": arrays()}, "holds no batches"),
        (
            {"train_data": (*arrays(), np.ones(N_IMAGES)), "sample_weight": np.ones(N_IMAGES)},
            "sample weights are given twice",
        ),
        ({"train_data": Endless(), "epochs": 2}, "`PyDataset` define `__len__` or the property"),
        ({"schedule": [SGDR(0.1, 3)] * 3}, r"pass `learning_rate=None` with it"),
        ({"epochs": 0}, "`epochs` should be at least 1. Received: epochs=0"),
        ({"frozen_epochs": -1}, "`frozen_epochs` should be at least 0"),
        ({"frozen_epochs": 3}, "should not be above `epochs`.*frozen_epochs=3, epochs=2"),
        ({"batch_norm": "off"}, r"one of \('frozen', 'train'\). Received: batch_norm='off'"),
        ({"learning_rate": [1e-3, 1e-2]}, "3 groups, 3 rates. Received 2 rates"),
        ({"learning_rate": -1e-3}, "finite and not negative"),
        ({"groups": [LayerGroup("head", ("tip",))]}, "'tip', which the model does not have.*'top'"),
        ({"train_data": batches().repeat()}, "not finite.*`steps_per_epoch=`.*assert_cardinality"),
        ({"train_data": batches().filter(lambda x, y: True)}, "not known or not finite"),
        ({"train_data": batches().take(0)}, "holds no batches"),
        ({"train_data": (1, 2, 3, 4)}, r"\(inputs, labels, .* Received 4 entries"),
        ({"train_data": (np.ones((4, N_INPUTS)),)}, "the data have no labels. Pass a tuple"),
        ({"train_data": np.ones((4, N_INPUTS))}, "the data have no labels. Pass a tuple"),
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
        (
            {"train_data": [1, 2]},
            "should be a `tf.data.Dataset`.*an object of type list",
        ),
        ({"groups": ["top"]}, "sequence of `LayerGroup`"),
        ({"groups": 3}, "sequence of `LayerGroup`.*Received: groups=3"),
        ({"batchsize": 8}, "no argument `batchsize`. .*batchsize=8. Did you mean 'batch_size'"),
        ({"learning_rates": 1e-3}, "no argument `learning_rates`.*Did you mean 'learning_rate'"),
        ({"x": [1]}, r"training data as `train_data`, not as `x` and `y`. Received: x=\[1\]"),
        ({"batch_size": 8.0, "train_data": arrays()}, "`batch_size` should be an integer"),
        ({"initial_epoch": "1"}, "`initial_epoch` should be an integer"),
        ({"warmup": 2.5}, "`warmup` should be an integer"),
    ],
)
def test_wrong_types(arguments: dict[str, Any], message: str) -> None:
    model = small_model()
    groups = arguments.pop("groups", three_groups(model))
    data = arguments.pop("train_data", batches())
    with pytest.raises(TypeError, match=message):
        fine_tune(model, groups, data, **{"learning_rate": 1e-3, "epochs": 2, **arguments})
    assert not model.compiled


# Keras warns at the end of any data set whose size it was not told.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_a_schedule_without_a_length_needs_no_count_of_batches() -> None:
    uncounted = batches().filter(lambda x, y: True)
    seen = rates_seen(uncounted, learning_rate=1e-3, epochs=2, schedule="constant")
    assert len(seen) >= 6
    # Whether the last cycle ends with the training is not known, so there is no warning.
    seen = rates_seen(uncounted, learning_rate=1e-3, epochs=1, schedule=lambda r: SGDR(r, 2))
    np.testing.assert_allclose(seen[:3, 2], [1e-3, 5e-4, 1e-3], rtol=1e-6)


def test_batch_norm() -> None:
    """Frozen, then trained: each call counts, whatever the one before it asked for."""
    model = eager_model()
    norm = model.get_layer("norm")
    for batch_norm in ("frozen", "train", "frozen"):
        before = norm.get_weights()
        fine_tune(
            model,
            three_groups(model),
            batches(),
            learning_rate=1e-2,
            epochs=2,
            batch_norm=batch_norm,
            verbose=0,
        )
        moved = [bool((a != b).any()) for a, b in zip(before, norm.get_weights())]
        assert moved == [batch_norm == "train"] * 4  # scale, shift, mean and variance


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
    model = eager_model()
    fine_tune(
        model,
        three_groups(model),
        train_data,
        learning_rate=1e-3,
        epochs=1,
        frozen_epochs=0,
        verbose=0,
    )
    assert int(model.optimizer.iterations.numpy()) == steps


def test_models_of_every_kind(sample: Any) -> None:
    model = sample.model()
    model.compile(run_eagerly=True)
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


# --- What `fit` takes ----------------------------------------------------------------------------


def sgdr(steps: int) -> list[float]:
    return [1e-3 * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps)]


@pytest.mark.parametrize(
    ("train_data", "fit", "steps"),
    [
        (arrays(), {"batch_size": 6}, 4),
        (arrays(), {"batch_size": 6, "validation_split": 0.5}, 2),
        (arrays(), {"batch_size": 6, "validation_split": 0.5, "validation_data": arrays()}, 4),
        (batches(), {"steps_per_epoch": 2}, 2),
        (batches(6).repeat(), {"steps_per_epoch": 5}, 5),
        (arrays(), {"batch_size": 8, "shuffle": False, "sample_weight": np.ones(N_IMAGES)}, 3),
        (arrays(), {"class_weight": {0: 1.0, 1: 2.0, 2: 3.0}}, 1),
        (
            batches(),
            {"validation_data": batches(), "validation_steps": 1, "validation_freq": 2},
            3,
        ),
    ],
    ids=["batch", "split", "no_split", "steps", "endless", "weights", "classes", "validation"],
)
def test_the_schedule_is_as_long_as_fit_is(train_data: Any, fit: Any, steps: int) -> None:
    seen = rates_seen(train_data, learning_rate=1e-3, epochs=1, **fit)
    np.testing.assert_allclose(seen[:, 2], sgdr(steps), rtol=1e-6)


def test_weights_change_what_is_learnt() -> None:
    for fit in (
        {"sample_weight": np.zeros(N_IMAGES)},
        {"class_weight": dict.fromkeys(range(3), 0)},
    ):
        model = eager_model()
        before = model.get_weights()
        fine_tune(
            model, three_groups(model), arrays(), learning_rate=0.1, epochs=2, verbose=0, **fit
        )
        for value, known in zip(model.get_weights(), before):
            np.testing.assert_array_equal(value, known)


@pytest.mark.parametrize(("initial_epoch", "moves"), [(0, [0, 0, 1]), (1, [0, 1]), (2, [1])])
def test_frozen_epochs_are_counted_by_the_number_of_the_epoch(
    initial_epoch: int, moves: list[int]
) -> None:
    model, watch = eager_model(), Watch()
    history = fine_tune(
        model,
        three_groups(model),
        batches(),
        learning_rate=1e-2,
        epochs=3,
        frozen_epochs=2,
        initial_epoch=initial_epoch,
        callbacks=[watch],
        verbose=0,
    )
    assert history.epoch == list(range(initial_epoch, 3))
    assert [watch.moved("body", epoch) for epoch in range(1, len(moves) + 1)] == moves


# --- What the model was compiled with ------------------------------------------------------------


def own_loss(y_true: Any, y_pred: Any) -> Any:
    return 2.0 * keras.ops.mean(keras.ops.square(y_pred - keras.ops.one_hot(y_true, N_CLASSES)))


def test_the_models_own_loss_and_metrics_are_used() -> None:
    model = small_model()
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")
    weighted = keras.metrics.SparseCategoricalAccuracy(name="weighted")
    model.compile(
        "sgd",
        own_loss,  # not serialisable
        metrics=[metric],
        weighted_metrics=[weighted],
        loss_weights=[0.5],
        run_eagerly=True,
        steps_per_execution=3,
        jit_compile=False,
    )
    x, y = arrays()
    expected = 0.5 * float(own_loss(y, model.predict(x, verbose=0)))
    fine_tune_ = {"learning_rate": 0.0, "epochs": 2, "verbose": 0}
    history = fine_tune(model, three_groups(model), arrays(), **fine_tune_).history
    assert set(history) == {"loss", "top_2", "weighted"}
    assert history["loss"] == pytest.approx([expected] * 2, rel=1e-4)
    assert model.loss is own_loss
    assert model.run_eagerly
    assert model.steps_per_execution == 3
    assert not model.jit_compile
    history = fine_tune(
        model, three_groups(model), arrays(), metrics=["accuracy"], **fine_tune_
    ).history
    assert set(history) == {"loss", "accuracy", "weighted"}
    sparse = "sparse_categorical_crossentropy"
    fine_tune(model, three_groups(model), arrays(), loss=sparse, **fine_tune_)
    assert model.loss == sparse


def test_a_loaded_models_own_loss_is_used(tmp_path: Any) -> None:
    model = small_model()
    model.compile("sgd", "mse", metrics=["mae"], run_eagerly=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x, _ = arrays()
    data = x, np.ones((N_IMAGES, N_CLASSES), "float32")
    history = fine_tune(
        loaded, three_groups(loaded), data, learning_rate=1e-3, epochs=2, verbose=0
    ).history
    assert loaded.loss == "mse"
    assert set(history) == {"loss", "mae"}


def test_a_model_compiled_with_a_loss_alone_gets_no_metrics() -> None:
    model = small_model()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    history = fine_tune(
        model, three_groups(model), arrays(), learning_rate=1e-3, epochs=2, verbose=0
    ).history
    assert set(history) == {"loss"}


# --- Warnings ------------------------------------------------------------------------------------


def test_rates_that_fall_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"fall from group 'body' \(0.01\) to group 'head' \(0.00"):
        rates_seen(learning_rate=[1e-3, 1e-2, 1e-3], epochs=1)
    rates = [SGDR(1e-2, 3), SGDR(1e-3, 3), 1e-2]
    with pytest.warns(UserWarning, match="fall from group 'stem'"):
        rates_seen(learning_rate=rates, epochs=1)

    # The peak of a schedule of another kind is not known.
    class Unknown(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return tf.constant(1.0)

        def get_config(self) -> dict[str, Any]:
            return {}

    rates_seen(learning_rate=[Unknown(), 1e-3, 1e-3], epochs=1)


def test_a_list_of_schedules_may_hold_constant_rates() -> None:
    rates = rates_seen(learning_rate=None, schedule=[1e-4, 1e-3, 1e-2], epochs=1)
    np.testing.assert_allclose(rates[-1], [1e-4, 1e-3, 1e-2], rtol=1e-6)


def test_cycles_that_do_not_end_with_the_training_are_warned_of() -> None:
    match = r"ends at step 6, within the cycle that starts at step 4, .*`first_decay_steps=6`"
    with pytest.warns(UserWarning, match=match):
        rates_seen(learning_rate=None, schedule=[SGDR(1e-3, 4)] * 3, epochs=2)
    halves = make_schedule("sgdr", steps_per_epoch=3, epochs=2, cycle_epochs=1, t_mul=1)
    rates_seen(learning_rate=1e-3, schedule=halves, epochs=2)
    with pytest.warns(UserWarning, match="within the warm-up"):
        rates_seen(learning_rate=SGDR(1e-3, 4, warmup_steps=9), epochs=2)


def test_one_group_may_learn_alone() -> None:
    model = eager_model()
    fine_tune(model, split_layers(model, []), batches(), learning_rate=1e-3, epochs=1, verbose=0)


# --- Labels --------------------------------------------------------------------------------------


def test_the_training_step_is_traced_once() -> None:
    traces = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    model = small_model()
    fine_tune(
        model, three_groups(model), arrays(), learning_rate=0.1, loss=loss, metrics=["accuracy"],
        epochs=2, verbose=0,
    )  # fmt: skip
    assert len(traces) == 1


def beyond(labels: Any, kind: str) -> Any:
    x = np.ones((len(labels), N_INPUTS), "float32")
    if kind == "arrays":
        return x, labels
    if kind == "dataset":
        return tf.data.Dataset.from_tensor_slices((x, labels)).batch(8)

    class Labelled(Sequence):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            rows = slice(8 * index, 8 * index + 8)
            return x[rows], labels[rows]

    return Labelled()


@pytest.mark.parametrize("kind", ["arrays", "dataset", "sequence"])
@pytest.mark.parametrize(
    ("activation", "units", "label", "message"),
    [
        ("softmax", 3, 7, "from 0 to 2, since .* 3 units. Received: labels from 0 to 7. Correct"),
        (None, 3, -1, "from 0 to 2, since .* 3 units. Received: labels from -1 to 0"),
        (None, 1, 2, "0 and 1, since .* one unit. Received: labels from 0 to 2. Pass `loss=..."),
        ("sigmoid", 1, 5, "0 and 1, since .* one unit. Received: labels from 0 to 5"),
    ],
)
def test_labels_beyond_the_outputs(
    kind: str, activation: str | None, units: int, label: int, message: str
) -> None:
    labels = np.zeros(24, int)
    labels[17] = label  # in the third batch
    model = small_model(activation, units)
    with pytest.raises(ValueError, match=message):
        fine_tune(model, three_groups(model), beyond(labels, kind), learning_rate=1e-3, epochs=2)
    assert not model.compiled


def test_labels_beyond_the_outputs_under_the_models_own_loss() -> None:
    x, y = arrays()
    sparse = keras.losses.SparseCategoricalCrossentropy
    for loss in ("sparse_categorical_crossentropy", sparse()):
        model = eager_model()
        with pytest.raises(ValueError, match="from 0 to 2, .* Received: labels from 5 to 7"):
            fine_tune(
                model, three_groups(model), (x, y + 5), learning_rate=1e-3, epochs=2, loss=loss
            )
    model = eager_model()
    ignoring = sparse(ignore_class=-1)
    fine_tune(
        model,
        three_groups(model),
        (x, y - 1),
        learning_rate=0.1,
        epochs=2,
        loss=ignoring,
        verbose=0,
    )


# --- Models that know more than fine-tuning ------------------------------------------------------


def rates_of(model: keras.Model) -> list[Any]:
    return [type(one) for one in unwrap(model.optimizer).group_optimizers]


def test_the_compiled_optimizer_is_the_template() -> None:
    model = small_model()
    own = keras.optimizers.AdamW(0.5, weight_decay=0.05, beta_1=0.8, clipnorm=2.0, use_ema=True)
    own.exclude_from_weight_decay(var_names=["bias"])
    model.compile(own, "sparse_categorical_crossentropy", run_eagerly=True)
    arguments: Any = {"learning_rate": 1e-3, "epochs": 1, "verbose": 0}
    fine_tune(model, three_groups(model), arrays(), **arguments)
    inner = model.optimizer.group_optimizers
    assert [(type(one), one.weight_decay, one.beta_1) for one in inner] == [
        (keras.optimizers.AdamW, 0.05, 0.8)
    ] * 3
    assert model.optimizer.clipnorm == 2.0
    assert model.optimizer.use_ema
    assert model.optimizer.learning_rates == pytest.approx([1e-3 / 25e5] * 3, abs=1e-3)
    kernel, bias = model.get_layer("top").weights
    assert uses_weight_decay(inner[2], kernel)
    assert not uses_weight_decay(inner[2], bias)
    assert own.clipnorm == 2.0  # not changed
    assert not own.built
    # Other groups, and what overrides it.
    fine_tune(model, split_layers(model, ["top"]), arrays(), clipnorm=3.0, **arguments)
    assert [one.weight_decay for one in model.optimizer.group_optimizers] == [0.05] * 2
    assert (model.optimizer.clipnorm, model.optimizer.use_ema) == (3.0, True)
    fine_tune(model, three_groups(model), arrays(), optimizer="sgd", **arguments)
    assert rates_of(model) == [keras.optimizers.SGD] * 3
    assert (model.optimizer.clipnorm, model.optimizer.use_ema) == (None, False)


def test_a_compiled_keras_adam_becomes_the_fused_one() -> None:
    model = small_model()
    model.compile(keras.optimizers.Adam(beta_1=0.7), "sparse_categorical_crossentropy")
    assert rates_of_template(model) == [(FusedAdam, 0.7)] * 3


def rates_of_template(model: keras.Model) -> list[Any]:
    optimizer = make_optimizer(model, three_groups(model), 1e-3)
    return [(type(one), one.beta_1) for one in optimizer.group_optimizers]


def test_a_compiled_multi_group_optimizer_is_the_template() -> None:
    model = small_model()
    settings = {"global_clipnorm": 1.0, "gradient_accumulation_steps": 3, "use_ema": True}
    inner = [keras.optimizers.Lion(), keras.optimizers.SGD(), keras.optimizers.Adam(beta_1=0.5)]
    optimizer = MultiGroupOptimizer(three_groups(model), 1e-3, inner, ema_momentum=0.5, **settings)
    model.compile(optimizer, "mse")
    made = make_optimizer(model, three_groups(model), [0.1, 0.2, 0.3])
    assert [type(one) for one in made.group_optimizers] == [type(one) for one in inner]
    assert made.group_optimizers[2].beta_1 == 0.5
    assert {name: getattr(made, name) for name in settings} == settings
    assert made.ema_momentum == 0.5
    with pytest.raises(ValueError, match="3 groups, whose optimizers differ.* 2 groups should get"):
        make_optimizer(model, split_layers(model, ["top"]), 0.1)
    made = make_optimizer(model, split_layers(model, ["top"]), 0.1, "sgd", use_ema=True)
    assert (made.use_ema, made.ema_momentum, made.global_clipnorm) == (True, 0.99, None)


def test_decays_of_the_compiled_optimizer_are_kept_or_overridden() -> None:
    model = small_model()
    groups, fewer = three_groups(model), split_layers(model, ["top"])
    model.compile(keras.optimizers.AdamW(weight_decay=0.05), "mse")
    made = make_optimizer(model, groups, 0.1)
    assert [one.weight_decay for one in made.group_optimizers] == [0.05] * 3
    made = make_optimizer(model, groups, 0.1, weight_decay=0.2)
    assert made.decays()["weight_decay"] == [0.2] * 3
    optimizer = MultiGroupOptimizer(groups, 0.1, weight_decay=0.3, decay_to_start=[0.1, 0.2, 0.0])
    model.compile(optimizer, "mse")
    assert make_optimizer(model, groups, 0.1).decays() == optimizer.decays()
    made = make_optimizer(model, fewer, 0.1, decay_to_start=None)
    assert made.decays() == {"weight_decay": [0.3] * 2, "decay_to_start": None}
    with pytest.raises(ValueError, match="decay_to_start"):
        make_optimizer(model, fewer, 0.1)
    made = make_optimizer(model, groups, 0.1, weight_decay=[0.1, 0.2, 0.3])
    assert made.decays()["weight_decay"] == [0.1, 0.2, 0.3]


def test_clipping_accumulation_and_averages_are_arguments() -> None:
    model = eager_model()
    fine_tune(
        model,
        three_groups(model),
        arrays(),
        learning_rate=1e-3,
        epochs=2,
        batch_size=6,
        verbose=0,
        optimizer=keras.optimizers.SGD(clipnorm=1.0),  # moves to the wrapper
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_overwrite_frequency=3,
    )
    optimizer = model.optimizer
    assert (optimizer.clipnorm, optimizer.use_ema, optimizer.ema_overwrite_frequency) == (
        1,
        True,
        3,
    )
    assert int(optimizer.iterations) == 4
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` must be an integer >= 2"):
        fine_tune(
            model, three_groups(model), arrays(), epochs=1, gradient_accumulation_steps=1, verbose=0
        )


class Distiller(keras.Model):
    """As in Keras' example: a `compile` and a `compute_loss` of its own, and a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = small_model(None), small_model(None)
        self.teacher.trainable = False

    def compile(
        self, optimizer: Any, metrics: Any, student_loss: Any, alpha: float = 0.1, **others: Any
    ) -> None:
        super().compile(optimizer=optimizer, metrics=metrics, **others)
        self.student_loss, self.alpha = student_loss, alpha

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
        soft = keras.ops.softmax(self.teacher(x, training=False))
        distance = keras.ops.mean(keras.losses.kl_divergence(soft, keras.ops.softmax(y_pred)))
        return self.alpha * self.student_loss(y, y_pred) + (1 - self.alpha) * distance

    def call(self, x: Any, training: bool = False) -> Any:
        return self.student(x, training=training)


def distiller(compiled: bool = True) -> keras.Model:
    model = Distiller()
    x, _ = arrays()
    model.teacher(x[:2])
    model(x[:2])
    if compiled:
        model.compile(
            keras.optimizers.Adam(0.1),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="right")],
            student_loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            alpha=0.25,
            run_eagerly=True,
        )
    return model


def test_a_model_with_a_compile_and_a_loss_of_its_own(caplog: Any) -> None:
    model = distiller()
    groups = split_layers(model, ["student/body", "student/top"])
    teacher = model.teacher.get_weights()
    history = fine_tune(model, groups, arrays(), learning_rate=1e-2, epochs=3, verbose=0).history
    assert set(history) == {"loss", "right"}
    assert history["loss"][-1] < history["loss"][0]
    assert (model.alpha, model.run_eagerly) == (0.25, True)
    for before, after in zip(teacher, model.teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not model.teacher.trainable
    assert "stay frozen, although their groups are trained: ['teacher']" in caplog.text
    assert caplog.text.count("teacher") == 1
    with pytest.raises(ValueError, match="has a `compile` of its own, with other .* Call it first"):
        fine_tune(distiller(compiled=False), groups, arrays(), learning_rate=1e-2, epochs=1)


class Noise(keras.layers.Layer):
    """Adds a loss in its call."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


class OwnStep(keras.Model):
    """A training step that needs no labels."""

    def train_step(self, data: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(data, training=True) - 1.0) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"distance": loss}


def model_with_its_own_loss(kind: str) -> keras.Model:
    inputs = keras.Input((N_INPUTS,))
    x = keras.layers.Dense(4, name="body", kernel_regularizer="l2")(inputs)
    x = keras.layers.Dense(3, name="top")(x)
    if kind == "train_step":
        return OwnStep(inputs, x)
    return keras.Model(inputs, Noise()(x))


@pytest.mark.parametrize(
    ("kind", "data", "compiled"),
    [
        ("train_step", "array", True),
        ("train_step", "dataset", True),
        ("add_loss", "array", False),
        ("add_loss", "tuple", True),
        ("add_loss", "dataset", True),
        ("add_loss", "sequence", True),
    ],
)
def test_data_without_labels(kind: str, data: str, compiled: bool) -> None:
    x, _ = arrays()

    class Unlabelled(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> np.ndarray:
            return x[8 * index : 8 * index + 8]

    train_data = {
        "array": lambda: x,
        "tuple": lambda: (x,),
        "dataset": lambda: tf.data.Dataset.from_tensor_slices(x).batch(8),
        "sequence": Unlabelled,
    }[data]()
    model = model_with_its_own_loss(kind)
    if compiled:
        model.compile("sgd", run_eagerly=True)
    fit: Any = {"batch_size": 8} if data in ("array", "tuple") else {}
    history = fine_tune(
        model,
        split_layers(model, ["top"]),
        train_data,
        learning_rate=1e-2,
        epochs=2,
        verbose=0,
        **fit,
    ).history
    name = "loss" if kind == "add_loss" else "distance"
    assert history[name][1] < history[name][0]
    assert model.loss is None
    assert int(unwrap(model.optimizer).iterations) == 2 * 3


def test_a_regularizer_is_no_loss_of_the_models_own() -> None:
    inputs = keras.Input((N_INPUTS,))
    layer = keras.layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l2", name="top")
    for compiled in (False, True):
        model = keras.Model(inputs, layer(inputs))
        if compiled:
            model.compile(run_eagerly=True)
        with pytest.raises(ValueError, match="the data have no labels. Pass a tuple"):
            fine_tune(model, split_layers(model, []), arrays()[0], learning_rate=1e-2, epochs=1)
        fine_tune(model, split_layers(model, []), arrays(), learning_rate=0.1, epochs=1, verbose=0)
        assert model.loss.name == "sparse_categorical_crossentropy"


def test_labels_choose_the_loss_beside_one_that_is_added() -> None:
    """A model that is not compiled, with a loss that helps another."""
    model = model_with_its_own_loss("add_loss")
    with pytest.raises(ValueError, match="the activation of its output is not known"):
        fine_tune(model, split_layers(model, []), arrays(), learning_rate=0.1, epochs=1, verbose=0)
    model = keras.Sequential([model, keras.layers.Dense(3)])
    fine_tune(model, split_layers(model, []), arrays(), learning_rate=0.1, epochs=1, verbose=0)
    assert model.loss.name == "sparse_categorical_crossentropy"


def test_a_model_with_two_optimizers_is_refused() -> None:
    model = model_with_its_own_loss("train_step")
    model.compile("sgd", run_eagerly=True)
    model.discriminator_optimizer = keras.optimizers.Adam()
    with pytest.raises(ValueError, match=r"of its own: \['discriminator_optimizer'\]. `fine_tune`"):
        fine_tune(model, split_layers(model, []), arrays()[0], learning_rate=0.1, epochs=1)


@pytest.mark.parametrize("learning_rate", [1e-2, pytest.param("auto", marks=pytest.mark.slow)])
def test_what_was_frozen_before_stays_frozen(learning_rate: Any, caplog: Any) -> None:
    model, watch = eager_model(), Watch()
    model.get_layer("stem").trainable = False
    model.get_layer("body").bias.trainable = False
    before = model.get_layer("body").get_weights()
    fine_tune(
        model,
        three_groups(model),
        arrays(),
        learning_rate=learning_rate,
        epochs=2,
        frozen_epochs=1,
        callbacks=[watch],
        verbose=0,
    )
    assert not watch.moved("stem", 1)
    assert not watch.moved("stem", 2)
    kernel, bias = model.get_layer("body").get_weights()
    assert np.any(kernel != before[0])
    np.testing.assert_array_equal(bias, before[1])
    assert not model.get_layer("stem").trainable
    assert "['stem', 'body/bias']" in caplog.text
    assert len(caplog.messages) == 1


def test_a_model_of_which_nothing_is_left_to_train() -> None:
    model = eager_model()
    model.trainable = False
    with pytest.raises(ValueError, match="Nothing of the model .* Set `trainable = True` on those"):
        fine_tune(model, three_groups(model), arrays(), learning_rate=1e-2, epochs=1, verbose=0)


# --- Sparse, ragged and lazy data ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "split", "learning_rate"),
    [
        ("csr", 0.0, 1e-3),
        pytest.param("csr", 0.25, "auto", marks=pytest.mark.slow),
        pytest.param("sparse", 0.25, 1e-3, marks=pytest.mark.slow),
        ("sparse", 0.25, "auto"),
        pytest.param("ragged", 0.25, 1e-3, marks=pytest.mark.slow),
        pytest.param("ragged", 0.0, "auto", marks=pytest.mark.slow),
    ],
)
def test_sparse_and_ragged_inputs(kind: str, split: float, learning_rate: Any) -> None:
    x, y = arrays()
    body = keras.layers.Dense(4, name="body")
    if kind == "ragged":
        data: Any = tf.RaggedTensor.from_row_lengths(x.ravel(), [N_INPUTS] * N_IMAGES)
        inputs = keras.Input((None,))
        hidden = body(keras.ops.reshape(inputs, (-1, N_INPUTS)))
    else:
        sparse = tf.sparse.from_dense if kind == "sparse" else None
        data = (sparse or pytest.importorskip("scipy.sparse").csr_matrix)(x)
        inputs = keras.Input((N_INPUTS,), sparse=True)
        hidden = body(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="top")(hidden))
    model.compile(run_eagerly=True)
    history = fine_tune(
        model,
        split_layers(model, ["top"]),
        (data, y),
        learning_rate=learning_rate,
        epochs=1,
        batch_size=6,
        validation_split=split,
        verbose=0,
    ).history
    assert ("val_loss" in history) == bool(split)
    assert int(model.optimizer.iterations) == (3 if split else 4)


def test_the_first_batch_of_a_sequence_is_read_once() -> None:
    reads: list[int] = []

    class Counted(Sequence):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            reads.append(index)
            return super().__getitem__(index)

    counts = []
    for tune in (False, True):
        model = eager_model()
        reads.clear()
        if tune:
            fine_tune(model, three_groups(model), Counted(), learning_rate=0.1, epochs=1, verbose=0)
        else:
            model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
            model.fit(Counted(), epochs=1, verbose=0)
        counts.append([reads.count(index) for index in range(3)])
    assert counts[1] == [count + 1 for count in counts[0]]
