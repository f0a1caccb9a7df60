"""The logger and the snapshots, each in a real `fit`."""

from __future__ import annotations

import csv
import math

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from reference import sgdr_rate

from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training import callbacks
from dlr_tf.training.callbacks import LearningRateLogger, SnapshotEnsemble

# Keras saves variables through NumPy's old protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("body", "head")


def data(count=24):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def make_model(learning_rate=(1e-3, 1e-2), loss=None, metrics=(), outputs=2, **arguments):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="relu", name="body_layer"),
            keras.layers.Dense(outputs, name="head_layer"),
        ]
    )
    compiled = {
        key: arguments.pop(key)
        for key in ("steps_per_execution", "run_eagerly")
        if key in arguments
    }
    groups = split_layers(model, ["head_layer"], names=NAMES)
    optimizer = MultiGroupOptimizer(groups, learning_rate, **arguments)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=list(metrics), **compiled)
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
    model = make_model([SGDR(1e-3, 5), SGDR(1e-2, 3, warmup_steps=2)], metrics=["accuracy"])
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
    model.compile(model.optimizer, loss=model.loss, metrics=["accuracy"])
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
    second.compile(MultiGroupOptimizer(groups, [0.1, 0.2]), loss=second.loss)
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
        logger.history["head"],
        [0.0, *(sgdr_rate(k, 1e-2, 50, 2.0) for k in (0, 0, 1, 1, 2))],
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


def test_an_epoch_that_was_interrupted_leaves_nothing_for_the_next():
    class Stops(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    model, logger = make_model(SGDR(1e-2, 50)), LearningRateLogger()
    with pytest.raises(KeyboardInterrupt):
        fit(model, logger, Stops())
    fit(model, logger)
    assert logger.history["iterations"] == list(range(1, 9))
    expected = [sgdr_rate(k, 1e-2, 50, 2.0) for k in range(8)]
    np.testing.assert_allclose(logger.history["head"], expected, rtol=1e-6)


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
    model.compile(plain.optimizer, loss=plain.loss)
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
    monkeypatch.setattr(callbacks, "_ROWS_AT_A_TIME", at_a_time)
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

    model, logger = make_model(), LearningRateLogger()
    with pytest.raises(KeyboardInterrupt):
        fit(model, logger, Stops())
    assert logger.history["iterations"] == [1, 2, 3]
    fit(model, logger)
    assert logger.history["iterations"] == list(range(1, 10))


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
    model.compile(MultiGroupOptimizer(groups, SGDR(1e-2, 50)), loss=plain.loss)
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
    monkeypatch.setattr(callbacks, "_ROWS_AT_A_TIME", 2)
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
    model.compile("adam", model.loss)
    with pytest.raises(TypeError, match="`MultiGroupOptimizer` was expected"):
        fit(model, LearningRateLogger())


@pytest.mark.parametrize("name", ["iterations", "loss", "accuracy"])
def test_a_group_with_the_name_of_a_column_is_refused(name):
    model = make_model()
    groups = split_layers(model, ["head_layer"], names=["body", name])
    model.compile(MultiGroupOptimizer(groups, 1e-3), loss=model.loss, metrics=["accuracy"])
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


SCHEDULE = SGDR(5e-2, 3)  # with 6 steps per epoch, cycles end at 3, 9, 21


class Weights(keras.callbacks.Callback):
    """The weights after every step."""

    def __init__(self):
        super().__init__()
        self.after = {}

    def on_train_batch_end(self, batch, logs=None):
        self.after[int(self.model.optimizer.iterations)] = self.model.get_weights()


def ensemble(model, directory, *members, schedule=SCHEDULE, epochs=4, **arguments):
    snapshots = SnapshotEnsemble(schedule, directory, **arguments)
    fit(model, snapshots, *members, epochs=epochs)
    return snapshots


def assert_holds(path, weights):
    model = make_model()
    keras.saving.load_weights(model, path, objects_to_skip=[model.optimizer])
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_cycle_saves_the_weights_of_its_last_step(tmp_path):
    model, weights = make_model(SCHEDULE), Weights()
    snapshots = ensemble(model, tmp_path / "new" / "folder", weights)
    assert [path.name for path in snapshots.members] == [
        f"cycle-0{cycle}.weights.h5" for cycle in (1, 2, 3)
    ]
    for path, step in zip(snapshots.members, (3, 9, 21), strict=True):
        assert_holds(path, weights.after[step])
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        path.name for path in snapshots.members
    ]


