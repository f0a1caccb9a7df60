"""The pretraining of the embedded network."""

from __future__ import annotations

import keras
import pytest

from dlr_tf.app.data import load_digits
from dlr_tf.app.run import pretrain_on_digits


def test_pretraining_gives_a_network_without_its_classifier() -> None:
    pytest.importorskip("sklearn")
    keras.utils.set_random_seed(0)
    pretraining, _ = load_digits(batch_size=64)
    backbone, accuracy = pretrain_on_digits(pretraining, epochs=4, verbose=0)
    assert backbone.output_shape == (None, 4 * 4 * 64)
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in backbone.layers)
    assert accuracy > 0.6  # chance is 0.2
