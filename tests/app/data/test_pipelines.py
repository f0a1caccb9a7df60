"""No pipeline of the command is tuned by TensorFlow, since deleting its iterators could wait."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from dlr_tf import find_learning_rate, fine_tune, split_layers
from dlr_tf.app import cli
from dlr_tf.app.data import image_files
from dlr_tf.training.training_data import without_autotuning
from tests.scripts import slow_iterators


@contextlib.contextmanager
def read_datasets() -> Iterator[list[bool]]:
    """A list that gets, for each iterator that is made, whether its pipeline is tuned."""
    make, tuned = tf.data.Dataset.__iter__, []

    def recorded(dataset: tf.data.Dataset) -> Any:
        tuned.append(dataset.options().autotune.enabled is not False)
        return make(dataset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.data.Dataset, "__iter__", recorded)
        yield tuned


def output_of(code: str) -> str:
    """What Python prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def a_model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3, activation="softmax")]
    )


def some_data() -> tf.data.Dataset:
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, np.arange(64) % 3)).batch(8)


def test_the_record_sees_a_pipeline_that_is_tuned() -> None:
    with read_datasets() as tuned:
        list(some_data())
        list(without_autotuning(some_data()).prefetch(1))
        model = a_model()
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(some_data(), shuffle=False, verbose=0)
    assert tuned[:2] == [True, False]
    assert all(tuned[2:])


@pytest.mark.slow
def test_the_embedded_task(quick_digits: None) -> None:
    arguments = ["--epochs", "1", "--compare-seeds", "1", "--output", "out"]
    with read_datasets() as tuned:
        assert cli.main(["finetune", *arguments]) == 0
        assert cli.main(["find-lr", "--steps", "20"]) == 0
    assert tuned
    assert not any(tuned)


@pytest.mark.parametrize(
    "kept_bytes", [pytest.param(image_files.KEPT_BYTES, marks=pytest.mark.slow), 0]
)
def test_a_folder(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    kept_bytes: int,
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", kept_bytes)
    arguments = [str(image_folder("images")), "--weights", "none", "--image-size", "16"]
    arguments += ["--epochs", "1", "--augment", "--class-weights", "balanced", "--keep", "best"]
    with read_datasets() as tuned:
        assert cli.main(["finetune", *arguments, "--output", "out"]) == 0
        assert cli.main(["evaluate", "out"]) == 0
    assert tuned
    assert not any(tuned)


def test_a_range_test_of_a_user_s_data() -> None:
    model = a_model()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with read_datasets() as tuned:
        find_learning_rate(model, some_data(), steps=5, verbose=0)
    assert tuned
    assert not any(tuned)
    # What `fine_tune` reads before the training: the labels, and the range test.
    model = a_model()
    with read_datasets() as tuned:
        fine_tune(model, split_layers(model, [model.layers[-1]]), some_data(), epochs=1, verbose=0)
    # `fit` itself, which reads the user's pipeline as it is: twice, to build and to train.
    assert tuned == sorted(tuned)
    assert sum(tuned) == 2
    assert len(tuned) > 2


LEFT_BEHIND = """
import gc
import weakref
import keras
import numpy as np
import tensorflow as tf
from dlr_tf import find_learning_rate

make, made = tf.data.Dataset.__iter__, []

def recorded(dataset):
    iterator = make(dataset)
    made.append(weakref.ref(iterator))
    return iterator

tf.data.Dataset.__iter__ = recorded
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse")
gc.collect()
gc.disable()
x, y = np.zeros((64, 4), "float32"), np.zeros((64, 3), "float32")
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
find_learning_rate(model, dataset, steps=5, verbose=0)
find_learning_rate(model, x, y, batch_size=8, steps=5, verbose=0)
print(len(made), sum(reference() is not None for reference in made))
"""


@pytest.mark.slow
def test_a_range_test_leaves_no_iterator_behind() -> None:
    """What it leaves, the collector would meet later, anywhere."""
    assert output_of(LEFT_BEHIND) == "2 0\n"


OURS = """
from dlr_tf.app.data import image_files, load, load_digits
from tests.scripts.slow_iterators import seconds_to_delete

pretraining, digit_data = load_digits()
image_files.KEPT_BYTES = 0
streamed = load("images", image_size=16, batch_size=4, augmentations=["flip"])
datasets = [pretraining.train_from(0), digit_data.train_from(0), streamed.train_from(0)]
datasets += [digit_data.test.repeat(), streamed.test.repeat()]
print(max(seconds_to_delete(datasets * 6, 12.0)))
"""


@pytest.mark.slow
def test_deleting_an_iterator_does_not_wait(image_folder: Callable[..., Path]) -> None:
    """In a process of its own, after a time in which the period of a tuned pipeline grows."""
    image_folder("images")
    assert float(output_of(OURS)) < 0.3


def test_the_script_for_tensorflow_alone() -> None:
    assert slow_iterators.main(["--seconds", "0.1", "--iterators", "2", "--no-autotune"]) == 0
