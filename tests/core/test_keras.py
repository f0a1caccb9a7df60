"""Every private name of Keras and TensorFlow that dlr_tf uses still does what it is used for."""

from __future__ import annotations

import functools
import inspect
import random
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core._keras import (
    add_variables,
    compile_arguments,
    compile_token,
    flags_at_compile,
    shared_state_of,
    slots_of,
)
from dlr_tf.core.optimizer_copies import copy_optimizer
from tests.conftest import newer_optimizer

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


def test_the_tests_know_every_optimizer_of_keras(optimizers):
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    known = {name.split()[0] for name in optimizers}
    public = {
        name
        for name, item in vars(keras.optimizers).items()
        if isinstance(item, type) and issubclass(item, keras.optimizers.Optimizer)
    }
    # The names are those of the newest Keras; an older one lacks some.
    assert public - wrappers <= known - {"FusedAdam"}
    assert known - {"FusedAdam"} - public <= {"Muon", "ScheduleFreeAdamW"}


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
    train(grown, variables, range(1))
    train(built, twins, range(1))
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

    assert [id(v) for v in _keras.known_variables(optimizer)] == [id(v) for v in variables]
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
    train(grown, variables[:2], range(2))
    train(whole, twins[:2], range(2))
    for start in (2, 4):  # twice, to add_variables what has grown
        add_variables(grown, variables[start : start + 2])
    if type(grown).__name__ == "ScheduleFreeAdamW":
        # Its momentum begins at the weights, which have not moved.
        assert_equal_lists(values(slots_of(grown)["momentums"][2:]), values(variables[2:]))
    gradients = make_gradients(variables, 9)
    for _ in range(2):
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


def test_a_copy_of_a_loss_scale_optimizer():
    variables = make_variables()
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    inner.exclude_from_weight_decay(var_names=["v1"])
    outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    copied = copy_optimizer(outer, keep_rate=True)
    assert copied.inner_optimizer is not inner
    assert copied.initial_scale == 4.0
    assert float(copied.learning_rate) == pytest.approx(0.1)
    assert not _keras.uses_weight_decay(copied.inner_optimizer, variables[1])
    assert _keras.uses_weight_decay(copied.inner_optimizer, variables[0])


def test_a_copy_of_an_optimizer_with_a_schedule_follows_no_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    copied = copy_optimizer(keras.optimizers.SGD(schedule, momentum=0.5))
    assert float(copied.learning_rate) == 0.0
    assert copied.momentum == 0.5


def test_what_a_model_was_compiled_with():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
    assert compile_arguments(model) == {}
    assert compile_token(model) is None
    assert flags_at_compile(model) is None

    def loss(y_true, y_pred):  # cannot be serialised
        return keras.ops.mean(y_true - y_pred)

    model.get_layer("a").trainable = False
    model.compile("adam", loss, metrics=["mae"], weighted_metrics=[], steps_per_execution=2)
    found = compile_arguments(model)
    assert found["loss"] is loss
    assert found["metrics"] == ["mae"]
    assert found["steps_per_execution"] == 2
    assert {"loss_weights", "weighted_metrics", "run_eagerly", "jit_compile"} < found.keys()
    assert (flags_at_compile(model) or [False]).count(False) == 1  # `None` up to Keras 3.14
    token = compile_token(model)
    assert token is compile_token(model)
    model.compile("adam", loss)
    assert compile_token(model) is not token


class AddsLoss(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        self.add_loss(keras.ops.mean(inputs))
        return inputs


def test_a_call_tells_whether_a_model_adds_losses():
    x = np.ones((2, 3), "float32")
    regularized = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, activity_regularizer="l2")]
    )
    own = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), AddsLoss()])
    assert _keras.adds_losses(own, x)
    assert not _keras.adds_losses(regularized, x)
    assert not _keras.adds_losses(own, np.array(["a", "b"]))  # no inputs of a call


def test_every_function_has_a_test():
    functions = {
        name
        for name, item in vars(_keras).items()
        if inspect.isfunction(item) and item.__module__ == _keras.__name__
    }
    source = inspect.getsource(inspect.getmodule(test_every_function_has_a_test))
    assert [name for name in sorted(functions) if f"{name}(" not in source] == []


