"""The reliability table: training that was stopped goes on in a new process, bit for bit.

One process trains and stores every cell and is killed in mid-epoch; a second one restores and goes
on. The cells themselves are in `benchmarks/reliability.py`, which also runs them on Keras'
`MultiOptimizer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks import reliability

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reliability")


@pytest.fixture(scope="module")
def cells(folder: Path) -> dict[str, Any]:
    return reliability.run("MultiGroupOptimizer", list(reliability.SITUATIONS), folder)


@pytest.mark.parametrize("way", reliability.LABELS)
@pytest.mark.parametrize("situation", reliability.SITUATIONS)
def test_training_goes_on_bit_for_bit_in_a_new_process(cells, situation, way):
    cell = cells[situation][way]
    assert cell["outcome"] == reliability.EXACT, cell["detail"]
    assert cell["warnings"] == []


def test_a_cell_sees_what_is_missing_or_has_another_shape():
    one = {"a": np.zeros(2, np.float32), "b": np.ones(1)}
    assert reliability.compare(one, dict(one))["outcome"] == reliability.EXACT
    for other in (
        {"a": one["a"]},
        {**one, "c": one["b"]},
        {**one, "a": np.zeros(1, np.float32)},
        {**one, "a": -one["a"]},
    ):
        assert reliability.compare(one, other)["outcome"] == reliability.DIFFERS
        assert reliability.compare(other, one)["outcome"] == reliability.DIFFERS


def arrays(file: Any) -> list[Any]:
    """The arrays of an HDF5 file with more than one element."""
    found: list[Any] = []
    file.visititems(lambda _, item: found.append(item) if hasattr(item, "shape") else None)
    return [item for item in found if item.size > 1]


def test_one_changed_number_in_the_file_shows(cells, folder):
    path = folder / "plain" / "weights" / "model.weights.h5"
    with h5py.File(path, "r+") as file:
        moments = [item for item in arrays(file) if "optimizer" in item.name]
        changed = moments[0]
        values = changed[...]
        values.flat[0] = values.flat[0] * 2 + 1
        changed[...] = values
    cell = reliability.restore_cell(
        reliability.ours, reliability.SITUATIONS["plain"], "weights", folder / "plain"
    )
    assert cell["outcome"] == reliability.DIFFERS, changed.name
