"""What Keras expects of its own optimizers, expected of `MultiGroupOptimizer`.

Each test says in our words what a test in Keras 3.15's `optimizer_test.py`,
`multi_optimizer_test.py`, `optimizer_sparse_test.py` or `loss_scale_optimizer_test.py` expects,
with one group and with three. (`optimizer_distribute_test.py` needs two devices:
`test_distribution.py`.) The numbers are worked out by hand or come from NumPy.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import accumulators, known_variables, moving_averages
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from tests.conftest import newer_optimizer
from tests.core.core_helpers import Holder

SGD = keras.optimizers.SGD


class Make:
    """Makes holders with one group or with three."""

    def __init__(self, n_groups: int) -> None:
        self.n_groups = n_groups

    def __call__(self, *values: Any) -> Holder:
        return Holder(self.n_groups, *values)


@pytest.fixture(params=[1, 3], ids=["one group", "three groups"])
def make(request: pytest.FixtureRequest) -> Make:
    return Make(request.param)


SQUARE = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
ONES = np.ones((2, 2), "float32")


def test_iterations_count_the_steps(make):
    model = make(SQUARE)
    optimizer = model.optimizer(template=keras.optimizers.Adam())
    assert int(optimizer.iterations) == 0
    for step in (1, 2):
        model.step(optimizer, ONES)
        assert int(optimizer.iterations) == step
    assert [int(member.iterations) for member in optimizer.group_optimizers] == [2] * make.n_groups


def test_no_gradient_at_all_is_an_error_and_a_missing_one_a_warning(make):
    model = make(SQUARE, SQUARE)
    optimizer = model.optimizer()
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        model.step(optimizer, None, None)
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        model.step(optimizer, None, ONES)
    model.assert_values(SQUARE, SQUARE - 1)


@pytest.mark.parametrize("argument", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_arguments_are_kept(make, argument):
    optimizer = make(SQUARE).optimizer(**{argument: 0.1})
    assert getattr(optimizer, argument) == 0.1
    assert optimizer.get_config()[argument] == 0.1


@pytest.mark.parametrize("left_out", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_only_one_way_to_clip(make, left_out):
    pair = {"clipnorm": 0.1, "clipvalue": 0.1, "global_clipnorm": 0.1}
    del pair[left_out]
    with pytest.raises(ValueError, match="Only one of `clipnorm`, `clipvalue` and"):
        make(SQUARE).optimizer(**pair)


def test_clipping_by_norm(make):
    model = make([0.0, 0.0])
    model.step(model.optimizer(clipnorm=1.0), [100.0, 100.0])
    model.assert_values([-(0.5**0.5), -(0.5**0.5)])


def test_clipping_by_value(make):
    model = make([0.0, 0.0])
    model.step(model.optimizer(clipvalue=1.0), [100.0, -100.0])
    model.assert_values([-1.0, 1.0])


def test_clipping_by_the_global_norm(make):
    """The norm is over all layers, so that of each is the smaller the more there are."""
    model = make([0.0, 0.0])
    model.step(model.optimizer(global_clipnorm=1.0), [50.0, 100.0])
    norm = np.sqrt(make.n_groups * (50.0**2 + 100.0**2))
    model.assert_values(-np.array([50.0, 100.0]) / norm)


def test_averages_and_their_overwriting(make):
    model = make(SQUARE + 2)
    optimizer = model.optimizer(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)

    def assert_averages(expected: Any) -> None:
        for average in moving_averages(optimizer):
            np.testing.assert_allclose(average.numpy(), expected, rtol=1e-6)

    model.step(optimizer, ONES)
    model.assert_values(SQUARE + 1)
    assert_averages(SQUARE + 1)  # it begins after the first step
    model.step(optimizer, ONES)
    model.assert_values(SQUARE)
    assert_averages(0.9 * (SQUARE + 1) + 0.1 * SQUARE)
    model.step(optimizer, ONES)
    overwritten = 0.9 * (SQUARE + 0.9) + 0.1 * (SQUARE - 1)
    model.assert_values(overwritten)
    assert_averages(overwritten)


def test_the_average_can_be_the_mean_over_all_steps(make):
    model = make(SQUARE + 2)
    optimizer = model.optimizer(use_ema=True, ema_momentum=None)
    after = []
    for _ in range(5):
        model.step(optimizer, ONES)
        after.append(model.weights[0].numpy())
        for average in moving_averages(optimizer):
            np.testing.assert_allclose(average.numpy(), np.mean(after, axis=0), rtol=1e-6)
    revived = MultiGroupOptimizer.from_config(optimizer.get_config())
    assert revived.ema_momentum is None


def test_averages_are_the_weights_after_fit(make):
    """A kernel of ones, input 1, target 0: the gradient is twice the mean of the outputs."""
    layers = [
        keras.layers.Dense(1, kernel_initializer="ones", use_bias=False, name=f"layer_{n}")
        for n in range(make.n_groups)
    ]
    model = keras.Sequential([keras.Input((1,)), *layers])
    groups = [LayerGroup(layer.name, (layer.name,)) for layer in layers]
    optimizer = MultiGroupOptimizer(groups, 0.1, SGD(), use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, "mse", run_eagerly=True)
    x = np.ones((1, 1), "float32")
    model.fit(x, np.zeros((1, 1)), batch_size=1, epochs=2, verbose=0)
    n, w, averages = make.n_groups, 1.0, []
    for _ in range(2):
        w -= 0.1 * 2 * w ** (2 * n - 1)
        averages.append(w)
    expected = 0.9 * averages[0] + 0.1 * averages[1]
    for layer in layers:
        np.testing.assert_allclose(layer.kernel.numpy(), [[expected]], rtol=1e-6)


def test_constraints_are_applied(make):
    model = make(SQUARE - 3)
    for weight in model.weights:
        weight.constraint = keras.constraints.NonNeg()
    model.step(model.optimizer(1e-4), np.zeros((2, 2), "float32"))
    model.assert_values(np.maximum(SQUARE - 3, 0.0))


def test_get_takes_an_optimizer_and_its_configuration(make):
    optimizer = make(SQUARE).optimizer()
    assert keras.optimizers.get(optimizer) is optimizer
    found = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert isinstance(found, MultiGroupOptimizer)
    assert found.get_config() == optimizer.get_config()


def test_static_loss_scaling(make):
    model = make(SQUARE)
    optimizer = model.optimizer(loss_scale_factor=1024.0)
    model.step(optimizer, SQUARE * 1024.0)
    assert float(optimizer.scale_loss(1.0)) == 1024.0
    model.assert_values(np.zeros((2, 2)))


def test_set_weights(make):
    model = make(SQUARE)
    trained, other = (model.optimizer(template=keras.optimizers.Adam()) for _ in range(2))
    model.step(trained, SQUARE)
    with pytest.raises(ValueError, match="not built or does not know its model"):
        other.set_weights(trained.variables)
    other.build(model.weights)
    other.set_weights(trained.variables)
    assert len(other.variables) == len(trained.variables) > 2 * make.n_groups
    for variable, known in zip(other.variables, trained.variables):
        np.testing.assert_array_equal(variable.numpy(), known.numpy())


def test_gradient_accumulation(make):
    model = make(SQUARE)
    optimizer = model.optimizer(gradient_accumulation_steps=3)
    assert optimizer.gradient_accumulation_steps == 3
    for call, (value, total, steps) in enumerate(
        [(SQUARE, 1, 0), (SQUARE, 2, 0), (SQUARE - 1, 0, 1), (SQUARE - 1, 1, 1)], start=1
    ):
        model.step(optimizer, ONES)
        model.assert_values(value)
        for accumulated in accumulators(optimizer):
            np.testing.assert_array_equal(accumulated.numpy(), total * ONES)
        assert int(optimizer.step_counter) == call
        assert int(optimizer.iterations) == steps


def test_checkpoints_bring_weights_and_optimizer_back(make, tmp_path):
    model = make(SQUARE)
    optimizer = model.optimizer(0.1, keras.optimizers.Adam())
    model.step(optimizer, SQUARE)
    weights = [weight.numpy() for weight in model.weights]
    checkpoint = tf.train.Checkpoint(model, optimizer=optimizer)
    path = checkpoint.save(tmp_path / "checkpoint")
    model.step(optimizer, ONES)
    further = [weight.numpy() for weight in model.weights]
    assert not np.allclose(further[0], weights[0], atol=1e-3)
    checkpoint.restore(path)
    for weight, value in zip(model.weights, weights):
        np.testing.assert_array_equal(weight.numpy(), value)
    model.step(optimizer, ONES)  # bit for bit, which it is only with the moments of then
    for weight, value in zip(model.weights, further):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_a_callable_that_is_no_schedule_is_refused_as_a_rate(make):
    """Keras takes any callable; here a schedule says what it means and can be stored."""
    with pytest.raises(TypeError, match="should be a float, a `LearningRateSchedule`"):
        make(SQUARE).optimizer(lambda: 0.1)


def test_a_schedule_is_asked_at_every_step(make):
    model = make(SQUARE)
    optimizer = model.optimizer(keras.optimizers.schedules.PolynomialDecay(1.0, 4))
    for rate in (1.0, 0.750025, 0.50005):
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)
        model.step(optimizer, ONES)
    model.assert_values(SQUARE - (1.0 + 0.750025 + 0.50005), rtol=1e-5)


def test_overwriting_with_the_gradient(make):
    model = make(SQUARE, SQUARE)
    for part in model.parts:
        part.weights[0].overwrite_with_gradient = True
    model.step(model.optimizer(), ONES, ONES)
    model.assert_values(ONES, SQUARE - 1)


def test_overwriting_with_the_gradient_under_accumulation(make):
    model = make(SQUARE, SQUARE)
    for part in model.parts:
        part.weights[0].overwrite_with_gradient = True
    optimizer = model.optimizer(gradient_accumulation_steps=2)
    for gradient, overwritten, value, steps in (
        (1, SQUARE, SQUARE, 0),
        (2, 2 * ONES, SQUARE - 1.5, 1),
        (1, 2 * ONES, SQUARE - 1.5, 1),
    ):
        model.step(optimizer, gradient * ONES, gradient * ONES)
        model.assert_values(overwritten, value)
        assert int(optimizer.iterations) == steps


OPTIMIZERS = (
    keras.optimizers.Adam,
    keras.optimizers.SGD,
    keras.optimizers.AdamW,
    keras.optimizers.Adagrad,
    keras.optimizers.RMSprop,
    keras.optimizers.Adadelta,
    keras.optimizers.Adamax,
    keras.optimizers.Lion,
    keras.optimizers.Nadam,
    keras.optimizers.Ftrl,
    keras.optimizers.Adafactor,
    FusedAdam,
)
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)


@every_optimizer
def test_accumulation_with_weight_decay_equals_steps_on_the_mean(kind):
    rng = np.random.default_rng(0)
    slow, quick = Holder(2, [[0.9], [0.5]]), Holder(2, [[0.9], [0.5]])
    accumulating = slow.optimizer(0.01, kind(weight_decay=0.05), gradient_accumulation_steps=3)
    plain = quick.optimizer(0.01, kind(weight_decay=0.05))
    for _ in range(4):
        gradients = rng.random((3, 2, 1)).astype("float32")
        quick.step(plain, gradients.mean(axis=0))
        for gradient in gradients:
            slow.step(accumulating, gradient)
    slow.assert_values(quick.weights[0].numpy())
    assert not np.allclose(quick.weights[0].numpy(), [[0.9], [0.5]])


def test_a_schedule_cannot_be_assigned(make):
    """Keras takes one and forgets its rate's variable; steps already traced would not follow."""
    optimizer = make(SQUARE).optimizer()
    count = len(optimizer.variables)
    with pytest.raises(TypeError, match="Build a new `MultiGroupOptimizer`"):
        optimizer.learning_rate = keras.optimizers.schedules.PolynomialDecay(1.0, 4)
    assert len(optimizer.variables) == count


