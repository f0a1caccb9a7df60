from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, InverseTimeDecay

from dlr_tf.core._keras import slots_of
from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import (
    LayerGroup,
    split_evenly,
    split_layers,
    split_layerwise,
)
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR, OneCycle
from tests import reference

LAYERS = keras.layers
RATES = (0.003, 0.01, 0.03)
MODES = ("eager", "graph")
KINDS = ("sequential", "functional", "nested", "subclassed", "shared", "attention")

# Tracing Keras' own Adam takes long: it runs all kinds of models eagerly and two of them traced,
# and the fused one the other way around.
oracle = pytest.mark.parametrize(
    ("sample", "template", "mode"),
    [
        *((kind, "keras_adam", "eager") for kind in KINDS),
        *((kind, "fused_adam", "graph") for kind in KINDS),
        *((kind, "keras_adam", "graph") for kind in ("nested", "subclassed")),
        ("nested", "fused_adam", "eager"),
    ],
    indirect=["sample", "template"],
)
each_optimizer_one_way = pytest.mark.parametrize(
    ("template", "mode"),
    [("keras_adam", "eager"), ("fused_adam", "graph")],
    indirect=["template"],
)


def values(variables: Any) -> list[np.ndarray]:
    return [np.array(v.numpy()) for v in variables]


def assert_same(left: Any, right: Any) -> None:
    """Bit for bit."""
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_weights(left: keras.Model, right: keras.Model) -> None:
    assert_same(values(left.weights), values(right.weights))


def gradients_of(model: keras.Model, x: Any, y: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    return tape.gradient(loss, model.trainable_variables)


Update = Callable[[list[Any], list[Any]], Any]


def train(
    model: keras.Model, update: Update, data: Any, mode: str = "eager", steps: int = 5
) -> None:
    """A custom loop: `update` gets the gradients and the trainable variables."""

    def step(x: Any, y: Any) -> None:
        update(gradients_of(model, x, y), model.trainable_variables)

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla", autograph=False)
    x, y = (tf.constant(part) for part in data)
    for _ in range(steps):
        step(x, y)


def traced(update: Update, variables: Sequence[Any], **settings: Any) -> Callable[[Any], Any]:
    """`update` of these variables as one function of their gradients."""
    settings = {"autograph": False, **settings}
    return tf.function(lambda gradients: update(gradients, list(variables)), **settings)


def push(
    update: Update, variables: Sequence[Any], mode: str = "eager", steps: int = 5, seed: int = 0
) -> None:
    """Random gradients, the same for the same shapes: a loop without a model's own passes."""
    generator = np.random.default_rng(seed)
    variables = list(variables)
    step = traced(update, variables) if mode == "graph" else lambda g: update(g, variables)
    for _ in range(steps):
        step([tf.constant(generator.normal(size=v.shape), tf.float32) for v in variables])


def apply_of(optimizer: Any) -> Update:
    return lambda gradients, variables: optimizer.apply_gradients(zip(gradients, variables))


def numbers_of(model: keras.Model, groups: Sequence[LayerGroup]) -> list[int]:
    """The group of each trainable variable."""
    group_of = {id(place.variable): place.group for place in assign_variables(model, groups)}
    return [group_of[id(v)] for v in model.trainable_variables]


def apply_separately(optimizers: Sequence[Any], numbers: Sequence[int]) -> Update:
    """What N groups stand for: each optimizer on its own variables."""

    def update(gradients: list[Any], variables: list[Any]) -> None:
        for group, optimizer in enumerate(optimizers):
            pairs = [(g, v) for g, v, of in zip(gradients, variables, numbers) if of == group]
            if pairs:
                optimizer.apply_gradients(pairs)

    return update


def build_separately(
    optimizers: Sequence[Any], model: keras.Model, groups: Sequence[LayerGroup]
) -> Update:
    """Builds those that have something to train and are not built yet, for the variables of now."""
    numbers = numbers_of(model, groups)
    for group, optimizer in enumerate(optimizers):
        members = [v for v, of in zip(model.trainable_variables, numbers) if of == group]
        if members and not optimizer.built:
            optimizer.build(members)
    return apply_separately(optimizers, numbers)


def slot_values(optimizer: MultiGroupOptimizer) -> dict[tuple[str, int], np.ndarray]:
    """Every slot by its name and variable."""
    return {
        (name, id(variable)): np.array(slot.numpy())
        for member in optimizer.group_optimizers
        if member.built
        for name, slots in slots_of(member).items()
        for variable, slot in zip(member._trainable_variables, slots)
        if slot is not None
    }


def everything(model: keras.Model, optimizer: MultiGroupOptimizer) -> list[np.ndarray]:
    """All that a failed call must leave alone."""
    return values([*model.weights, *optimizer.variables])


def steps_of(optimizer: MultiGroupOptimizer) -> list[int]:
    return [int(member.iterations) for member in optimizer.group_optimizers]


def two_weights(constraint: Any = None) -> tuple[keras.Model, tuple[LayerGroup, ...]]:
    """y = first * second * x with weights 1 and 1, each in a group."""
    layers = [
        LAYERS.Dense(
            1, use_bias=False, name=n, kernel_initializer="ones", kernel_constraint=constraint
        )
        for n in ("first", "second")
    ]
    model = keras.Sequential([keras.Input((1,)), *layers])
    return model, split_layers(model, ["second"], ["body", "head"])


def embedding_model() -> keras.Model:
    keras.utils.set_random_seed(2)
    layers = [
        LAYERS.Embedding(6, 4, name="embedding"),
        LAYERS.Flatten(name="flatten"),
        LAYERS.Dense(3, name="top"),
    ]
    return keras.Sequential([keras.Input((3,), dtype="int32"), *layers])


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def trio(samples) -> tuple[keras.Model, tuple[LayerGroup, ...]]:
    """A sequential model in three groups."""
    model = samples["sequential"].model()
    return model, samples["sequential"].groups(model)


@oracle
def test_groups_at_one_rate_equal_one_optimizer(sample, template, mode):
    model, twin = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument())
    plain = template.plain(0.01)
    plain.build(twin.trainable_variables)
    start = values(model.weights)
    train(model, apply_of(optimizer), sample.data(), mode)
    train(twin, apply_of(plain), sample.data(), mode)
    assert_same_weights(model, twin)
    for before, now in zip(start, values(model.weights)):
        assert not np.array_equal(before, now)
    assert int(optimizer.iterations) == 5
    assert steps_of(optimizer) == [5, 5, 5]


@pytest.mark.parametrize("groups_of", [split_layerwise, lambda model: split_evenly(model, 2)])
def test_however_many_groups(samples, keras_adam, groups_of):
    sample = samples["nested"]
    model, twin = sample.model(), sample.model()
    train(
        model,
        apply_of(MultiGroupOptimizer(groups_of(model), 0.01, keras_adam.argument())),
        sample.data(),
    )
    train(twin, apply_of(keras_adam.plain(0.01)), sample.data())
    assert_same_weights(model, twin)


@pytest.mark.parametrize(
    ("sample", "template"),
    [("functional", "keras_adam"), ("subclassed", "fused_adam")],
    indirect=["sample", "template"],
)
def test_groups_at_one_rate_equal_one_optimizer_in_fit(sample, template):
    model, twin = sample.model(), sample.model()
    x, y = sample.data()
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument())
    for candidate, each in ((model, optimizer), (twin, template.plain(0.01))):
        candidate.compile(each, "mse", jit_compile=False)
        candidate.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert model.optimizer is optimizer
    assert_same_weights(model, twin)


@pytest.mark.parametrize(
    ("sample", "template"),
    [("nested", "keras_adam"), ("subclassed", "fused_adam")],
    indirect=["sample", "template"],
)
def test_groups_at_one_rate_equal_one_optimizer_under_xla(sample, template):
    model, twin = sample.model(), sample.model()
    plain = template.plain(0.01)
    plain.build(twin.trainable_variables)
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument())
    for each, owner in ((optimizer, model), (plain, twin)):
        variables = owner.trainable_variables
        step = traced(apply_of(each), variables, jit_compile=True)
        generator = np.random.default_rng(0)
        for _ in range(5):
            step([tf.constant(generator.normal(size=v.shape), tf.float32) for v in variables])
    for a, b in zip(values(model.weights), values(twin.weights)):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b)


