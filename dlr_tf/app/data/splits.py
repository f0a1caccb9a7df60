"""Which images are held out: a part of every class, chosen by the seed."""

from __future__ import annotations

import numpy as np


def held_out(labels: np.ndarray, fraction: float, seed: int, *, stream: int = 0) -> np.ndarray:
    """Choose examples of every class that are not trained on.

    Of a class with `n` examples, `fraction * n` are chosen, rounded, but at least one and at most
    `n - 1`. None is chosen of a class with one example.

    Args:
        labels: Array of integers: the class of each example.
        fraction: Float above 0 and below 1.
        seed: Int, 0 or more. The same choice for the same seed and labels.
        stream: Int, 0 or more: for choices that do not depend on each other. Defaults to 0.

    Returns:
        Array of bool: whether each example is held out.

    >>> held_out(np.array([0] * 10 + [1] * 3 + [2]), 0.2, seed=0).nonzero()[0].tolist()
    [4, 6, 11]
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) > 1:
            number = min(max(round(fraction * len(places)), 1), len(places) - 1)
            # A class is split the same whatever the others hold, as long as its label stays.
            order = np.random.default_rng([seed, stream, int(label)]).permutation(places)
            chosen[order[:number]] = True
    return chosen
