"""The texts that a network is built for: how many of them are an example, and how long they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

LIMIT = 512  # tokens, for a network that has no limit of its own
_SHORTEST = 8
_NOUNS = ("single texts", "pairs of texts")
_HELD = 0.99  # the share of the texts that are read to their end


def tokenized(preprocessor: Any, texts: Any) -> dict[str, Any]:
    """Return the tokens of a batch of texts, or of pairs of texts, inside a TensorFlow function."""
    segments = tuple(tf.unstack(texts, 2, axis=1)) if texts.shape.rank == 2 else texts
    # A tuple alone would be taken for an example and its label.
    found: dict[str, Any] = preprocessor(segments, None)
    return found


@dataclasses.dataclass
class TextInput:
    """The texts that a network is built for.

    Args:
        label: What to call the network in an error.
        preprocessor: Of KerasHub; `None` for a file, in which it cannot be changed.
        limit: The longest text in tokens.
        columns: The number of texts of an example: 1, or 2 for pairs.
    """

    label: str
    preprocessor: Any = None
    limit: int = LIMIT
    columns: int = 1

    def fit(self, texts: np.ndarray, length: int | None = None) -> str:
        """Set the number of columns and of tokens for the texts to train on.

        Args:
            texts: Array of strings, of shape `(texts,)` or `(texts, 2)`.
            length: Number of tokens. Defaults to `None`: a multiple of 8 that holds 99 of 100
                texts.

        Returns:
            A line that says how many tokens are read, empty where that is part of a file.

        Raises:
            ValueError: If the network cannot be built for these texts.
        """
        columns = texts.shape[1] if texts.ndim == 2 else 1
        if self.preprocessor is None:
            if length is not None:
                raise ValueError(
                    f"{self.label} reads texts of a fixed length: leave --sequence-length out."
                )
            if columns != self.columns:
                known, given = (_NOUNS[count - 1] for count in (self.columns, columns))
                raise ValueError(
                    f"{self.label} takes {known}, and DATA has {given}. Give --text-column."
                )
            return ""
        if length is not None and not _SHORTEST <= length <= self.limit:
            raise ValueError(
                f"--sequence-length should be from {_SHORTEST} to {self.limit}, the longest text "
                f"that {self.label} reads. Received: --sequence-length {length}"
            )
        self.columns = columns
        lengths = self._lengths(texts)
        if length is None:
            needed = int(np.quantile(lengths, _HELD, method="higher"))
            length = min(max(-(-needed // 8) * 8, _SHORTEST), self.limit)
        self.preprocessor.sequence_length = length
        longer = int((lengths > length).sum())
        return (
            f"texts are read up to {length} tokens (--sequence-length): {longer:,} of "
            f"{len(texts):,} {'is' if longer == 1 else 'are'} longer and cut"
        )

    @property
    def length(self) -> int | None:
        """The number of tokens that are read; `None` where it is not known."""
        return None if self.preprocessor is None else self.preprocessor.sequence_length

    def _lengths(self, texts: np.ndarray) -> np.ndarray:
        # One more than the limit would not tell more: the tokenizer cuts there.
        self.preprocessor.sequence_length = self.limit

        def count(batch: tf.Tensor) -> tf.Tensor:
            mask = tokenized(self.preprocessor, batch)["padding_mask"]
            return tf.reduce_sum(tf.cast(mask, "int32"), axis=1)

        batches = tf.data.Dataset.from_tensor_slices(texts).batch(256).map(count)
        return np.concatenate([*batches.as_numpy_iterator()])