def test_fit_compiled_by_xla(samples, keras_adam):
    sample = samples["functional"]
    model, twin = sample.model(), sample.model()
    x, y = sample.data()
    optimizer = MultiGroupOptimizer(sample.groups(model), RATES, keras_adam.argument())
    model.compile(optimizer, "mse", jit_compile=True)
    model.fit(x, y, batch_size=12, epochs=3, verbose=0)
    separate = [keras_adam.plain(rate) for rate in RATES]
    train(twin, build_separately(separate, twin, sample.groups(twin)), (x, y), steps=3)
    for a, b in zip(values(model.weights), values(twin.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@oracle
def test_groups_at_their_rates_equal_separate_optimizers(sample, template, mode):
    model, twin = sample.model(), sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    push(apply_of(optimizer), model.trainable_variables, mode)
    push(build_separately(separate, twin, groups), twin.trainable_variables, mode)
    assert_same_weights(model, twin)
    np.testing.assert_array_equal(optimizer.last_learning_rates, np.float32(RATES))


def test_fused_groups_equal_separate_optimizers_over_many_steps(trio):
    """Their powers of beta are computed for all groups at once."""
    model, groups = trio
    start = values(model.weights)
    generator = np.random.default_rng(0)
    variables = model.trainable_variables
    noise = [
        [tf.constant(generator.normal(size=v.shape), tf.float32) for v in variables]
        for _ in range(300)
    ]
    members = [FusedAdam(beta_1=0.9), FusedAdam(beta_1=0.8, beta_2=0.99), FusedAdam(epsilon=1e-3)]
    twins = [FusedAdam.from_config(m.get_config()) for m in members]
    for twin, rate in zip(twins, RATES):
        twin.learning_rate = rate
    results = []
    for update in (
        apply_of(MultiGroupOptimizer(groups, RATES, members)),
        build_separately(twins, model, groups),
    ):
        for variable, value in zip(model.weights, start):
            variable.assign(value)
        step = traced(update, variables)
        for gradients in noise:
            step(gradients)
        results.append(values(variables))
    assert_same(*results)


@each_optimizer_one_way
def test_schedules_per_group_equal_separate_optimizers(samples, template, mode):
    sample = samples["subclassed"]
    model, twin = sample.model(), sample.model()
    rates = [CosineDecay(0.01, 6), 0.02, ExponentialDecay(0.03, 2, 0.5)]
    optimizer = MultiGroupOptimizer(sample.groups(model), rates, template.argument())
    separate = [template.plain(rate) for rate in rates]
    push(apply_of(optimizer), model.trainable_variables, mode)
    update = build_separately(separate, twin, sample.groups(twin))
    push(update, twin.trainable_variables, mode)
    assert_same_weights(model, twin)


@each_optimizer_one_way
def test_schedules_put_together_equal_separate_optimizers(samples, template, mode):
    """Two of one family with one of another between them."""
    sample = samples["subclassed"]
    model, twin = sample.model(), sample.model()
    rates = [SGDR(0.01, 3), OneCycle(0.02, 9), SGDR(0.03, 3)]
    optimizer = MultiGroupOptimizer(sample.groups(model), rates, template.argument())
    push(apply_of(optimizer), model.trainable_variables, mode)
    separate = [template.plain(rate) for rate in rates]
    push(build_separately(separate, twin, sample.groups(twin)), twin.trainable_variables, mode)
    assert_same_weights(model, twin)
    steps = int(optimizer.iterations)
    assert optimizer.learning_rates == [float(rate(steps)) for rate in rates]


def test_a_schedule_per_layer_costs_as_much_as_one(samples):
    model = samples["functional"].model()
    groups = split_layerwise(model)
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]

    def count(rates: Any) -> int:
        optimizer = MultiGroupOptimizer(groups, rates)
        optimizer.build(model.trainable_variables)
        step = tf.function(lambda: optimizer.apply(gradients, model.trainable_variables))
        return len(step.get_concrete_function().graph.get_operations())

    assert len(groups) > 3
    per_layer = count([SGDR(0.1 / (n + 1), 5) for n in range(len(groups))])
    assert per_layer <= count(SGDR(0.1, 5)) + 2


def test_different_optimizers_per_group(samples):
    sample = samples["functional"]
    model, twin = sample.model(), sample.model()

    def make() -> list[Any]:
        return [
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.optimizers.AdamW(0.01, weight_decay=0.1),
            keras.optimizers.Nadam(CosineDecay(0.01, 10)),
        ]

    members = make()
    optimizer = MultiGroupOptimizer(sample.groups(model), None, members)
    assert list(optimizer.group_optimizers) == members  # used as they are
    train(model, apply_of(optimizer), sample.data(), "graph")
    train(twin, build_separately(make(), twin, sample.groups(twin)), sample.data(), "graph")
    assert_same_weights(model, twin)
    np.testing.assert_allclose(optimizer.learning_rates[:2], [0.1, 0.01], rtol=1e-6)


def test_rates_beside_optimizers_win(trio):
    _, groups = trio
    members = [keras.optimizers.SGD(9.0) for _ in groups]
    optimizer = MultiGroupOptimizer(groups, RATES, members)
    np.testing.assert_allclose(optimizer.learning_rates, RATES, rtol=1e-6)


def test_the_template_is_left_alone(trio):
    model, groups = trio
    template = keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer = MultiGroupOptimizer(groups, 0.01, template)
    train(model, apply_of(optimizer), (np.ones((2, 8), "float32"), np.ones((2, 3), "float32")))
    assert not template.built
    assert float(template.learning_rate) == 0.5
    assert int(template.iterations) == 0
    assert all(member is not template for member in optimizer.group_optimizers)
    assert [member.momentum for member in optimizer.group_optimizers] == [0.9] * 3


def test_any_optimizer_can_be_the_template(samples, any_optimizer):
    equals_plain_keras(samples["attention"], any_optimizer, 0.01)


@pytest.mark.parametrize("name", ["Adafactor", "Nadam", "AdamW"])
def test_any_optimizer_follows_a_schedule(samples, name):
    """Adafactor takes its rate another way where it is a schedule."""
    schedule = InverseTimeDecay(0.01, 1, 0.5)
    equals_plain_keras(samples["functional"], getattr(keras.optimizers, name), schedule)


def equals_plain_keras(sample: Any, any_optimizer: Callable[[Any], Any], rate: Any) -> None:
    model, twin = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), rate, any_optimizer(1.0))
    push(apply_of(optimizer), model.trainable_variables)
    push(apply_of(any_optimizer(rate)), twin.trainable_variables)
    assert_same_weights(model, twin)
    assert not np.array_equal(model.weights[0].numpy(), sample.model().weights[0].numpy())


def test_layers_thawed_later_begin_as_with_an_optimizer_of_their_own(samples, any_optimizer):
    sample = samples["functional"]
    model, twin = sample.model(), sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, RATES, any_optimizer(1.0))
    separate = [any_optimizer(rate) for rate in RATES]
    for each in (model, twin):
        for name in ("stem", "norm", "left", "right"):
            each.get_layer(name).trainable = False
    for names in ((), ("left", "right"), ("stem", "norm")):
        before = slot_values(optimizer)
        for each in (model, twin):
            for name in names:
                each.get_layer(name).trainable = True
        optimizer.build(model.trainable_variables)
        after = slot_values(optimizer)
        assert before.keys() < after.keys() or not after
        assert_same(before.values(), [after[key] for key in before])
        push(apply_of(optimizer), model.trainable_variables, steps=2)
        update = build_separately(separate, twin, groups)
        push(update, twin.trainable_variables, steps=2)
        assert_same_weights(model, twin)
    assert steps_of(optimizer) == [2, 4, 6]
    assert int(optimizer.iterations) == 6


@pytest.mark.parametrize("name", ["Adam", "Muon", "Nadam", "ScheduleFreeAdamW"])
def test_a_layer_thawed_inside_a_running_group_uses_the_groups_count(samples, name):
    sample = samples["functional"]
    model, twin = sample.model(), sample.model()
    kind = getattr(keras.optimizers, name)
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, kind())
    plain = kind(0.01)
    plain.build(twin.trainable_variables)  # knows all from the start, as Keras wants it
    for each in (model, twin):
        each.get_layer("left").trainable = False
    push(apply_of(optimizer), model.trainable_variables, steps=3)
    push(apply_of(plain), twin.trainable_variables, steps=3)
    before = slot_values(optimizer)
    for each in (model, twin):
        each.get_layer("left").trainable = True
    late = {id(v) for v in model.get_layer("left").trainable_variables}
    optimizer.build(model.trainable_variables)
    after = slot_values(optimizer)
    assert_same(before.values(), [after[key] for key in before])
    assert {key[1] for key in after.keys() - before.keys()} == late
    push(apply_of(optimizer), model.trainable_variables, steps=2)
    push(apply_of(plain), twin.trainable_variables, steps=2)
    assert_same_weights(model, twin)
    assert steps_of(optimizer) == [5, 5, 5]


