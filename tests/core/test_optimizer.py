"""N groups are N optimizers: on values, on every kind of model, however they are called."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, InverseTimeDecay

from dlr_tf.core._keras import known_variables
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers, split_layerwise
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR, OneCycle
from tests import reference
from tests.conftest import newer_optimizer
from tests.core.core_helpers import (
    RATES,
    BareModel,
    Holder,
    apply_of,
    apply_separately,
    assert_same,
    assert_same_weights,
    build_separately,
    each_optimizer_both_ways,
    each_optimizer_one_way,
    everything,
    numbers_of,
    ones_for,
    push,
    slot_values,
    steps_of,
    three_parts,
    traced,
    train,
    two_weights,
    values,
)

LAYERS = keras.layers
KINDS = ("sequential", "functional", "nested", "subclassed", "shared", "attention")


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


# --- N groups are N optimizers


@each_optimizer_both_ways
def test_groups_at_one_rate_equal_one_optimizer(template, mode):
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(0.01, template.argument())
    plain = template.plain(0.01)
    plain.build(twin.trainable_variables)
    start = values(model.weights)
    push(apply_of(optimizer), model.trainable_variables, mode)
    push(apply_of(plain), twin.trainable_variables, mode)
    assert_same_weights(model, twin)
    for before, now in zip(start, values(model.weights)):
        assert not np.array_equal(before, now)
    assert int(optimizer.iterations) == 5
    assert steps_of(optimizer) == [5, 5, 5]


@each_optimizer_both_ways
def test_groups_at_their_rates_equal_separate_optimizers(template, mode):
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    push(apply_of(optimizer), model.trainable_variables, mode)
    push(build_separately(separate, twin, twin.groups()), twin.trainable_variables, mode)
    assert_same_weights(model, twin)
    np.testing.assert_array_equal(optimizer.last_learning_rates, np.float32(RATES))


# With the four combinations above, every pair of a kind, an optimizer and a mode.
@pytest.mark.parametrize(
    ("sample", "template", "mode"),
    [
        *((kind, "keras_adam", "eager") for kind in KINDS),
        *((kind, "fused_adam", "graph") for kind in KINDS),
    ],
    indirect=["sample", "template"],
)
def test_every_kind_of_model_trains_as_with_separate_optimizers(sample, template, mode):
    model, twin = sample.model(), sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    train(model, apply_of(optimizer), sample.data(), mode)
    train(twin, build_separately(separate, twin, groups), sample.data(), mode)
    assert_same_weights(model, twin)
    trained = [
        (id(variable), number)
        for number, inner in enumerate(optimizer.group_optimizers)
        for variable in known_variables(inner)
    ]
    assert dict(trained) == dict(zip(map(id, model.trainable_variables), numbers_of(model, groups)))
    assert len(trained) == len(model.trainable_variables)


def test_as_many_groups_as_layers(samples, keras_adam):
    sample = samples["nested"]
    model, twin = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(split_layerwise(model), 0.01, keras_adam.argument())
    push(apply_of(optimizer), model.trainable_variables)
    push(apply_of(keras_adam.plain(0.01)), twin.trainable_variables)
    assert_same_weights(model, twin)


# Pairs of a kind of model, an optimizer and a way of `fit`.
@pytest.mark.parametrize(
    ("sample", "template", "settings"),
    [
        ("functional", "keras_adam", {}),
        ("nested", "keras_adam", {"run_eagerly": True}),
        ("subclassed", "fused_adam", {"steps_per_execution": 3}),
    ],
    indirect=["sample", "template"],
)
def test_fit_equals_plain_keras(sample, template, settings):
    model, twin = sample.model(), sample.model()
    x, y = sample.data()
    optimizer = MultiGroupOptimizer(split_evenly(model, 2), 0.01, template.argument())
    for candidate, each in ((model, optimizer), (twin, template.plain(0.01))):
        candidate.compile(each, "mse", jit_compile=False, **settings)
        candidate.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert model.optimizer is optimizer
    assert steps_of(optimizer) == [6, 6]
    assert_same_weights(model, twin)


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_fused_groups_equal_separate_optimizers_over_many_steps():
    """Their powers of beta are computed for all groups at once."""
    model, twin = three_parts(), three_parts()
    inner = [FusedAdam(beta_1=0.9), FusedAdam(beta_1=0.8, beta_2=0.99), FusedAdam(epsilon=1e-3)]
    separate = [FusedAdam.from_config(one.get_config()) for one in inner]
    for one, rate in zip(separate, RATES):
        one.learning_rate = rate
    push(apply_of(model.optimizer(RATES, inner)), model.weights, "graph", steps=300)
    push(build_separately(separate, twin, twin.groups()), twin.weights, "graph", steps=300)
    assert_same_weights(model, twin)


@each_optimizer_one_way
@pytest.mark.parametrize(
    "rates",
    [
        [CosineDecay(0.01, 6), 0.02, ExponentialDecay(0.03, 2, 0.5)],
        # Two of one family with one of another between them: they are computed together.
        [SGDR(0.01, 3), OneCycle(0.02, 9), SGDR(0.03, 3)],
    ],
    ids=["of Keras", "ours"],
)
def test_schedules_per_group_equal_separate_optimizers(template, mode, rates):
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(rates, template.argument())
    separate = [template.plain(rate) for rate in rates]
    push(apply_of(optimizer), model.trainable_variables, mode)
    push(build_separately(separate, twin, twin.groups()), twin.trainable_variables, mode)
    assert_same_weights(model, twin)
    steps = int(optimizer.iterations)
    expected = [float(rate(steps)) if callable(rate) else np.float32(rate) for rate in rates]
    assert optimizer.learning_rates == expected


def test_a_schedule_per_layer_costs_as_much_as_one():
    model = Holder(6, [[1.0]])

    def count(rates: Any) -> int:
        optimizer = model.optimizer(rates, None)
        optimizer.build(model.weights)
        gradients = ones_for(model.weights)
        step = tf.function(lambda: optimizer.apply(gradients, model.weights))
        return len(step.get_concrete_function().graph.get_operations())

    per_layer = count([SGDR(0.1 / (n + 1), 5) for n in range(6)])
    assert per_layer <= count(SGDR(0.1, 5)) + 2


@pytest.mark.parametrize(
    ("template", "decay", "amsgrad"),
    [
        ("keras_adam", 0.05, True),
        ("fused_adam", 0.0, False),
        ("fused_adam", 0.05, False),
        ("fused_adam", 0.05, True),
    ],
    indirect=["template"],
)
def test_equals_the_articles_adam_with_three_rates(template, amsgrad, decay):
    model = three_parts()
    variables = model.trainable_variables
    # The first update must not meet the constraint of a weight that is off already.
    for number, value in ((0, np.abs(variables[0].numpy())), (5, [1, 1, 1, 1, 0.01])):
        variables[number].constraint = keras.constraints.NonNeg()
        variables[number].assign(value)
    base = [1e-7, 1e-4, 1e-2]
    rates = [InverseTimeDecay(rate, 1, decay) for rate in base] if decay else base
    optimizer = model.optimizer(rates, template.plain(1.0, amsgrad=amsgrad))
    generator = np.random.default_rng(1)
    start = values(variables)
    gradients = [
        [generator.normal(0.2, 1, size=v.shape).astype("float32") for v in variables]
        for _ in range(100)
    ]
    step = traced(apply_of(optimizer), variables)
    for each in gradients:
        step([tf.constant(g) for g in each])
    constraints = [
        (lambda p: np.maximum(p, 0)) if number in (0, 5) else None for number in range(6)
    ]
    expected = reference.article_adam(
        start,
        gradients,
        [base[number] for number in numbers_of(model, model.groups())],
        decay=decay,
        amsgrad=amsgrad,
        constraints=constraints,
    )
    for number, (variable, p, p0) in enumerate(zip(variables, expected, start)):
        error = np.linalg.norm(variable.numpy() - p)
        assert error < 1e-5 * np.linalg.norm(p) or error == 0, variable.path
        if number >= 4:
            assert error < 1e-4 * np.linalg.norm(p - p0), variable.path
    assert np.any(np.equal(expected[-1], 0))  # the constraint was met


# --- Any variables, in any order


@each_optimizer_one_way
def test_any_subset_in_any_order(template, mode):
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    numbers = numbers_of(model, model.groups())
    build_separately(separate, twin, twin.groups())
    generator = np.random.default_rng(4)
    n = len(numbers)
    for order in (range(n), range(n - 1, -1, -1), range(0, n, 2), generator.permutation(n)[:4]):
        gradients = [
            tf.constant(generator.normal(size=model.weights[i].shape), tf.float32) for i in order
        ]
        for update, owner in (
            (apply_of(optimizer), model),
            (apply_separately(separate, [numbers[i] for i in order]), twin),
        ):
            variables = [owner.weights[i] for i in order]
            if mode == "eager":
                update(gradients, variables)
            else:
                traced(update, variables)(gradients)
        assert_same_weights(model, twin)
    assert steps_of(optimizer) == [int(each.iterations) for each in separate]


def test_a_whole_group_without_gradients_does_not_move_and_does_not_count(template):
    model, twin = three_parts(), three_parts()
    numbers = numbers_of(model, model.groups())
    optimizer = model.optimizer(RATES, template.argument())
    separate = [template.plain(rate) for rate in RATES]
    build_separately(separate, twin, twin.groups())

    def without_middle(gradients: list[Any], variables: list[Any]) -> None:
        nones = [None if of == 1 else g for g, of in zip(gradients, numbers)]
        message = r"Gradients do not exist for variables .*part_1/value_0"
        with pytest.warns(UserWarning, match=message):
            optimizer.apply_gradients(zip(nones, variables))

    middle = values(model.parts[1].weights)
    push(without_middle, model.weights, steps=2)
    others = [number if number != 1 else None for number in numbers]
    push(apply_separately(separate, others), twin.weights, steps=2)
    assert_same(values(model.parts[1].weights), middle)
    assert steps_of(optimizer) == [2, 0, 2]
    assert int(optimizer.iterations) == 2
    push(apply_of(optimizer), model.weights, steps=2, seed=1)
    push(apply_separately(separate, numbers), twin.weights, steps=2, seed=1)
    assert_same_weights(model, twin)
    assert steps_of(optimizer) == [4, 2, 4]


def test_raw_tensorflow_variables_of_the_model_can_be_passed(template):
    model, twin = three_parts(), three_parts()
    optimizer, other = (each.optimizer(0.01, template.argument()) for each in (model, twin))
    for _ in range(2):
        optimizer.apply(ones_for(model.weights), [v.value for v in model.weights])
        other.apply(ones_for(twin.weights), twin.weights)
    assert_same_weights(model, twin)


def test_numbers_of_gradients_and_variables_must_match():
    model = three_parts()
    optimizer = model.optimizer(RATES)
    with pytest.raises(ValueError, match=r"not built. Pass `trainable_variables`, or call `build"):
        optimizer.apply([tf.ones(1)])
    with pytest.raises(ValueError, match="Received 1 gradients and 6 variables"):
        optimizer.apply([tf.ones(1)], model.weights)
    optimizer.build(model.weights)
    with pytest.raises(ValueError, match="Received 2 gradients and 6 variables"):
        optimizer.apply([tf.ones(1)] * 2)
    optimizer.apply([], model.weights)
    assert int(optimizer.iterations) == 0
    optimizer.apply(ones_for(model.weights))  # all it was built with
    assert steps_of(optimizer) == [1, 1, 1]


@pytest.mark.parametrize("built", [False, True])
def test_all_gradients_none_is_an_error_that_changes_nothing(built):
    model = three_parts()
    optimizer = model.optimizer(RATES, None)
    if built:
        optimizer.apply(ones_for(model.weights), model.weights)
    before = everything(model, optimizer)
    message = r"No gradients provided for any variable: all are `None`.*part_0/value_0"
    with pytest.raises(ValueError, match=message):
        optimizer.apply_gradients((None, v) for v in model.weights)
    assert optimizer.built == built
    assert_same(everything(model, optimizer), before)


def test_variables_of_no_model_are_an_error_that_changes_nothing():
    model = three_parts()
    optimizer = model.optimizer(RATES, None)
    loose = keras.Variable([1.0, 2.0], name="loose")
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=r"do not belong to the model.*\['loose'\]"):
        optimizer.apply([tf.ones(2)], [loose])
    assert not optimizer.built
    assert_same(everything(model, optimizer), before)
    optimizer.apply(ones_for(model.weights), model.weights)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="built for the variables of the model 'bare_model"):
        optimizer.apply([*ones_for(model.weights), tf.ones(2)], [*model.weights, loose])
    assert_same(everything(model, optimizer), before)
    assert loose.numpy().tolist() == [1.0, 2.0]


def test_groups_that_do_not_cover_the_trained_layers():
    model = three_parts()
    optimizer = MultiGroupOptimizer(model.groups()[1:], RATES[1:])
    optimizer.bind(model)
    before = everything(model, optimizer)
    message = r"2 variables belong to no group.*no group claims: \['parts/0'\].*freeze it"
    with pytest.raises(ValueError, match=message):
        optimizer.build(model.trainable_variables)
    assert not optimizer.built
    assert_same(everything(model, optimizer), before)
    model.parts[0].trainable = False
    optimizer.build(model.trainable_variables)
    assert optimizer.built


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("sten", r"'x' names the layer 'sten'.*Did you mean 'stem'\?"),
        ("body/inner", "'x' names the layer 'body/inner', which the model"),
    ],
)
def test_groups_of_layers_the_model_does_not_have(samples, layer, message):
    model = samples["sequential"].model()
    groups = samples["sequential"].groups(model)
    with pytest.raises(ValueError, match=message):
        MultiGroupOptimizer([LayerGroup("x", (layer,)), *groups[1:]], RATES)
    by_hand = [LayerGroup(group.name, group.layers) for group in groups[1:]]
    optimizer = MultiGroupOptimizer([LayerGroup("x", (layer,)), *by_hand], RATES)
    with pytest.raises(ValueError, match=message):
        model.compile(optimizer, "mse", run_eagerly=True)
        model.fit(np.ones((2, 8)), np.ones((2, 3)), verbose=0)
    assert not optimizer.built


# --- Building, and layers that are thawed later


def test_build_may_be_called_again(template):
    model = three_parts()
    optimizer = model.optimizer(RATES, template.argument())
    variables = model.trainable_variables
    optimizer.build(variables[-2:])
    assert optimizer.built
    held = [id(v) for inner in optimizer.group_optimizers if inner.built for v in inner.variables]
    optimizer.apply(ones_for(variables[-2:]), variables[-2:])
    state = slot_values(optimizer)
    optimizer.build(variables)
    optimizer.build(variables)
    optimizer.build([])
    known = known_variables(optimizer)
    assert {id(v) for v in known} == {id(v) for v in variables}
    assert len(known) == len(variables)
    after = slot_values(optimizer)
    assert len(after) == 2 * len(variables)
    assert_same(state.values(), [after[key] for key in state])
    assert set(held) <= {id(v) for inner in optimizer.group_optimizers for v in inner.variables}


def test_layers_thawed_later_begin_as_with_an_optimizer_of_their_own(any_optimizer):
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(RATES, any_optimizer(1.0))
    separate = [any_optimizer(rate) for rate in RATES]
    for each in (model, twin):
        each.parts[0].trainable = each.parts[1].trainable = False
    for thawed in (None, 1, 0):
        before = slot_values(optimizer)
        if thawed is not None:
            for each in (model, twin):
                each.parts[thawed].trainable = True
        optimizer.build(model.trainable_variables)
        after = slot_values(optimizer)
        assert before.keys() < after.keys() or not after
        assert_same(before.values(), [after[key] for key in before])
        push(apply_of(optimizer), model.trainable_variables, steps=2)
        update = build_separately(separate, twin, twin.groups())
        push(update, twin.trainable_variables, steps=2)
        assert_same_weights(model, twin)
    assert steps_of(optimizer) == [2, 4, 6]
    assert int(optimizer.iterations) == 6


@pytest.mark.parametrize("name", ["Adam", "Muon", "Nadam", "ScheduleFreeAdamW"])
def test_a_layer_thawed_inside_a_running_group_uses_the_groups_count(name):
    model, twin = three_parts(), three_parts()
    kind = functools.partial(newer_optimizer, name)
    # The parts 0 and 1 make one group.
    groups = [LayerGroup("body", ("parts/0", "parts/1")), LayerGroup("head", ("parts/2",))]
    optimizer = MultiGroupOptimizer(groups, 0.01, kind())
    optimizer.bind(model)
    plain = kind(0.01)
    plain.build(twin.trainable_variables)  # knows all from the start, as Keras wants it
    for each in (model, twin):
        each.parts[0].trainable = False
    push(apply_of(optimizer), model.trainable_variables, steps=3)
    push(apply_of(plain), twin.trainable_variables, steps=3)
    before = slot_values(optimizer)
    for each in (model, twin):
        each.parts[0].trainable = True
    late = {id(v) for v in model.parts[0].trainable_variables}
    optimizer.build(model.trainable_variables)
    after = slot_values(optimizer)
    assert_same(before.values(), [after[key] for key in before])
    assert {key[1] for key in after.keys() - before.keys()} == late
    push(apply_of(optimizer), model.trainable_variables, steps=2)
    push(apply_of(plain), twin.trainable_variables, steps=2)
    assert_same_weights(model, twin)
    assert steps_of(optimizer) == [5, 5]


def test_variables_are_made_outside_of_traced_functions(template):
    """Also those of a layer that is thawed between two traces of one step."""
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(RATES, template.argument(), use_ema=True)
    separate = [template.plain(rate) for rate in RATES]

    @tf.function
    def step(trace: int) -> None:
        variables = model.trainable_variables
        optimizer.apply(ones_for(variables), variables)

    for trace, trainable in enumerate((False, True)):
        for each in (model, twin):
            each.parts[0].trainable = trainable
        step(trace)
        variables = twin.trainable_variables
        traced(build_separately(separate, twin, twin.groups()), variables)(ones_for(variables))
    assert_same_weights(model, twin)
    assert steps_of(optimizer) == [1, 2, 2]


def test_several_models_alive_do_not_confuse_it():
    models = [three_parts() for _ in range(3)]
    optimizers = [model.optimizer(RATES, None) for model in models]
    before = [values(model.weights) for model in models]
    push(apply_of(optimizers[1]), models[1].weights, steps=1)
    assert_same(values(models[0].weights), before[0])
    assert_same(values(models[2].weights), before[2])
    assert not np.array_equal(models[1].weights[0], before[1][0])


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
        known = [known_variables(inner) for inner in optimizer.group_optimizers]
        assert all(known)
        assert sorted(id(v) for group in known for v in group) == sorted(
            map(id, model.trainable_variables)
        )
        assert len(assign_variables(model, groups)) == len(model.weights)


# --- Inside Keras' `LossScaleOptimizer`


@pytest.mark.parametrize(
    ("sample", "template"), [("functional", "keras_adam")], indirect=["sample", "template"]
)
def test_mixed_precision_equals_plain_keras(sample, template, mixed_precision):
    x, y = sample.data()
    model, twin = sample.model(), sample.model()
    optimizer = MultiGroupOptimizer(sample.groups(model), 0.01, template.argument())
    for each, inner in ((model, optimizer), (twin, template.plain(0.01))):
        each.compile(inner, "mse", run_eagerly=True)
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert unwrap_optimizer(model.optimizer) is optimizer
    assert unwrap_optimizer(optimizer) is optimizer
    assert_same_weights(model, twin)
    assert known_variables(optimizer.group_optimizers[0])[0].dtype == "float32"
    model.optimizer.learning_rate = 0.5
    np.testing.assert_allclose(optimizer.learning_rates, [0.5] * 3)


def test_infinite_gradients_are_skipped_under_loss_scaling(template):
    model = three_parts()
    optimizer = model.optimizer(RATES, template.argument())
    outer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
    outer.build(model.weights)
    before = everything(model, optimizer)
    gradients = ones_for(model.weights)
    outer.apply([gradients[0] * np.inf, *gradients[1:]], model.weights)
    assert_same(everything(model, optimizer), before)
    outer.apply(gradients, model.weights)
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
            unwrap_optimizer(other, MultiGroupOptimizer)


# --- Configuration


def test_configuration_round_trip():
    groups = tuple(three_parts().groups())
    optimizer = MultiGroupOptimizer(
        groups,
        [CosineDecay(0.1, 10), 0.25, 0.5],
        keras.optimizers.AdamW(beta_1=0.8, weight_decay=0.0),
        name="mine",
        weight_decay=[0.0, CosineDecay(0.1, 5), 0.02],
        decay_to_start={"group_0": 0.5, "group_1": 0.25, "group_2": 0.0},
        global_clipnorm=2.0,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=4,
        loss_scale_factor=2.0,
    )
    optimizer.learning_rate = 0.25
    optimizer.group_optimizers[1].learning_rate = 0.0625
    expected = [np.float32(0.05), 0.0625, 0.25]
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
        assert revived.learning_rates == optimizer.learning_rates == expected
        assert [type(inner) for inner in revived.group_optimizers] == [keras.optimizers.AdamW] * 3
        assert [inner.beta_1 for inner in revived.group_optimizers] == [0.8] * 3
        assert revived.name == "mine"
        assert not revived.built
        revived.learning_rate = 0.5  # the factors came along, not only the rates
        np.testing.assert_allclose(revived.learning_rates, [0.1, 0.125, 0.5], rtol=1e-6)


def test_a_revived_optimizer_trains_alike(template):
    model, twin = three_parts(), three_parts()
    rates = [InverseTimeDecay(0.01, 1, 0.5), 0.02, 0.03]
    optimizer = model.optimizer(rates, template.argument())
    revived = MultiGroupOptimizer.from_config(optimizer.get_config())
    revived.bind(twin)
    push(apply_of(optimizer), model.weights)
    push(apply_of(revived), twin.weights)
    assert_same_weights(model, twin)


def test_from_config_leaves_the_configuration_alone():
    config = MultiGroupOptimizer(three_parts().groups(), RATES).get_config()
    before = json.dumps(config)
    MultiGroupOptimizer.from_config(config)
    assert json.dumps(config) == before


# --- Wrong arguments


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
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 1}, "must be an integer >= 2"),
        ({"use_ema": True, "ema_momentum": 2.0}, r"must be in the range \[0, 1\]"),
        ({"use_ema": True, "ema_overwrite_frequency": 0.5}, "must be an integer >= 1"),
    ],
)
def test_wrong_settings_are_keras_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiGroupOptimizer([LayerGroup("g", ("a",))], 0.1, **settings)


def test_arguments_beyond_the_third_are_by_keyword():
    groups = [LayerGroup("g", ("a",))]
    with pytest.raises(TypeError, match="positional arguments"):
        MultiGroupOptimizer(groups, 0.1, None, "name")
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentum'"):
        MultiGroupOptimizer(groups, 0.1, momentum=0.1)


def test_bare_models_are_models():
    """The models of these tests are built and split as others are."""
    model = three_parts()
    assert isinstance(model, BareModel)
    assert split_layerwise(model)[1].layers == model.groups()[1].layers
    assert len(two_weights().weights) == 2
