"""The logger in a real `fit`; models run eagerly, except where the compiled step is the point."""

from __future__ import annotations

import copy
import csv
import math
import pickle

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from reference import sgdr_rate

from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training import learning_rate_logger
from dlr_tf.training.learning_rate_logger import LearningRateLogger

# Keras saves variables through NumPy's old protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("body", "head")


def data(count=24):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def make_model(
    learning_rate=(1e-3, 1e-2), loss=None, metrics=(), steps_per_execution=None, **arguments
):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="relu", name="body_layer"),
            keras.layers.Dense(2, name="head_layer"),
        ]
    )
    groups = split_layers(model, ["head_layer"], names=NAMES)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"run_eagerly": True}
    if steps_per_execution is not None:
        options = {"jit_compile": False, "steps_per_execution": steps_per_execution}
    optimizer = MultiGroupOptimizer(groups, learning_rate, **arguments)
    model.compile(optimizer, loss=loss, metrics=list(metrics), **options)
    return model


class Seen(keras.callbacks.Callback):
    """What Keras gives to any callback."""

    def __init__(self):
        super().__init__()
        self.logs, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def fit(model, *members, count=24, **arguments):
    options = {"batch_size": 4, "verbose": 0} | arguments
    return model.fit(*data(count), callbacks=list(members), **options)


def test_every_step_has_the_rates_it_was_made_with():
    model = make_model(
        [SGDR(1e-3, 5), SGDR(1e-2, 3, warmup_steps=2)],
        metrics=["accuracy"],
        steps_per_execution=1,
    )
    logger, seen = LearningRateLogger(), Seen()
    fit(model, logger, seen, epochs=2)
    history = logger.history
    assert list(history) == ["iterations", "loss", "accuracy", "body", "head"]
    assert history["iterations"] == list(range(1, 13))
    np.testing.assert_allclose(
        history["body"], [sgdr_rate(k, 1e-3, 5, 2.0) for k in range(12)], rtol=1e-6
    )
    np.testing.assert_allclose(
        history["head"],
        [sgdr_rate(k, 1e-2, 3, 2.0, warmup_steps=2) for k in range(12)],
        rtol=1e-6,
    )
    assert history["loss"] == [logs["loss"] for logs in seen.logs]
    assert history["accuracy"] == [logs["accuracy"] for logs in seen.logs]


def test_it_goes_on_over_several_fits_and_turns_into_a_frame():
    model = make_model()
    logger = LearningRateLogger()
    fit(model, logger)
    model.optimizer.learning_rate = 1e-1
    fit(model, logger)
    model.compile(model.optimizer, loss=model.loss, metrics=["accuracy"], run_eagerly=True)
    fit(model, logger)
    frame = pandas.DataFrame(logger.history)
    assert frame["iterations"].tolist() == list(range(1, 19))
    np.testing.assert_allclose(frame["head"], [1e-2] * 6 + [1e-1] * 12)
    np.testing.assert_allclose(frame["body"], [1e-3] * 6 + [1e-2] * 12, rtol=1e-6)
    assert frame["accuracy"].isna().tolist() == [True] * 12 + [False] * 6
    assert frame["loss"].notna().all()


def test_another_optimizer_adds_its_groups():
    first, second = make_model(), make_model()
    groups = split_layers(second, ["head_layer"], names=["early", "head"])
    second.compile(MultiGroupOptimizer(groups, [0.1, 0.2]), loss=second.loss, run_eagerly=True)
    logger = LearningRateLogger()
    fit(first, logger, count=4)
    fit(second, logger, count=4)
    history = logger.history
    assert history["iterations"] == [1, 1]
    np.testing.assert_allclose(history["body"], [1e-3, math.nan])
    np.testing.assert_allclose(history["early"], [math.nan, 0.1])
    np.testing.assert_allclose(history["head"], [1e-2, 0.2])


def test_a_resumed_run_goes_on_counting():
    model = make_model()
    fit(model)
    logger = LearningRateLogger()
    fit(model, logger, initial_epoch=1, epochs=2)
    assert logger.history["iterations"] == [7, 8, 9, 10, 11, 12]


def test_steps_per_execution_gives_one_row_each():
    model = make_model(SGDR(1e-2, 50), steps_per_execution=4)
    logger = LearningRateLogger()
    fit(model, logger)
    assert logger.history["iterations"] == [4, 6]
    np.testing.assert_allclose(
        logger.history["head"], [sgdr_rate(k, 1e-2, 50, 2.0) for k in (3, 5)], rtol=1e-6
    )