@pytest.mark.parametrize(("decay", "amsgrad"), [(0.0, False), (0.05, False), (0.05, True)])
def test_equals_the_articles_adam_with_three_rates(template, samples, amsgrad, decay):
    layers = [
        LAYERS.Dense(6, name="stem", kernel_constraint="non_neg"),
        LAYERS.Dense(5, name="body"),
        LAYERS.Dense(3, name="top", bias_constraint="non_neg"),
    ]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), *layers])
    groups = split_layers(model, ["body", "top"])
    base = [1e-7, 1e-4, 1e-2]
    rates = [InverseTimeDecay(rate, 1, decay) for rate in base] if decay else base
    inner = template.plain(1.0, amsgrad=amsgrad)
    optimizer = MultiGroupOptimizer(groups, rates, inner)
    variables = model.trainable_variables
    generator = np.random.default_rng(1)
    # The first update must not meet the constraint of a weight that is off already.
    layers[0].kernel.assign(np.abs(layers[0].kernel.numpy()))
    start = values(variables)
    gradients = [
        [generator.normal(0.2, 1, size=v.shape).astype("float32") for v in variables]
        for _ in range(100)
    ]
    step = traced(apply_of(optimizer), variables)
    for each in gradients:
        step([tf.constant(g) for g in each])
    constraints = [
        (lambda p: np.maximum(p, 0)) if v.constraint is not None else None for v in variables
    ]
    assert sum(constraint is not None for constraint in constraints) == 2
    expected = reference.article_adam(
        start,
        gradients,
        [base[number] for number in numbers_of(model, groups)],
        decay=decay,
        amsgrad=amsgrad,
        constraints=constraints,
    )
    for variable, p, p0 in zip(variables, expected, start):
        error = np.linalg.norm(variable.numpy() - p)
        assert error < 1e-5 * np.linalg.norm(p) or error == 0, variable.path
        if variable.path.startswith("top"):
            assert error < 1e-4 * np.linalg.norm(p - p0), variable.path
    assert np.any(np.equal(expected[-1], 0))  # the constraint was met


@pytest.mark.parametrize("mode", MODES)
def test_the_global_norm_is_over_all_groups(mode):
    model, groups = two_weights()
    optimizer = MultiGroupOptimizer(groups, 1.0, keras.optimizers.SGD(), global_clipnorm=1.0)
    variables = model.trainable_variables
    gradients = [tf.constant([[3.0]]), tf.constant([[4.0]])]
    update = apply_of(optimizer)
    step = (
        (lambda: update(gradients, variables))
        if mode == "eager"
        else tf.function(lambda: update(gradients, variables))
    )
    step()
    np.testing.assert_allclose([v.numpy().item() for v in variables], [0.4, 0.2], rtol=1e-6)


SPANNING = {
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "accumulation": {"gradient_accumulation_steps": 3},
    "clipped_accumulation": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.05},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    "loss_scale": {"loss_scale_factor": 8.0},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", SPANNING.values(), ids=SPANNING)
def test_what_spans_groups_equals_plain_keras(samples, template, settings, mode):
    sample = samples["sequential"]
    model, twin = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument(), **settings)
    plain = template.plain(0.01, **settings)
    plain.build(twin.trainable_variables)
    push(apply_of(optimizer), model.trainable_variables, mode, steps=7)
    push(apply_of(plain), twin.trainable_variables, mode, steps=7)
    assert_same_weights(model, twin)
    assert int(optimizer.iterations) == int(plain.iterations)
    if "use_ema" in settings:
        averages = optimizer._model_variables_moving_average
        assert_same(values(averages), values(plain._model_variables_moving_average))
        for each, owner in ((optimizer, model), (plain, twin)):
            each.finalize_variable_values(owner.trainable_variables)
        assert_same_weights(model, twin)
        assert_same(values(model.trainable_variables), values(averages))


def test_clipping_changes_the_step(trio):
    model, groups = trio
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    moved = {}
    for name, settings in {**SPANNING, "none": {}}.items():
        if "clip" in name or name == "none":
            start = values(model.trainable_variables)
            settings = {k: v for k, v in settings.items() if "clip" in k}
            optimizer = MultiGroupOptimizer(groups, 1.0, keras.optimizers.SGD(), **settings)
            optimizer.apply(gradients, model.trainable_variables)
            moved[name] = [a - b for a, b in zip(start, values(model.trainable_variables))]
    size = sum(v.size for v in moved["none"])
    np.testing.assert_allclose(moved["none"][0], 1, rtol=1e-5)
    np.testing.assert_allclose(moved["clipvalue"][0], 0.01, rtol=1e-4)
    for part in moved["clipnorm"]:
        np.testing.assert_allclose(np.linalg.norm(part), 0.05, rtol=1e-4)
    np.testing.assert_allclose(moved["global_clipnorm"][0], 0.05 / size**0.5, rtol=1e-4)


def test_schedules_and_steps_do_not_run_ahead_under_accumulation(trio, template):
    model, groups = trio
    schedule = InverseTimeDecay(1.0, 1, 1.0)
    optimizer = MultiGroupOptimizer(
        groups, [schedule, 0.5, schedule], template.argument(), gradient_accumulation_steps=3
    )
    seen = []
    variables = model.trainable_variables
    step = tf.function(lambda: optimizer.apply([tf.ones(v.shape) for v in variables], variables))
    for _ in range(7):
        before = values(variables)
        step()
        moved = not np.array_equal(before[0], variables[0].numpy())
        seen.append((moved, int(optimizer.iterations), steps_of(optimizer)[0]))
    assert seen == [
        (False, 0, 0),
        (False, 0, 0),
        (True, 1, 1),
        (False, 1, 1),
        (False, 1, 1),
        (True, 2, 2),
        (False, 2, 2),
    ]
    np.testing.assert_allclose(optimizer.last_learning_rates, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(optimizer.learning_rates, [1 / 3, 0.5, 1 / 3], rtol=1e-6)


def test_averages_run_per_step_under_accumulation():
    model, groups = two_weights()
    optimizer = MultiGroupOptimizer(
        groups,
        1.0,
        keras.optimizers.SGD(),
        use_ema=True,
        ema_momentum=0.75,
        gradient_accumulation_steps=2,
    )
    weight, expected = 1.0, None
    for call in range(6):
        optimizer.apply([tf.constant([[0.25]]), tf.constant([[0.5]])], model.trainable_variables)
        if call % 2:
            weight -= 0.5
            expected = weight if expected is None else 0.75 * expected + 0.25 * weight
    np.testing.assert_allclose(model.trainable_variables[1].numpy().item(), weight)
    averages = values(optimizer._model_variables_moving_average)
    np.testing.assert_allclose(averages[1].item(), expected, rtol=1e-6)


def test_the_average_of_a_late_variable_starts_at_its_value():
    model, groups = two_weights()
    first, second = model.trainable_variables
    optimizer = MultiGroupOptimizer(
        groups, 1.0, keras.optimizers.SGD(), use_ema=True, ema_momentum=0.5
    )
    for _ in range(3):
        optimizer.apply([tf.constant([[0.5]])], [second])
    optimizer.apply([tf.constant([[1.0]])] * 2, [first, second])
    averages = dict(
        zip(
            map(id, optimizer._trainable_variables),
            values(optimizer._model_variables_moving_average),
        )
    )
    # From 1, its value when it joined, to the mean of that and where it went: 0.
    assert averages[id(first)].item() == 0.5
    optimizer.finalize_variable_values([first])
    assert first.numpy().item() == 0.5
    assert second.numpy().item() == 1 - 3 * 0.5 - 1


def test_finalizing_goes_by_variable_not_by_position():
    model, groups = two_weights()
    first, second = model.trainable_variables
    optimizer = MultiGroupOptimizer(
        groups, 1.0, keras.optimizers.SGD(), use_ema=True, ema_momentum=0.5
    )
    for _ in range(2):
        optimizer.apply([tf.constant([[1.0]]), tf.constant([[2.0]])], [first, second])
    optimizer.finalize_variable_values([second])  # as with the first layer frozen
    assert first.numpy().item() == -1
    assert second.numpy().item() == -2  # the mean of -1 and -3


def test_swapping_averages_in_and_out(samples, template):
    sample = samples["sequential"]
    model = sample.model()
    optimizer = MultiGroupOptimizer(
        sample.groups(model), RATES, template.argument(), use_ema=True, ema_momentum=0.5
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    x, y = sample.data()
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    averages = optimizer._model_variables_moving_average
    assert_same(values(model.trainable_variables), values(averages))


def test_scale_loss_and_the_factor_cancel(trio):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, 1.0, loss_scale_factor=8.0)
    assert float(optimizer.scale_loss(tf.constant(2.0))) == 16.0


@pytest.mark.parametrize("mode", MODES)
def test_weight_decay_and_its_exclusions_equal_plain_keras(samples, mode):
    sample = samples["functional"]
    model, twin = sample.model(), sample.model()

    def make(owner: keras.Model, rate: float) -> Any:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.3)
        optimizer.exclude_from_weight_decay(
            var_list=[owner.get_layer("left").kernel], var_names=["bias", "gamma"]
        )
        return optimizer

    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, make(model, 1.0))
    plain = make(twin, 0.01)
    plain.build(twin.trainable_variables)
    push(apply_of(optimizer), model.trainable_variables, mode)
    push(apply_of(plain), twin.trainable_variables, mode)
    assert_same_weights(model, twin)