@every_optimizer
def test_pickling(kind):
    optimizer = Holder(2, SQUARE).optimizer(0.1, kind())
    assert pickle.loads(pickle.dumps(optimizer)).get_config() == optimizer.get_config()


def test_raw_tensorflow_variables_beside_those_of_keras(make):
    model = make(SQUARE)
    for part in model.parts:
        part.raw = tf.Variable(SQUARE)
    optimizer = model.optimizer(template=keras.optimizers.Adam())
    pairs = [(tf.constant(ONES), v) for p in model.parts for v in (*p.weights, p.raw)]
    optimizer.apply_gradients(pairs)
    assert int(optimizer.iterations) == 1
    model.assert_values(SQUARE - 1, rtol=1e-4)
    for part in model.parts:
        np.testing.assert_allclose(part.raw.numpy(), SQUARE - 1, rtol=1e-4, atol=1e-4)
    pairs = [(None if isinstance(v, tf.Variable) else g, v) for g, v in pairs]
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply_gradients(pairs)
    assert int(optimizer.iterations) == 2
    for part in model.parts:
        np.testing.assert_allclose(part.raw.numpy(), SQUARE - 1, rtol=1e-4, atol=1e-4)


def test_names_come_back(make):
    model = make(SQUARE)
    assert model.optimizer().name == "multi_group_optimizer"
    optimizer = model.optimizer(name="mine")
    assert keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)).name == "mine"


