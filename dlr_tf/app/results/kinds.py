"""The kinds of targets by their names. A new kind is an entry of `KINDS`."""

from __future__ import annotations

import dataclasses
from typing import Any

from dlr_tf.app.results.evaluation import OneClass
from dlr_tf.app.results.labels import SeveralLabels
from dlr_tf.app.results.numbers import Numbers
from dlr_tf.app.results.target import Target

KINDS: dict[str, type[Target]] = {kind.kind: kind for kind in (OneClass, SeveralLabels, Numbers)}


def target_of(kind: str, **described: Any) -> Target:
    """Return a target of a kind. What other kinds are described by is ignored.

    >>> target_of("labels", class_names=("a", "b"), thresholds=(0.2, 0.3), means=()).thresholds
    (0.2, 0.3)
    """
    names = {field.name for field in dataclasses.fields(KINDS[kind])}
    return KINDS[kind](**{name: value for name, value in described.items() if name in names})