def test_a_cycle_that_ends_with_the_training_is_saved(tmp_path):
    model = make_model(SGDR(1e-2, 6, t_mul=1, warmup_steps=6))
    snapshots = ensemble(model, tmp_path, schedule=SGDR(1e-2, 6, t_mul=1, warmup_steps=6))
    assert len(snapshots.members) == 3
    assert_holds(snapshots.members[-1], model.get_weights())


@pytest.mark.parametrize("wrapper", ["plain", "mixed", "accumulation"])
def test_steps_are_those_of_the_optimizer(tmp_path, wrapper):
    if wrapper == "plain":
        model = make_model()
        model.compile(keras.optimizers.SGD(SCHEDULE), loss=model.loss)
    elif wrapper == "mixed":
        model = make_model(SCHEDULE)
        scaled = keras.optimizers.LossScaleOptimizer(model.optimizer, initial_scale=2.0)
        model.compile(scaled, loss=model.loss)
    else:
        model = make_model(SCHEDULE, gradient_accumulation_steps=2)
    snapshots = ensemble(model, tmp_path)
    assert len(snapshots.members) == (2 if wrapper == "accumulation" else 3)


def test_predictions_are_the_mean_of_the_probabilities_of_the_members(tmp_path):
    model = make_model(SCHEDULE)
    snapshots = ensemble(model, tmp_path)
    before = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    x = data()[0]
    prediction = snapshots.predict(x, verbose=0)
    expected = []
    for path in snapshots.members:
        member = make_model()
        keras.saving.load_weights(member, path, objects_to_skip=[member.optimizer])
        (kernel, bias), (kernel_2, bias_2) = (layer.get_weights() for layer in member.layers)
        logits = np.maximum(x.astype("float64") @ kernel + bias, 0) @ kernel_2 + bias_2
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected.append(exponentials / exponentials.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(prediction, np.mean(expected, axis=0), atol=1e-6)
    assert prediction.dtype == np.float32
    after = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    raw = np.mean([load_and_predict(path, x) for path in snapshots.members], axis=0)
    np.testing.assert_allclose(snapshots.predict(x, activation=None, verbose=0), raw, atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(5)
    np.testing.assert_allclose(snapshots.predict(dataset, verbose=0), prediction, atol=1e-6)


def load_and_predict(path, x):
    member = make_model()
    keras.saving.load_weights(member, path, objects_to_skip=[member.optimizer])
    return member.predict(x, verbose=0)


@pytest.mark.parametrize(
    ("loss", "outputs", "expected"),
    [
        ("mse", 2, "linear"),
        ("sparse_categorical_crossentropy", 2, "linear"),
        (keras.losses.BinaryCrossentropy(from_logits=True), 1, "sigmoid"),
        (keras.losses.SparseCategoricalCrossentropy(), 2, "linear"),
        (lambda y, prediction: keras.ops.mean(prediction), 2, "linear"),
    ],
    ids=["regression", "name", "binary", "probabilities", "function"],
)
def test_the_loss_tells_what_the_outputs_are(tmp_path, loss, outputs, expected):
    model = make_model(SCHEDULE, loss=loss, outputs=outputs)
    snapshots = SnapshotEnsemble(SCHEDULE, tmp_path)
    snapshots.set_model(model)
    values = np.array([[-1.0, 2.0]], "float32")
    reference = {"linear": values, "sigmoid": 1 / (1 + np.exp(-values))}
    np.testing.assert_allclose(
        snapshots._activation("auto")(values), reference[expected], rtol=1e-6
    )


def test_a_model_that_does_not_tell_is_asked_about(tmp_path):
    model = make_model(SCHEDULE)
    snapshots = ensemble(model, tmp_path, epochs=1)
    again = SnapshotEnsemble(SCHEDULE, tmp_path)
    with pytest.raises(ValueError, match="no model to predict with"):
        again.predict(data()[0])
    plain = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)]
    )
    again.set_model(plain)
    with pytest.raises(ValueError, match="not compiled.*activation='softmax'"):
        again.predict(data()[0], verbose=0)
    np.testing.assert_allclose(
        again.predict(data()[0], activation="softmax", verbose=0),
        snapshots.predict(data()[0], verbose=0),
        atol=1e-6,
    )
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name=name)(inputs) for name in ("p", "q")]
    both = keras.Model(inputs, outputs)
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    both.compile("sgd", loss=[logits, logits])
    again.set_model(both)
    with pytest.raises(ValueError, match="Some of the model's outputs are logits"):
        again.predict(data()[0], verbose=0)