def test_every_group_has_its_optimizer_and_its_rate():
    model = Holder(3, [[2.0, 2.0]])
    members = [SGD(0.1), SGD(1.0), SGD(0.0)]
    optimizer = MultiGroupOptimizer(model.groups(), None, members)
    optimizer.bind(model)
    assert list(optimizer.group_optimizers) == members
    model.step(optimizer, [[1.0, 1.0]])
    for part, value in zip(model.parts, (1.9, 1.0, 2.0)):
        np.testing.assert_allclose(part.weights[0].numpy(), [[value, value]], rtol=1e-6)
    assert int(optimizer.iterations) == 1
    assert [int(member.iterations) for member in members] == [1, 1, 1]


def test_a_variable_of_no_group_does_not_fall_to_a_default():
    model = Holder(3, [[2.0, 2.0]])
    optimizer = MultiGroupOptimizer(model.groups()[:2], 1.0, SGD())
    optimizer.bind(model)
    with pytest.raises(ValueError, match=r"1 variables belong to no group.*'parts/2'"):
        optimizer.build(model.weights)
    assert not optimizer.built


def test_a_layer_two_groups_claim_is_refused():
    with pytest.raises(ValueError, match="'parts/0' is claimed twice"):
        MultiGroupOptimizer(
            [LayerGroup("a", ("parts/0",)), LayerGroup("b", ("parts/0",))], 1.0, SGD()
        )