# --- Variables


@pytest.fixture
def mirrored() -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["/cpu:0"])


def test_a_key_is_the_same_for_the_copies_of_a_variable(mirrored):
    plain, other = keras.Variable(1.0), keras.Variable(1.0)
    assert _keras.variable_key(plain) == _keras.variable_key(plain.value)
    assert _keras.variable_key(plain) != _keras.variable_key(other)
    with mirrored.scope():
        variable = keras.Variable(1.0)
    copies = variable.value.values
    assert {_keras.variable_key(copy) for copy in copies} == {_keras.variable_key(variable)}
    assert _keras.variable_key(tf.Variable(1.0)) not in map(_keras.variable_key, (plain, other))


def test_variables_of_an_optimizer_are_known_by_their_keys():
    """Keras' own identity of a variable is ours."""
    variable = keras.Variable(1.0)
    optimizer = keras.optimizers.SGD()
    optimizer.build([variable])
    assert _keras.knows(optimizer, variable)
    assert optimizer._get_variable_index(variable) == 0
    assert list(optimizer._trainable_variables_indices) == [_keras.variable_key(variable)]


def test_a_variable_made_in_a_trace_has_no_value_in_it(mirrored):
    seen = []

    @tf.function
    def make() -> None:
        if not kept:
            kept.append(tf.Variable(tf.ones(2)))
            seen.append(_keras.is_initialized(kept[0]))

    kept: list[Any] = []
    make()
    assert seen[0] is False
    assert _keras.is_initialized(kept[0])
    with mirrored.scope():
        assert _keras.is_initialized(keras.Variable(1.0))


def test_an_eager_read_gives_the_value_of_now(mirrored):
    variable = keras.Variable(1.0)
    with mirrored.scope():
        copied = keras.Variable(1.0)
    for each in (variable, copied):
        read = _keras.eager_read_fn(each)
        assert float(read()) == 1.0
        each.assign(2.0)
        assert float(read()) == 2.0


# --- What Keras keeps in an optimizer


def test_exclusions_from_weight_decay_are_read_and_set():
    variables = make_variables()
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    assert _keras.weight_decay_exclusions(optimizer) == (None, frozenset())
    optimizer.exclude_from_weight_decay(var_list=[variables[0]], var_names=["v1"])
    pattern, keys = _keras.weight_decay_exclusions(optimizer)
    assert pattern == "v1"
    assert keys == {_keras.variable_key(variables[0])}
    other = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    # Keras remembers which variables decay; that memory is emptied.
    assert _keras.uses_weight_decay(other, variables[0])
    _keras.set_weight_decay_exclusions(other, pattern, keys)
    uses = [_keras.uses_weight_decay(other, variable) for variable in variables[:3]]
    assert uses == [False, False, True]


def test_weight_decay_is_applied_where_an_optimizer_asks_for_it():
    variable = keras.Variable(1.0)
    _keras.apply_weight_decay(keras.optimizers.AdamW(0.1, weight_decay=0.5), [variable])
    assert float(variable) == pytest.approx(0.95)
    _keras.apply_weight_decay(keras.optimizers.SGD(0.1), [variable])
    assert float(variable) == pytest.approx(0.95)
    assert not _keras.overrides(keras.optimizers.Adam(), "_apply_weight_decay")


def test_muon_works_where_the_check_says_so():
    optimizer = keras.optimizers.Muon(0.1)
    ones = np.ones((2, 2), "float32")
    step = functools.partial(
        optimizer.apply, [keras.ops.convert_to_tensor(ones)], [keras.Variable(ones)]
    )
    if _keras.muon_works():
        step()
    else:
        with pytest.raises(AttributeError, match="path"):
            step()


def test_muon_has_a_decay_of_its_own():
    """Whatever `weight_decay` is."""
    assert _keras.overrides(newer_optimizer("Muon"), "_apply_weight_decay")


def test_the_rate_an_optimizer_was_made_with():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)

    def function() -> float:
        return 0.25

    for rate, expected in ((0.5, 0.5), (schedule, schedule), (function, function)):
        assert _keras.learning_rate_of(keras.optimizers.SGD(rate)) == expected
    optimizer = keras.optimizers.SGD(0.5)
    _keras.set_learning_rate(optimizer, function)
    assert float(optimizer.learning_rate) == 0.25
    assert _keras.learning_rate_of(optimizer) is function


