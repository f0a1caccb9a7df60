"""The callback `TensorBoard`: which rates it writes, and what a user gets who does not have it."""

from __future__ import annotations

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.training.learning_rate_logger import LearningRateLogger
from tests.integrations.integration_helpers import (
    BATCH,
    EPOCHS,
    STEPS,
    make_data,
    make_model,
    rates_at,
    rates_at_ends,
)


def scalars(directory: pathlib.Path) -> dict[str, list[float]]:
    """All scalars of the event files, in the order of their steps."""
    found: dict[str, dict[int, float]] = {}
    for path in directory.rglob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.HasField("tensor") and not value.tensor.string_val:
                    number = float(tf.make_ndarray(value.tensor))
                    found.setdefault(value.tag, {})[event.step] = number
    return {tag: [steps[step] for step in sorted(steps)] for tag, steps in found.items()}


def test_rates_are_in_the_event_file(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tensorboard", reason='needs `pip install "dlr_tf[test-integrations]"`')
    model = make_model()
    callbacks = [LearningRateLogger(), keras.callbacks.TensorBoard(tmp_path, write_graph=False)]
    history = model.fit(
        *make_data(), batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks
    )
    found = scalars(tmp_path)
    used = np.transpose(rates_at_ends())
    np.testing.assert_allclose(found["epoch_learning_rate/body"], used[0], rtol=1e-6)
    np.testing.assert_allclose(found["epoch_learning_rate/head"], used[1], rtol=1e-6)
    np.testing.assert_allclose(found["epoch_loss"], history.history["loss"], rtol=1e-6)
    # Keras writes the rate of the head as it is after the epoch: that of the next step.
    after = [rates_at((epoch + 1) * STEPS)[1] for epoch in range(EPOCHS)]
    np.testing.assert_allclose(found["epoch_learning_rate"], after, rtol=1e-6)


def test_without_tensorboard_the_rates_are_recorded_all_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    logger = LearningRateLogger()
    make_model().fit(*make_data(), batch_size=BATCH, verbose=0, callbacks=[logger])
    expected = [rates_at(step)[1] for step in range(STEPS)]
    np.testing.assert_allclose(logger.history["head"], expected, rtol=1e-6)
