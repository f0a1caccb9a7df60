"""The warning about batch normalization of a pretrained network that nobody decided on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.batch_norm import is_pretrained
from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.freezing import freeze_batch_norm, freeze_to, unfreeze_batch_norm

X, Y = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.ones((8, 2), "float32")
CHANGES = r"batch normalization of a pretrained network.*freeze_batch_norm.*Layers: \['norm'"


def base(*, pretrained: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="stem"), norm])
    if pretrained:
        norm.moving_mean.assign([1.0, -1.0, 0.0])
        norm.moving_variance.assign([0.2, 3.0, 1.0])
    return model


def with_head(body: keras.Model) -> keras.Model:
    """As the guide of Keras builds it."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(body(inputs, training=False)))


def compiled(model: keras.Model) -> keras.Model:
    groups = split_layers(model, ["head"])
    model.compile(MultiGroupOptimizer(groups, 1e-3), "mse", run_eagerly=True)
    return model


def fit(model: keras.Model) -> None:
    model.fit(X, Y, batch_size=4, verbose=0)


def test_training_it_is_warned_of_once():
    model = compiled(with_head(base(pretrained=True)))
    with pytest.warns(UserWarning, match=CHANGES) as caught:
        fit(model)
    assert len(caught) == 1
    fit(model)


def test_a_compiled_step_is_warned_of_too():
    model = with_head(base(pretrained=True))
    optimizer = MultiGroupOptimizer(split_layers(model, ["head"]), 1e-3)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    with pytest.warns(UserWarning, match=CHANGES):
        step()
    step()


@pytest.mark.parametrize("decide", [freeze_batch_norm, unfreeze_batch_norm])
@pytest.mark.parametrize("late", [False, True])
def test_who_has_decided_is_not_warned(decide: Any, late: bool):
    model = with_head(base(pretrained=True))
    if not late:
        decide(model)
    compiled(model)
    if late:
        model.optimizer.build(model.trainable_variables)
        decide(model)
    fit(model)


def test_a_new_model_is_not_warned_of():
    model = compiled(with_head(base(pretrained=False)))
    fit(model)
    fit(model)
    compiled(model)  # after four batches
    fit(model)


def test_a_new_model_that_has_seen_a_batch_is_not_warned_of():
    """In an eager loop the optimizer is built after the first forward pass."""
    model = with_head(base(pretrained=False))
    optimizer = MultiGroupOptimizer(split_layers(model, ["head"]), 1e-3)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(0 * X, training=True) - Y) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))


def test_a_training_that_is_loaded_goes_on_without_a_warning(tmp_path):
    model = compiled(with_head(base(pretrained=False)))
    fit(model)
    model.layers[1].get_layer("norm").moving_variance.assign([0.2, 3.0, 1.0])
    model.save(tmp_path / "model.keras")
    fit(keras.models.load_model(tmp_path / "model.keras"))
    model.save_weights(tmp_path / "model.weights.h5")
    again = compiled(with_head(base(pretrained=False)))
    again.load_weights(tmp_path / "model.weights.h5")
    fit(again)


def test_frozen_layers_are_warned_of_when_they_are_thawed():
    model = with_head(base(pretrained=True))
    groups = split_layers(model, ["head"])
    freeze_to(model, groups, "head")
    compiled(model)
    fit(model)
    freeze_to(model, groups, 0)
    with pytest.warns(UserWarning, match=CHANGES):
        fit(model)


def test_what_is_frozen_by_hand_is_not_warned_of():
    model = with_head(base(pretrained=True))
    model.layers[1].get_layer("norm").trainable = False
    fit(compiled(model))


def test_statistics_without_weights_are_warned_of():
    model = with_head(base(pretrained=True))
    norm = keras.layers.BatchNormalization(center=False, scale=False, name="norm")
    norm.build((None, 4))
    norm.moving_variance.assign([0.2] * 4)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(2, name="head")])
    model.compile(MultiGroupOptimizer(split_layers(model, []), 1e-3), "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match=CHANGES):
        fit(model)


def test_few_batches_are_no_training():
    layer = keras.layers.BatchNormalization(momentum=0.9)
    layer.build((None, 1))
    for n_batches, expected in ((0, False), (9, False), (11, True)):
        layer.moving_variance.assign([0.9**n_batches])
        assert is_pretrained(layer) == expected
    assert not is_pretrained(keras.layers.BatchNormalization())