def test_an_optimizer_takes_rate_and_steps_from_views():
    optimizer = keras.optimizers.SGD(1.0)
    rate, steps = keras.Variable(0.25), keras.Variable(7, dtype="int64")
    _keras.set_views(optimizer, rate=rate, steps=steps)
    assert optimizer.learning_rate is rate
    assert optimizer.iterations is steps
    variable = keras.Variable(1.0)
    optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable) == 0.75
    assert int(steps) == 8
    owned = map(id, optimizer.variables)
    assert len(set(owned) - {id(rate), id(steps)}) == 0  # its own rate and count are gone


def test_variables_stand_in_the_order_of_their_slots():
    variables = make_variables()
    optimizer = keras.optimizers.Adam()
    optimizer.build(variables[:2])
    assert not _keras.knows(optimizer, variables[2])
    _keras.register_variable(optimizer, variables[2])
    assert [id(v) for v in _keras.known_variables(optimizer)] == [id(v) for v in variables[:3]]
    assert [_keras.variable_index(optimizer, v) for v in variables[:3]] == [0, 1, 2]
    assert _keras.knows(optimizer, variables[2])


def test_averages_and_accumulators_are_those_that_keras_uses():
    variable = keras.Variable(4.0)
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    assert _keras.moving_averages(optimizer) == []
    optimizer.build([variable])
    (average,) = _keras.moving_averages(optimizer)
    average.assign(9.0)
    optimizer.finalize_variable_values([variable])
    assert float(variable) == 9.0

    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    assert _keras.accumulators(optimizer) == []
    optimizer.build([variable])
    optimizer.apply([tf.constant(2.0)], [variable])
    (accumulator,) = _keras.accumulators(optimizer)
    assert float(accumulator) == 2.0
    assert int(_keras.step_counter_of(optimizer)) == 1
    assert int(optimizer.iterations) == 0


def test_a_variable_may_take_its_gradient_as_its_value():
    optimizer = keras.optimizers.SGD(1.0)
    scale, weight, idle = keras.Variable(1.0), keras.Variable(1.0), keras.Variable(1.0)
    scale.overwrite_with_gradient = True
    assert _keras.is_overwritten_by_gradient(optimizer, scale)
    assert not _keras.is_overwritten_by_gradient(optimizer, weight)
    optimizer.build([scale, weight, idle])
    gradients = [tf.constant(3.0), tf.constant(5.0), None]
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        left, variables = _keras.filter_gradients(optimizer, gradients, [scale, weight, idle])
    assert [float(g) for g in left] == [5.0]
    assert [id(v) for v in variables] == [id(weight)]
    assert float(scale) == 3.0


# --- Parts of Keras' update


def test_gradients_are_clipped_as_the_arguments_say():
    for arguments, expected in (
        ({"clipvalue": 2.0}, [2.0, 2.0]),
        ({"clipnorm": 1.0}, [1.0, 1.0]),
        ({"global_clipnorm": 1.0}, [0.6, 0.8]),
        ({}, [3.0, 4.0]),
    ):
        optimizer = keras.optimizers.SGD(**arguments)
        clipped = _keras.clip_gradients(optimizer, [tf.constant([3.0]), tf.constant([4.0])])
        np.testing.assert_allclose(np.concatenate(clipped), expected, rtol=1e-6)


def test_updates_under_a_strategy(mirrored):
    assert not _keras.needs_merge_call()
    with mirrored.scope():
        variable = keras.Variable(1.0)
        optimizer = keras.optimizers.SGD()
        optimizer.build([variable])
        assert isinstance(_keras.needs_merge_call(), bool)
    assert _keras.strategy_of(optimizer) is mirrored

    @tf.function
    def step() -> None:
        def on_replica() -> Any:
            (total,) = _keras.all_reduce(optimizer, [tf.identity(2.0)], [variable])

            def update(strategy: Any, value: Any) -> None:
                strategy.extended.update(variable.value, lambda v, g: v.assign(g), args=(value,))

            _keras.maybe_merge_call(update, mirrored, total)

        mirrored.run(on_replica)

    step()
    assert variable.numpy() == 2.0


