"""Context managers that restore; what a sweep restores is tested in `test_lr_finder.py`."""

from __future__ import annotations

import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.training.restoring import (
    restore_attributes_on_exit,
    restore_generators_on_exit,
    restore_on_exit,
)
from tests.conftest import set_random_seed


def test_variables_are_restored_listed_twice_and_in_half_precision():
    half = keras.Variable(np.array([0.1, -0.0, math.nan], "float16"), dtype="float16")
    plain = tf.Variable([1, 2])
    before = half.numpy().tobytes()
    with pytest.raises(RuntimeError, match="inside"), restore_on_exit([half, plain, half]):
        half.assign([1.0, 1.0, 1.0])
        plain.assign([0, 0])
        raise RuntimeError("inside")
    assert half.numpy().tobytes() == before
    assert plain.numpy().tolist() == [1, 2]


def test_every_copy_of_a_variable_gets_its_own_value_back():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        variable = tf.Variable([1.0, 2.0])
    with restore_on_exit([variable]):
        variable.assign([0.0, 0.0])
    assert [copy.numpy().tolist() for copy in variable.values] == [[1.0, 2.0]]


def test_attributes_are_restored_and_new_ones_deleted():
    class Owner:
        of_the_class = 1

    owner = Owner()
    owner.kept = 2
    with (
        pytest.raises(RuntimeError, match="inside"),
        restore_attributes_on_exit(owner, ["kept", "of_the_class", "made"]),
    ):
        owner.kept, owner.of_the_class, owner.made = 3, 4, 5
        raise RuntimeError("inside")
    assert vars(owner) == {"kept": 2}
    assert owner.of_the_class == 1


def draw():
    """One number from each of the global generators."""
    return [
        random.random(),
        float(np.random.random()),
        float(tf.random.uniform(())),
        float(tf.random.get_global_generator().uniform(())),
        float(keras.random.uniform(())),
        random.random(),
    ]


@pytest.mark.parametrize("used_before", [True, False])
def test_generators_are_restored(used_before):
    def drawn(block):
        set_random_seed(1)
        tf.random.set_global_generator(tf.random.Generator.from_seed(3))
        if used_before:
            draw()
        block()
        return draw()

    def restored():
        with pytest.raises(RuntimeError, match="inside"), restore_generators_on_exit():
            draw()
            raise RuntimeError("inside")

    assert drawn(restored) == drawn(lambda: None)
    assert drawn(draw) != drawn(lambda: None)


def test_the_generator_that_keras_makes_inside_is_removed():
    set_random_seed(1)
    expected = [float(keras.random.uniform(())), random.random()]
    set_random_seed(1)
    with restore_generators_on_exit():
        keras.random.uniform(())
    assert [float(keras.random.uniform(())), random.random()] == expected
