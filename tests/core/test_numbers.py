"""Half precision, infinities, sparse gradients, XLA, several steps a call: alone and together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from tests.core.core_helpers import assert_same, three_parts, values
from tests.scripts.training import WIDTH, stack, words

RATES = (1e-3, 3e-3, 1e-2)


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


half_precision = pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16"], indirect=True
)
in_float16 = pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)


# Of the seven rows of `words`, a batch of two sees six, each once: Keras' own Adam squares the
# parts of a row that is met twice one by one.
def data(model: keras.Model, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, WIDTH)).astype("float32")
    if model.inputs[0].dtype == "int32":
        x = np.concatenate([rng.permutation(7)[:6].reshape(2, 3) for _ in range(n // 2)])
    return x, rng.normal(size=(n, WIDTH)).astype("float32")


def wrapped(model: keras.Model, rates: Any = RATES, **arguments: Any) -> MultiGroupOptimizer:
    return MultiGroupOptimizer(split_layers(model, ["layer_1", "layer_2"]), rates, **arguments)


def fit(model: keras.Model, optimizer: Any, **settings: Any) -> keras.Model:
    settings = {"jit_compile": False, **settings}
    model.compile(optimizer, "mse", **settings)
    model.fit(*data(model), batch_size=2, epochs=1, shuffle=False, verbose=0)
    return model


def assert_close(model: keras.Model, twin: keras.Model, rtol: float = 0.0) -> None:
    for value, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(value, other, rtol=rtol, atol=rtol)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("policy", "make", "jit_compile"),
    [
        ("mixed_float16", words, False),
        ("mixed_bfloat16", stack, False),
        pytest.param("mixed_float16", stack, False, marks=slow),
        pytest.param("mixed_bfloat16", words, False, marks=slow),
        pytest.param("mixed_float16", stack, True, marks=slow),
        pytest.param("mixed_bfloat16", stack, True, marks=slow),
    ],
    indirect=["policy"],
)
def test_half_precision_equals_one_keras_adam(policy, make, jit_compile):
    model, twin = make(), make()
    fit(model, wrapped(model, 0.01, optimizer=keras.optimizers.Adam()), jit_compile=jit_compile)
    fit(twin, keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    # In half precision XLA may fuse the backward pass of the two steps in two ways.
    assert_close(model, twin, rtol=1e-3 if jit_compile else 0.0)
    optimizer = unwrap(model.optimizer)
    assert {v.dtype for v in optimizer.variables} == {"float32", "float64", "int64"}


@half_precision
def test_half_precision_learns_at_the_rates_of_the_groups(policy):
    """One step of Adam moves a weight by its rate, whatever the gradient."""
    model = stack()
    before = model.get_weights()
    model.compile(wrapped(model), "mse", run_eagerly=True)
    x, y = data(model)
    model.train_on_batch(x, y)
    for number, (value, old) in enumerate(zip(model.get_weights(), before)):
        np.testing.assert_allclose(np.abs(value - old), RATES[number // 2], rtol=1e-2)


@in_float16
@pytest.mark.parametrize(
    "settings",
    [
        {"global_clipnorm": 0.1, "gradient_accumulation_steps": 2},
        {"clipnorm": 0.05, "use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 2},
    ],
    ids=["norm over all, accumulation", "norm of each, averages"],
)
def test_half_precision_with_what_spans_groups(policy, settings):
    """The wrapper under the loss scale, against Keras' Adam under the loss scale."""
    model, twin = stack(), stack()
    optimizer = wrapped(model, 0.01, optimizer=keras.optimizers.Adam(), **settings)
    fit(model, optimizer, run_eagerly=True)
    fit(twin, keras.optimizers.Adam(0.01, **settings), run_eagerly=True)
    assert_close(model, twin, rtol=1e-6)


def everything(model: keras.Model) -> list[np.ndarray]:
    optimizer = unwrap(model.optimizer)
    values = [*model.weights, *optimizer.variables]
    return [optimizer.last_learning_rates, *(v.numpy() for v in values)]


# Every pair of a bad value and a group.
@pytest.mark.parametrize(
    ("bad", "group", "settings"),
    [
        (bad, group, {"gradient_accumulation_steps": 2} if (row + group) % 2 else {})
        for row, bad in enumerate((np.inf, -np.inf, np.nan))
        for group in range(3)
    ],
    ids=str,
)
def test_one_bad_gradient_skips_the_step_of_all_groups(bad, group, settings):
    model = three_parts()
    inner = model.optimizer([SGDR(rate, 3) for rate in RATES], None, use_ema=True, **settings)
    outer = keras.optimizers.LossScaleOptimizer(inner)
    variables = model.weights
    gradients = [np.ones(v.shape, "float32") for v in variables]

    def step() -> None:
        outer.apply([tf.constant(g) for g in gradients], variables)

    def state() -> list[np.ndarray]:
        return [inner.last_learning_rates, *values([*variables, *inner.variables])]

    step()
    before, scale, rates = state(), float(outer.dynamic_scale), inner.learning_rates
    gradients[2 * group].flat[5] = bad
    step()
    assert_same(state(), before)
    assert inner.learning_rates == rates  # the schedules have not gone on
    assert float(outer.dynamic_scale) == scale / 2

    gradients[2 * group].flat[5] = 1.0
    for _ in range(settings.get("gradient_accumulation_steps", 1)):
        step()
    for value, old in zip(values(variables), before[1:]):
        assert (value != old).all()


