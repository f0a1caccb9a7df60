"""Blocks that leave things as they were; what a sweep preserves is in `test_lr_finder.py`."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.training.restoring import preserved, preserved_attributes


def test_preserved_takes_a_variable_once_and_half_precision():
    half = keras.Variable(np.array([0.1, -0.0, math.nan], "float16"), dtype="float16")
    plain = tf.Variable([1, 2])
    before = half.numpy().tobytes()
    with pytest.raises(RuntimeError, match="inside"), preserved([half, plain, half]):
        half.assign([1.0, 1.0, 1.0])
        plain.assign([0, 0])
        raise RuntimeError("inside")
    assert half.numpy().tobytes() == before
    assert plain.numpy().tolist() == [1, 2]


def test_attributes_come_back_and_new_ones_go():
    class Owner:
        of_the_class = 1

    owner = Owner()
    owner.kept = 2
    with (
        pytest.raises(RuntimeError, match="inside"),
        preserved_attributes(owner, ["kept", "of_the_class", "made"]),
    ):
        owner.kept, owner.of_the_class, owner.made = 3, 4, 5
        raise RuntimeError("inside")
    assert vars(owner) == {"kept": 2}
    assert owner.of_the_class == 1
