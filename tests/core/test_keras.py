from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from dlr_tf.core._keras import (
    add_variables,
    compile_arguments,
    compile_token,
    copy_optimizer,
    flags_at_compile,
    shared_state_of,
    slots_of,
    trained_variables,
)

SHAPES = ((4, 3), (3,), (2, 3, 2), (), (3, 5), (5,))


def make_variables() -> list[keras.Variable]:
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=f"v{i}")
        for i, shape in enumerate(SHAPES)
    ]


def make_gradients(variables: list[Any], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=v.shape).astype("float32") for v in variables]


def train(optimizer: Any, variables: list[Any], steps: range) -> None:
    for step in steps:
        optimizer.apply(make_gradients(variables, step), variables)


def values(variables: Any) -> list[Any]:
    return [None if v is None else v.numpy().copy() for v in variables]


def state(optimizer: Any) -> dict[str, list[Any]]:
    return {name: values(slots) for name, slots in slots_of(optimizer).items()}


def assert_equal_lists(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


def test_the_tests_know_every_optimizer_of_keras(optimizer_names):
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    known = {name.split()[0] for name in optimizer_names}
    public = {
        name
        for name, item in vars(keras.optimizers).items()
        if isinstance(item, type) and issubclass(item, keras.optimizers.Optimizer)
    }
    assert public - wrappers == known - {"FusedAdam"}


def test_slots_and_shared_state_are_all_that_an_optimizer_keeps(any_optimizer):
    optimizer = any_optimizer(0.01)
    variables = make_variables()
    train(optimizer, variables, range(1))
    slots, shared = slots_of(optimizer), shared_state_of(optimizer)
    found = [slot for of_name in slots.values() for slot in of_name if slot is not None]
    found += shared.values()
    assert sorted(map(id, found)) == sorted(map(id, optimizer.variables))
    assert {"iterations", "learning_rate"} <= set(shared)
    for name, of_name in slots.items():
        assert len(of_name) == len(variables), name
        assert not name.startswith("_")


def test_slots_stand_in_the_order_of_the_variables():
    optimizer = keras.optimizers.Adam(0.01)
    variables = make_variables()
    optimizer.build(variables)
    for name in ("momentums", "velocities"):
        assert [tuple(v.shape) for v in slots_of(optimizer)[name]] == list(SHAPES)


def test_grow_builds_an_optimizer_that_is_not_built(any_optimizer):
    grown, built = any_optimizer(0.01), any_optimizer(0.01)
    variables, twins = make_variables(), make_variables()
    add_variables(grown, variables)
    built.build(twins)
    assert grown.built
    train(grown, variables, range(3))
    train(built, twins, range(3))
    assert_equal_lists(values(variables), values(twins))


def test_grow_leaves_old_state_alone_and_gives_new_variables_fresh_state(any_optimizer):
    optimizer = any_optimizer(0.01)
    variables = make_variables()
    early, late = variables[:2], variables[2:]
    train(optimizer, early, range(3))
    slots_before = {name: list(slots) for name, slots in slots_of(optimizer).items()}
    before = state(optimizer)
    shared_before = shared_state_of(optimizer)
    shared_values = {name: variable.numpy() for name, variable in shared_before.items()}
    n_variables = len(optimizer.variables)

    add_variables(optimizer, late)

    assert [id(v) for v in optimizer._trainable_variables] == [id(v) for v in variables]
    fresh = any_optimizer(0.01)
    fresh.build(late)
    fresh_state = state(fresh)
    # Muon with matrices alone keeps no velocities, which then is no list of slots.
    assert set(before) | set(fresh_state) == set(state(optimizer))
    for name, slots in slots_of(optimizer).items():
        assert len(slots) == len(variables)
        assert_equal_lists(values(slots[2:]), fresh_state.get(name, [None] * len(late)))
        if name in before:
            assert [id(slot) for slot in slots[:2]] == [id(slot) for slot in slots_before[name]]
            assert_equal_lists(values(slots[:2]), before[name])
    assert shared_state_of(optimizer).keys() == shared_before.keys()
    for name, variable in shared_state_of(optimizer).items():
        assert variable is shared_before[name]
        np.testing.assert_array_equal(variable.numpy(), shared_values[name])
    n_new = sum(slot is not None for slots in slots_of(fresh).values() for slot in slots)
    assert len(optimizer.variables) == n_variables + n_new


def test_an_optimizer_that_grew_trains_as_one_that_knew_all_from_the_start(any_optimizer):
    grown, whole = any_optimizer(0.01), any_optimizer(0.01)
    variables, twins = make_variables(), make_variables()
    whole.build(twins)
    train(grown, variables[:2], range(3))
    train(whole, twins[:2], range(3))
    for start in (2, 4):  # twice, to add_variables what has grown
        add_variables(grown, variables[start : start + 2])
    if isinstance(grown, keras.optimizers.ScheduleFreeAdamW):
        # Its momentum begins at the weights, which have not moved.
        assert_equal_lists(values(slots_of(grown)["momentums"][2:]), values(variables[2:]))
    gradients = make_gradients(variables, 9)
    for _ in range(3):
        grown.apply(gradients, variables)
        whole.apply(gradients, twins)
    assert_equal_lists(values(variables), values(twins))
    # In another order than the one they joined in.
    grown.apply(gradients[::-1], variables[::-1])
    whole.apply(gradients[::-1], twins[::-1])
    assert_equal_lists(values(variables), values(twins))


def test_a_copy_has_the_settings_and_no_state(any_optimizer):
    optimizer = any_optimizer(0.25)
    train(optimizer, make_variables(), range(2))
    copied = copy_optimizer(optimizer)
    assert type(copied) is type(optimizer)
    assert not copied.built
    assert float(copied.learning_rate) == 0.0
    assert int(copied.iterations) == 0
    assert {**copied.get_config(), "learning_rate": None} == {
        **optimizer.get_config(),
        "learning_rate": None,
    }
    assert float(optimizer.learning_rate) == 0.25


@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_a_copy_keeps_what_is_excluded_from_weight_decay(by):
    variables = make_variables()
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    chosen = {"var_list": [variables[1]]} if by == "var_list" else {"var_names": ["v1"]}
    optimizer.exclude_from_weight_decay(**chosen)
    copied = copy_optimizer(optimizer)
    copied.learning_rate = 0.1
    before = values(variables)
    copied.apply([np.zeros_like(value) for value in before], variables)
    np.testing.assert_array_equal(variables[1].numpy(), before[1])
    np.testing.assert_allclose(variables[0].numpy(), 0.95 * before[0], rtol=1e-6)


def test_a_copy_of_an_optimizer_with_a_schedule_follows_no_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    copied = copy_optimizer(keras.optimizers.SGD(schedule, momentum=0.5))
    assert float(copied.learning_rate) == 0.0
    assert copied.momentum == 0.5


def test_what_a_model_was_compiled_with():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
    assert compile_arguments(model) == {}
    assert compile_token(model) is None
    assert flags_at_compile(model) == []

    def loss(y_true, y_pred):  # cannot be serialised
        return keras.ops.mean(y_true - y_pred)

    model.get_layer("a").trainable = False
    model.compile("adam", loss, metrics=["mae"], weighted_metrics=[], steps_per_execution=2)
    found = compile_arguments(model)
    assert found["loss"] is loss
    assert found["metrics"] == ["mae"]
    assert found["steps_per_execution"] == 2
    assert {"loss_weights", "weighted_metrics", "run_eagerly", "jit_compile"} < found.keys()
    assert flags_at_compile(model).count(False) == 1
    token = compile_token(model)
    assert token is compile_token(model)
    model.compile("adam", loss)
    assert compile_token(model) is not token


def test_trained_variables_are_those_an_optimizer_was_built_for():
    variables = make_variables()
    optimizer = keras.optimizers.Adam()
    assert trained_variables(optimizer) == []
    optimizer.build(variables)
    assert [id(v) for v in trained_variables(optimizer)] == [id(v) for v in variables]
