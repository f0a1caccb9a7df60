"""The groups learn one by one in a real `fit`."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest

from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.gradual_unfreezing import GradualUnfreezing

# Keras saves variables through NumPy's old protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def three_groups():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "c")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    groups = split_layers(model, ["b", "c"], names=["A", "B", "C"])
    model.compile(MultiGroupOptimizer(groups, 1e-2), loss="mse", run_eagerly=True)
    return model, groups


class Moves(keras.callbacks.Callback):
    """Which layers have moved in each epoch."""

    def __init__(self):
        super().__init__()
        self.moved = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.before = [layer.get_weights()[0] for layer in self.model.layers]

    def on_epoch_end(self, epoch, logs=None):
        self.moved[epoch] = "".join(
            layer.name
            for layer, before in zip(self.model.layers, self.before, strict=True)
            if not np.array_equal(layer.get_weights()[0], before)
        )


def train(model, *members, **arguments):
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    moves = Moves()
    history = model.fit(x, x, verbose=0, callbacks=[*members, moves], **arguments)
    return moves.moved, history.history


def test_one_more_group_learns_each_time():
    model, groups = three_groups()
    optimizer = model.optimizer
    moved, history = train(model, GradualUnfreezing(groups), epochs=4)
    assert moved == {0: "c", 1: "bc", 2: "abc", 3: "abc"}
    assert history["trainable_groups"] == [1, 2, 3, 3]
    assert model.optimizer is optimizer


def test_every_few_epochs():
    _, groups = three_groups()
    unfreezing = GradualUnfreezing(groups, epochs_per_group=2)
    assert [unfreezing.first_trainable_group(epoch) for epoch in range(6)] == [2, 2, 1, 1, 0, 0]


def test_a_run_that_starts_later_starts_at_its_group():
    model, groups = three_groups()
    moved, history = train(model, GradualUnfreezing(groups), initial_epoch=1, epochs=3)
    assert moved == {1: "bc", 2: "abc"}
    assert history["trainable_groups"] == [2, 3]


def test_a_second_fit_starts_with_the_head_again():
    model, groups = three_groups()
    unfreezing = GradualUnfreezing(groups)
    train(model, unfreezing, epochs=3)
    moved, _ = train(model, unfreezing, epochs=2)
    assert moved == {0: "c", 1: "bc"}


def test_a_run_that_was_killed_goes_on_at_its_group(tmp_path):
    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("killed")

    straight, groups = three_groups()
    train(straight, GradualUnfreezing(groups), epochs=3, shuffle=False)

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    model, groups = three_groups()
    with pytest.raises(RuntimeError, match="killed"):
        train(model, GradualUnfreezing(groups), backup, Dies(), epochs=3, shuffle=False)
    resumed, groups = three_groups()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    moved, _ = train(resumed, GradualUnfreezing(groups), backup, epochs=3, shuffle=False)
    assert moved == {2: "abc"}
    for ours, theirs in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_each_group_that_starts_to_learn_is_logged(caplog):
    model, groups = three_groups()
    with caplog.at_level(logging.INFO, logger="dlr_tf.training.gradual_unfreezing"):
        train(model, GradualUnfreezing(groups), epochs=4)
        train(model, GradualUnfreezing(groups), initial_epoch=1, epochs=2)
    assert [record.getMessage() for record in caplog.records] == [
        "Epoch 1: starts to train C.",
        "Epoch 2: starts to train B.",
        "Epoch 3: starts to train A.",
        "Epoch 2: starts to train B, C.",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a"],), TypeError, "sequence of `LayerGroup`"),
        ((3,), TypeError, "sequence of `LayerGroup`"),
        (([],), ValueError, "at least one group"),
        (("groups", 0), ValueError, "at least 1. Received: epochs_per_group=0"),
        (("groups", 1.5), TypeError, "should be an integer"),
        (("groups", True), TypeError, "should be an integer"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    _, groups = three_groups()
    arguments = [groups if argument == "groups" else argument for argument in arguments]
    with pytest.raises(error, match=message):
        GradualUnfreezing(*arguments)
