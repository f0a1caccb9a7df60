"""report.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

from dlr_tf.app.results import versions, write_report


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