def test_shared_state_goes_on_without_variables():
    """Nadam's product; plain Adam has none, and nothing is called."""
    nadam, variable = keras.optimizers.Nadam(), keras.Variable(1.0)
    nadam.build([variable])
    before = {name: v.numpy() for name, v in shared_state_of(nadam).items()}
    _keras.update_shared_state(nadam, 0.1)
    changed = {n for n, v in shared_state_of(nadam).items() if v.numpy() != before[n]}
    assert changed == {"u_product"}
    assert float(variable) == 1.0
    _keras.update_shared_state(keras.optimizers.Adam(), 0.1)


def test_xla_is_noticed_while_a_function_is_traced():
    seen = []

    def note() -> tf.Tensor:
        seen.append(_keras.under_xla())
        return tf.constant(1.0)

    note()
    tf.function(note)()
    tf.function(note, jit_compile=True)()
    assert seen == [False, False, True]


class Named(_keras.CheckpointableOptimizer):
    """Stores one variable, under a name of its own."""

    def checkpoint_children(self, save_type: str) -> dict[str, Any]:
        return {"mine": self.mine} if hasattr(self, "mine") else {}

    def checkpoint_child(self, name: str) -> Any:
        return self.checkpoint_children("checkpoint").get(name)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, gradient)


def test_an_optimizers_the_parts_of_its_checkpoint(tmp_path):
    optimizer = Named(learning_rate=0.1)
    optimizer.mine = optimizer.add_variable((), initializer="ones", name="mine")
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "c"))
    names = [name for name, _ in tf.train.list_variables(path) if name.startswith("optimizer/")]
    assert names == ["optimizer/mine/.ATTRIBUTES/VARIABLE_VALUE"] or all(
        name.startswith("optimizer/mine/") for name in names
    )
    optimizer.mine.assign(5.0)
    tf.train.Checkpoint(optimizer=optimizer).restore(path)
    assert float(optimizer.mine) == 1.0

    late = Named(learning_rate=0.1)
    tf.train.Checkpoint(optimizer=late).restore(path)
    late.mine = late.add_variable((), initializer="zeros", name="mine")
    late.restore_deferred("mine", late.mine)
    assert float(late.mine) == 1.0


def test_adam_calls_the_two_steps_of_its_update_that_are_replaced():
    calls = []

    class Recording(_keras.FusedAdamBase):
        def decay_weights(self, variables: Any) -> None:
            calls.append(("decay", len(variables)))
            super().decay_weights(variables)

        def update_all(self, gradients: Any, variables: Any, rate: Any) -> None:
            calls.append(("update", len(variables), float(rate)))
            super().update_all(gradients, variables, rate)

    variables, twins = make_variables(), make_variables()
    for kind, owned in ((Recording, variables), (keras.optimizers.Adam, twins)):
        optimizer = kind(0.5, weight_decay=0.1, amsgrad=True)
        train(optimizer, owned, range(2))
        if kind is Recording:
            first, second, largest = optimizer.slots_for(owned[1])
            assert [v.shape for v in (first, second, largest)] == [owned[1].shape] * 3
            slots = slots_of(optimizer)
            assert slots["velocities"][1] is second
            assert slots["velocity_hats"][1] is largest
    assert calls == [("decay", 6), ("update", 6, 0.5)] * 2
    assert_equal_lists(values(variables), values(twins))


# --- Files


def test_state_is_found_beside_the_optimizers_own(tmp_path):
    """In a file that was written with, and without, an optimizer around this one."""
    found = []

    class Looking(keras.optimizers.SGD):
        def load_own_variables(self, store: Any) -> None:
            found.append([list(near) for near in _keras.related_stores(store, "inner_optimizer")])

    def model_with(optimizer: Any) -> keras.Model:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(optimizer)
        optimizer.build(model.trainable_variables)
        return model

    path = tmp_path / "m.weights.h5"
    inner, wrapper = Looking(), keras.optimizers.LossScaleOptimizer
    model_with(wrapper(keras.optimizers.SGD())).save_weights(path)
    model_with(inner).load_weights(path)
    assert len(found[-1]) == 1  # what the wrapped optimizer wrote
    model_with(keras.optimizers.SGD()).save_weights(path)
    with h5py.File(path) as file:
        count = len(file["optimizer/vars"])
    outer = model_with(wrapper(Looking()))
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer 'loss_scale"):
        outer.load_weights(path)
    assert [len(near) for near in found[-1]] == [count]
    assert _keras.related_stores({}, "inner_optimizer") == []