def test_serialization_keeps_what_kind_of_optimizer_each_group_has():
    model = Holder(3, SQUARE)
    members = [keras.optimizers.Adam(1e-3), SGD(1e-2), keras.optimizers.RMSprop(1e-4)]
    optimizer = MultiGroupOptimizer(model.groups(), None, members)
    optimizer.bind(model)
    optimizer.build(model.weights)
    copied = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    copied.bind(model)
    copied.build(model.weights)
    assert [type(member) for member in copied.group_optimizers] == [type(m) for m in members]
    assert copied.learning_rates == pytest.approx([1e-3, 1e-2, 1e-4])
    for part, member in zip(model.parts, copied.group_optimizers):
        assert [id(v) for v in known_variables(member)] == [id(part.weights[0])]


def test_a_loss_scale_of_one_group_alone_is_refused():
    """`MultiOptimizer` overrides it without a word."""
    members = [SGD(0.1, loss_scale_factor=3.0), SGD(0.1)]
    with pytest.raises(
        ValueError, match=r"asks for loss_scale_factor=3.0.*Pass `loss_scale_factor"
    ):
        MultiGroupOptimizer(Holder(2, SQUARE).groups(), None, members)


def test_gradients_are_divided_by_the_loss_scale(make):
    model = make([[2.0, 2.0]])
    optimizer = model.optimizer(0.1, loss_scale_factor=5.0)
    assert float(optimizer.scale_loss(2.0)) == 10.0
    model.step(optimizer, [[10.0, 10.0]])
    model.assert_values([[1.8, 1.8]])