def test_weight_decay_acts_at_the_groups_own_rate_and_strength():
    model, groups = two_weights()
    members = [
        keras.optimizers.AdamW(weight_decay=0.1),
        FusedAdam(weight_decay=0.2),
    ]
    optimizer = MultiGroupOptimizer(groups, [0.5, 1.0], members)
    zeros = [tf.zeros((1, 1))] * 2
    for _ in range(2):
        optimizer.apply(zeros, model.trainable_variables)
    weights = [v.numpy().item() for v in model.trainable_variables]
    np.testing.assert_allclose(weights, [0.95**2, 0.8**2], rtol=1e-6)


def test_weight_decay_follows_the_schedule_of_the_step():
    model, groups = two_weights()
    optimizer = MultiGroupOptimizer(
        groups, InverseTimeDecay(1.0, 1, 1.0), keras.optimizers.AdamW(weight_decay=0.1)
    )
    variables = model.trainable_variables
    step = tf.function(lambda: optimizer.apply([tf.zeros((1, 1))] * 2, variables))
    for _ in range(3):
        step()
    expected = (1 - 0.1) * (1 - 0.1 / 2) * (1 - 0.1 / 3)
    np.testing.assert_allclose([v.numpy().item() for v in variables], [expected] * 2, rtol=1e-6)


def test_only_variables_with_a_gradient_decay():
    model, groups = two_weights()
    optimizer = MultiGroupOptimizer(groups, 1.0, keras.optimizers.AdamW(weight_decay=0.5))
    optimizer.apply([tf.zeros((1, 1))], model.trainable_variables[1:])
    assert [v.numpy().item() for v in model.trainable_variables] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("sample", "template", "mode"),
    [
        *((kind, "keras_adam", "eager") for kind in KINDS),
        ("nested", "fused_adam", "eager"),
        ("nested", "fused_adam", "graph"),
    ],
    indirect=["sample", "template"],
)
def test_any_subset_in_any_order(sample, template, mode):
    model, twin = sample.model(), sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    numbers = numbers_of(model, groups)
    build_separately(separate, twin, groups)
    generator = np.random.default_rng(4)
    n = len(numbers)
    for order in (range(n), range(n - 1, -1, -1), range(0, n, 2), generator.permutation(n)[:4]):
        gradients = [
            tf.constant(generator.normal(size=model.trainable_variables[i].shape), tf.float32)
            for i in order
        ]
        for update, owner in (
            (apply_of(optimizer), model),
            (apply_separately(separate, [numbers[i] for i in order]), twin),
        ):
            variables = [owner.trainable_variables[i] for i in order]
            if mode == "eager":
                update(gradients, variables)
            else:
                traced(update, variables)(gradients)
        assert_same_weights(model, twin)
    assert steps_of(optimizer) == [int(each.iterations) for each in separate]


def test_a_whole_group_without_gradients_does_not_move_and_does_not_count(samples, template):
    sample = samples["sequential"]
    model, twin = sample.model(), sample.model()
    groups = sample.groups(model)
    numbers = numbers_of(model, groups)
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    build_separately(separate, twin, groups)
    data = sample.data()

    def without_middle(gradients: list[Any], variables: list[Any]) -> None:
        nones = [None if of == 1 else g for g, of in zip(gradients, numbers)]
        with pytest.warns(UserWarning, match=r"Gradients do not exist for variables .*body/kernel"):
            optimizer.apply_gradients(zip(nones, variables))

    middle = values(model.get_layer("body").weights)
    train(model, without_middle, data, steps=2)
    others = [number if number != 1 else None for number in numbers]
    train(twin, apply_separately(separate, others), data, steps=2)
    assert_same(values(model.get_layer("body").weights), middle)
    assert steps_of(optimizer) == [2, 0, 2]
    assert int(optimizer.iterations) == 2
    train(model, apply_of(optimizer), data, steps=2)
    train(twin, apply_separately(separate, numbers), data, steps=2)
    assert_same_weights(model, twin)
    assert steps_of(optimizer) == [4, 2, 4]


@pytest.mark.parametrize("built", [False, True])
def test_all_gradients_none_is_an_error_that_changes_nothing(trio, template, built):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    variables = model.trainable_variables
    if built:
        optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    before = everything(model, optimizer)
    message = r"No gradients provided for any variable: all are `None`.*stem/kernel"
    with pytest.raises(ValueError, match=message):
        optimizer.apply_gradients((None, v) for v in variables)
    assert optimizer.built == built
    assert_same(everything(model, optimizer), before)


def test_variables_of_no_model_are_an_error_that_changes_nothing(trio, template):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    loose = keras.Variable([1.0, 2.0], name="loose")
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=r"do not belong to the model.*\['loose'\]"):
        optimizer.apply([tf.ones(2)], [loose])
    assert not optimizer.built
    assert_same(everything(model, optimizer), before)
    variables = model.trainable_variables
    optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="built for the variables of the model 'sequential"):
        optimizer.apply([*[tf.ones(v.shape) for v in variables], tf.ones(2)], [*variables, loose])
    assert_same(everything(model, optimizer), before)
    assert loose.numpy().tolist() == [1.0, 2.0]


def test_a_second_model_is_refused(samples, template):
    sample = samples["sequential"]
    model, other = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), RATES, template.argument())
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="built for the variables of the model.*Make a new opt"):
        train(other, apply_of(optimizer), sample.data(), steps=1)


def test_groups_that_do_not_cover_the_trained_layers(trio, template):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups[1:], RATES[1:], template.argument())
    before = everything(model, optimizer)
    message = r"4 variables belong to no group.*no group claims: \['stem', 'norm'\].*freeze it"
    with pytest.raises(ValueError, match=message):
        optimizer.build(model.trainable_variables)
    assert not optimizer.built
    assert_same(everything(model, optimizer), before)
    model.get_layer("stem").trainable = model.get_layer("norm").trainable = False
    optimizer.build(model.trainable_variables)
    assert optimizer.built


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (LayerGroup("x", ("sten",)), r"'x' names the layer 'sten'.*Did you mean 'stem'\?"),
        (LayerGroup("x", ("body/inner",)), "'x' names the layer 'body/inner', which the model"),
    ],
)
def test_groups_of_layers_the_model_does_not_have(trio, template, group, message):
    model, groups = trio
    optimizer = MultiGroupOptimizer([group, *groups[1:]], RATES, template.argument())
    with pytest.raises(ValueError, match=message):
        model.compile(optimizer, "mse", run_eagerly=True)
        model.fit(np.ones((2, 8)), np.ones((2, 3)), verbose=0)
    assert not optimizer.built