# --- Models and layers


def test_which_models_keep_a_graph_and_names(samples):
    sequential, functional, subclassed = (
        samples[kind].model() for kind in ("sequential", "functional", "subclassed")
    )

    class Mine(keras.Sequential):
        pass

    for model, has_graph, saves_names in (
        (sequential, True, True),
        (functional, True, True),
        (subclassed, False, False),
        (Mine([keras.Input((2,)), keras.layers.Dense(1)]), True, False),
    ):
        assert _keras.is_graph_model(model) is has_graph
        assert _keras.saves_layer_names(model) is saves_names


def test_layers_inside_layers_are_found():
    inner = keras.layers.LSTM(2)
    both = keras.layers.Bidirectional(inner)
    model = keras.Sequential([keras.Input((3, 2)), both, keras.layers.Dense(1)])
    kinds = [type(layer).__name__ for layer in _keras.direct_layers(model)]
    assert kinds.count("Dense") == kinds.count("Bidirectional") == 1
    assert "LSTM" not in kinds
    every = [type(layer).__name__ for layer in _keras.all_layers(model)]
    assert every.count("LSTM") == 2
    assert every.index("Bidirectional") < every.index("LSTM")


def test_attributes_of_a_model_are_the_users_own(samples):
    model = samples["subclassed"].model()
    model(np.zeros((1, 8), "float32"))
    layers = {"stem", "blocks", "head"}
    assert layers <= _keras.layer_attributes(model).keys()
    holders = {
        name
        for name, value in _keras.layer_attributes(model).items()
        if isinstance(value, keras.layers.Layer)
        or (isinstance(value, (list, tuple)) and any(isinstance(v, keras.Layer) for v in value))
    }
    assert holders == layers  # and no record that Keras keeps of them
    assert not any(name.startswith("_") for name in _keras.layer_attributes(functional_of_two()))
    bidirectional = keras.layers.Bidirectional(keras.layers.LSTM(2))
    assert {"forward_layer", "backward_layer"} <= _keras.layer_attributes(bidirectional).keys()


class Task(keras.Model):
    """A model with a graph that holds layers as tasks of KerasHub do."""

    def __init__(self) -> None:
        inputs = keras.Input((2,))
        backbone = keras.Model(inputs, keras.layers.Dense(2, name="body")(inputs))
        super().__init__(inputs, keras.layers.Dense(1, name="top")(backbone(inputs)))
        self._backbone, self._hidden = backbone, backbone.layers[-1]

    @property
    def backbone(self) -> keras.Model:
        return self._backbone

    @property
    def hidden(self) -> None:
        return None


def test_a_property_of_a_model_with_a_graph_names_what_it_shows():
    model = Task()
    assert _keras.layer_attributes(model)["backbone"] is model.backbone
    assert _keras.layer_attributes(model).keys().isdisjoint({"_backbone", "_hidden", "hidden"})


def test_the_first_call_of_a_layer_and_later_ones():
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(2)
    first = dense(inputs)
    second = dense(first)
    assert _keras.is_from_first_call(first)
    assert not _keras.is_from_first_call(second)


def test_models_that_call_their_graph_alone():
    class WithCall(Task):
        def call(self, inputs: Any) -> Any:
            return super().call(inputs)

    assert _keras.calls_only_its_graph(functional_of_two())
    assert _keras.calls_only_its_graph(keras.Sequential([keras.Input((2,))]))
    assert _keras.calls_only_its_graph(Task())
    assert not _keras.calls_only_its_graph(WithCall())


def functional_of_two() -> keras.Model:
    inputs = keras.Input((2,), name="x")
    dense = keras.layers.Dense(2)
    return keras.Model(inputs, dense(dense(inputs)))


