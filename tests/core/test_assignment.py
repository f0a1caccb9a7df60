from __future__ import annotations

import gc
from collections.abc import Hashable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import variable_key
from dlr_tf.core.assignment import GroupAssignment, assign_variables, calling_model
from dlr_tf.core.groups import LayerGroup, split_layers, split_layerwise
from dlr_tf.core.optimizer import MultiGroupOptimizer

LAYERS = keras.layers


def plain(groups: Any) -> tuple[LayerGroup, ...]:
    """Groups that remember no model, as they come from a file."""
    return tuple(LayerGroup(group.name, group.layers) for group in groups)


def resolved(groups: Any, variables: Any, optimizer: Any = None) -> dict[Hashable, int]:
    assignment = GroupAssignment(groups)
    assignment.resolve(variables, optimizer, has_state=False)
    return {variable_key(entry.variable): entry.group for entry in assignment.entries()}


def expected(model: keras.Model, groups: Any) -> dict[Hashable, int]:
    return {variable_key(entry.variable): entry.group for entry in assign_variables(model, groups)}


def mlp(name: str | None = None) -> keras.Model:
    return keras.Sequential(
        [keras.Input((4,)), LAYERS.Dense(3, name="body"), LAYERS.Dense(2, name="top")], name=name
    )


def gradients(variables: Any) -> list[Any]:
    return [tf.ones(v.shape) for v in variables]


def called_by(model: keras.Model, function: Any) -> Any:
    """Call a function as a method of a model does."""

    def method(self: keras.Model) -> Any:
        return function()

    return method(model)


def test_groups_know_their_model(sample):
    model = sample.model()
    sample.model()  # a twin
    groups = sample.groups(model)
    assert resolved(groups, model.trainable_variables) == expected(model, groups)
    assert resolved(groups, [model.weights[-1]]) == expected(model, groups)


def test_the_model_compiled_with_the_optimizer_is_found(sample):
    model = sample.model()
    groups = plain(sample.groups(model))
    optimizer = keras.optimizers.SGD()
    with pytest.raises(ValueError, match=r"does not know the model .*optimizer.bind\(model\)"):
        resolved(groups, model.trainable_variables, optimizer)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    assert calling_model(optimizer) is None
    found = called_by(model, lambda: resolved(groups, model.trainable_variables, optimizer))
    assert found == expected(model, groups)


def test_a_copy_of_the_model_can_be_trained_with_its_groups(samples):
    model, copied = samples["nested"].model(), samples["nested"].model()
    groups = samples["nested"].groups(model)
    optimizer = keras.optimizers.SGD()
    with pytest.raises(ValueError, match="do not belong to the model 'functional.*Make the groups"):
        resolved(groups, copied.trainable_variables, optimizer)
    copied.compile(optimizer, "mse")
    found = called_by(copied, lambda: resolved(groups, copied.trainable_variables, optimizer))
    assert found == expected(copied, groups)


