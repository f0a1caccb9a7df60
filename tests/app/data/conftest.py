"""A folder of images with two classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_helpers import write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "pets" / "cat", 10, value=0)
    write_images(tmp_path / "pets" / "dog", 10, value=100)
    return tmp_path / "pets"