def test_numbers_of_gradients_and_variables_must_match(trio):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES)
    variables = model.trainable_variables
    with pytest.raises(ValueError, match=r"not built. Pass `trainable_variables`, or call `build"):
        optimizer.apply([tf.ones(1)])
    with pytest.raises(ValueError, match="Received 1 gradients and 8 variables"):
        optimizer.apply([tf.ones(1)], variables)
    optimizer.build(variables)
    with pytest.raises(ValueError, match="Received 2 gradients and 8 variables"):
        optimizer.apply([tf.ones(1)] * 2)
    optimizer.apply([], variables)
    assert int(optimizer.iterations) == 0
    optimizer.apply([tf.ones(v.shape) for v in variables])  # all it was built with
    assert steps_of(optimizer) == [1, 1, 1]


def test_raw_tensorflow_variables_of_the_model_can_be_passed(trio, samples, template):
    model, groups = trio
    twin = samples["sequential"].model()
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer = MultiGroupOptimizer(groups, 0.01, template.argument())
    for _ in range(2):
        optimizer.apply(gradients, [v.value for v in model.trainable_variables])
    other = MultiGroupOptimizer(groups, 0.01, template.argument())
    other.bind(twin)
    for _ in range(2):
        other.apply(gradients, twin.trainable_variables)
    assert_same_weights(model, twin)


def test_gradients_of_a_micro_batch_may_be_missing_under_accumulation(keras_adam):
    """As in plain Keras, bit for bit; nothing is carried over into a later step."""
    results = []
    for grouped in (True, False):
        model, groups = two_weights()
        # In one group, whose count of steps is then the plain optimizer's.
        groups = (LayerGroup("all", (*groups[0].layers, *groups[1].layers)),)
        settings = {"gradient_accumulation_steps": 2}
        optimizer = (
            MultiGroupOptimizer(groups, 0.1, keras_adam.argument(), **settings)
            if grouped
            else keras_adam.plain(0.1, **settings)
        )
        first, second = model.trainable_variables
        if grouped:
            optimizer.bind(model)
        optimizer.build([first, second])
        one = tf.ones((1, 1))
        for pairs in (
            [(one, first), (one, second)],
            [(one, second)],
            [(-one, first), (one, second)],
            [(-one, first), (one, second)],
        ):
            optimizer.apply_gradients(pairs)
        results.append(values([first, second]))
    assert_same(*results)


@each_optimizer_one_way
@pytest.mark.parametrize("settings", [{}, {"loss_scale_factor": 4.0}], ids=["plain", "loss_scale"])
def test_sparse_gradients(template, settings, mode):
    ids = tf.constant([[0, 1, 1], [4, 1, 0]])
    targets = tf.constant(np.random.default_rng(0).normal(size=(2, 3)), tf.float32)
    model, twin = embedding_model(), embedding_model()
    groups = split_layers(model, ["top"])
    optimizer = MultiGroupOptimizer(groups, 0.01, template.argument(), **settings)
    plain = template.plain(0.01)
    plain.build(twin.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(ids))
    assert isinstance(tape.gradient(loss, model.trainable_variables)[0], tf.IndexedSlices)

    scale = settings.get("loss_scale_factor", 1.0)

    def scaled(gradients: list[Any], variables: list[Any]) -> None:
        sparse = gradients[0]
        gradients[0] = tf.IndexedSlices(sparse.values * scale, sparse.indices, sparse.dense_shape)
        gradients[1:] = [g * scale for g in gradients[1:]]
        optimizer.apply_gradients(zip(gradients, variables))

    untouched = model.get_layer("embedding").embeddings.numpy()[2]
    train(model, scaled, (ids, targets), mode)
    train(twin, apply_of(plain), (ids, targets), mode)
    assert_same_weights(model, twin)
    np.testing.assert_array_equal(model.get_layer("embedding").embeddings.numpy()[2], untouched)


@each_optimizer_one_way
@pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm", "accumulation"])
def test_what_spans_groups_takes_sparse_gradients(template, name, mode):
    """Each row counts once however often it was looked up: as with the dense gradient."""
    ids = tf.constant([[0, 1, 1], [4, 1, 0]])
    targets = tf.ones((2, 3))
    results = []
    for dense in (False, True):
        model = embedding_model()
        optimizer = MultiGroupOptimizer(
            split_layers(model, ["top"]), 0.01, template.argument(), **SPANNING[name]
        )

        def update(
            gradients: list[Any],
            variables: list[Any],
            dense: bool = dense,
            optimizer: Any = optimizer,
        ) -> None:
            if dense:
                gradients = [
                    tf.math.unsorted_segment_sum(gradients[0].values, gradients[0].indices, 6),
                    *gradients[1:],
                ]
            optimizer.apply_gradients(zip(gradients, variables))

        train(model, update, (ids, targets), mode, steps=4)
        results.append(values(model.weights))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_what_rates_mean(trio):
    _, groups = trio
    for rate, expected in (
        (0.1, [0.1, 0.1, 0.1]),
        (slice(1e-3), [1e-4, 1e-4, 1e-3]),
        (slice(1e-5, 1e-3), [1e-5, 1e-4, 1e-3]),
        ([1, 0, 0.5], [1.0, 0.0, 0.5]),
    ):
        optimizer = MultiGroupOptimizer(groups, rate)
        np.testing.assert_allclose(optimizer.learning_rates, expected, rtol=1e-6)
        assert all(type(value) is float for value in optimizer.learning_rates)
        assert float(optimizer.learning_rate) == optimizer.learning_rates[-1]


def test_setting_the_heads_rate_keeps_the_ratios(trio):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, [1e-5, 1e-4, 1e-3])
    for rate in (
        0.1,
        np.float32(0.3),
        1,
        7e-7,
        tf.constant(0.25),
        keras.Variable(0.5),
        np.array(2.0),
    ):
        optimizer.learning_rate = rate
        head = float(
            np.float32(rate if isinstance(rate, (int, float)) else keras.ops.convert_to_numpy(rate))
        )
        np.testing.assert_allclose(
            optimizer.learning_rates, [head / 100, head / 10, head], rtol=1e-6
        )
    optimizer.learning_rate = 0.0
    assert optimizer.learning_rates == [0, 0, 0]
    optimizer.learning_rate = 1e-3
    np.testing.assert_allclose(optimizer.learning_rates, [1e-5, 1e-4, 1e-3], rtol=1e-6)


def test_a_rate_that_is_set_reads_back_as_it_is(trio):
    """To the last bit of float32, whatever the ratios: callbacks compare what they set."""
    _, groups = trio
    generator = np.random.default_rng(0)
    for _ in range(50):
        rates = 10.0 ** generator.uniform(-8, 1, 3)
        optimizer = MultiGroupOptimizer(groups, list(rates))
        for rate in 10.0 ** generator.uniform(-8, 1, 4):
            optimizer.learning_rate = rate
            assert np.float32(optimizer.learning_rate) == np.float32(rate)
        optimizer.learning_rates = rates
        np.testing.assert_array_equal(np.float32(optimizer.learning_rates), np.float32(rates))