def test_automatic_names():
    assert _keras.is_named_by_keras(keras.layers.Dense(1))
    assert _keras.is_named_by_keras(keras.layers.BatchNormalization())
    assert _keras.is_named_by_keras(keras.layers.Conv2DTranspose(1, 1))
    assert not _keras.is_named_by_keras(keras.layers.Dense(1, name="top"))
    assert not _keras.is_named_by_keras(keras.layers.Dense(1, name="dense_block"))


def test_the_flag_of_a_layer_sets_its_own_variables():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 2))
    flagged = _keras.flagged_variables(layer)
    assert [v.name for v in flagged] == ["gamma", "beta"]
    layer.trainable = False
    assert not any(v.trainable for v in flagged)
    assert [id(v) for v in _keras.flagged_variables(layer)] == [id(v) for v in flagged]


@pytest.mark.parametrize(
    ("layer", "frozen"),
    [
        (keras.layers.Dense(3), "kernel"),
        (keras.layers.Embedding(5, 3), "embeddings"),
        (keras.layers.EinsumDense("ab,bc->ac", 3, bias_axes="c"), "kernel"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_lora_freezes_its_base(layer, frozen):
    layer.build((None, 4))
    assert _keras.lora_base_variables(layer) == _keras.lora_variables(layer) == []
    layer.enable_lora(2)
    assert len(_keras.lora_variables(layer)) == 2
    (base,) = _keras.lora_base_variables(layer)
    assert base.name == frozen
    assert not base.trainable
    assert all(v.trainable for v in layer.trainable_variables)


def test_where_a_tensor_comes_from():
    model = functional_of_two()
    dense = model.layers[-1]
    operation, inputs = _keras.tensor_source(model.output)
    assert operation is dense
    operation, inputs = _keras.tensor_source(inputs[0])  # the layer's first call
    assert operation is dense
    assert inputs[0] is model.input
    assert _keras.first_inputs(dense) == [model.input]
    assert _keras.first_inputs(keras.layers.Dense(1)) == []


def test_which_output_of_a_nested_model_a_tensor_is():
    inputs = keras.Input((2,))
    inner = keras.Model(inputs, {"a": inputs + 1.0, "b": [inputs + 2.0, inputs + 3.0]})
    found = inner(keras.Input((2,)))
    assert [_keras.output_index(tensor) for tensor in keras.tree.flatten(found)] == [0, 1, 2]
    assert [_keras.output_index(tensor) for tensor in inner.outputs] == [0, 0, 0]


# --- `fit`


def test_metrics_are_built_without_a_step():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    before = model.get_weights()
    batch = (keras.KerasTensor((4, 2)), keras.KerasTensor((4, 1)))
    with pytest.raises(ValueError, match="has not yet been built"):
        model.get_metrics_result()
    _keras.build_metrics(model, batch)
    assert "mae" in model.get_metrics_result()
    assert_equal_lists(before, model.get_weights())


def traced_losses(labels: Any = None, **subclass: Any) -> int:
    """How often the first step of `fit` is traced, after the metrics were built if asked for."""
    calls = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        calls.append(1)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    kind = type("Model", (keras.Model,), subclass)
    inputs = keras.Input((2,))
    model = kind(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    model.compile("sgd", loss, metrics=["accuracy"], jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    if labels is not None:
        _keras.build_metrics_of_output(model, labels)
    x, y = np.zeros((4, 2)), np.array([0, 1, 2, 2])
    history = model.fit(x, y, verbose=0, batch_size=4)
    assert history.history["accuracy"] == [0.25]  # of the kind for class numbers
    return len(calls)


def test_a_step_is_traced_once_if_the_metrics_are_built_before():
    assert traced_losses() == 2  # else this is needed no more
    assert traced_losses(np.array([0, 1, 2, 2])) == 1
    assert traced_losses(tf.TensorSpec((None,), tf.int32)) == 1


def test_a_model_with_its_own_metrics_builds_them_itself():
    def compute_metrics(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return keras.Model.compute_metrics(self, x, y, y_pred, sample_weight)

    assert traced_losses(np.array([0]), compute_metrics=compute_metrics) == 2


def test_fit_can_be_told_not_to_build_from_the_first_batch(mirrored):
    """Keras builds from it only under a strategy."""
    with mirrored.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    built = []
    original = type(model)._symbolic_build

    def build(*args: Any, **kwargs: Any) -> Any:
        built.append(1)
        return original(*args, **kwargs)

    x, y = np.ones((2, 2)), np.ones((2, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "_symbolic_build", build)
        with _keras.skip_symbolic_build(model):
            model.fit(x, y, verbose=0)
        assert built == []
        with mirrored.scope():
            model.compile("sgd", "mse")
        model.fit(x, y, verbose=0)
        assert built == [1]
    assert "_maybe_symbolic_build" not in vars(model)


def test_an_attribute_is_set_for_a_block():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.mark = 1
    with _keras.attribute_set(model, "mark", 2), _keras.attribute_set(model, "other", 3):
        assert (model.mark, model.other) == (2, 3)
    assert model.mark == 1
    assert not hasattr(model, "other")


def test_fit_writes_on_a_model_what_is_known():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    model(np.ones((1, 2)))
    before = dict(vars(model))
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    written = {name for name, value in vars(model).items() if value is not before.get(name)}
    assert "train_function" in written
    assert written <= set(_keras.TRAINER_ATTRIBUTES)


# --- Random generators


def test_the_generator_of_keras_goes_on_where_it_was_set():
    before = _keras.keras_generator()
    try:
        keras.utils.set_random_seed(3)
        generator = keras.random.SeedGenerator(5)
        _keras.set_keras_generator(generator)
        first = keras.random.normal((2,)).numpy()
        assert _keras.keras_generator() is generator
        _keras.set_keras_generator(keras.random.SeedGenerator(5))
        np.testing.assert_array_equal(keras.random.normal((2,)).numpy(), first)
    finally:
        _keras.set_keras_generator(before)


def test_the_generator_of_tensorflow_goes_on_where_it_was_set():
    before = _keras.tensorflow_generator()
    try:
        generator = tf.random.Generator.from_seed(5)
        _keras.set_tensorflow_generator(generator)
        assert tf.random.get_global_generator() is generator
        assert _keras.tensorflow_generator() is generator
    finally:
        _keras.set_tensorflow_generator(before)


def test_the_seeds_of_operations_go_on_where_they_were_set():
    tf.random.set_seed(3)
    expected = tf.random.normal((2,)).numpy()
    tf.random.set_seed(3)
    generator, substitute = _keras.operation_seeds(), random.Random(9)
    assert generator is not None
    _keras.set_operation_seeds(substitute)
    assert not np.array_equal(tf.random.normal((2,)).numpy(), expected)
    assert substitute.getstate() != random.Random(9).getstate()
    _keras.set_operation_seeds(generator)
    np.testing.assert_array_equal(tf.random.normal((2,)).numpy(), expected)


@pytest.mark.parametrize("swaps_by_model", [False, True])
def test_averages_to_swap_are_those_of_the_variables_to_swap(monkeypatch, swaps_by_model):
    """`SwapEMAWeights` pairs them with what the optimizer knows, or with what the model trains."""
    monkeypatch.setattr(_keras.averaging, "_SWAPS_BY_MODEL", swaps_by_model)
    first, second, third = (keras.Variable(np.full(2, value)) for value in (1.0, 2.0, 3.0))
    swapped = [third, second] if swaps_by_model else [first, second]

    class Averaging(_keras.AveragingOptimizer, keras.optimizers.SGD):
        def checkpoint_children(self, save_type):
            return {}

        def checkpoint_child(self, name):
            return None

        def variables_to_swap(self):
            return swapped

    optimizer = Averaging(0.1)
    assert not hasattr(optimizer, "_model_variables_moving_average")
    optimizer.build([first, second])
    averages = [keras.Variable(np.full(2, value)) for value in (10.0, 20.0)]
    _keras.moving_averages(optimizer).extend(averages)

    found = optimizer._model_variables_moving_average
    assert found[1] is averages[1]
    if swaps_by_model:  # a variable without an average is swapped with a copy of itself
        assert found[0] is not third
        np.testing.assert_array_equal(found[0].numpy(), third.numpy())
    else:
        assert found[0] is averages[0]
