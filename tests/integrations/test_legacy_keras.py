"""Models and optimizers of Keras 2, the package `tf_keras`: one clear line from every function.

With real ones where that package is installed, and with objects whose class says that it is of that
package everywhere.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import dlr_tf
from dlr_tf.core.optimizer import MultiGroupOptimizer

ROOT = pathlib.Path(__file__).parent.parent.parent
MESSAGE = (
    r"Received: .*tf_keras.*\. It is an object of Keras 2, and dlr_tf works with Keras 3\. Make it "
    r"with `keras`, or with `tf\.keras` while the environment variable TF_USE_LEGACY_KERAS is not"
)
GROUPS = tuple(dlr_tf.LayerGroup(name, (name,)) for name in ("body", "head"))
X, Y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")


def stand_in(module: str) -> Any:
    return type("StandIn", (), {"__module__": module})()


@pytest.fixture(params=["stand-in", "tf_keras"])
def legacy(request: pytest.FixtureRequest) -> SimpleNamespace:
    """A model and an optimizer of Keras 2."""
    if request.param == "stand-in":
        return SimpleNamespace(
            model=stand_in("tf_keras.src.engine.sequential"),
            optimizer=stand_in("tf_keras.src.optimizers.adam"),
        )
    tf_keras = pytest.importorskip("tf_keras", reason="needs `pip install tf_keras`")
    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Dense(4, name="body"), layers.Dense(2, name="head")])
    model.build((None, 3))
    return SimpleNamespace(model=model, optimizer=tf_keras.optimizers.Adam())


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "split_layers": lambda model: dlr_tf.split_layers(model, ["head"]),
    "split_evenly": lambda model: dlr_tf.split_evenly(model, 2),
    "split_layerwise": dlr_tf.split_layerwise,
    "freeze_to": lambda model: dlr_tf.freeze_to(model, GROUPS, -1),
    "freeze_batch_norm": dlr_tf.freeze_batch_norm,
    "unfreeze_batch_norm": dlr_tf.unfreeze_batch_norm,
    "fine_tune": lambda model: dlr_tf.fine_tune(
        model, GROUPS, (X, Y), learning_rate=1e-3, epochs=1
    ),
    "find_learning_rate": lambda model: dlr_tf.find_learning_rate(model, X, Y),
    "bind": lambda model: MultiGroupOptimizer(GROUPS, 1e-3).bind(model),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_refuses_a_legacy_model(legacy: SimpleNamespace, name: str) -> None:
    with pytest.raises(TypeError, match=f"Argument `model` should be a `keras.Model`. {MESSAGE}"):
        FUNCTIONS[name](legacy.model)


def test_a_class_that_inherits_from_keras_2_is_of_keras_2() -> None:
    class Own(type(stand_in("tf_keras.src.engine.training"))):  # type: ignore[misc]
        pass

    with pytest.raises(TypeError, match="It is an object of Keras 2"):
        dlr_tf.split_layerwise(Own())
    with pytest.raises(TypeError, match="It is an object of Keras 2"):
        dlr_tf.split_layerwise(stand_in("tensorflow.python.keras.engine.training"))
    with pytest.raises(
        TypeError, match="`keras.Model`. Received: model=.*StandIn object at \\w+>$"
    ):
        dlr_tf.split_layerwise(stand_in("tf_keras_tools"))


def test_a_legacy_optimizer_is_refused(legacy: SimpleNamespace) -> None:
    with pytest.raises(TypeError, match=f"`optimizer` should be a Keras optimizer, .*{MESSAGE}"):
        MultiGroupOptimizer(GROUPS, 1e-3, legacy.optimizer)
    with pytest.raises(TypeError, match=f"An inner optimizer should be .*{MESSAGE}"):
        MultiGroupOptimizer(GROUPS, 1e-3, [legacy.optimizer, keras.optimizers.Adam()])


CALLBACKS: dict[str, Callable[[Any], keras.callbacks.Callback]] = {
    "LearningRateLogger": lambda directory: dlr_tf.LearningRateLogger(),
    "GradualUnfreezing": lambda directory: dlr_tf.GradualUnfreezing(GROUPS),
    "SnapshotEnsemble": lambda directory: dlr_tf.SnapshotEnsemble(dlr_tf.SGDR(0.1, 2), directory),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_refuse_a_legacy_model(
    legacy: SimpleNamespace, name: str, tmp_path: pathlib.Path
) -> None:
    callback = CALLBACKS[name](tmp_path)
    with pytest.raises(TypeError, match=f"`model` should be a `keras.Model`. {MESSAGE}"):
        callback.set_model(legacy.model)
    if hasattr(legacy.model, "fit"):
        legacy.model.compile("sgd", "mse")
        with pytest.raises(TypeError, match=f"`model` should be a `keras.Model`. {MESSAGE}"):
            legacy.model.fit(X, Y, verbose=0, callbacks=[CALLBACKS[name](tmp_path)])


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_variable_does_not_disturb_models_of_keras_3() -> None:
    """Other packages set it, and it only changes `tf.keras`, which dlr_tf does not use."""
    code = """
import keras, numpy as np
import dlr_tf
layers = [keras.layers.Dense(4, name="body"), keras.layers.Dense(2, name="head")]
model = keras.Sequential([keras.Input((3,)), *layers])
groups = dlr_tf.split_layers(model, ["head"])
optimizer = dlr_tf.MultiGroupOptimizer(groups, [0.25, 0.5], "sgd")
model.compile(optimizer, "mse")
model.fit(np.ones((4, 3)), np.zeros((4, 2)), verbose=0, callbacks=[dlr_tf.LearningRateLogger()])
print(optimizer.last_learning_rates.tolist())
"""
    result = run(code, TF_USE_LEGACY_KERAS="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[0.25, 0.5]"
