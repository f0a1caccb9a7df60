"""history.csv and report.json."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np

from dlr_tf.app.report import versions, write_history, write_report


def test_history_has_an_empty_cell_where_a_group_was_frozen() -> None:
    nan = math.nan
    history = {
        "loss": [2.0, np.float32(0.5), math.inf],
        "learning_rate/body": [nan, np.float32(nan), 1e-4],
        "learning_rate/head": [0.25, 0.125, 0.0],
    }
    write_history(Path("history.csv"), history)
    text = Path("history.csv").read_text()
    assert "nan" not in text
    with Path("history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["learning_rate/body"] for row in rows] == ["", "", "0.0001"]
    assert [row["learning_rate/head"] for row in rows] == ["0.25", "0.125", "0.0"]
    assert [row["loss"] for row in rows] == ["2.0", "0.5", "inf"]


def test_report_is_valid_json_where_numbers_are_not_finite() -> None:
    values = {"loss": math.nan, "list": (1.5, math.inf), "inner": {"rates": [-math.inf, 0.5]}}
    write_report(Path("report.json"), values)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(Path("report.json").read_text(), parse_constant=refuse)
    assert report == {"loss": None, "list": [1.5, None], "inner": {"rates": [None, 0.5]}}


def test_versions() -> None:
    assert set(versions()) == {"dlr_tf", "keras", "tensorflow", "numpy", "python"}
    assert all(version[0].isdigit() for version in versions().values())
