"""A few examples of each class, for a quick try."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dlr_tf.app.data.labelled_files import LabelledFiles
from dlr_tf.app.data.targets import strata
from dlr_tf.app.data.texts import LabelledTexts
from dlr_tf.app.data.tfds import TfdsSource

_STREAM = 2  # of random numbers; those of the splits are 0 and 1


def limited(found: Any, limit: int | None, seed: int) -> Any:
    """Return a source with at most `limit` examples of each class in each split.

    Several labels count as their rarest one, and numbers are all of one class. The same seed gives
    the same examples.

    Raises:
        ValueError: If the source is a data set of TensorFlow Datasets.
    """
    if limit is None:
        return found
    if isinstance(found, TfdsSource):
        raise ValueError(
            f"--limit is for files and tables, and not for tfds:{found.name}, whose classes are "
            "known only after it is read. Leave it out."
        )
    groups = strata(found.kind, found.labels)
    kept = {split: _some(indices, groups, limit, seed) for split, indices in found.splits.items()}
    order = np.unique(np.concatenate([*kept.values()]))
    splits = {split: np.searchsorted(order, indices) for split, indices in kept.items()}
    some: dict[str, Any] = {"labels": found.labels[order], "splits": splits}
    if isinstance(found, LabelledTexts):
        some["texts"] = found.texts[order]
    elif isinstance(found, LabelledFiles):
        some["files"] = [found.files[index] for index in order]
    return dataclasses.replace(found, **some)


def _some(indices: np.ndarray, groups: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Return the indices of at most `limit` examples of each group, in their order."""
    chosen = [indices[:0]]
    for group in np.unique(groups[indices]):
        random = np.random.default_rng([seed, _STREAM, int(group)])
        chosen.append(random.permutation(indices[groups[indices] == group])[:limit])
    return np.sort(np.concatenate(chosen))
