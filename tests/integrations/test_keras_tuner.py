"""Keras Tuner: a search over the rate of the head and the ratio between the groups."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from tests.integrations.integration_helpers import BATCH, STEPS, make_data, make_model

keras_tuner = pytest.importorskip(
    "keras_tuner", reason='needs `pip install "dlr_tf[test-integrations]"`'
)
# Keras Tuner uses old names of `threading`.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:(currentThread|getName)\(\) is deprecated:DeprecationWarning:keras_tuner"
)

HEADS, RATIOS = (0.001, 0.25), (1.0, 4.0)


def build(hp: Any) -> keras.Model:
    head, ratio = hp.Choice("head", HEADS), hp.Choice("ratio", RATIOS)
    return make_model(slice(head / ratio, head))


@pytest.mark.slow
def test_a_search_over_head_rate_and_ratio(tmp_path: pathlib.Path) -> None:
    x, y = make_data()
    tuner = keras_tuner.GridSearch(
        build, objective="val_loss", directory=tmp_path, project_name="search"
    )
    tuner.search(x, y, validation_data=(x, y), batch_size=BATCH, shuffle=False, verbose=0)
    trials = tuner.oracle.get_best_trials(4)
    tried = [(t.hyperparameters["head"], t.hyperparameters["ratio"]) for t in trials]
    assert set(tried) == set(itertools.product(HEADS, RATIOS))
    assert len({t.score for t in trials}) == 4  # both hyperparameters reach the training

    head, ratio = tried[0]
    (best,) = tuner.get_best_models(1)
    np.testing.assert_allclose(best.optimizer.learning_rates, [head / ratio, head], rtol=1e-6)
    assert int(best.optimizer.iterations) == STEPS
    twin = make_model(slice(head / ratio, head))
    twin.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    for found, expected in zip(best.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert twin.evaluate(x, y, verbose=0) == pytest.approx(trials[0].score, rel=1e-6)