def test_setting_rates_over_schedules(trio):
    model, groups = trio
    schedule = InverseTimeDecay(1.0, 1, 1.0)
    optimizer = MultiGroupOptimizer(groups, [schedule, 0.5, schedule], keras.optimizers.SGD())
    variables = model.trainable_variables
    step = tf.function(lambda: optimizer.apply([tf.ones(v.shape) for v in variables], variables))
    step()
    np.testing.assert_allclose(optimizer.learning_rates, [0.5, 0.5, 0.5])
    optimizer.learning_rate = 0.05
    np.testing.assert_allclose(optimizer.learning_rates, [0.05, 0.05, 0.05], rtol=1e-6)
    step()  # traced before, and follows all the same
    np.testing.assert_allclose(optimizer.last_learning_rates, [0.05, 0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(optimizer.learning_rates, [0.1 / 3, 0.05, 0.1 / 3], rtol=1e-6)
    optimizer.learning_rates = [0.3, 0.2, 0.1]
    np.testing.assert_allclose(optimizer.learning_rates, [0.3, 0.2, 0.1], rtol=1e-6)
    step()
    np.testing.assert_allclose(optimizer.learning_rates, [0.225, 0.2, 0.075], rtol=1e-6)


def test_rates_move_the_weights_they_say(trio):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups, 1.0, keras.optimizers.SGD())
    variables = model.trainable_variables
    numbers = numbers_of(model, groups)
    step = tf.function(lambda: optimizer.apply([tf.ones(v.shape) for v in variables], variables))
    for rates in ([1.0, 0.5, 0.25], [0.125, 0.0, 2.0]):
        optimizer.learning_rates = rates
        before = values(variables)
        step()
        for number, a, b in zip(numbers, before, values(variables)):
            np.testing.assert_allclose(a - b, rates[number], rtol=1e-5, atol=1e-6)


def test_a_schedule_at_zero_cannot_be_scaled(trio):
    model, groups = trio
    zero_at_start = keras.optimizers.schedules.PolynomialDecay(0.0, 2, 1.0)
    optimizer = MultiGroupOptimizer(groups, [0.1, zero_at_start, zero_at_start])
    before = values(optimizer.variables)
    message = "rate of group 'head' is 0 at step 0 .*Set it at another step"
    with pytest.raises(ValueError, match=message):
        optimizer.learning_rate = 0.1
    with pytest.raises(ValueError, match="rate of group 'middle' is 0 at step 0"):
        optimizer.learning_rates = [0.1, 0.1, 0.1]
    with pytest.raises(ValueError, match="rate of group 'head' is 0 at step 0"):
        optimizer.group_optimizers[2].learning_rate = 0.1
    assert_same(values(optimizer.variables), before)
    variables = model.trainable_variables
    optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    optimizer.learning_rate = 0.25
    np.testing.assert_allclose(optimizer.learning_rates, [0.05, 0.25, 0.25], rtol=1e-6)


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (
            CosineDecay(0.1, 10),
            TypeError,
            "schedule cannot be assigned.*Build a new `MultiGroupOpt",
        ),
        (lambda: 0.1, TypeError, "schedule cannot be assigned"),
        (-0.1, ValueError, "finite and not negative. Received: learning_rate=-0.1"),
        (float("nan"), ValueError, "finite and not negative. Received: learning_rate=nan"),
        (np.inf, ValueError, "finite and not negative"),
        (tf.constant(-1.0), ValueError, "finite and not negative. Received: learning_rate=-1.0"),
        ("0.1", TypeError, "should be a float or a `LearningRateSchedule`. Received: '0.1'"),
        (None, TypeError, "should be a float or a `LearningRateSchedule`. Received: None"),
        (True, TypeError, "should be a float or a `LearningRateSchedule`. Received: True"),
    ],
)
def test_wrong_rates_are_refused_and_change_nothing(trio, rate, error, message):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES)
    before = values(optimizer.variables)
    with pytest.raises(error, match=message):
        optimizer.learning_rate = rate
    with pytest.raises(error, match=message):
        optimizer.learning_rates = [0.1, 0.1, rate]
    assert_same(values(optimizer.variables), before)


@pytest.mark.parametrize("rates", [[0.1], [0.1] * 4, []])
def test_a_wrong_number_of_rates_is_refused(trio, rates):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES)
    with pytest.raises(ValueError, match=f"one rate per group: 3 rates. Received {len(rates)}"):
        optimizer.learning_rates = rates


def test_rates_that_are_no_sequence_are_refused(trio):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES)
    with pytest.raises(TypeError, match=r"`learning_rates` should be .*Received: 0.1"):
        optimizer.learning_rates = 0.1


def test_inner_optimizers_show_and_take_the_rate_in_use(trio):
    model, groups = trio
    schedule = InverseTimeDecay(1.0, 1, 1.0)
    optimizer = MultiGroupOptimizer(groups, [0.125, schedule, 0.5], keras.optimizers.SGD())
    inner = optimizer.group_optimizers
    assert len(inner) == 3
    assert [float(member.learning_rate) for member in inner] == [0.125, 1.0, 0.5]
    variables = model.trainable_variables
    optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    assert float(inner[1].learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert [float(member.learning_rate) for member in inner] == [0.0625, 0.25, 0.25]
    inner[0].learning_rate = 2.0
    with pytest.warns(UserWarning, match="set above what the group's schedule gives"):
        inner[1].learning_rate = 1.0
    assert optimizer.learning_rates == [2.0, 1.0, 0.25]
    assert [int(member.iterations) for member in inner] == [1, 1, 1]
    inner[2].learning_rate = schedule
    with pytest.raises(TypeError, match="group 'head' was replaced by a schedule"):
        optimizer.apply([tf.ones(v.shape) for v in variables], variables)


def test_inner_rates_and_counts_behave_as_numbers(trio):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, [0.125, 0.25, 0.5])
    rate, count = (
        optimizer.group_optimizers[0].learning_rate,
        optimizer.group_optimizers[0].iterations,
    )
    assert bool(rate == 0.125)
    assert not bool(rate != 0.125)
    assert bool(rate < 1)
    assert float(rate * 2) == float(2 * rate) == 0.25
    assert float(rate / 2) == 0.0625
    assert float(1 - rate) == 0.875
    assert float(rate**2) == 0.015625
    assert float(keras.ops.convert_to_numpy(rate)) == 0.125
    assert float(tf.sqrt(rate * 2)) == 0.5
    assert rate.dtype == "float32"
    assert tuple(rate.shape) == ()
    assert int(count + 1) == 1
    assert int((count + 7) % 4) == 3
    assert bool(count < 1)


def test_keras_callbacks_find_one_rate(trio):
    """There is no attribute `optimizers`, by which they would set each group to one rate."""
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES)
    assert not hasattr(optimizer, "optimizers")
    assert hasattr(optimizer, "learning_rate")


def test_learning_rate_callbacks_scale_all_groups(samples, template):
    sample = samples["sequential"]
    model = sample.model()
    schedule = InverseTimeDecay(0.03, 1, 1.0)
    optimizer = MultiGroupOptimizer(
        sample.groups(model), [schedule, 0.003, schedule], template.argument()
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    x, y = sample.data()
    seen = []
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(
                (logs["learning_rate"], optimizer.last_learning_rates)
            )
        ),
    ]
    model.fit(x, y, epochs=3, verbose=0, callbacks=callbacks)
    # Step k at 0.03 / (1 + k); halved at the beginning of epochs 1 and 2.
    expected = [(0.03, 0.003), (0.0075, 0.0015), (0.0025, 0.00075)]
    np.testing.assert_allclose([rates[[2, 1]] for _, rates in seen], expected, rtol=1e-5)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    before = np.array(optimizer.learning_rates)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[plateau])
    steps = np.array([(1 + 3) / (1 + 5), 1, (1 + 3) / (1 + 5)])
    np.testing.assert_allclose(optimizer.learning_rates, before * steps / 2, rtol=1e-5)


def test_last_learning_rates_are_those_of_the_last_update(trio):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups, InverseTimeDecay(1.0, 1, 1.0), keras.optimizers.SGD())
    assert np.isnan(optimizer.last_learning_rates).all()
    assert optimizer.last_learning_rates.dtype == np.float32
    variables = model.trainable_variables
    step = tf.function(lambda: optimizer.apply([tf.ones(v.shape) for v in variables], variables))
    for k in range(3):
        step()
        np.testing.assert_allclose(optimizer.last_learning_rates, 1 / (1 + k), rtol=1e-6)


def test_build_may_be_called_again(sample, template):
    model = sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), RATES, template.argument())
    variables = model.trainable_variables
    optimizer.build(variables[-2:])
    assert optimizer.built
    held = [
        id(v) for member in optimizer.group_optimizers if member.built for v in member.variables
    ]
    train_some = [tf.ones(v.shape) for v in variables[-2:]]
    optimizer.apply(train_some, variables[-2:])
    state = slot_values(optimizer)
    optimizer.build(variables)
    optimizer.build(variables)
    optimizer.build([])
    assert {id(v) for v in optimizer._trainable_variables} == {id(v) for v in variables}
    assert len(optimizer._trainable_variables) == len(variables)
    after = slot_values(optimizer)
    assert len(after) == 2 * len(variables)
    assert_same(state.values(), [after[key] for key in state])
    now = {id(v) for member in optimizer.group_optimizers for v in member.variables}
    assert set(held) <= now


def test_each_variable_is_trained_by_one_inner_optimizer(sample, template):
    model = sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    optimizer.build(model.trainable_variables)
    trained = [
        (id(variable), number)
        for number, member in enumerate(optimizer.group_optimizers)
        for variable in member._trainable_variables
    ]
    assert dict(trained) == dict(zip(map(id, model.trainable_variables), numbers_of(model, groups)))
    assert len(trained) == len(model.trainable_variables)


