"""Folders of empty files, CSV files, and what is found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf.app.data import LabelledFiles


def touch(root: Path, *names: str) -> Path:
    """Make empty files. Only their names count here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listing(found: LabelledFiles) -> dict[str, dict[str, list[str]]]:
    """The files of each class of each part."""
    return {
        split: {
            name: [found.files[i] for i in indices if found.labels[i] == label]
            for label, name in enumerate(found.class_names)
        }
        for split, indices in found.splits.items()
    }


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "labels.csv").write_text(text, encoding=encoding)
    return root / "labels.csv"


def levels(dataset: tf.data.Dataset) -> list[tuple[float, int]]:
    """Each image's brightness and label, sorted."""
    pairs = [
        (float(image[0, 0, 0]), int(label)) for batch in dataset for image, label in zip(*batch)
    ]
    return sorted(pairs)


def sizes(batches: Any) -> list[int]:
    return [len(labels) for _, labels in batches]


def assert_same_batches(one: tf.data.Dataset, other: tf.data.Dataset) -> None:
    pairs = list(zip(one, other, strict=True))
    assert pairs
    for batch, other_batch in pairs:
        for part, other_part in zip(batch, other_batch, strict=True):
            np.testing.assert_array_equal(part, other_part)
