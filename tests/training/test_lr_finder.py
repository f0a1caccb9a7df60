"""The range test: the sweep, its suggestions, and what it restores.

Models run eagerly, except where the compiled step is the point.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
import subprocess
import sys
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import all_layers
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training import lr_finder
from dlr_tf.training.freezing import freeze_to
from dlr_tf.training.lr_finder import LearningRateSweep, find_learning_rate
from dlr_tf.training.lr_suggestions import SUGGESTIONS
from tests.conftest import set_random_seed


def fastai_curve() -> tuple[np.ndarray, np.ndarray]:
    rates = 1e-7 * 1e8 ** (np.arange(100) / 100)
    x = np.log10(rates)
    losses = np.where(x < -1.5, 2.3 - 1.8 / (1 + np.exp(-3 * (x + 3.5))), 0.5 + 2 * (x + 1.5) ** 2)
    return rates, losses


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("valley", 1.31826e-4),
        ("slide", 9.12011e-5),
        ("minimum", 3.31131e-3),
        ("steep", 2.75423e-4),
    ],
)
def test_suggestions_are_those_of_fastai(method, expected):
    sweep = LearningRateSweep(*fastai_curve())
    assert sweep.suggest(method) == pytest.approx(expected, rel=5e-6)


def test_valley_is_the_default_and_the_old_name_remains():
    sweep = LearningRateSweep(*fastai_curve())
    assert sweep.suggest() == sweep.suggest("valley")


def test_a_sweep_is_frozen():
    sweep = LearningRateSweep([1e-3, 1e-2], [2.0, 1.0])
    with pytest.raises(dataclasses.FrozenInstanceError, match="losses"):
        sweep.losses = np.zeros(2)
    with pytest.raises(ValueError, match="read-only"):
        sweep.losses[0] = 0.0


def test_a_sweep_keeps_its_own_arrays():
    losses = np.array([2.0, 1.0])
    sweep = LearningRateSweep([1e-3, 1e-2], losses)
    losses[:] = 0.0
    assert sweep.losses.tolist() == [2.0, 1.0]
    assert repr(sweep) == "<LearningRateSweep of 2 steps from 0.001 to 0.01>"
    assert repr(LearningRateSweep([], [])) == "<LearningRateSweep of 0 steps>"


def test_a_sweep_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match="one loss per learning rate"):
        LearningRateSweep([1e-3], [2.0, 1.0])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"one of \['valley'.*Received: method='valey'"):
        LearningRateSweep(*fastai_curve()).suggest("valey")


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6])
@pytest.mark.parametrize("method", SUGGESTIONS)
def test_a_short_sweep_says_what_to_do(count, method):
    sweep = LearningRateSweep(np.geomspace(1e-5, 1, count), np.linspace(2, 1, count))
    with pytest.raises(ValueError, match=f"sweep of {count} points.*more `steps`"):
        sweep.suggest(method)


def test_a_rate_below_the_sweep_is_refused_with_the_reason():
    rates = np.geomspace(1e-7, 10, 100)
    losses = np.concatenate([np.full(10, 0.017), [0.0171, 0.0169], np.geomspace(0.03, 0.07, 88)])
    with pytest.raises(
        ValueError, match=r"'minimum' suggestion. The loss is lowest at the rate 7.7e-07, near the"
    ):
        LearningRateSweep(rates, losses).suggest("minimum")


def test_plot_marks_every_suggestion(tmp_path):
    path = tmp_path / "sweep.png"
    figure = LearningRateSweep(*fastai_curve()).plot(path)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert all(any(text.startswith(method) for text in texts) for method in SUGGESTIONS)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_plot_of_a_sweep_without_suggestions(tmp_path):
    path = tmp_path / "sweep.svg"
    LearningRateSweep([1e-3, 1e-2], [1.0, math.nan]).plot(path)
    assert "<svg" in path.read_text()


CLASSES = 3


def data(count=80):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] > 0).astype("int32")


def make_model(optimizer=None, seed=1, **compile_arguments):
    """A small eager model with everything that has state: batch norm, dropout, seeds, metrics."""
    set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.3, name="dropout"),
            keras.layers.Dense(CLASSES, name="head"),
        ]
    )
    if optimizer is None:
        optimizer = MultiGroupOptimizer(
            split_layers(model, ["norm", "head"]), [1e-4, 1e-3, 1e-2], clipnorm=1.0
        )
    arguments = {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "run_eagerly": True,
    }
    model.compile(optimizer, **(arguments | compile_arguments))
    return model


def small_model():
    set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, run_eagerly=True)
    return model


def generators():
    """One number from each of the global generators."""
    return [
        random.random(),
        float(np.random.random()),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
        random.random(),
    ]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rates_rise_geometrically_and_groups_keep_their_ratio():
    model = make_model()
    seen = []
    original = model.train_step

    def train_step(data):
        logs = original(data)
        seen.append(unwrap_optimizer(model.optimizer).last_learning_rates)
        return logs

    model.train_step = train_step
    sweep = find_learning_rate(model, *data(), start=1e-5, end=1e-1, steps=9, verbose=0)
    np.testing.assert_allclose(sweep.learning_rates, 1e-5 * 1e4 ** (np.arange(9) / 8), rtol=1e-12)
    np.testing.assert_allclose(seen, np.outer(sweep.learning_rates, [1e-2, 1e-1, 1.0]), rtol=1e-6)


def test_losses_are_smoothed_with_the_bias_corrected():
    """The reference trains by hand with plain SGD, one batch a step, in float64."""
    set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=True)
    weight = model.get_weights()[0][0, 0].astype("float64")
    x, y = np.linspace(-1, 1, 32)[:, None], np.linspace(-2, 2, 32)
    sweep = find_learning_rate(
        model, x, y, start=1e-3, end=1e-1, steps=6, smoothing=0.9, stop_factor=100.0, verbose=0
    )
    average, expected = 0.0, []
    for step, rate in enumerate(np.geomspace(1e-3, 1e-1, 6), start=1):
        error = weight * x[:, 0] - y
        average = 0.9 * average + 0.1 * np.mean(error**2)
        expected.append(average / (1 - 0.9**step))
        weight -= rate * np.mean(2 * error * x[:, 0])
    np.testing.assert_allclose(sweep.losses, expected, rtol=1e-5)


def test_the_sweep_stops_when_the_loss_has_grown_too_much():
    model = small_model()
    sweep = find_learning_rate(
        model, *data(), start=1e-3, end=1e6, steps=20, smoothing=0.5, stop_factor=2.0, verbose=0
    )
    assert 1 < len(sweep.losses) < 20
    assert sweep.losses[-1] > 2 * sweep.losses.min()
    assert np.all(sweep.losses[:-1] <= 2 * np.minimum.accumulate(sweep.losses)[:-1])
    sweep = find_learning_rate(
        model, *data(), start=1e-3, end=1e6, steps=20, smoothing=0.5, stop_factor=math.inf,
        verbose=0,
    )  # fmt: skip
    assert len(sweep.losses) == 20


def test_a_loss_below_zero_does_not_stop_the_sweep_at_once():
    model = make_model(loss=lambda y, prediction: keras.ops.mean(prediction**2) * 1e-3 - 1.0)
    sweep = find_learning_rate(model, *data(), start=1e-6, end=1e-5, steps=5, verbose=0)
    assert len(sweep.losses) == 5
    assert np.all(sweep.losses < 0)


def test_a_loss_that_is_not_finite_ends_the_sweep():
    model = small_model()
    x, y = data(96)
    x[40] = math.inf  # the batches are shuffled: it comes in one of the first three
    before = model.get_weights()
    sweep = find_learning_rate(model, x, y, steps=10, verbose=0)
    assert 1 <= len(sweep.losses) <= 3
    assert not math.isfinite(sweep.losses[-1])
    assert np.all(np.isfinite(sweep.losses[:-1]))
    assert_equal(before, model.get_weights())


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x[index::2], self.y[index::2]


def sources():
    x, y = data(40)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return {
        "arrays": (x, y),
        "data set": (dataset.batch(16), None),
        "unknown length": (dataset.filter(lambda x, y: True).batch(16), None),
        "endless": (dataset.repeat().batch(16), None),
        "one batch": (dataset.batch(40), None),
        "sequence": (Batches(x, y), None),
        "generator": (((x[i::2], y[i::2]) for i in range(2)), None),
    }


@pytest.mark.parametrize("kind", sources())
def test_data_that_end_early_repeat(kind):
    sweep = find_learning_rate(small_model(), *sources()[kind], end=1e-3, steps=7, verbose=0)
    assert len(sweep.losses) == 7
    assert np.all(np.isfinite(sweep.losses))


def test_a_sweep_of_one_step():
    sweep = find_learning_rate(small_model(), *data(8), steps=1, verbose=0)
    assert sweep.learning_rates.tolist() == [1e-7]
    assert len(sweep.losses) == 1


@pytest.mark.parametrize(("batch_size", "expected"), [(None, 32), (5, 5)])
def test_arrays_come_in_batches(batch_size, expected):
    model, sizes = small_model(), []
    original = model.train_step
    model.train_step = lambda batch: sizes.append(len(batch[0])) or original(batch)
    arguments = {} if batch_size is None else {"batch_size": batch_size}
    find_learning_rate(model, *data(40), **arguments, end=1e-3, steps=1, verbose=0)
    assert sizes == [expected]


@pytest.mark.parametrize("kind", ["data set", "sequence", "generator"])
def test_a_batch_size_for_batches_is_refused(kind):
    with pytest.raises(ValueError, match="come in batches already. Leave it out.*batch_size=8"):
        find_learning_rate(small_model(), *sources()[kind], batch_size=8)


@pytest.mark.slow
def test_nothing_of_a_data_set_is_copied():
    """Memory for a data set of 40 MB and its sweep, after a small one that loads the libraries."""
    code = """
