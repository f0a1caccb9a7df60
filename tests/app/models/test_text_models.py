"""Networks for texts: presets of KerasHub, and `.keras` files that take strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from text_helpers import write_preset

from dlr_tf import split_layerwise
from dlr_tf.app import models

hub = pytest.importorskip("keras_hub")
pytestmark = pytest.mark.filterwarnings("ignore")  # of KerasHub itself
TEXTS = np.array(["the cat meows", "a Dog", "the loudly cat and the small old dog"], object)


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("preset")
    write_preset(folder)
    return str(folder)


def built(source: models.Source, texts: np.ndarray, length: int | None = None) -> keras.Model:
    assert source.texts is not None
    source.texts.fit(texts, length)
    return source.build(["cat", "dog"])


def test_a_preset_reads_strings(preset: str, tmp_path: Path) -> None:
    source = models.open_source(f"hub:{preset}")
    assert source.texts is not None
    assert (source.image_size, source.texts.fit(TEXTS)) == (
        None,
        "texts are read up to 16 tokens (--sequence-length): 0 of 3 are longer and cut",
    )
    model = source.build(["cat", "dog"])
    # KerasHub's own way, in plain steps.
    preprocessor = hub.models.TextClassifierPreprocessor.from_preset(preset, sequence_length=16)
    tokens = preprocessor(list(TEXTS))
    vectors = hub.models.Backbone.from_preset(preset)(tokens)["sequence_output"]
    mask = np.asarray(tokens["padding_mask"], "float32")[..., None]
    expected = (vectors * mask).numpy().sum(1) / mask.sum(1)
    pooled = keras.Model(model.inputs, model.get_layer("pooling").output)
    np.testing.assert_allclose(pooled(tf.constant(TEXTS)), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = models.load_model_file(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(tf.constant(TEXTS)), model(tf.constant(TEXTS)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert model.jit_compile is False
    names = [group.name.rsplit("/", 1)[-1] for group in split_layerwise(model)]
    assert names == ["token_embedding", "transformer_layer_0", "transformer_layer_1", models.HEAD]


def test_the_length_of_texts(preset: str) -> None:
    texts = models.open_source(f"hub:{preset}").texts
    assert texts is not None
    assert texts.fit(TEXTS, 8).endswith("8 tokens (--sequence-length): 1 of 3 is longer and cut")
    # One of 100 texts may be longer.
    many = np.array(["the cat"] * 199 + ["the cat " * 20], object)
    assert texts.fit(many).endswith("8 tokens (--sequence-length): 1 of 200 is longer and cut")
    longest = texts.fit(many[-1:])
    assert longest.endswith("32 tokens (--sequence-length): 0 of 1 are longer and cut")
    with pytest.raises(ValueError, match="should be from 8 to 32, the longest text that The"):
        texts.fit(TEXTS, 33)


def test_pairs(preset: str) -> None:
    pairs = np.stack([TEXTS, TEXTS[::-1]], axis=1)
    model = built(models.open_source(f"hub:{preset}"), pairs)
    assert (model.input_shape, models.text_columns(model)) == ((None, 2), 2)
    there = model(tf.constant(pairs))
    assert not np.allclose(there, model(tf.constant(pairs[:, ::-1])))
    assert [x.shape for x in models.example_inputs(model)] == [(4, 2)]


def test_a_file_that_takes_strings(preset: str) -> None:
    model = built(models.open_source(f"hub:{preset}"), TEXTS)
    model.save("first.keras")
    source = models.open_source("first.keras")
    again = built(source, TEXTS)
    assert "layer 'probabilities', is replaced" in source.note
    body = [m.get_layer("pooling").output for m in (model, again)]
    first, second = (keras.Model(m.inputs, x) for m, x in zip((model, again), body, strict=True))
    np.testing.assert_array_equal(first(tf.constant(TEXTS)), second(tf.constant(TEXTS)))
    Path("classes.json").write_text('["dog", "cat"]')
    kept = built(models.open_source("first.keras", keep_head=True), TEXTS)
    outputs = model(tf.constant(TEXTS))
    np.testing.assert_allclose(kept(tf.constant(TEXTS)), outputs[:, ::-1], atol=1e-6)
    with pytest.raises(ValueError, match="fixed length: leave --sequence-length out"):
        built(source, TEXTS, 16)
    with pytest.raises(ValueError, match="takes single texts, and DATA has pairs of texts"):
        built(source, np.stack([TEXTS, TEXTS], axis=1))
    with pytest.raises(ValueError, match="takes texts: leave --image-size out"):
        models.open_source("first.keras", image_size=32)


def test_presets_that_cannot_be_used(preset: str, tmp_path: Path) -> None:
    write_preset(tmp_path / "few", vocabulary_size=9)
    with pytest.raises(ValueError, match="a tokenizer that does not fit: it knows 16 tokens"):
        models.open_source(f"hub:{tmp_path / 'few'}")
    with pytest.raises(ValueError, match="--image-size is for images, and the network takes"):
        models.open_source(f"hub:{preset}", image_size=32)
    (tmp_path / "few" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer for the classification of texts"):
        models.open_source(f"hub:{tmp_path / 'few'}")


def test_random_weights(preset: str) -> None:
    weights: list[Any] = [
        built(models.open_source(f"hub:{preset}", weights=w), TEXTS).weights[0].numpy()
        for w in (None, None, "none")
    ]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.allclose(weights[0], weights[2])
