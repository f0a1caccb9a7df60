"""The numbers that `finetune` writes: report.json."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import dlr_tf
from dlr_tf.app.results.files import write_text
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write numbers, texts, and lists and dicts of these as JSON."""
    write_text(path, json_text(report))


def describe_groups(
    model: keras.Model, groups: Sequence[LayerGroup], learning_rates: Sequence[float]
) -> list[dict[str, Any]]:
    """Return the entry `"groups"` of a report, with the peak rate of each group."""
    parameters = [0] * len(groups)
    for entry in assign_variables(model, groups):
        parameters[entry.group] += math.prod(entry.variable.shape)
    return [
        {"name": group.name, "layers": group.layers, "parameters": count, "learning_rate": rate}
        for group, count, rate in zip(groups, parameters, learning_rates, strict=True)
    ]


def json_text(value: Any) -> str:
    """Return a value as JSON, which has no NaN and no infinity: they become `null`.

    >>> json_text({"loss": [0.5, float("nan")]}).split()
    ['{', '"loss":', '[', '0.5,', 'null', ']', '}']
    """
    return json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """Return a value with `None` for the numbers that JSON cannot write.

    >>> jsonable({"loss": [0.5, float("nan")]})
    {'loss': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scores_name(score: str) -> str:
    """Return the name of the scores of several seeds in report.json.

    >>> scores_name("accuracy"), scores_name("auc_pr")
    ('test_accuracies', 'test_auc_pr_values')
    """
    return "test_accuracies" if score == "accuracy" else f"test_{score}_values"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "dlr_tf": dlr_tf.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