def test_variables_are_made_outside_of_traced_functions(samples, template):
    """Also those of a layer that is thawed between two traces of one step."""
    sample = samples["functional"]
    model, twin = sample.model(), sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument(), use_ema=True)
    separate = [template.plain(rate) for rate in RATES]
    x, y = (tf.constant(part) for part in sample.data())

    @tf.function
    def step(x: Any, y: Any, trace: int) -> None:
        apply_of(optimizer)(gradients_of(model, x, y), model.trainable_variables)

    for trace, trainable in enumerate((False, True)):
        for each in (model, twin):
            for name in ("stem", "norm"):
                each.get_layer(name).trainable = trainable
        step(x, y, trace)
        train(twin, build_separately(separate, twin, groups), (x, y), "graph", steps=1)
    assert_same_weights(model, twin)
    assert steps_of(optimizer) == [1, 2, 2]


def test_several_models_alive_do_not_confuse_it(samples, template):
    sample = samples["nested"]
    models = [sample.model(seed) for seed in range(3)]
    optimizers = [
        MultiGroupOptimizer(sample.groups(model), RATES, template.argument()) for model in models
    ]
    before = [values(model.weights) for model in models]
    train(models[1], apply_of(optimizers[1]), sample.data(), steps=1)
    assert_same(values(models[0].weights), before[0])
    assert_same(values(models[2].weights), before[2])
    assert not np.array_equal(models[1].weights[0], before[1][0])


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        ("keras_adam", {"run_eagerly": True}),
        ("fused_adam", {"run_eagerly": True}),
        ("fused_adam", {"steps_per_execution": 3}),
    ],
    indirect=["template"],
)
def test_fit_settings_equal_plain_keras(samples, template, settings):
    sample = samples["nested"]
    model, twin = sample.model(), sample.model()
    x, y = sample.data()
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument())
    for candidate, each in ((model, optimizer), (twin, template.plain(0.01))):
        candidate.compile(each, "mse", jit_compile=False, **settings)
        candidate.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    assert steps_of(optimizer) == [6, 6, 6]
    assert_same_weights(model, twin)


def test_mixed_precision_equals_plain_keras(samples, template, mixed_precision):
    sample = samples["functional"]
    x, y = sample.data()
    model, twin = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument())
    for each, inner in ((model, optimizer), (twin, template.plain(0.01))):
        each.compile(inner, "mse", run_eagerly=True)
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert unwrap(model.optimizer) is optimizer
    assert unwrap(optimizer) is optimizer
    assert_same_weights(model, twin)
    assert optimizer.group_optimizers[0]._trainable_variables[0].dtype == "float32"
    model.optimizer.learning_rate = 0.5
    np.testing.assert_allclose(optimizer.learning_rates, [0.5] * 3)


def test_infinite_gradients_are_skipped_under_loss_scaling(trio, template):
    model, groups = trio
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    outer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
    variables = model.trainable_variables
    outer.build(variables)
    before = everything(model, optimizer)
    gradients = [tf.ones(v.shape) for v in variables]
    outer.apply([gradients[0] * np.inf, *gradients[1:]], variables)
    assert_same(everything(model, optimizer), before)
    outer.apply(gradients, variables)
    assert steps_of(optimizer) == [1, 1, 1]


def test_unwrap_refuses_other_optimizers():
    for other in (
        keras.optimizers.Adam(),
        None,
        "adam",
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
    ):
        with pytest.raises(
            TypeError, match="A `MultiGroupOptimizer` was expected: compile the mod"
        ):
            unwrap(other, MultiGroupOptimizer)


def test_constraints_are_applied_after_the_update(template):
    model, groups = two_weights(keras.constraints.NonNeg())
    optimizer = MultiGroupOptimizer(groups, [2.0, 0.5], template.argument())
    optimizer.apply([tf.ones((1, 1))] * 2, model.trainable_variables)
    weights = [v.numpy().item() for v in model.trainable_variables]
    np.testing.assert_allclose(weights, [0.0, 0.5], atol=1e-5)


def test_configuration_round_trip(trio):
    _, groups = trio
    optimizer = MultiGroupOptimizer(
        groups,
        [CosineDecay(0.1, 10), 0.25, 0.5],
        keras.optimizers.AdamW(beta_1=0.8, weight_decay=0.02),
        name="mine",
        global_clipnorm=2.0,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=4,
        loss_scale_factor=2.0,
    )
    optimizer.learning_rate = 0.25
    optimizer.group_optimizers[1].learning_rate = 0.0625
    serialized = keras.saving.serialize_keras_object(optimizer)
    assert serialized["registered_name"] == "dlr_tf>MultiGroupOptimizer"
    for copied in (
        json.loads(json.dumps(serialized)),
        copy.deepcopy(serialized),
        pickle.loads(pickle.dumps(serialized)),
    ):
        revived = keras.optimizers.deserialize(copied)
        assert type(revived) is MultiGroupOptimizer
        assert revived.get_config() == optimizer.get_config()
        assert revived.groups == groups
        assert (
            revived.learning_rates
            == optimizer.learning_rates
            == [
                np.float32(0.05),
                0.0625,
                0.25,
            ]
        )
        assert [type(m) for m in revived.group_optimizers] == [keras.optimizers.AdamW] * 3
        assert [m.beta_1 for m in revived.group_optimizers] == [0.8] * 3
        assert revived.name == "mine"
        assert not revived.built
        revived.learning_rate = 0.5  # the factors came along, not only the rates
        np.testing.assert_allclose(revived.learning_rates, [0.1, 0.125, 0.5], rtol=1e-6)


def test_a_revived_optimizer_trains_alike(samples, template):
    sample = samples["subclassed"]
    model, twin = sample.model(), sample.model()
    rates = [InverseTimeDecay(0.01, 1, 0.5), 0.02, 0.03]
    optimizer = MultiGroupOptimizer(sample.groups(model), rates, template.argument())
    revived = MultiGroupOptimizer.from_config(optimizer.get_config())
    revived.bind(twin)
    train(model, apply_of(optimizer), sample.data())
    train(twin, apply_of(revived), sample.data())
    assert_same_weights(model, twin)


def test_from_config_leaves_the_configuration_alone(trio):
    _, groups = trio
    config = MultiGroupOptimizer(groups, RATES).get_config()
    before = json.dumps(config)
    MultiGroupOptimizer.from_config(config)
    assert json.dumps(config) == before


def test_summary_shows_every_group(samples, capsys):
    sample = samples["nested"]
    model = sample.model()
    optimizer = MultiGroupOptimizer(
        sample.groups(model),
        [1e-5, 1e-4, 1e-3],
        [keras.optimizers.SGD(), FusedAdam(), keras.optimizers.Adam()],
        name="three_rates",
    )
    unknown = MultiGroupOptimizer(
        tuple(LayerGroup(g.name, g.layers) for g in optimizer.groups), 0.1
    )
    unknown.summary()
    assert capsys.readouterr().out.count("not built") == 3
    optimizer.build(model.trainable_variables)
    model.get_layer("backbone").get_layer("stem").trainable = False
    model.get_layer("backbone").get_layer("norm").trainable = False
    tables: list[str] = []
    optimizer.summary(print_fn=tables.append)
    (table,) = tables
    assert capsys.readouterr().out == ""
    lines = [line.split("│") for line in table.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line[1:-1]] for line in lines]
    assert rows == [
        ["early", "backbone/stem ... backbone/norm (2)", "6", "78", "SGD", "1e-05", "frozen"],
        ["middle", "backbone/body ... body (2)", "4", "59", "FusedAdam", "0.0001", "trainable"],
        ["head", "top (1)", "2", "15", "Adam", "0.001", "trainable"],
    ]
    assert table.startswith("three_rates")
    for column in ("group", "layers (first to last)", "variables", "parameters", "learning rate"):
        assert column in table


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([], ValueError, r"`groups` should hold at least one group. Received: groups=\(\)"),
        ("abc", TypeError, "`groups` should be a sequence of `LayerGroup`.*groups='abc'"),
        (None, TypeError, "`groups` should be a sequence of `LayerGroup`.*groups=None"),
        ([("g", ("a",))], TypeError, "`groups` should be a sequence of `LayerGroup`"),
        (LayerGroup("g", ("a",)), TypeError, "`groups` should be a sequence of `LayerGroup`"),
        (
            [LayerGroup("g", ("a",)), LayerGroup("g", ("b",))],
            ValueError,
            r"Group names should be unique. Received: names=\['g', 'g'\]",
        ),
        (
            [LayerGroup("g", ("a", "b")), LayerGroup("h", ("b",))],
            ValueError,
            r"Layer 'b' is claimed twice, by the groups \['g', 'h'\]",
        ),
    ],
)
def test_wrong_groups(groups, error, message):
    with pytest.raises(error, match=message):
        MultiGroupOptimizer(groups, 0.1)


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        ([0.1, 0.1], ValueError, "3 groups, 3 rates. Received 2 rates"),
        (-0.1, ValueError, "finite and not negative. Received: learning_rate=-0.1"),
        ([0.1, float("nan"), 0.1], ValueError, "finite and not negative"),
        (
            "0.1",
            TypeError,
            "`learning_rate` should be a float, a `LearningRateSchedule`, a `slice`",
        ),
        (None, ValueError, "can be `None` only with one optimizer per group.*Give a rate"),
        (slice(0.0, 1.0), ValueError, "geometric, so both should be above 0"),
    ],
)
def test_wrong_learning_rates(trio, rate, error, message):
    _, groups = trio
    with pytest.raises(error, match=message):
        MultiGroupOptimizer(groups, rate)
    with pytest.raises(error, match=message):
        MultiGroupOptimizer(groups, rate, keras.optimizers.Adam())


