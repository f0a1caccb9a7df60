"""Weight decay of the inner optimizers, and what is excluded from it."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer


def ones(name: str) -> keras.layers.Layer:
    return keras.layers.Dense(2, name=name, kernel_initializer="ones", bias_initializer="ones")


def make() -> tuple[keras.Model, MultiGroupOptimizer]:
    model = keras.Sequential([keras.Input((2,)), ones("body"), ones("top")])
    groups = split_layers(model, ["top"])
    template = keras.optimizers.AdamW(weight_decay=0.5)
    return model, MultiGroupOptimizer(groups, [0.1, 0.2], template)


def decayed(model: keras.Model, optimizer: Any) -> list[float]:
    """The values after a step with gradients of 0: 1 minus rate times decay."""
    variables = model.trainable_variables
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    return [float(v.numpy().ravel()[0]) for v in variables]


def test_every_group_decays_at_its_own_rate():
    np.testing.assert_allclose(decayed(*make()), [0.95, 0.95, 0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize("by", ["names", "variables"])
def test_the_wrapper_excludes_from_weight_decay_in_every_group(by):
    model, optimizer = make()
    biases = [layer.bias for layer in model.layers]
    if by == "names":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    else:
        optimizer.exclude_from_weight_decay(var_list=biases)
    copied = copy.deepcopy(optimizer)
    made = MultiGroupOptimizer.from_config(optimizer.get_config())
    made.bind(model)
    for each in (optimizer, copied, made):
        for variable in model.weights:
            variable.assign(tf.ones(variable.shape))
        np.testing.assert_allclose(decayed(model, each), [0.95, 1.0, 0.9, 1.0], rtol=1e-6)


def test_exclusions_come_before_building():
    model, optimizer = make()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="should be called before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


def test_exclusions_by_variable_are_saved_before_training(tmp_path):
    model, _ = make()
    groups = [LayerGroup("all", ("body", "top"))]
    optimizer = MultiGroupOptimizer(groups, 0.1, keras.optimizers.AdamW(weight_decay=0.5))
    optimizer.exclude_from_weight_decay(var_list=[model.layers[0].bias])
    model.compile(optimizer, keras.losses.MeanSquaredError())
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(decayed(loaded, loaded.optimizer), [0.95, 1.0, 0.95, 0.95])


def test_names_are_a_list():
    _, optimizer = make()
    with pytest.raises(TypeError, match="`var_names` should be a list of strings.*'bias'"):
        optimizer.exclude_from_weight_decay(var_names="bias")


def test_all_variables_carry_the_name_of_the_optimizer():
    model, _ = make()
    optimizer = MultiGroupOptimizer(
        split_layers(model, ["top"]),
        0.1,
        keras.optimizers.Nadam(),
        name="mine",
        use_ema=True,
        gradient_accumulation_steps=2,
    )
    optimizer.build(model.trainable_variables)
    assert all(v.path.startswith("mine/") for v in optimizer.variables)
    assert len({v.path for v in optimizer.variables}) == len(optimizer.variables)
