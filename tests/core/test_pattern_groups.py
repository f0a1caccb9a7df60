"""Groups by pattern, of layers and of single variables."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.pattern_groups import split_by_pattern
from dlr_tf.training.freezing import freeze_to
from tests.core.core_helpers import apply_of, assert_same_weights, push, values

LAYERS = keras.layers
PATTERNS: dict[str, Any] = {
    "norm_and_bias": r"(bias|gamma|beta)$",
    "body": r"^(stem|norm|body|backbone|left|right|blocks|twice|embed|attention|offset)",
    "head": lambda path: path.startswith(("top", "head")),
}


def small(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            LAYERS.Dense(3, name="body"),
            LAYERS.BatchNormalization(name="norm"),
            LAYERS.ReLU(name="relu"),
            LAYERS.Dense(2, name="top"),
        ]
    )


def by_path(model: keras.Model, groups: Any) -> dict[str, str]:
    return {e.path: groups[e.group].name for e in assign_variables(model, groups)}


def test_layers_and_variables():
    model = small()
    groups = split_by_pattern(model, PATTERNS)
    assert groups == (
        LayerGroup("norm_and_bias", ("body/bias", "norm", "relu", "top/bias")),
        LayerGroup("body", ("body/kernel",)),
        LayerGroup("head", ("top/kernel",)),
    )
    assert all(group.model is model for group in groups)
    assert by_path(model, groups) == {
        "body/kernel": "body",
        "body/bias": "norm_and_bias",
        **dict.fromkeys(
            ("norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"),
            "norm_and_bias",
        ),
        "top/kernel": "head",
        "top/bias": "norm_and_bias",
    }


def test_the_first_match_counts():
    groups = split_by_pattern(small(), {"all_kernels": "kernel", "rest": re.compile("")})
    assert groups[0].layers == ("body/kernel", "top/kernel")
    assert groups[1].layers == ("body/bias", "norm", "relu", "top/bias")


def test_every_kind_of_model(sample):
    model = sample.model()
    groups = split_by_pattern(model, PATTERNS)
    named = by_path(model, groups)
    assert len(named) == len(model.weights)
    for path, name in named.items():
        if path.endswith(("bias", "gamma", "beta")):
            assert name == "norm_and_bias"


def test_patterns_equal_the_same_groups_by_boundary(sample):
    x, y = sample.data()
    models = []
    for way in ("boundary", "pattern"):
        model = sample.model()
        groups = sample.groups(model)
        if way == "pattern":
            inside = [group.layers for group in groups]
            patterns = {
                group.name: re.compile("|".join(rf"^{re.escape(p)}(/|$)" for p in layers))
                for group, layers in zip(groups, inside)
            }
            if sample.kind == "subclassed":
                patterns["early"] = re.compile(patterns["early"].pattern + "|^offset")
            groups = split_by_pattern(model, patterns)
        optimizer = MultiGroupOptimizer(groups, [1e-3, 1e-2, 1e-1])
        model.compile(optimizer, "mse", run_eagerly=True)
        model.fit(x, y, epochs=2, batch_size=6, shuffle=False, verbose=0)
        models.append(model)
    assert_same_weights(*models)


def optimizer_of(model: keras.Model) -> MultiGroupOptimizer:
    groups = split_by_pattern(model, PATTERNS)
    return MultiGroupOptimizer(
        groups, [1e-3, 1e-2, 1e-1], keras.optimizers.Nadam(), weight_decay=[0.0, 0.1, 0.2]
    )


def test_each_variable_has_the_rate_and_the_decay_of_its_group():
    model = small()
    groups = split_by_pattern(model, PATTERNS)
    sgd = keras.optimizers.SGD()
    optimizer = MultiGroupOptimizer(groups, [0.1, 0.2, 0.4], sgd, weight_decay=[0.0, 0.5, 0.0])
    variables = model.trainable_variables
    before = values(variables)
    optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    for variable, start in zip(variables, before, strict=True):
        path = variable.path.split("/", 1)[-1]
        rate = 0.1
        if path == "body/kernel":
            rate, start = 0.2, start * (1 - 0.2 * 0.5)
        elif path == "top/kernel":
            rate = 0.4
        np.testing.assert_allclose(variable.numpy(), start - rate, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "way",
    [
        "archive",
        "other order",
        *(
            pytest.param(way, marks=pytest.mark.slow)
            for way in ("weights", "checkpoint", "set_weights")
        ),
    ],
)
def test_training_goes_on_bit_for_bit(tmp_path, way):
    model = small()
    optimizer = optimizer_of(model)
    push(apply_of(optimizer), model.trainable_variables)
    model.compile(optimizer, "mse")
    other = small(1)
    other.compile(optimizer_of(other), "mse")
    if way == "archive":
        model.save(tmp_path / "m.keras")
        other = keras.models.load_model(tmp_path / "m.keras")
    elif way == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
    elif way == "other order":
        groups = split_by_pattern(other, PATTERNS)[::-1]
        nadam = keras.optimizers.Nadam()
        reverse = MultiGroupOptimizer(groups, [1e-2] * 3, nadam, weight_decay=[0.2, 0.1, 0.0])
        other.compile(reverse, "mse")
        model.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
    elif way == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(tmp_path / "c")
        checkpoint = tf.train.Checkpoint(model=other, optimizer=other.optimizer)
        checkpoint.restore(path).assert_consumed()
    else:
        other.set_weights(model.get_weights())
        other.optimizer.build(other.trainable_variables)
        other.optimizer.set_weights([v.numpy() for v in optimizer.variables])
    for one in (model, other):
        push(apply_of(one.optimizer), one.trainable_variables, seed=1)
    assert_same_weights(model, other)


def test_other_patterns_are_refused(tmp_path):
    model, other = small(), small()
    optimizer = optimizer_of(model)
    push(apply_of(optimizer), model.trainable_variables)
    model.compile(optimizer, "mse")
    model.save_weights(tmp_path / "m.weights.h5")
    groups = split_by_pattern(other, {**PATTERNS, "norm_and_bias": r"(gamma|beta)$"})
    other.compile(MultiGroupOptimizer(groups, 1e-2, keras.optimizers.Nadam()), "mse")
    with pytest.raises(ValueError, match="groups of the saved optimizer differ"):
        other.load_weights(tmp_path / "m.weights.h5")


def learning(model: keras.Model) -> set[str]:
    return {v.path.split("/", 1)[-1] for v in model.trainable_variables}


def test_groups_of_variables_are_frozen_and_thawed():
    model = small()
    groups = split_by_pattern(model, PATTERNS)
    everything = learning(model)
    kernels = {"body/kernel", "top/kernel"}
    for first, expected in (
        (1, kernels),
        ("head", {"top/kernel"}),
        (3, set()),
        (-2, kernels),
        (0, everything),
    ):
        freeze_to(model, groups, first)
        assert learning(model) == expected
        assert model.get_layer("norm").trainable == (first == 0)
    freeze_to(model, split_layers(model, ["top"]), 1)
    assert learning(model) == {"top/kernel", "top/bias"}
    freeze_to(model, groups, 1)
    assert learning(model) == kernels


def test_a_frozen_variable_does_not_move():
    model = small()
    groups = split_by_pattern(model, PATTERNS)
    model.compile(MultiGroupOptimizer(groups, 1e-2), "mse", run_eagerly=True)
    freeze_to(model, groups, 1)
    before = values(model.weights)
    model.train_on_batch(np.ones((4, 4)), np.zeros((4, 2)))
    paths = [v.path.split("/", 1)[-1] for v in model.weights]
    moved = {
        path
        for path, one, other in zip(paths, before, model.weights, strict=True)
        if not np.array_equal(one, other.numpy())
    }
    assert moved == {"body/kernel", "top/kernel"}


def test_inside_composite_layers():
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            LAYERS.Bidirectional(LAYERS.LSTM(2), name="both"),
            LAYERS.Dense(2, name="top"),
        ]
    )
    groups = split_by_pattern(model, {"biases": "bias$", "body": "^both", "head": "^top"})
    named = by_path(model, groups)
    assert len(named) == len(model.weights)
    assert {path for path, name in named.items() if name == "biases"} == {
        path for path in named if path.endswith("bias")
    }
    freeze_to(model, groups, 1)
    assert not any("bias" in v.path for v in model.trainable_variables)
    assert len(model.trainable_variables) == 5


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        (
            {"biases": "bias$", "head": "^top"},
            ValueError,
            r"Variables without a pattern: \['body/kernel', 'norm/gamma', 'norm/beta'\]. "
            r"Patterns without a variable: \[\]",
        ),
        (
            {"all": "", "late": "^top", "none": "x"},
            ValueError,
            r"Variables without a pattern: \[\]. Patterns without a variable: "
            r"\['late: \^top', 'none: x'\]",
        ),
        (
            {"a": "(", "b": ""},
            ValueError,
            r"group 'a' is not a regular expression: missing \).*'\('",
        ),
        (
            {"a": 3},
            TypeError,
            "to a regular expression or a function of the path. Received: patterns={'a': 3}",
        ),
        ({}, TypeError, "`patterns` should be a dict"),
        (["a"], TypeError, "`patterns` should be a dict"),
        ({"": "."}, ValueError, "`name` should not be empty"),
    ],
)
def test_wrong_patterns_are_refused(patterns, error, message):
    with pytest.raises(error, match=message):
        split_by_pattern(small(), patterns)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            (("a", ("body", "norm")), ("b", ("top", "body/bias"))),
            "'body' is claimed twice.*'a'",
        ),
        ((("a", ("body", "norm")), ("b", ("top/kernle",))), "'top/kernle', .*mean 'top/kernel'"),
    ],
)
def test_wrong_groups_by_hand(groups, message):
    optimizer = MultiGroupOptimizer([LayerGroup(*group) for group in groups], 0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.bind(small())


def test_variables_that_no_group_names():
    model = small()
    groups = [LayerGroup("a", ("body", "norm")), LayerGroup("b", ("top/kernel",))]
    optimizer = MultiGroupOptimizer(groups, 0.1)
    optimizer.bind(model)
    with pytest.raises(ValueError, match="1 variables belong to no group"):
        optimizer.build(model.trainable_variables)
