"""Weights files of networks without their head."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras


def check_weights(weights: str | None) -> None:
    """Raise a `ValueError` if weights are not `"imagenet"`, `"none"` or the path of a file."""
    if weights not in ("imagenet", "none", None) and not Path(weights).is_file():
        raise ValueError(
            f"The weights file {weights!r} does not exist: expected 'imagenet', 'none' or the path "
            "of a weights file made with include_top=False."
        )


def load_backbone_weights(backbone: keras.Model, path: str, name: str, maker: str) -> None:
    """Load a weights file completely, or raise.

    Args:
        backbone: The network.
        path: The weights file.
        name: What to call the network in an error.
        maker: The expression that makes such a network.

    Raises:
        ValueError: If the file does not hold the weights of this network.
    """
    try:
        with warnings.catch_warnings():
            # Keras only warns if parts of the model are not in the file.
            warnings.filterwarnings("error", message="Skipping nested container")
            backbone.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ValueError(
            f"The weights file {path!r} does not hold the weights of {name} without its top. Give "
            f"a file saved from {maker}, or the model the file belongs to."
        ) from error
