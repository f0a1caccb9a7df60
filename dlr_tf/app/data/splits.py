"""The splits of data: what they are called, and which examples are held out.

By hand, since a choice must be the same for the same seed in every version of every library: a run
that is resumed, or a model that is scored later, must never test on what it was trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app.data.image_data import Settings
from dlr_tf.app.data.targets import CLASS, LABELS, NUMBER, strata
from dlr_tf.core._validation import warn_user

# In any case, and with "_set" or "-set" at the end.
_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
# What the examples of a split are for.
PURPOSE = {"train": "train on", "validation": "validate on", "test": "test on"}
TEST_FRACTION = 0.2  # of the training examples, if there are no others
FOR_THRESHOLDS = 0.1  # of the training examples, for the thresholds of labels
# Which split a model is scored on, the first one that there is.
TO_SCORE = ("test", "validation", "train")


def split_named(name: str) -> str | None:
    """Return the split that a name means, `None` if it means none.

    >>> split_named("Training"), split_named("val"), split_named("test_set"), split_named("cat")
    ('train', 'validation', 'test', None)
    """
    name = name.lower()
    for ending in ("_set", "-set"):
        name = name.removesuffix(ending)
    return next((split for split, names in _NAMES.items() if name in names), None)


def check_classes(
    name: str, present: Mapping[str, Collection[str]], class_names: Sequence[str], unit: str
) -> list[str]:
    """Check that the classes of every split are among those that are learned.

    Args:
        name: What a message calls the data.
        present: The classes of each split that have examples.
        class_names: The classes that are learned.
        unit: What a message calls an example.

    Returns:
        A warning for each split that lacks classes.

    Raises:
        ValueError: If there are fewer than two classes to train on, or a class is only in "test" or
            "validation".
    """
    if "train" in present and len(class_names) < 2:
        raise ValueError(
            f"The data {name!r} have only one class to train on, {next(iter(class_names), '')!r}. "
            "Expected: two classes or more."
        )
    warnings = []
    for split, names in present.items():
        unknown = sorted({*names} - {*class_names})
        if unknown:
            raise ValueError(
                f"The data {name!r} have classes to {PURPOSE[split]} that are not in the training "
                f"{unit}s: {some_of(unknown)}.{did_you_mean(unknown[0], class_names)} Every class "
                f"needs {unit}s to train on."
            )
        absent = [one for one in class_names if one not in names]
        if absent:
            warnings.append(
                f"There are no {unit}s to {PURPOSE[split]} for {len(absent)} of "
                f"{len(class_names)} classes: {some_of(absent)}."
            )
    return warnings


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
        indices = np.flatnonzero(labels == label)
        if len(indices) > 1:
            count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
            # A class is split the same whatever the others hold, as long as its label stays.
            order = np.random.default_rng([seed, stream, int(label)]).permutation(indices)
            chosen[order[:count]] = True
    return chosen


def complete_splits(
    found: Any, given: Mapping[str, np.ndarray], settings: Settings, unit: str = "image"
) -> dict[str, np.ndarray]:
    """Return "train", "test" and perhaps "validation", after holding out what is asked for.

    Args:
        found: `LabelledFiles` or `LabelledTexts`.
        given: The indices of the examples of each split that can be used. If there is no other
            split than "train", a fifth of it is held out for "test".
        settings: The seed, and the fraction that is held out if there is no "validation" beside
            "test". The thresholds of several labels are chosen on a tenth at least.
        unit: What a message calls an example. Defaults to "image".

    Raises:
        ValueError: If a split would be empty, or something is to be learned of which there are no
            training examples.

    Warns:
        UserWarning: If there are classes with one example, which cannot be held out.
    """
    splits, class_names = dict(given), found.class_names
    labels = strata(found.kind, found.labels)

    def hold_out(fraction: float, split: str) -> None:
        indices = splits["train"]
        stream = 0 if split == "test" else 1
        chosen = held_out(labels[indices], fraction, settings.seed, stream=stream)
        missing = np.setdiff1d(labels[indices], labels[indices[chosen]])
        if found.kind == CLASS and len(missing) and chosen.any():
            warn_user(
                f"There are classes with one {unit}, which is trained on, so that none is left for "
                f"the {split}: {some_of([class_names[label] for label in missing])}."
            )
        splits["train"], splits[split] = indices[~chosen], indices[chosen]

    for_validation = settings.validation_fraction
    if found.kind == LABELS and not for_validation:
        for_validation = FOR_THRESHOLDS
    if len(splits) == 1:
        hold_out(TEST_FRACTION, "test")
    elif "test" not in splits:
        splits["test"] = splits.pop("validation")
    if "validation" not in splits and for_validation > 0:
        hold_out(for_validation, "validation")
    for split in ("test", "validation"):
        if split in splits and not len(splits[split]):
            needed = "two" if for_validation == 0 else "three"
            each = f": every class needs {needed} or more" if found.kind == CLASS else ""
            raise ValueError(
                f"The data {found.name!r} hold {sum(map(len, splits.values()))} {unit}s that can "
                f"be read, too few to keep some for the {split}. Add {unit}s{each}."
            )
    _check_trained(found, found.labels[splits["train"]], unit)
    return {split: splits[split] for split in ("train", "validation", "test") if split in splits}


def _check_trained(found: Any, trained: np.ndarray, unit: str) -> None:
    """Raise a `ValueError` if something is to be learned that no training example tells."""
    every = range(len(found.class_names))
    if found.kind == NUMBER:
        constant = [found.class_names[i] for i in every if len(set(trained[:, i].tolist())) < 2]
        if constant:
            raise ValueError(
                f"The data {found.name!r} have the same number in every training {unit}: "
                f"{some_of(constant)}. Leave it out with --label-column."
            )
        return
    present = set(np.flatnonzero(trained.any(0)) if found.kind == LABELS else trained.tolist())
    untrained = [found.class_names[label] for label in every if label not in present]
    if untrained:
        noun = "classes" if found.kind == CLASS else "labels"
        article = "an" if unit == "image" else "a"
        raise ValueError(
            f"The data {found.name!r} have {noun} without {article} {unit} to train on: "
            f"{some_of(untrained)}. Add {unit}s, or remove these {noun}."
        )