def test_accumulation_counts_steps():
    model = make_model(SGDR(1e-2, 50), gradient_accumulation_steps=2)
    logger = LearningRateLogger()
    fit(model, logger)
    assert logger.history["iterations"] == [0, 1, 1, 2, 2, 3]
    np.testing.assert_allclose(
        logger.history["head"][1:],
        [sgdr_rate(k, 1e-2, 50, 2.0) for k in (0, 0, 1, 1, 2)],
        rtol=1e-6,
    )


def test_a_step_that_loss_scaling_skips_is_not_counted():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    logger = LearningRateLogger()
    x, y = data()
    x[9] = np.inf
    model.fit(x, y, batch_size=4, shuffle=False, callbacks=[logger], verbose=0)
    assert logger.history["iterations"] == [1, 2, 2, 3, 4, 5]
    assert len(logger.history["loss"]) == 6


def test_steps_that_another_callback_sets_are_seen():
    class Jumps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.optimizer.iterations.assign(40)

    model, logger = make_model(SGDR(1e-2, 50)), LearningRateLogger()
    fit(model, logger, Jumps())
    assert logger.history["iterations"] == [1, 2, 41, 42, 43, 44]
    expected = [sgdr_rate(k, 1e-2, 50, 2.0) for k in (0, 1, 40, 41, 42, 43)]
    np.testing.assert_allclose(logger.history["head"], expected, rtol=1e-6)


class Frozen(keras.callbacks.Callback):
    """Freezes one group in the first epoch."""

    def __init__(self, group=0):
        super().__init__()
        self.group = group

    def on_epoch_begin(self, epoch, logs=None):
        for name in self.model.optimizer.groups[self.group].layers:
            self.model.get_layer(name).trainable = epoch > 0
        self.model.make_train_function(force=True)


def test_a_group_that_does_not_move_has_no_rate(tmp_path, capsys):
    model, logger = make_model(), LearningRateLogger()
    path = tmp_path / "log.csv"
    board = keras.callbacks.TensorBoard(tmp_path / "board")
    csv_logger = keras.callbacks.CSVLogger(path)
    history = fit(model, Frozen(), logger, csv_logger, board, epochs=2, verbose=2).history
    np.testing.assert_allclose(logger.history["body"], [math.nan] * 6 + [1e-3] * 6)
    np.testing.assert_allclose(logger.history["head"], [1e-2] * 12)
    np.testing.assert_allclose(history["learning_rate/body"], [math.nan, 1e-3])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["learning_rate/body"] for row in rows] == [
        "nan",
        str(history["learning_rate/body"][1]),
    ]
    assert "learning_rate/body: nan" in capsys.readouterr().out
    body, head = logger.plot_learning_rate().axes[0].get_lines()
    assert np.isnan(body.get_ydata()).tolist() == [True] * 6 + [False] * 6
    assert np.isfinite(head.get_ydata()).all()


def test_a_history_without_some_rates_can_be_copied():
    model = make_model()
    history = fit(model, Frozen(), LearningRateLogger(), epochs=2).history
    for copied in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        np.testing.assert_equal(copied["learning_rate/body"], history["learning_rate/body"])


def test_the_loss_has_no_point_where_the_head_does_not_move():
    model, logger = make_model(), LearningRateLogger()
    fit(model, Frozen(group=1), logger, epochs=2)
    x = logger.plot_loss(skip=0).axes[0].get_lines()[0].get_xdata()
    assert np.isnan(x).tolist() == [True] * 6 + [False] * 6


def test_a_training_function_of_its_own_counts_its_own_steps():
    class Twice(keras.Sequential):
        def make_train_function(self, force=False):
            def function(iterator):
                batch = next(iterator)
                self.train_step(batch)
                return self.train_step(batch)

            self.train_function = function
            return function

    plain = make_model(SGDR(1e-2, 50))
    model = Twice(plain.layers)
    model.compile(plain.optimizer, loss=plain.loss, run_eagerly=True)
    logger = LearningRateLogger()
    fit(model, logger)
    assert logger.history["iterations"] == [2, 4, 6, 8, 10, 12]


def test_under_a_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = make_model(SGDR(1e-2, 50))
    logger = LearningRateLogger()
    fit(model, logger)
    np.testing.assert_allclose(
        logger.history["head"], [sgdr_rate(k, 1e-2, 50, 2.0) for k in range(6)], rtol=1e-6
    )


def test_rates_that_another_callback_sets_are_seen():
    model = make_model()
    logger = LearningRateLogger()
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: [0.1, 0.2][epoch])
    fit(model, logger, scheduler, epochs=2)
    np.testing.assert_allclose(logger.history["head"], [0.1] * 6 + [0.2] * 6, rtol=1e-6)
    np.testing.assert_allclose(logger.history["body"], [0.01] * 6 + [0.02] * 6, rtol=1e-6)


