"""MLflow: autologging of training, and the model that it logs."""

from __future__ import annotations

import importlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import dlr_tf
from dlr_tf.training.learning_rate_logger import LearningRateLogger
from tests.integrations.integration_helpers import (
    BATCH,
    EPOCHS,
    RATES,
    STEPS,
    make_data,
    make_model,
    rates_at_ends,
)

mlflow = pytest.importorskip("mlflow", reason='needs `pip install "dlr_tf[test-integrations]"`')
pytestmark = [
    pytest.mark.slow,
    # MLflow's own tables use an option that SQLAlchemy will remove.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    # About a function of MLflow's own; the text begins with codes for a colour.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]


@pytest.fixture(params=["keras", "tensorflow"])
def flavor(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The module with `autolog`; what it logs goes to a data base in `tmp_path`."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    # MLflow loads the model in another process, to see which packages it needs.
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    module = importlib.import_module(f"mlflow.{request.param}")
    yield module
    module.autolog(disable=True, silent=True)
    mlflow.set_tracking_uri(None)


def metrics_of(run: Any) -> dict[str, list[float]]:
    client = mlflow.MlflowClient()
    names = client.get_run(run.info.run_id).data.metrics
    history = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return {name: [m.value for m in sorted(h, key=lambda m: m.step)] for name, h in history.items()}


def test_rates_and_settings_are_logged(flavor: Any) -> None:
    flavor.autolog(log_models=False, log_datasets=False)
    with mlflow.start_run() as run:
        history = make_model().fit(
            *make_data(),
            batch_size=BATCH,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[LearningRateLogger()],
        )
    metrics = metrics_of(run)
    used = np.transpose(rates_at_ends())
    np.testing.assert_allclose(metrics["learning_rate/body"], used[0], rtol=1e-6)
    np.testing.assert_allclose(metrics["learning_rate/head"], used[1], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], history.history["loss"], rtol=1e-6)
    params = mlflow.get_run(run.info.run_id).data.params
    prefix = {"mlflow.keras": "optimizer", "mlflow.tensorflow": "opt"}[flavor.__name__]
    assert params["batch_size"] == str(BATCH)
    assert params[f"{prefix}_name"] == "multi_group_optimizer"
    assert "'head'" in params[f"{prefix}_groups"]
    assert f"'initial_learning_rate': {RATES[1]}" in params[f"{prefix}_learning_rate"]


def test_fine_tune_and_the_range_test_under_autologging(flavor: Any) -> None:
    flavor.autolog(log_models=False, log_datasets=False)
    x, y = make_data()
    model = make_model(list(RATES))
    with mlflow.start_run() as run:
        sweep = dlr_tf.find_learning_rate(model, x, y, steps=STEPS, batch_size=BATCH, verbose=0)
    assert len(sweep.losses) == STEPS
    assert len(metrics_of(run)["loss"]) == 1  # `fit` made the sweep, so MLflow logs it

    def tune(**arguments: Any) -> keras.callbacks.History:
        return dlr_tf.fine_tune(
            model,
            model.optimizer.groups,
            (x, y),
            learning_rate=list(RATES),
            schedule="constant",
            epochs=2,
            frozen_epochs=1,
            callbacks=[LearningRateLogger()],
            verbose=0,
            **arguments,
        )

    with mlflow.start_run() as run:
        history = tune(batch_size=BATCH)
    metrics = metrics_of(run)
    np.testing.assert_allclose(metrics["loss"], history.history["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["learning_rate/body"], [math.nan, RATES[0]])  # frozen first
    np.testing.assert_allclose(metrics["learning_rate/head"], [RATES[1]] * 2)
    with pytest.raises(TypeError, match="have no argument `batch_sise`.*mean 'batch_size'"):
        tune(batch_sise=BATCH)


def test_settings_that_are_too_long_for_mlflow_do_not_stop_the_training(flavor: Any) -> None:
    flavor.autolog(log_models=False, log_datasets=False)
    layers = [keras.layers.Dense(1, name=f"layer_{number}") for number in range(60)]
    model = keras.Sequential([keras.Input((1,)), *layers])
    groups = dlr_tf.split_layerwise(model)
    model.compile(dlr_tf.MultiGroupOptimizer(groups, 0.25), "mse", run_eagerly=True)
    with mlflow.start_run() as run:
        history = model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
    assert metrics_of(run)["loss"] == pytest.approx(history.history["loss"], rel=1e-6)
    params = mlflow.get_run(run.info.run_id).data.params
    longest = max(params.values(), key=len)
    assert len(longest) == 6000
    assert "FusedAdam" in longest


def test_the_logged_model_gives_the_same_predictions_and_continues(flavor: Any) -> None:
    flavor.autolog(log_datasets=False)
    x, y = make_data()
    model = make_model()
    with mlflow.start_run() as run:
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    loaded = flavor.load_model(f"runs:/{run.info.run_id}/model")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert int(loaded.optimizer.iterations) == EPOCHS * STEPS
    for one in (model, loaded):
        one.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