def in_use() -> list[Any]:
    members = [keras.optimizers.SGD() for _ in range(3)]
    members[1].build([keras.Variable(1.0)])
    return members


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (
            "adam",
            TypeError,
            "`optimizer` should be a Keras optimizer, or a list .*optimizer='adam'",
        ),
        (0.1, TypeError, "`optimizer` should be a Keras optimizer, or a list with one per group"),
        (
            ["sgd"] * 3,
            TypeError,
            "should be a `keras.optimizers.Optimizer`. Received: 'sgd' of type",
        ),
        ([keras.optimizers.SGD] * 3, TypeError, "should be a `keras.optimizers.Optimizer`"),
        (
            lambda: [keras.optimizers.SGD(name="s") for _ in range(2)],
            ValueError,
            r"for each of the 3 groups. Received 2: \['s', 's'\]",
        ),
        (lambda: [keras.optimizers.SGD(name="s")] * 3, ValueError, "one optimizer of its own for"),
        (lambda: [], ValueError, "Received 0"),
        (in_use, ValueError, "Optimizer 'sgd.*' is in use already: .*Give a new optimizer"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            TypeError,
            "A `LossScaleOptimizer` cannot be an inner optimizer",
        ),
        (
            lambda: MultiGroupOptimizer([LayerGroup("g", ("a",))], 0.1),
            TypeError,
            "A `MultiGroupOptimizer` cannot be an inner optimizer",
        ),
        *(
            (
                lambda name=name, value=value: keras.optimizers.SGD(name="s", **{name: value}),
                ValueError,
                f"Optimizer 's' asks for {name}={value}, .*Pass `{name}={value}` to `MultiGroupOp",
            )
            for name, value in {
                "clipnorm": 1.0,
                "clipvalue": 1.0,
                "global_clipnorm": 1.0,
                "use_ema": True,
                "loss_scale_factor": 2.0,
                "gradient_accumulation_steps": 2,
            }.items()
        ),
    ],
)
def test_wrong_optimizers(trio, optimizer, error, message):
    _, groups = trio
    if callable(optimizer):
        optimizer = optimizer()
    with pytest.raises(error, match=message):
        MultiGroupOptimizer(groups, 0.1, optimizer)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        with pytest.raises(error, match=message):
            MultiGroupOptimizer(
                groups, 0.1, [optimizer, *(keras.optimizers.SGD() for _ in range(2))]
            )


def test_keras_own_multi_optimizer_is_refused(trio):
    _, groups = trio
    inner = keras.optimizers.MultiOptimizer([(keras.optimizers.SGD(), ".*")])
    with pytest.raises(TypeError, match="A `MultiOptimizer` cannot be an inner optimizer"):
        MultiGroupOptimizer(groups, 0.1, inner)


def test_optimizers_of_another_wrapper_are_refused(trio):
    _, groups = trio
    members = [keras.optimizers.SGD() for _ in groups]
    MultiGroupOptimizer(groups, 0.1, members)
    with pytest.raises(ValueError, match=r"is in use already: .*another wrapper"):
        MultiGroupOptimizer(groups, 0.1, members)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "Only one of `clipnorm`, `clipvalue`"),
        ({"gradient_accumulation_steps": 1}, "must be an integer >= 2"),
        ({"use_ema": True, "ema_momentum": 2.0}, r"must be in the range \[0, 1\]"),
        ({"use_ema": True, "ema_overwrite_frequency": 0.5}, "must be an integer >= 1"),
    ],
)
def test_wrong_settings_are_keras_errors(trio, settings, message):
    _, groups = trio
    with pytest.raises(ValueError, match=message):
        MultiGroupOptimizer(groups, 0.1, **settings)


def test_arguments_beyond_the_third_are_by_keyword(trio):
    _, groups = trio
    with pytest.raises(TypeError, match="positional arguments"):
        MultiGroupOptimizer(groups, 0.1, None, "name")
    with pytest.raises(TypeError, match="unexpected keyword argument 'weight_decay'"):
        MultiGroupOptimizer(groups, 0.1, weight_decay=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "boundaries"),
    [
        ("ResNet50", 32, ["conv3_block1_1_conv", "conv5_block1_1_conv"]),
        ("VGG16", 32, ["block3_conv1", "block5_conv1"]),
        ("InceptionV3", 75, ["mixed2", "mixed8"]),
        ("MobileNetV2", 32, ["block_6_expand", "block_13_expand"]),
        ("EfficientNetV2B0", 32, ["block4a_expand_conv", "block6a_expand_conv"]),
        ("ConvNeXtTiny", 32, None),
    ],
)
def test_networks_of_keras_applications(name, size, boundaries):
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg"
    )
    inputs = keras.Input((size, size, 3))
    nested = keras.Model(inputs, LAYERS.Dense(2, name="top")(network(inputs)))
    for model in (network, nested):
        groups = split_layers(model, boundaries) if boundaries else split_evenly(model, 3)
        optimizer = MultiGroupOptimizer(groups, [1e-5, 1e-4, 1e-3], keras.optimizers.SGD())
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
        trained = [
            id(variable)
            for member in optimizer.group_optimizers
            for variable in member._trainable_variables
        ]
        assert sorted(trained) == sorted(map(id, model.trainable_variables))
        assert len(assign_variables(model, groups)) == len(model.weights)
        for member in optimizer.group_optimizers:
            assert member._trainable_variables


@keras.saving.register_keras_serializable(package="test_optimizer")
def constant_rate() -> float:
    return 0.125


def test_a_function_as_the_rate_of_an_inner_optimizer_is_saved(trio):
    _, groups = trio
    members = [keras.optimizers.SGD(r) for r in (constant_rate, 0.1, CosineDecay(0.3, 5))]
    optimizer = MultiGroupOptimizer(groups, None, members)
    with pytest.warns(UserWarning, match="set above what the group's schedule gives"):
        optimizer.learning_rate = 0.6
    again = MultiGroupOptimizer.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert again.learning_rates == optimizer.learning_rates
    np.testing.assert_allclose(again.learning_rates, [0.25, 0.2, 0.6], rtol=1e-6)
    assert again.get_config() == optimizer.get_config()


def test_a_rate_of_0_can_be_set_where_it_is_0(trio):
    _, groups = trio
    optimizer = MultiGroupOptimizer(groups, [0.1, 0.2, SGDR(0.3, 5, warmup_steps=2)])
    before = optimizer.get_config()
    optimizer.learning_rate = optimizer.learning_rate
    optimizer.group_optimizers[2].learning_rate = 0.0
    assert optimizer.get_config() == before
    optimizer.learning_rates = [0.4, 0.2, 0.0]
    optimizer.iterations.assign(2)
    np.testing.assert_allclose(optimizer.learning_rates, [0.4, 0.2, 0.3], rtol=1e-6)


def test_rates_are_set_with_a_tensor_too(trio):
    optimizer = MultiGroupOptimizer(trio[1], RATES)
    optimizer.learning_rates = tf.constant([0.5, 0.25, 0.125])
    assert optimizer.learning_rates == [0.5, 0.25, 0.125]
