"""The file of a checkpoint: exact, whole, and refused where it is damaged."""

from __future__ import annotations

import errno
import io
import math
import os
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf import MultiGroupOptimizer, split_layers
from dlr_tf.app.results import WriteError
from dlr_tf.app.run.checkpoint import (
    CheckpointError,
    assign_arrays,
    load_optimizer,
    optimizer_arrays,
    read_checkpoint,
    variable_arrays,
    write_checkpoint,
)

PATH = Path("training.npz")


def test_arrays_and_record_come_back_exactly() -> None:
    arrays = {
        "a/kernel": np.array([[0.1, -0.0], [math.nan, math.inf]], np.float32),
        "seed": np.array([2**32 - 1], np.uint32),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(3),
        "half": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    }
    record = {"epoch": 3, "history": {"loss": [0.1, math.nan]}}
    write_checkpoint(PATH, arrays, record)
    found, found_record = read_checkpoint(PATH)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    assert found_record["history"]["loss"][0] == 0.1
    assert math.isnan(found_record["history"]["loss"][1])
    assert os.listdir() == [PATH.name]


def test_no_file() -> None:
    assert read_checkpoint(PATH) is None


def other_npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, x=np.zeros(2))
    return content.getvalue()


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "text", "foreign"])
def test_damaged_and_foreign_files(damage: str) -> None:
    write_checkpoint(PATH, {"x": np.arange(1000.0)}, {})
    content = PATH.read_bytes()
    middle = len(content) // 2
    PATH.write_bytes(
        {
            "truncated": content[:middle],
            "changed": content[:middle] + b"\xff\x00\xff" + content[middle + 3 :],
            "empty": b"",
            "text": b"precious",
            "foreign": other_npz(),
        }[damage]
    )
    with pytest.raises(
        CheckpointError, match=r"'training.npz' cannot be read: it is damaged, or was"
    ):
        read_checkpoint(PATH)


def test_a_checkpoint_of_another_format() -> None:
    from dlr_tf.app.run import checkpoint

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        write_checkpoint(PATH, {}, {})
    with pytest.raises(CheckpointError, match="format 99, not 1"):
        read_checkpoint(PATH)


def test_a_full_disk_leaves_the_checkpoint_before(monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(PATH, {"x": np.ones(3)}, {"epoch": 1})
    before = PATH.read_bytes()

    def full(file: Any, **arrays: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(WriteError, match="'training.npz' could not be written: No space left on"):
        write_checkpoint(PATH, {"x": np.zeros(3)}, {"epoch": 2})
    assert PATH.read_bytes() == before
    assert os.listdir() == [PATH.name]


def test_variables_that_do_not_fit_are_not_written() -> None:
    variables = [keras.Variable([1.0, 2.0]), keras.Variable(3.0)]
    arrays = variable_arrays(variables, "model")
    for wrong in (
        {"model/0/0": arrays["model/0/0"]},
        arrays | {"model/2/0": np.array(0.0)},
        arrays | {"model/1/0": np.zeros(2)},
    ):
        zeros = {name: np.zeros_like(array) for name, array in wrong.items()}
        with pytest.raises(
            CheckpointError, match="does not fit: it has . arrays for the 2 variables"
        ):
            assign_arrays(variables, "model", zeros)
    assert variables[0].numpy().tolist() == [1.0, 2.0]


def trained(policy: str, seed: int, steps: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="body", dtype=policy),
            keras.layers.Dropout(0.5, dtype=policy),
            keras.layers.Dense(2, name="top", dtype=policy),
        ]
    )
    optimizer: Any = MultiGroupOptimizer(split_layers(model, ["top"]), [1e-3, 1e-2])
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, dynamic_growth_steps=3)
    model.compile(optimizer, "mse", run_eagerly=True)
    optimizer.build(model.trainable_variables)
    train(model, range(steps))
    return model


def train(model: keras.Model, steps: range) -> None:
    for step in steps:
        rng = np.random.default_rng(step)
        model.train_on_batch(rng.normal(size=(4, 3)), rng.normal(size=(4, 2)))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_model_goes_on_bit_for_bit(policy: str) -> None:
    first = trained(policy, seed=0, steps=4)
    model_arrays = variable_arrays(first.variables, "model")
    write_checkpoint(PATH, model_arrays | optimizer_arrays(first), {})
    train(first, range(4, 8))

    second = trained(policy, seed=1, steps=0)
    arrays, _ = read_checkpoint(PATH)
    assign_arrays(second.variables, "model", arrays)
    load_optimizer(second, arrays)
    train(second, range(4, 8))
    for found, expected in zip(second.variables, first.variables, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    expected = optimizer_arrays(first)
    found = optimizer_arrays(second)
    assert found.keys() == expected.keys()
    assert any(name.startswith("loss scale/") for name in found) == (policy == "mixed_float16")
    # The manifest names the variables, and Keras counts its automatic names on.
    for name in expected.keys() - {"optimizer/manifest"}:
        assert found[name].tobytes() == expected[name].tobytes(), name


def test_each_device_has_its_own_copy() -> None:
    strategy = tf.distribute.MirroredStrategy(["cpu:0"])
    with strategy.scope():
        variable = keras.Variable(1.0)
    arrays = variable_arrays([variable], "model")
    variable.assign(2.0)
    assign_arrays([variable], "model", arrays)
    assert list(arrays) == ["model/0/0"]
    assert float(variable.numpy()) == 1.0