import resource, keras, tensorflow as tf
from dlr_tf import find_learning_rate
model = keras.Sequential([keras.Input((1024,)), keras.layers.Dense(2)])
model.compile("sgd", "mse", run_eagerly=True)
for count in 64, 10240:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = tf.data.Dataset.from_tensors((tf.ones((count, 1024)), tf.ones((count, 2)))).unbatch()
    data = data.shuffle(64).batch(32)
    sweep = find_learning_rate(model, data, end=1e-3, steps=3, verbose=0)
    assert len(sweep.losses) == 3
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(after - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80 * 1024


def test_a_generator_is_read_no_further_than_the_sweep_needs():
    x, y = data(64)
    read = []
    batches = ((x[i : i + 16], y[i : i + 16], read.append(i)) for i in range(0, 64, 16))
    find_learning_rate(small_model(), ((x, y) for x, y, _ in batches), end=1e-3, steps=3, verbose=0)
    assert read == [0, 16, 32]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_batches_of_a_large_generator_are_not_kept(monkeypatch):
    x, y = data(16)
    alive: list[weakref.ref[Any]] = []

    def batches(count):
        for _ in range(count):
            batch = Array(x)
            alive.append(weakref.ref(batch))
            most.append(sum(one() is not None for one in alive))
            yield batch, y

    class Array(np.ndarray):
        def __new__(cls, values):
            return np.array(values).view(cls)

    for kept, expected in ((10**9, 20), (100, 10)):
        monkeypatch.setattr(lr_finder, "KEPT_BYTES", kept)
        most: list[int] = []
        find_learning_rate(small_model(), batches(20), end=1e-3, steps=20, verbose=0)
        assert max(most) <= expected
    with pytest.raises(ValueError, match="for 7 steps. A large generator can be read only once"):
        find_learning_rate(small_model(), batches(2), end=1e-3, steps=7, verbose=0)


def test_the_states_of_recurrent_layers_are_restored():
    layers = keras.layers
    inner = layers.Bidirectional(layers.LSTM(2, stateful=True, return_sequences=True))
    model = keras.Sequential(
        [keras.Input((3, 4), batch_size=8), inner, layers.GRU(2, stateful=True), layers.Dense(1)]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = np.ones((8, 3, 4), "float32"), np.ones((8, 1), "float32")
    model.fit(x, y, batch_size=8, verbose=0)
    recurrent = [layer for layer in all_layers(model) if getattr(layer, "states", None)]
    assert len(recurrent) == 4  # `Bidirectional` shows those of its layers

    def states():
        return [s.numpy() for layer in recurrent for s in keras.tree.flatten(layer.states)]

    before = states()
    assert any(np.any(state) for state in before)
    find_learning_rate(model, x, y, batch_size=8, end=1e-3, steps=3, verbose=0)
    assert_equal(before, states())


@pytest.mark.parametrize("kind", ["data set", "generator"])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_without_a_batch_are_refused(kind):
    model = small_model()
    before = model.get_weights()
    empty = tf.data.Dataset.from_tensors(data(4)).take(0) if kind == "data set" else (_ for _ in ())
    with pytest.raises(ValueError, match="the data gave none"):
        find_learning_rate(model, empty, steps=3, verbose=0)
    assert_equal(before, model.get_weights())


def train(model, sweep=None):
    """Four steps, what `sweep` does, and four more: losses, random numbers and all variables."""
    model.fit(*data(), batch_size=20, verbose=0)
    if sweep is not None:
        variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        before = [variable.numpy() for variable in variables]
        attributes = dict(vars(model))
        last_rates = last_rates_of(model)
        sweep(model)
        assert_equal(before, [variable.numpy() for variable in variables])
        assert_equal(last_rates, last_rates_of(model))
        for name in ("optimizer", "train_function", "history", "stop_training"):
            assert vars(model)[name] is attributes[name]
    numbers = generators()
    losses = model.fit(*data(), batch_size=20, verbose=0).history["loss"]
    variables = [*model.variables, *model.optimizer.variables]
    return [losses, numbers, generators(), *(variable.numpy() for variable in variables)]


def last_rates_of(model):
    return getattr(unwrap_optimizer(model.optimizer), "last_learning_rates", np.zeros(0))


def sweep_all(model):
    sweep = find_learning_rate(model, *data(), start=1e-5, end=1.0, steps=7, verbose=0)
    assert len(sweep.losses) > 3


def sweep_until(error):
    """A sweep in which `error` is raised after three steps."""

    def sweep(model):
        original = model.reset_metrics
        calls = iter(range(100))

        def reset_metrics():
            original()
            if next(calls) == 4:
                raise error

        model.reset_metrics = reset_metrics
        with pytest.raises(type(error), match="stop here"):
            find_learning_rate(model, *data(), start=1e-3, end=1.0, verbose=0)
        del model.reset_metrics

    return sweep


def compiled_model():
    return make_model(run_eagerly=False, jit_compile=False, steps_per_execution=2)


@pytest.fixture(scope="module")
def never_swept():
    return train(compiled_model())


@pytest.mark.parametrize(
    "sweep",
    [
        sweep_all,
        pytest.param(sweep_until(RuntimeError("stop here")), marks=pytest.mark.slow),
        sweep_until(KeyboardInterrupt("stop here")),
    ],
    ids=["to the end", "error", "interrupt"],
)
def test_training_goes_on_as_if_never_swept(sweep, never_swept):
    assert_equal(never_swept, train(compiled_model(), sweep))


def warm_up(model_seed=1):
    schedule = SGDR(1e-2, 7, warmup_steps=5)
    groups = split_layers(make_model(), ["head"])
    return MultiGroupOptimizer(
        groups,
        schedule,
        keras.optimizers.SGD(momentum=0.9),
        use_ema=True,
        gradient_accumulation_steps=2,
    )


@pytest.mark.parametrize(
    "optimizer",
    [warm_up, lambda: keras.optimizers.Adam(1e-3)],
    ids=["schedule, averages and accumulation", "Keras Adam"],
)
def test_any_optimizer_goes_on_as_if_never_swept(optimizer):
    assert_equal(train(make_model(optimizer())), train(make_model(optimizer()), sweep_all))


@pytest.mark.slow
def test_mixed_precision_goes_on_as_if_never_swept():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        twins = [train(make_model(), sweep) for sweep in (None, sweep_all)]
    finally:
        keras.config.set_dtype_policy("float32")
    assert_equal(*twins)


@pytest.mark.slow
def test_a_strategy_goes_on_as_if_never_swept():
    twins = []
    for sweep in (None, sweep_all):
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            model = make_model()
        if sweep is not None:
            sweep(model)
            assert not model.optimizer.built
        twins.append(train(model, sweep))
    assert_equal(*twins)


@keras.saving.register_keras_serializable(package="dlr_tf_tests")
class EagerNoise(keras.layers.Layer):
    """Draws from TensorFlow's global seed, its global generator and NumPy at each step."""

    def call(self, inputs):
        noise = tf.random.normal(tf.shape(inputs)) + tf.random.get_global_generator().normal(())
        return inputs + 0.1 * (noise + float(np.random.normal()) + random.random())


def test_eager_random_operations_go_on_as_if_never_swept():
    def model():
        set_random_seed(1)
        tf.random.set_global_generator(tf.random.Generator.from_seed(3))
        model = keras.Sequential([keras.Input((6,)), EagerNoise(), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=True)
        return model

    def sweep(model):
        find_learning_rate(model, data()[0], np.eye(3)[data()[1]], steps=4, verbose=0)

    x, y = data(16)
    results = []
    for between in (None, sweep):
        twin = model()
        if between:
            between(twin)
        losses = twin.fit(x, np.eye(3)[y], batch_size=4, verbose=0).history["loss"]
        results.append([losses, generators(), tf.random.get_global_generator().normal((2,))])
    assert_equal(*results)


def test_generators_that_were_not_there_are_not_there_afterwards():
    """Keras makes its own at the first use, from the state of `random`."""
    model = small_model()
    set_random_seed(1)
    expected = [keras.random.uniform(()), random.random()]
    set_random_seed(1)

    class Draws(Batches):
        def __getitem__(self, index):
            keras.random.uniform(())
            return super().__getitem__(index)

    find_learning_rate(model, Draws(*data(16)), end=1e-3, steps=3, verbose=0)
    assert_equal(expected, [keras.random.uniform(()), random.random()])


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_an_optimizer_that_was_not_built_is_not_built_afterwards(precision):
    keras.config.set_dtype_policy(precision)
    try:
        model, twin = make_model(), make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer, count = model.optimizer, len(model.optimizer.variables)
    set_random_seed(2)
    sweep_all(model)
    assert model.optimizer is optimizer
    assert not optimizer.built
    assert len(optimizer.variables) == count
    assert model.train_function is None
    assert not hasattr(model, "history")
    losses = model.fit(*data(), batch_size=20, verbose=0).history["loss"]
    set_random_seed(2)
    assert_equal(losses, twin.fit(*data(), batch_size=20, verbose=0).history["loss"])
    assert_equal(model.get_weights(), twin.get_weights())


def test_a_layer_thawed_since_the_last_step_has_fresh_state_afterwards():
    def twin(sweep):
        model = make_model()
        freeze_to(model, unwrap_optimizer(model.optimizer).groups, -1)
        model.fit(*data(), batch_size=20, verbose=0)
        freeze_to(model, unwrap_optimizer(model.optimizer).groups, 0)
        sweep(model)
        model.fit(*data(), batch_size=20, verbose=0)
        return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]

    assert_equal(twin(lambda model: None), twin(sweep_all))


def test_an_optimizer_that_was_not_built_excludes_the_same_from_weight_decay():
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])

    def constant(y, prediction):
        return 0.0 * keras.ops.mean(prediction)

    set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, bias_initializer="ones")])
    model.compile(optimizer, loss=constant, run_eagerly=True)
    seen = []
    original = model.train_step
    model.train_step = lambda batch: (original(batch), seen.append(model.get_weights()))[0]
    kernel, _ = model.get_weights()
    find_learning_rate(model, np.ones((4, 2)), np.ones(4), start=0.1, end=1.0, steps=2, verbose=0)
    np.testing.assert_allclose(seen[0][0], kernel * (1 - 0.1 * 0.1), rtol=1e-6)
    assert [bias.tolist() for _, bias in seen] == [[1.0], [1.0]]


