"""Files that version 1.0.0 wrote load, and hold what it had.

`tests/data/version_1_0_0/make_files.py` made them.
"""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf._versions import release
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.pattern_groups import split_by_pattern
from dlr_tf.core.schedules import SGDR, OneCycle, WarmUp

FILES = pathlib.Path(__file__).parents[1] / "data" / "version_1_0_0"


@pytest.fixture(params=["float32", "mixed_float16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def make_layers() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(5, activation="relu", name="late"),
            keras.layers.Dense(3, dtype="float32", name="head"),
        ],
        name="model",
    )


def make_model(*, reverse: bool = False) -> keras.Model:
    model = make_layers()
    groups = split_layers(model, ["late", "head"], names=["early", "late", "head"])
    rates = [1e-3, SGDR(2e-3, 3), 1e-2]
    order = slice(None, None, -1 if reverse else 1)
    optimizer = MultiGroupOptimizer(
        groups[order],
        rates[order],
        use_ema=True,
        gradient_accumulation_steps=2,
        global_clipnorm=1.0,
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def assert_holds(model: keras.Model, expected: Any, *, order: slice = slice(None)) -> None:
    optimizer = unwrap_optimizer(model.optimizer, MultiGroupOptimizer)
    state = {f"state/{name}": v for name, v in optimizer._state.variables().items()}
    assert state.keys() == {name for name in expected if name.startswith("state/")}
    for name, variable in state.items():
        np.testing.assert_array_equal(variable.numpy(), expected[name], err_msg=name)
    for number, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, expected[f"weights/{number}"])
    assert int(optimizer.step_counter.numpy()) == expected["iterations"] == 5
    assert optimizer.group_steps.numpy()[order].tolist() == expected["steps"].tolist()
    assert optimizer.learning_rates[order] == expected["learning_rates"].tolist()
    if "loss_scale" in expected:
        scale = (model.optimizer.dynamic_scale, model.optimizer.step_counter)
        assert [v.numpy() for v in scale] == expected["loss_scale"].tolist()


@pytest.fixture
def expected(policy):
    return dict(np.load(FILES / f"{policy}.npz"))


# Keras reads `.keras` files of its own and of older versions.
with zipfile.ZipFile(FILES / "float32.keras") as _file:
    WRITTEN_BY = json.loads(_file.read("metadata.json"))["keras_version"]
reads_keras_files = pytest.mark.skipif(
    release(keras.__version__) < release(WRITTEN_BY),
    reason="the `.keras` files were written by a newer Keras",
)


@reads_keras_files
def test_keras_file(policy, expected):
    model = keras.models.load_model(FILES / f"{policy}.keras")
    assert_holds(model, expected)
    x = np.ones((8, 4), "float32")
    model.fit(x, np.zeros(8), batch_size=4, verbose=0)
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize("reverse", [False, True])
def test_weights_file(policy, expected, reverse):
    model = make_model(reverse=reverse)
    if policy == "mixed_float16":  # Keras' `LossScaleOptimizer` loads nothing before it is built
        model.optimizer.build(model.trainable_variables)
    model.load_weights(FILES / f"{policy}.weights.h5")
    assert_holds(model, expected, order=slice(None, None, -1 if reverse else 1))


def test_checkpoint(policy, expected):
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.read(str(FILES / f"{policy}.checkpoint")).assert_consumed()
    assert_holds(model, expected)


def test_checkpoint_before_the_optimizer_is_built():
    expected = dict(np.load(FILES / "float32.npz"))
    model = make_model()
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.read(str(FILES / "float32.checkpoint")).assert_consumed()
    assert_holds(model, expected)


# --- Groups by pattern, momentum and weight decay by schedules, a warm-up, decay to the start ----


def make_model_with_patterns(*, reverse: bool = False) -> keras.Model:
    model = make_layers()
    patterns = {"no_decay": "(bias|gamma|beta)$", "body": "^(body|late)", "head": "^head"}
    rates = [1e-3, WarmUp(SGDR(2e-3, 3), 2), WarmUp(1e-2, 4)]
    decay = keras.optimizers.schedules.PolynomialDecay(0.5, 10, end_learning_rate=0.1)
    order = slice(None, None, -1 if reverse else 1)
    optimizer = MultiGroupOptimizer(
        split_by_pattern(model, patterns)[order],
        rates[order],
        FusedAdam(beta_1=OneCycle(1.0, 20).momentum(0.9, 0.8)),
        weight_decay={"no_decay": 0.0, "body": decay, "head": 0.25},
        decay_to_start={"no_decay": 0.0, "body": 0.5, "head": 0.0},
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture
def expected_patterns():
    return dict(np.load(FILES / "patterns.npz"))


@reads_keras_files
def test_keras_file_with_patterns(expected_patterns):
    model = keras.models.load_model(FILES / "patterns.keras")
    assert_holds(model, expected_patterns)
    made = make_model_with_patterns()
    loaded, config = (one.optimizer.get_config() for one in (model, made))
    assert loaded["learning_rate"][1:] == config["learning_rate"][1:]  # the schedules
    for name in ("groups", "weight_decay", "decay_to_start"):
        assert loaded[name] == config[name]
    for ours, theirs in zip(loaded["optimizer"], config["optimizer"], strict=True):
        assert ours["config"]["beta_1"] == theirs["config"]["beta_1"]
    assert sum(name.endswith(".start") for name in expected_patterns) == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_weights_file_with_patterns(expected_patterns, reverse):
    model = make_model_with_patterns(reverse=reverse)
    model.load_weights(FILES / "patterns.weights.h5")
    assert_holds(model, expected_patterns, order=slice(None, None, -1 if reverse else 1))


def test_checkpoint_with_patterns(expected_patterns):
    model = make_model_with_patterns()
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.read(str(FILES / "patterns.checkpoint")).assert_consumed()
    assert_holds(model, expected_patterns)
