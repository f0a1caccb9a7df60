"""Weights & Biases: its Keras callback, offline."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

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

wandb = pytest.importorskip("wandb", reason='needs `pip install "dlr_tf[test-integrations]"`')


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="dlr_tf") as run:
        yield run
    wandb.teardown()


class Logged(keras.callbacks.Callback):
    """What Weights & Biases knows after every batch and every epoch."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run
        self.batches: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(dict(self.run.summary))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(self.run.summary))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_rates_are_logged(run: Any, policy: str) -> None:
    from wandb.integration.keras import WandbMetricsLogger

    logged = Logged(run)
    keras.config.set_dtype_policy(policy)
    try:
        make_model().fit(
            *make_data(),
            batch_size=BATCH,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[LearningRateLogger(), WandbMetricsLogger(log_freq=1), logged],
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert [row["batch/batch_step"] for row in logged.batches] == list(range(EPOCHS * STEPS))
    # The callback reads the rate of the head after the step: that of the next one.
    after = [rates_at(step + 1)[1] for step in range(EPOCHS * STEPS)]
    batches = [row["batch/learning_rate"] for row in logged.batches]
    np.testing.assert_allclose(batches, after, rtol=1e-6)
    for number, name in enumerate(("body", "head")):
        found = [row[f"epoch/learning_rate/{name}"] for row in logged.epochs]
        np.testing.assert_allclose(found, np.array(rates_at_ends())[:, number], rtol=1e-6)
    found = [row["epoch/learning_rate"] for row in logged.epochs]
    np.testing.assert_allclose(found, after[STEPS - 1 :: STEPS], rtol=1e-6)