def test_a_sweep_inside_of_fit_leaves_it_alone():
    def twin(sweep):
        model = make_model()
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: sweep(model))
        history = model.fit(
            *data(), validation_data=data(16), batch_size=40, epochs=2, callbacks=[callback],
            verbose=0,
        )  # fmt: skip
        assert model.history is history
        return [*history.history.values(), *model.get_weights()]

    assert_equal(twin(lambda model: None), twin(sweep_all))


def test_weights_weigh_the_losses():
    x, y = data(32)
    by_class = {0: 0.5, 1: 2.0, 2: 1.0}
    weights = np.array([by_class[label] for label in y], "float32")
    model = small_model()
    each = keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)
    expected = np.mean(weights * np.array(each, np.float64))
    batch = tf.data.Dataset.from_tensors
    for inputs, arguments in [
        ((x, y), {"class_weight": by_class}),
        ((x, y), {"sample_weight": weights}),
        ((batch((x, y)),), {"class_weight": by_class}),
        ((batch((x, y, weights)),), {}),
    ]:
        sweep = find_learning_rate(model, *inputs, **arguments, steps=1, verbose=0)
        assert sweep.losses == pytest.approx([expected], rel=1e-5)


def test_one_execution_is_one_step():
    model = make_model(steps_per_execution=4, run_eagerly=False, jit_compile=False)
    sweep = find_learning_rate(model, *data(), end=1e-3, steps=6, verbose=0)
    assert len(sweep.losses) == 6
    assert model.steps_per_execution == 4


