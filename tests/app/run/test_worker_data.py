"""One, two and four processes train the same model on the same data."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from app_helpers import write_images

from dlr_tf.app import data
from dlr_tf.app.run.worker_data import own_parts
from tests.scripts.kill_workers import Cluster

ROOT = Path(__file__).parents[3]
ARGUMENTS = ["images", "--model", "small.keras", "--image-size", "16", "--batch-size", "8"]
ARGUMENTS += ["--learning-rate", "1e-3:1e-2", "--epochs", "1", "--keep", "best"]
ARGUMENTS += ["--augment", "flip,crop", "--class-weights", "balanced", "--keep-head"]


def small_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def read_log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_one_two_and_four_processes_end_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last batch are fewer images than processes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    small_model().save("small.keras")
    Path("classes.json").write_text('["a", "b"]')
    for number, name in enumerate("ab"):
        write_images(Path("images/train") / name, 15 - 4 * number, value=40 + 120 * number)
        write_images(Path("images/test") / name, 5, value=60 + 120 * number)
    alone = [sys.executable, "-m", "dlr_tf", "finetune", *ARGUMENTS, "--output", "alone"]
    subprocess.run(alone, check=True, timeout=900)
    expected = keras.models.load_model("alone/model.keras")
    (row,) = read_log(Path("alone"))
    for workers in (2, 4):
        run = Path(f"of_{workers}")
        cluster = Cluster(run, ARGUMENTS, workers)
        try:
            cluster.until_end()
        finally:
            cluster.end()
        found = keras.models.load_model(run / "model.keras")
        for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        (other_row,) = read_log(run)
        for name in ("val_loss", "val_accuracy"):
            assert float(other_row[name]) == pytest.approx(float(row[name]), rel=1e-5)


def test_on_one_device_nothing_changes(tmp_path: Path) -> None:
    for name in "ab":
        write_images(tmp_path / name, 5)
    images = data.load(tmp_path, image_size=4)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    before = dict(vars(strategy))
    with own_parts(strategy, images):
        assert vars(strategy) == before
