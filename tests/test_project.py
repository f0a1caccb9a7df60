"""The repository itself: lint, types, the wheel, and the code blocks people copy."""

from __future__ import annotations

import configparser
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# A page that is a notebook too is run as a notebook (tests/test_site.py).
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").glob("*.md"))
        if not (page.parent / "notebooks" / f"{page.stem}.ipynb").exists()
    ),
]
# Packages that section "With other tools" of docs/how-to.md uses, each in one block.
OTHER_TOOLS = ("keras_tuner", "mlflow", "wandb")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


CODE = re.compile(r"^```python\n(.*?)^```|there \| here \|\n(.*?)\n\n", re.MULTILINE | re.DOTALL)
# In a table, names stand without their module.
IN_TABLES = """
from dlr_tf import *
from keras.callbacks import ReduceLROnPlateau
from keras.optimizers import SGD
from keras.optimizers.schedules import CosineDecay, PolynomialDecay
"""


def python_blocks(page: pathlib.Path) -> list[str]:
    """The code blocks of a page, and what its tables of "there" and "here" have here, in order."""
    return [
        block or IN_TABLES + "\n".join(code_here(table))
        for block, table in CODE.findall(page.read_text())
    ]


def code_here(table: str) -> list[str]:
    return [code for row in table.splitlines() for code in re.findall("`(.*?)`", last_cell(row))]


def last_cell(row: str) -> str:
    return row.rstrip("| ").rsplit(" | ", 1)[-1]


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(command: tuple[str, ...]) -> None:
    result = run(sys.executable, "-m", "ruff", *command, ".")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_mypy() -> None:
    result = run(sys.executable, "-m", "mypy")
    assert result.returncode == 0, result.stdout + result.stderr


def run_blocks(blocks: list[str], tmp_path: pathlib.Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def imports(block: str, package: str) -> bool:
    return re.search(rf"^import {package}$", block, re.MULTILINE) is not None


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """All blocks of a page, one after the other, as a reader would paste them."""
    blocks = [b for b in python_blocks(page) if not any(imports(b, p) for p in OTHER_TOOLS)]
    run_blocks(blocks, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("package", OTHER_TOOLS)
def test_code_blocks_with_other_tools_run(
    package: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block that uses a package, after those that make the model and compile it."""
    if importlib.util.find_spec(package) is None:
        pytest.skip('needs `pip install "dlr_tf[test-integrations]"`')
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "WANDB_SILENT"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    blocks = python_blocks(ROOT / "docs" / "how-to.md")
    chosen = [block for block in blocks if imports(block, package)]
    assert len(chosen) == 1
    run_blocks([*blocks[:2], *chosen], tmp_path)


def test_the_code_of_tables_is_found() -> None:
    table = "| a there | here |\n| --- | --- |\n| `no()` | `one(1)`, or `two = 2` |\n\n"
    ((_, rows),) = CODE.findall(table)
    assert code_here(rows) == ["one(1)", "two = 2"]
    found = [b for b in python_blocks(ROOT / "docs" / "how-to.md") if b.startswith(IN_TABLES)]
    assert [len(block.splitlines()) > 10 for block in found] == [True] * 3


def test_versions_agree() -> None:
    import dlr_tf

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: dlr_tf.__version__"
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = headings[1:] if headings[0] == "Unreleased" else headings
    assert released[0] == dlr_tf.__version__
    assert "Unreleased" not in released


def test_public_names_are_documented() -> None:
    import dlr_tf

    for name in dlr_tf.__all__:
        assert getattr(dlr_tf, name).__doc__, name