def dense_pair() -> keras.Model:
    layers = [
        keras.layers.Dense(n, kernel_initializer="ones", use_bias=False, name=name)
        for n, name in ((2, "first"), (1, "second"))
    ]
    return keras.Sequential([keras.Input((1,)), *layers])


def of_pair(rates: Any = (0.1, 0.01), **arguments: Any) -> MultiGroupOptimizer:
    groups = [LayerGroup(name, (name,)) for name in ("first", "second")]
    return MultiGroupOptimizer(groups, list(rates), SGD(), **arguments)


def test_fit_with_a_rate_for_each_layer():
    """Output 2, target 0: the gradient is 4 for each weight."""
    model = dense_pair()
    optimizer = of_pair([1e-3, 1e-2])
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(np.ones((1, 1)), np.zeros((1, 1)), verbose=0)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), [[0.996, 0.996]], rtol=1e-6)
    np.testing.assert_allclose(model.layers[1].kernel.numpy(), [[0.96], [0.96]], rtol=1e-6)
    assert int(optimizer.iterations) == 1
    assert [int(member.iterations) for member in optimizer.group_optimizers] == [1, 1]


def test_learning_rate_scheduler_keeps_the_ratios():
    model = dense_pair()
    model.compile(of_pair(), "mse")
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    scheduler.set_model(model)
    scheduler.on_epoch_begin(epoch=1)
    assert model.optimizer.learning_rates == pytest.approx([0.05, 0.005])


def test_reduce_on_plateau_keeps_the_ratios():
    model = dense_pair()
    model.compile(of_pair(), "mse")
    reduce = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1)
    reduce.set_model(model)
    reduce.on_train_begin()
    for epoch, rates in enumerate(([0.1, 0.01], [0.05, 0.005])):
        reduce.on_epoch_end(epoch=epoch, logs={"val_loss": 1.0})
        assert model.optimizer.learning_rates == pytest.approx(rates)


def test_tensorboard_finds_the_heads_rate(tmp_path):
    model = dense_pair()
    model.compile(of_pair(), "mse")
    board = keras.callbacks.TensorBoard(log_dir=tmp_path)
    board.set_model(model)
    logs = board._collect_learning_rate({})
    assert {name: float(rate) for name, rate in logs.items()} == pytest.approx(
        {"learning_rate": 0.01}
    )


def test_averages_are_swapped_in_for_evaluation_and_out_again():
    model = dense_pair()
    model.compile(of_pair(use_ema=True, ema_momentum=0.9), "mse", run_eagerly=True)
    model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
    averages = moving_averages(model.optimizer)
    weights = [np.full((1, 2), 2.0), np.full((2, 1), 3.0)]
    others = [np.full((1, 2), 9.0), np.full((2, 1), 7.0)]
    for layer, average, weight, other in zip(model.layers, averages, weights, others):
        layer.kernel.assign(weight)
        average.assign(other)
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    for event, expected in ((swap.on_test_begin, others), (swap.on_test_end, weights)):
        event()
        for layer, value in zip(model.layers, expected):
            np.testing.assert_allclose(layer.kernel.numpy(), value)
    for average, other in zip(averages, others):
        np.testing.assert_allclose(average.numpy(), other)


def test_wrapped_in_a_loss_scale_optimizer(make):
    """The outer scale takes the inner one's place."""
    model = make([[2.0, 2.0]])
    optimizer = model.optimizer(0.1, loss_scale_factor=5.0)
    outer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=10.0)
    outer.build(model.weights)
    assert optimizer.loss_scale_factor is None
    assert all(member.loss_scale_factor is None for member in optimizer.group_optimizers)
    assert float(outer.scale_loss(2.0)) == 20.0
    model.step(outer, [[10.0, 10.0]])
    model.assert_values([[1.9, 1.9]])