def test_of_two_models_compiled_with_one_optimizer_the_one_that_trains_is_meant():
    inputs = keras.Input((4,))
    a, b = LAYERS.Dense(4, name="a"), LAYERS.Dense(4, name="b")
    small = keras.Model(inputs, b(a(inputs)))
    large = keras.Model(inputs, LAYERS.Dense(2, name="c")(b(a(inputs))))
    optimizer = MultiGroupOptimizer(plain(split_layers(small, ["b"])), 0.1)
    large.compile(optimizer, "mse")
    small.compile(optimizer, "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"does not know the model .*optimizer.bind\(model\)"):
        optimizer.build(small.trainable_variables)
    small.train_on_batch(np.ones((2, 4)), np.ones((2, 4)))
    assert optimizer._assignment.model is small
    assert [len(optimizer._assignment.variables(group)) for group in (0, 1)] == [2, 2]


def test_other_models_over_the_same_layers_change_nothing():
    inputs = keras.Input((4,))
    a, b = LAYERS.Dense(4, name="a"), LAYERS.Dense(4, name="b")
    small = keras.Model(inputs, b(a(inputs)))
    large = keras.Model(inputs, LAYERS.Dense(2, name="c")(b(a(inputs))))
    large.compile("adam", "mse")
    groups = split_layers(small, ["b"])
    assert resolved(groups, small.trainable_variables) == expected(small, groups)


def test_a_loaded_model_trains_in_a_loop_of_the_users_own(sample, tmp_path):
    model = sample.model()
    model.compile(MultiGroupOptimizer(sample.groups(model), 0.1), "mse", run_eagerly=True)
    model.train_on_batch(*sample.data())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer._assignment.model is loaded
    loaded.optimizer.apply(gradients(loaded.trainable_variables), loaded.trainable_variables)
    assert int(loaded.optimizer.iterations) == 2


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiled_step_finds_its_model(jit_compile):
    """State is made in another thread then, whose callers do not show the model."""
    model = mlp()
    optimizer = MultiGroupOptimizer(plain(split_layers(model, ["top"])), 0.1)
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    model.train_function = None
    model.make_train_function()
    x, y = np.ones((2, 4), "float32"), np.ones((2, 2), "float32")
    data = iter(tf.data.Dataset.from_tensors((x, y)))
    called_by(model, lambda: model.train_function(data))
    assert optimizer._assignment.model is model


def test_a_deleted_model_whose_variables_live():
    model = mlp("short_lived")
    variables = list(model.trainable_variables)
    groups = split_layers(model, ["top"])
    optimizer = MultiGroupOptimizer(groups, 0.1)
    del model
    gc.collect()
    assert optimizer._assignment.model is None
    optimizer.apply(gradients(variables), variables)
    assert int(optimizer.iterations) == 1
    with pytest.raises(ValueError, match=r"'short_lived'.*was deleted.*optimizer.bind\(model\)"):
        optimizer.build(mlp().trainable_variables)
    with pytest.raises(ValueError, match=r"optimizer.bind\(model\)"):
        MultiGroupOptimizer(groups, 0.1).build(variables)


def test_variables_of_another_model_are_refused_as_in_keras():
    model, other = mlp("first"), mlp("second")
    optimizer = MultiGroupOptimizer(split_layers(model, ["top"]), 0.1)
    optimizer.build(model.trainable_variables)
    message = r"built for the variables of the model 'first'.*Make a new optimizer"
    with pytest.raises(ValueError, match=message):
        optimizer.build(other.trainable_variables)
    with pytest.raises(ValueError, match="has state for variables of the model 'first'"):
        optimizer.bind(other)
    optimizer.bind(model)


def test_encoder_and_head_are_two_models():
    encoder = keras.Sequential([keras.Input((4,)), LAYERS.Dense(3, name="code")], name="encoder")
    head = keras.Sequential([keras.Input((3,)), LAYERS.Dense(2, name="out")], name="head")
    inputs = keras.Input((4,))
    joint = keras.Model(inputs, head(encoder(inputs)))
    variables = [*encoder.trainable_variables, *head.trainable_variables]
    groups = split_layers(joint, ["head"])
    for optimizer in (
        MultiGroupOptimizer(groups, [0.0, 0.1], keras.optimizers.SGD()),
        MultiGroupOptimizer(plain(groups), [0.0, 0.1], keras.optimizers.SGD()),
    ):
        optimizer.bind(joint)
        before = [v.numpy() for v in variables]
        optimizer.apply(gradients(variables), variables)
        moved = [not np.array_equal(a, v.numpy()) for a, v in zip(before, variables)]
        assert moved == [False, False, True, True]


def test_bind_checks_its_argument():
    model = mlp()
    optimizer = MultiGroupOptimizer((LayerGroup("all", ("other",)),), 0.1)
    with pytest.raises(TypeError, match="`model` should be a `keras.Model`"):
        optimizer.bind("model")
    with pytest.raises(ValueError, match="names the layer 'other', which the model does not have"):
        optimizer.bind(model)
    assert not optimizer._assignment.is_known


def test_variables_of_no_group_are_named_with_the_nearest_name(samples):
    model = samples["nested"].model()
    groups = (LayerGroup("early", ("backbone/stem", "backbone/norm")), LayerGroup("head", ("top",)))
    assignment = GroupAssignment(groups)
    assignment.bind(model)
    message = (
        r"4 variables belong to no group. Layers that no group claims: "
        r"\['backbone/body', 'body'\]. Layers the groups claim: "
        r"\['backbone/stem', 'backbone/norm', 'top'\]. Did you mean 'backbone/\w+'\? .* freeze it"
    )
    with pytest.raises(ValueError, match=message):
        assignment.resolve(model.trainable_variables, None, has_state=False)
    # Frozen layers need no group.
    model.get_layer("backbone").get_layer("body").trainable = False
    model.get_layer("body").trainable = False
    assignment.resolve(model.trainable_variables, None, has_state=False)


def test_new_variables_of_a_model_are_taken():
    model = mlp()
    assignment = GroupAssignment(split_layers(model, ["top"]))
    model.get_layer("body").enable_lora(2)
    assert assignment.entry_of(model.get_layer("body").lora_kernel_a) is None
    assignment.resolve(model.trainable_variables, None, has_state=True)
    assert assignment.group_of(model.get_layer("body").lora_kernel_a) == 0
    assert assignment.entry_of(model.get_layer("body").bias).key == "0.1"


def test_raw_tensorflow_variables_are_assigned_too():
    class Raw(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.raw = tf.Variable(1.0)
            self.top = LAYERS.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.top(inputs * self.raw)

    model = Raw()
    model(np.zeros((1, 4), "float32"))
    assert variable_key(model.raw) in resolved(split_layerwise(model), [model.raw])


def test_a_model_that_is_not_built_cannot_be_bound():
    optimizer = MultiGroupOptimizer((LayerGroup("all", ("a",)),), 0.1)
    with pytest.raises(ValueError, match=r"is not built, so its variables.*Not built: \["):
        optimizer.bind(keras.Sequential([LAYERS.Dense(2, name="a")]))