@in_float16
def test_an_overflow_in_fit_skips_its_step_alone(policy):
    """A loss that overflows in float16 in one batch of six."""
    model = stack()
    model.compile(wrapped(model), "mse", run_eagerly=True)
    model.optimizer.initial_scale = 1024.0
    x, y = data(model)
    y[4] = 1e30
    model.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    assert float(model.optimizer.dynamic_scale) == 512.0
    assert int(model.optimizer.step_counter) == 3
    optimizer = unwrap(model.optimizer)
    assert [int(member.iterations) for member in optimizer.group_optimizers] == [5, 5, 5]

    twin = stack()
    twin.compile(wrapped(twin), "mse", run_eagerly=True)
    twin.optimizer.initial_scale = 1024.0
    rest = np.delete(np.arange(12), [4, 5])
    twin.fit(x[rest], y[rest], batch_size=2, shuffle=False, verbose=0)
    assert_close(model, twin, rtol=1e-3)  # two of their steps ran at half the loss scale


class DenseEmbedding(keras.layers.Embedding):
    """The same layer, whose gradient is dense: a product with one-hot rows."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(keras.ops.one_hot(inputs, self.input_dim), self.embeddings)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=slow)])
def test_sparse_gradients_in_fit_equal_dense_ones(jit_compile, monkeypatch):
    """`tests/core/test_update.py` compares the settings one by one."""
    settings = {
        "global_clipnorm": 0.05,
        "gradient_accumulation_steps": 2,
        "loss_scale_factor": 8.0,
        "use_ema": True,
    }
    model = words()
    fit(model, wrapped(model, **settings), jit_compile=jit_compile)
    monkeypatch.setattr(keras.layers, "Embedding", DenseEmbedding)
    twin = words()
    assert isinstance(twin.layers[0], DenseEmbedding)
    fit(twin, wrapped(twin, **settings), jit_compile=jit_compile)
    assert_close(model, twin, rtol=1e-6)


@in_float16
def test_sparse_gradients_under_the_loss_scale_may_be_infinite(policy):
    model = words()
    model.compile(wrapped(model), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    before = everything(model)
    slices = tf.IndexedSlices(tf.constant([[1.0] * 3 + [np.inf]]), tf.constant([2]), (7, WIDTH))
    rest = [tf.ones(v.shape) for v in model.trainable_variables[1:]]
    model.optimizer.apply([slices, *rest], model.trainable_variables)
    for value, other in zip(everything(model), before):
        np.testing.assert_array_equal(value, other)


def test_rows_met_twice_count_once_in_the_norm():
    """Two halves of one row's gradient, as plain NumPy would add and clip them."""
    model = words()
    table = model.layers[0].embeddings
    before = table.numpy()
    sgd = keras.optimizers.SGD()
    optimizer = wrapped(model, 1.0, optimizer=sgd, clipnorm=1.0)
    halves = tf.constant([[3.0, 0, 0, 0], [0, 4.0, 0, 0], [3.0, 0, 0, 0]])
    slices = tf.IndexedSlices(halves, tf.constant([2, 5, 2]), (7, WIDTH))
    optimizer.apply([slices], [table])
    expected = np.zeros((7, WIDTH))
    expected[2, 0], expected[5, 1] = 6.0, 4.0
    expected /= np.sqrt((expected**2).sum())
    np.testing.assert_allclose(table.numpy(), before - expected, rtol=1e-6)


WAYS: dict[str, dict[str, Any]] = {
    "eager": {"run_eagerly": True},
    "three steps a call": {"steps_per_execution": 3},
    "four of six steps a call": {"steps_per_execution": 4},
    "xla": {"jit_compile": True},
    "xla, three steps a call": {"jit_compile": True, "steps_per_execution": 3},
}


def eventful(model: keras.Model) -> MultiGroupOptimizer:
    """Schedules, averages that overwrite, accumulation, a norm: all that depends on the step."""
    return wrapped(
        model,
        [SGDR(rate, 2, t_mul=1.0) for rate in RATES],
        global_clipnorm=0.1,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=2,
        gradient_accumulation_steps=2,
    )


@pytest.fixture(scope="module")
def plainly() -> Callable[[Callable[[], keras.Model]], keras.Model]:
    """Models trained one step at a time in a graph, each trained once."""
    trained: dict[Any, keras.Model] = {}

    def train(make: Callable[[], keras.Model]) -> keras.Model:
        if make not in trained:
            model = make()
            trained[make] = fit(model, eventful(model))
        return trained[make]

    return train


@pytest.mark.parametrize(
    ("way", "make"),
    [
        ("eager", words),
        ("four of six steps a call", stack),
        *(
            pytest.param(way, make, marks=slow)
            for way, make in (
                ("eager", stack),
                ("three steps a call", stack),
                ("xla", stack),
                ("xla", words),
                ("xla, three steps a call", stack),
            )
        ),
    ],
)
def test_every_way_to_run_a_step_trains_alike(way, make, plainly):
    model = make()
    fit(model, eventful(model), **WAYS[way])
    assert_close(model, plainly(make), rtol=1e-5 if "xla" in way else 1e-6)
    np.testing.assert_array_equal(
        model.optimizer.last_learning_rates, plainly(make).optimizer.last_learning_rates
    )
    assert [int(member.iterations) for member in model.optimizer.group_optimizers] == [3, 3, 3]


def test_several_steps_a_call_are_the_same_bit_for_bit():
    model, twin = stack(), stack()
    fit(model, wrapped(model), steps_per_execution=3)
    fit(twin, wrapped(twin))
    assert_close(model, twin)