def test_models_with_several_outputs(tmp_path):
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(2, name=name)(inputs) for name in ("p", "q")}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(SCHEDULE), loss={"p": "mse", "q": "mse"})
    snapshots = SnapshotEnsemble(SCHEDULE, tmp_path)
    x, y = data()
    targets = {"p": np.eye(2)[y], "q": np.eye(2)[y]}
    model.fit(x, targets, batch_size=4, epochs=2, callbacks=[snapshots], verbose=0)
    prediction = snapshots.predict(x, verbose=0)
    assert {name: part.shape for name, part in prediction.items()} == {"p": (24, 2), "q": (24, 2)}


def test_data_that_cannot_be_read_again_are_refused(tmp_path):
    model = make_model(SCHEDULE)
    snapshots = ensemble(model, tmp_path)
    before = model.get_weights()
    with pytest.raises(TypeError, match="readable more than once"):
        snapshots.predict(batch for batch in [data()[0]])
    shuffled = tf.data.Dataset.from_tensor_slices(data()[0]).shuffle(24, seed=1).batch(4)
    with pytest.raises(ValueError, match="another order.*Leave out `shuffle`"):
        snapshots.predict(shuffled, verbose=0)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_ensemble_without_members_says_what_to_do(tmp_path):
    snapshots = SnapshotEnsemble(SCHEDULE, tmp_path / "missing")
    assert snapshots.members == []
    snapshots.set_model(make_model(SCHEDULE))
    with pytest.raises(ValueError, match="no members.*at least 3 steps"):
        snapshots.predict(data()[0])


def test_files_of_another_training_are_not_written_over(tmp_path):
    ensemble(make_model(SCHEDULE), tmp_path, epochs=2)
    stranger = tmp_path / "cycle-01.weights.h5.txt"
    stranger.write_text("mine")
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = make_model(SCHEDULE)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"at step 0.*overwrite=True.*cycle-01.weights.h5"):
        ensemble(model, tmp_path)
    assert contents == {path: path.read_bytes() for path in tmp_path.iterdir()}
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    snapshots = ensemble(model, tmp_path, epochs=1, overwrite=True)
    assert [path.name for path in snapshots.members] == ["cycle-01.weights.h5"]
    assert stranger.read_text() == "mine"


def test_a_resumed_training_goes_on_with_the_next_cycle(tmp_path):
    directory = tmp_path / "snapshots"

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("killed")

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(RuntimeError, match="killed"):
        ensemble(make_model(SCHEDULE), directory, backup(), Dies())
    first = [path.read_bytes() for path in sorted(directory.iterdir())]
    assert len(first) == 2
    snapshots = ensemble(make_model(SCHEDULE), directory, backup())
    assert len(snapshots.members) == 3
    assert [path.read_bytes() for path in snapshots.members[:2]] == first


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(callbacks.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        ensemble(make_model(SCHEDULE), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cycle_that_ends_inside_of_an_execution_warns(tmp_path):
    model, weights = make_model(SCHEDULE, steps_per_execution=2), Weights()
    with pytest.warns(UserWarning, match="Cycle 1 ended at step 3.*weights of step 4 were saved"):
        snapshots = ensemble(model, tmp_path, weights, epochs=1)
    assert_holds(snapshots.members[0], weights.after[4])


def test_arguments_of_the_ensemble_are_checked(tmp_path):
    with pytest.raises(TypeError, match="should be the `SGDR`"):
        SnapshotEnsemble(keras.optimizers.schedules.CosineDecay(0.1, 10), tmp_path)
    model = make_model()
    optimizer = keras.optimizers.SGD(SCHEDULE, gradient_accumulation_steps=2)
    model.compile(optimizer, loss=model.loss)
    with pytest.raises(ValueError, match="every batch under gradient accumulation"):
        ensemble(model, tmp_path)