@pytest.mark.parametrize(
    "nested",
    [
        lambda groups: keras.optimizers.LossScaleOptimizer(SGD()),
        lambda groups: newer_optimizer("MultiOptimizer", [(SGD(), ".*")]),
        lambda groups: MultiGroupOptimizer(groups, 0.1),
    ],
    ids=["LossScaleOptimizer", "MultiOptimizer", "MultiGroupOptimizer"],
)
def test_wrappers_are_refused_inside(make, nested):
    groups = make(SQUARE).groups()
    with pytest.raises(TypeError, match="cannot be an inner optimizer"):
        MultiGroupOptimizer(groups, 0.1, nested(groups))
    with pytest.raises(TypeError, match="cannot be an inner optimizer"):
        MultiGroupOptimizer(groups, 0.1, [nested(groups) for _ in groups])


SPARSE: dict[str, Callable[[], Any]] = {
    "adadelta": keras.optimizers.Adadelta,
    "adafactor": lambda: keras.optimizers.Adafactor(clip_threshold=0.5),
    "adagrad": keras.optimizers.Adagrad,
    "adam": keras.optimizers.Adam,
    "adam amsgrad": lambda: keras.optimizers.Adam(amsgrad=True),
    "adamax": keras.optimizers.Adamax,
    "adamw": keras.optimizers.AdamW,
    "adamw amsgrad": lambda: keras.optimizers.AdamW(amsgrad=True),
    "ftrl": keras.optimizers.Ftrl,
    "fused adam": FusedAdam,
    "lion": keras.optimizers.Lion,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "rmsprop momentum": lambda: keras.optimizers.RMSprop(momentum=0.05),
    "rmsprop centered": lambda: keras.optimizers.RMSprop(momentum=0.05, centered=True),
    "sgd": SGD,
    "sgd momentum": lambda: SGD(momentum=0.05),
    "sgd nesterov": lambda: SGD(momentum=0.05, nesterov=True),
}


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_gradient_does_what_the_same_dense_one_does(name):
    sparse, dense = Holder(2, np.ones((5, 3, 2))), Holder(2, np.ones((5, 3, 2)))
    optimizers = [model.optimizer(0.01, SPARSE[name]()) for model in (sparse, dense)]
    for step in range(3):
        rows = tf.fill((3, 3, 2), 10.0 - step)
        slices = tf.IndexedSlices(rows, tf.constant([0, 2, 4]), (5, 3, 2))
        sparse.step(optimizers[0], slices)
        dense.step(optimizers[1], tf.convert_to_tensor(slices))
        for weight, other in zip(sparse.weights, dense.weights):
            np.testing.assert_allclose(weight.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(dense.weights[0].numpy()[0], 1.0)


# The optimizers whose update of the weights touches no more than the rows of the gradient.
@pytest.mark.parametrize("kind", [SGD, keras.optimizers.Adagrad], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("outer", [False, True], ids=["bare", "loss scale"])
def test_sparse_updates_stay_sparse(make, kind, outer, monkeypatch):
    model = make(np.ones((5, 10)))
    optimizer = model.optimizer(0.5, kind())
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer) if outer else optimizer
    updates: list[tuple[int, bool]] = []

    def note(variable: Any, value: Any) -> None:
        raw = variable.value if isinstance(variable, keras.Variable) else variable
        updates.append((id(raw), isinstance(value, tf.IndexedSlices)))

    for member in optimizer.group_optimizers:
        for method in ("assign", "assign_add", "assign_sub"):
            monkeypatch.setattr(member, method, note)
    model.step(wrapped, tf.IndexedSlices(tf.fill((3, 10), 0.5), tf.constant([0, 2, 4]), (5, 10)))
    own = {id(weight.value) for weight in model.weights}
    assert [sparse for identity, sparse in updates if identity in own] == [True] * make.n_groups


GRADIENT = np.array([1.0, 6.0, 7.0, 2.0], "float32")
START = np.array([1.0, 2.0, 3.0, 4.0], "float32")
INFINITE = np.full(4, np.inf, "float32")


def scaled(model: Holder, **arguments: Any) -> Any:
    inner = model.optimizer(0.5, **arguments.pop("inner", {}))
    return keras.optimizers.LossScaleOptimizer(inner, **arguments)


def test_loss_scale_configuration(make):
    template = SGD(momentum=0.06, nesterov=True, weight_decay=0.004)
    inner = make(START).optimizer(0.5, template)
    outer = keras.optimizers.LossScaleOptimizer(
        inner, initial_scale=3.0, dynamic_growth_steps=2, name="test_opt"
    )
    config = outer.get_config()
    assert (config["name"], config["initial_scale"]) == ("test_opt", 3.0)
    assert config["dynamic_growth_steps"] == 2
    revived = keras.optimizers.deserialize(keras.optimizers.serialize(outer))
    assert revived.inner_optimizer.get_config() == inner.get_config()
    assert revived.get_config() == config


def test_loss_scale_without_variables(make):
    variable, plain = keras.Variable([1.0]), keras.optimizers.LossScaleOptimizer(SGD(0.1))
    plain.build([variable])
    plain.apply([keras.ops.ones(1)])
    if float(variable.numpy()[0]) == 1.0:
        pytest.skip("`LossScaleOptimizer.apply` of this Keras does nothing without variables")
    model = make(START)
    outer = scaled(model)
    outer.build(model.weights)
    outer.apply([tf.constant(GRADIENT * outer.initial_scale)] * make.n_groups)
    model.assert_values([0.5, -1.0, -0.5, 3.0], rtol=1e-4)


@pytest.mark.parametrize("inner", [{}, {"loss_scale_factor": 100.0}], ids=str)
def test_loss_scale_on_a_finite_step(make, inner):
    model = make(START)
    outer = scaled(model, inner=inner)
    model.step(outer, GRADIENT * outer.initial_scale)
    model.assert_values([0.5, -1.0, -0.5, 3.0], rtol=1e-4)


def test_loss_scale_on_an_infinite_step(make):
    model = make(START)
    model.step(scaled(model), INFINITE)
    model.assert_values(START)


def test_loss_scale_on_a_step_that_overwrites(make):
    model = make(START)
    for weight in model.weights:
        weight.overwrite_with_gradient = True
    model.step(scaled(model), GRADIENT)
    model.assert_values(GRADIENT)


def test_loss_scale_goes_down(make):
    model = make(START)
    outer = scaled(model, initial_scale=400.0)
    for _ in range(4):
        model.step(outer, INFINITE)
    assert float(outer.scale_loss(1.0)) == 25.0


def test_loss_scale_goes_up(make):
    model = make(START)
    outer = scaled(model, initial_scale=2.0, dynamic_growth_steps=2)
    for _ in range(8):
        model.step(outer, GRADIENT)
    assert float(outer.scale_loss(1.0)) == 32.0


def test_loss_scale_counts_finite_steps(make):
    model = make(START)
    outer = scaled(model)
    for count, gradient in ((1, GRADIENT), (2, GRADIENT), (2, INFINITE), (3, GRADIENT)):
        model.step(outer, gradient)
        assert int(outer.iterations) == count


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("clipnorm", 0.5),
        ("global_clipnorm", 0.5),
        ("clipvalue", 0.5),
        ("use_ema", True),
        ("loss_scale_factor", 0.5),
        ("gradient_accumulation_steps", 2),
    ],
)
def test_loss_scale_leaves_what_spans_groups_to_the_wrapper(make, argument, value):
    model = make(START)
    if "name" not in inspect.signature(keras.optimizers.LossScaleOptimizer).parameters:
        pytest.skip("`LossScaleOptimizer` of this Keras accepts and ignores such arguments")
    with pytest.raises(ValueError, match="on the `inner_optimizer`"):
        keras.optimizers.LossScaleOptimizer(model.optimizer(), **{argument: value})
    assert getattr(model.optimizer(**{argument: value}), argument) == value
