"""Files of models: what is opened, and that it goes on."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_helpers import POOL, SIZE, body, dense, functional, images, opened

from dlr_tf import MultiGroupOptimizer, split_layers
from dlr_tf.app import models


def test_only_keras_files_are_models() -> None:
    """Keras opens the old format without `safe_mode`."""
    functional([*body(), POOL(), dense()]).save("net.h5")
    message = (
        r"'net\.h5' is no \.keras file.* it in Python: "
        r"keras\.models\.load_model\(.*\)\.save\('net\.keras'\)"
    )
    with pytest.raises(ValueError, match=message):
        models.open_source("net.h5")


def test_weights_that_are_not_numbers() -> None:
    model = functional([*body(), POOL(), dense()])
    model.get_layer("old_head").bias.assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match=r"'net\.keras' holds weights that are NaN or infinite: "):
        opened(model)


def test_infinite_weights_are_refused_where_they_are_trained() -> None:
    model = functional([*body(), POOL(), dense()])
    model.get_layer("old_head").bias.assign(np.full(5, -np.inf))
    with pytest.raises(ValueError, match=r"holds weights that are NaN or infinite: .* diverged"):
        opened(model)
    model.get_layer("old_head").trainable = False  # as the mask of an attention layer
    opened(model)


def test_files_that_cannot_be_loaded() -> None:
    Path("net.keras").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="cannot be loaded: .* a damaged file or another format"):
        models.open_source("net.keras")
    functional([*body(), POOL(), dense()]).save("net.keras")
    content = bytearray(Path("net.keras").read_bytes())
    content[len(content) // 2] ^= 255
    Path("net.keras").write_bytes(content)
    with pytest.raises(ValueError, match="'net.keras' cannot be loaded: .* Bad CRC-32"):
        models.open_source("net.keras")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="folder 'empty' holds no model.keras. Give a folder"):
        models.open_source("empty")
    for name in ("missing.keras", "some/where"):
        with pytest.raises(ValueError, match=f"model '{name}' does not exist: expected a .keras"):
            models.open_source(name)


def test_the_saved_model_goes_on_with_its_optimizer() -> None:
    keras.utils.set_random_seed(0)
    model = models.classifier(functional(body(), "body"), 3)
    groups = split_layers(model, ["body/top", "probabilities"])
    x, y = images(8, SIZE, SIZE, 3), np.arange(8) % 3
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    optimizer = MultiGroupOptimizer(groups, [1e-4, 1e-3, 1e-2])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data, epochs=2, verbose=0, shuffle=False)
    model.save("net.keras")
    loaded = keras.models.load_model("net.keras")
    assert loaded.evaluate(data, verbose=0) == model.evaluate(data, verbose=0)
    assert isinstance(loaded.optimizer, MultiGroupOptimizer)
    assert int(loaded.optimizer.iterations.numpy()) == 4
    assert loaded.optimizer.groups == tuple(groups)
    for twin in (model, loaded):
        keras.utils.set_random_seed(1)
        twin.fit(data, epochs=1, verbose=0, shuffle=False)
    assert int(loaded.optimizer.iterations.numpy()) == 6
    # Dropout draws other numbers; what has none before it in the step is the same.
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        assert ours.shape == theirs.shape
    assert loaded.predict(images(2, 50, 40, 3), verbose=0).shape == (2, 3)