def test_epoch_logs_carry_the_last_rates(tmp_path, capsys):
    model = make_model(SGDR(1e-2, 50))
    logger, seen = LearningRateLogger(), Seen()
    path = tmp_path / "log.csv"
    board = keras.callbacks.TensorBoard(tmp_path / "board")
    history = fit(
        model, logger, keras.callbacks.CSVLogger(path), board, seen, epochs=2, verbose=2,
        validation_data=data(8),
    ).history  # fmt: skip
    expected = [sgdr_rate(k, 1e-2, 50, 2.0) for k in (5, 11)]
    for name in NAMES:
        key = f"learning_rate/{name}"
        np.testing.assert_allclose(history[key], expected, rtol=1e-6)
        assert [logs[key] for logs in seen.epochs] == history[key]
        with path.open() as file:
            rows = list(csv.DictReader(file))
        assert [float(row[key]) for row in rows] == history[key]
        assert f"{key}: " in capsys.readouterr().out or name == "head"
    assert "val_learning_rate/head" not in rows[0]
    (events,) = (tmp_path / "board" / "train").glob("events.*")
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert {"epoch_learning_rate/body", "epoch_learning_rate/head"} <= tags


@pytest.mark.parametrize("at_a_time", [2, 1000])
def test_history_can_be_read_in_the_middle(monkeypatch, at_a_time):
    monkeypatch.setattr(learning_rate_logger, "_ROWS_AT_A_TIME", at_a_time)
    lengths = []

    class Reads(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            lengths.append({len(values) for values in logger.history.values()})

    logger = LearningRateLogger()
    fit(make_model(), logger, Reads())
    assert lengths == [{1}, {2}, {3}, {4}, {5}, {6}]
    assert logger.history["iterations"] == [1, 2, 3, 4, 5, 6]


def test_a_fit_that_stops_with_an_error_leaves_whole_rows():
    class Stops(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    model, logger = make_model(SGDR(1e-2, 50)), LearningRateLogger()
    with pytest.raises(KeyboardInterrupt):
        fit(model, logger, Stops())
    assert logger.history["iterations"] == [1, 2, 3]
    fit(model, logger)
    assert logger.history["iterations"] == list(range(1, 10))
    expected = [sgdr_rate(k, 1e-2, 50, 2.0) for k in range(9)]
    np.testing.assert_allclose(logger.history["head"], expected, rtol=1e-6)


def test_data_of_unknown_length():
    dataset = tf.data.Dataset.from_tensor_slices(data()).filter(lambda x, y: True).batch(4)
    model, logger = make_model(), LearningRateLogger()
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(dataset, epochs=2, shuffle=False, callbacks=[logger], verbose=0)
    # Keras makes optimizers count one step more when the data turn out to have ended.
    assert logger.history["iterations"][:7] in ([*range(1, 8)], [*range(1, 7), 8])
    assert len(logger.history["loss"]) == 12


def test_a_train_step_that_makes_several_steps():
    class Twice(keras.Sequential):
        def train_step(self, data):
            super().train_step(data)
            return super().train_step(data)

    plain = make_model()
    model = Twice([keras.Input((4,)), *plain.layers])
    groups = split_layers(model, ["head_layer"], names=NAMES)
    model.compile(MultiGroupOptimizer(groups, SGDR(1e-2, 50)), loss=plain.loss, run_eagerly=True)
    logger = LearningRateLogger()
    fit(model, logger)
    assert logger.history["iterations"] == [2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose(
        logger.history["head"], [sgdr_rate(k, 1e-2, 50, 2.0) for k in range(1, 12, 2)], rtol=1e-6
    )


@pytest.mark.parametrize("known_by", ["optimizer", "model", "loss scale"])
def test_a_loop_of_its_own(known_by):
    model = make_model(SGDR(1e-2, 50))
    optimizer = model.optimizer
    if known_by == "loss scale":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    if known_by == "model":
        logger = LearningRateLogger()
        logger.set_model(model)
    else:
        logger = LearningRateLogger(optimizer)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = optimizer.scale_loss(model.loss(y, model(x, training=True)))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    x, y = data(4)
    losses = []
    for _ in range(3):
        loss = step(x, y)
        losses.append(float(loss))
        logger.record(optimizer.iterations, {"loss": loss})
    logger.record(4)
    history = logger.history
    assert history["iterations"] == [1, 2, 3, 4]
    assert history["loss"][:3] == losses
    assert math.isnan(history["loss"][3])
    expected = [sgdr_rate(k, 1e-2, 50, 2.0) for k in (0, 1, 2, 2)]
    np.testing.assert_allclose(history["head"], expected, rtol=1e-6)


def test_record_keeps_the_value_of_a_variable(monkeypatch):
    monkeypatch.setattr(learning_rate_logger, "_ROWS_AT_A_TIME", 2)
    logger = LearningRateLogger(make_model().optimizer)
    metric = keras.Variable(1.0)
    for step in range(3):
        metric.assign(float(step))
        logger.record(step, {"loss": metric, "note": "text"})
    assert logger.history["loss"] == [0.0, 1.0, 2.0]
    assert logger.history["note"] == ["text"] * 3


def test_record_needs_an_optimizer_and_a_real_step():
    with pytest.raises(ValueError, match=r"LearningRateLogger\(optimizer\)"):
        LearningRateLogger().record(1)
    logger = LearningRateLogger(make_model().optimizer)

    @tf.function
    def step():
        logger.record(1)

    with pytest.raises(ValueError, match="while a `tf.function` is traced"):
        step()


def test_a_plain_keras_optimizer_is_refused():
    with pytest.raises(TypeError, match="`MultiGroupOptimizer` was expected"):
        LearningRateLogger(keras.optimizers.Adam())
    model = make_model()
    model.compile("adam", model.loss, run_eagerly=True)
    with pytest.raises(TypeError, match="`MultiGroupOptimizer` was expected"):
        fit(model, LearningRateLogger())


@pytest.mark.parametrize("name", ["iterations", "loss", "accuracy"])
def test_a_group_with_the_name_of_a_column_is_refused(name):
    model = make_model()
    groups = split_layers(model, ["head_layer"], names=["body", name])
    model.compile(
        MultiGroupOptimizer(groups, 1e-3), loss=model.loss, metrics=["accuracy"], run_eagerly=True
    )
    with pytest.raises(ValueError, match=f"another column of the history.*{name}"):
        fit(model, LearningRateLogger())


def test_plots(tmp_path):
    model, logger = make_model([SGDR(1e-4, 5), SGDR(1e-2, 5)]), LearningRateLogger()
    fit(model, logger, epochs=3)
    rates = logger.plot_learning_rate(tmp_path / "rates.png")
    assert [line.get_label() for line in rates.axes[0].get_lines()] == ["body", "head"]
    loss = logger.plot_loss(tmp_path / "loss.svg")
    x, y = loss.axes[0].get_lines()[0].get_data()
    np.testing.assert_allclose(
        x, [*logger.history["head"][10:15], math.nan, *logger.history["head"][15:]]
    )
    np.testing.assert_allclose(
        y, [*logger.history["loss"][10:15], math.nan, *logger.history["loss"][15:]]
    )
    assert loss.axes[0].get_xscale() == "log"
    assert np.isfinite(logger.plot_loss(skip=0).axes[0].get_lines()[0].get_xdata()).sum() == 18
    assert (tmp_path / "rates.png").stat().st_size > 1000
    assert "<svg" in (tmp_path / "loss.svg").read_text()


def test_there_is_nothing_to_plot_before_training():
    logger = LearningRateLogger()
    assert logger.history == {"iterations": [], "loss": []}
    with pytest.raises(ValueError, match="nothing to plot.*0 rows"):
        logger.plot_learning_rate()
    fit(make_model(), logger)
    with pytest.raises(ValueError, match="nothing to plot.*skip=10, 6 rows"):
        logger.plot_loss()


def test_a_stored_history_goes_on():
    first, second = LearningRateLogger(), LearningRateLogger()
    model = make_model()
    fit(model, first)
    stored = first.history

    class Load(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            second.load_history({name: np.array(values) for name, values in stored.items()})

    fit(model, first)
    model.optimizer.iterations.assign(len(stored["loss"]))
    fit(model, second, Load())
    count = len(stored["iterations"])
    assert second.history["iterations"] == first.history["iterations"]
    for name, values in stored.items():
        assert second.history[name][:count] == pytest.approx(values, nan_ok=True)
        assert len(second.history[name]) == 2 * count


def test_a_stored_history_that_does_not_fit():
    logger = LearningRateLogger()
    with pytest.raises(ValueError, match="`load_history` does not know the optimizer"):
        logger.load_history({})
    optimizer = make_model().optimizer
    logger = LearningRateLogger(optimizer)
    names = [group.name for group in optimizer.groups]
    with pytest.raises(ValueError, match=f"Missing: .'{names[0]}'"):
        logger.load_history({"iterations": [1], "loss": [0.5]})
    columns = {"iterations": [1], "loss": [0.5, 0.4], **{name: [0.1] for name in names}}
    with pytest.raises(ValueError, match="columns of equal length, .* 'loss': 2"):
        logger.load_history(columns)
    assert logger.history["iterations"] == []