def test_a_warm_up_that_starts_at_zero_can_be_swept():
    model = make_model(warm_up())
    assert unwrap_optimizer(model.optimizer).learning_rates == [0.0] * 2
    sweep = find_learning_rate(model, *data(), start=1e-5, end=1e-2, steps=4, verbose=0)
    assert len(sweep.losses) == 4
    assert int(model.optimizer.iterations) == 0


def test_the_progress_bar_ends_at_the_last_step(capsys):
    find_learning_rate(small_model(), *data(16), end=1e-3, steps=3)
    output = capsys.readouterr().out
    assert "3/3" in output
    assert "learning_rate: 1.0000e-03" in output
    assert "━" * 11 not in re.sub(r"\x1b\[[0-9]*m", "", output)  # so that 80 columns are enough
    find_learning_rate(small_model(), *data(16), end=1e-3, steps=3, verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": 0.0}, ValueError, "from a rate above 0.*start=0.0"),
        ({"start": 1.0, "end": 1.0}, ValueError, "to a higher one.*end=1.0"),
        ({"end": math.inf}, ValueError, r"`end` should be a finite number.*end=inf"),
        ({"end": 1e300}, ValueError, r"in \[0, 3.40282e\+38\]. Received: end=1e\+300"),
        ({"start": math.nan}, ValueError, "`start` should be a finite number.*start=nan"),
        ({"start": "1e-3"}, TypeError, "`start` should be a number.*'1e-3'"),
        ({"steps": 0}, ValueError, "at least 1.*steps=0"),
        ({"steps": 2.5}, TypeError, "`steps` should be an integer"),
        ({"steps": True}, TypeError, "`steps` should be an integer"),
        ({"smoothing": 1.0}, ValueError, "below 1.*smoothing=1.0"),
        ({"smoothing": -0.1}, ValueError, "at least 0"),
        ({"stop_factor": 1.0}, ValueError, "above 1.*stop_factor=1.0"),
        ({"stop_factor": True}, TypeError, "`stop_factor` should be a number"),
        ({"batch_size": 0}, ValueError, "`batch_size` should be at least 1"),
        ({"batch_size": 2.0}, TypeError, "`batch_size` should be an integer"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        find_learning_rate(small_model(), *data(4), **arguments)


def test_models_that_cannot_be_swept_are_refused():
    with pytest.raises(TypeError, match="should be a `keras.Model`"):
        find_learning_rate(None, *data(4))
    model = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"not compiled.*model.compile"):
        find_learning_rate(model, *data(4))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"not built.*keras.Input"):
        find_learning_rate(model, *data(4))
    model.build((None, 6))
    model.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        find_learning_rate(model, *data(4))


def test_a_rate_that_cannot_be_set_is_refused():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.5)
    model = make_model(keras.optimizers.SGD(schedule))
    optimizer = model.optimizer
    with pytest.raises(TypeError, match="whose `learning_rate` is a float"):
        find_learning_rate(model, *data(4))
    assert model.optimizer is optimizer


def test_a_step_without_a_loss_is_refused():
    model = small_model()
    original = model.train_step
    model.train_step = lambda data: {"error": original(data)["loss"]}
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"under the name 'loss'. Received: \['error'\]"):
        find_learning_rate(model, *data(8), steps=2, verbose=0)
    assert_equal(before, model.get_weights())
