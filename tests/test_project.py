"""The repository itself: lint, types, the wheel, and the code blocks people copy."""

from __future__ import annotations

import configparser
import pathlib
import re
import subprocess
import sys
import zipfile

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


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def python_blocks(page: pathlib.Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(command: tuple[str, ...]) -> None:
    result = run(sys.executable, "-m", "ruff", *command, ".")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_mypy() -> None:
    result = run(sys.executable, "-m", "mypy")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(tmp_path: pathlib.Path) -> None:
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w")
    result = run(sys.executable, *build, str(tmp_path), ".")
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dlr_tf").rglob("*.py")}
    assert modules | {"dlr_tf/py.typed"} == {n for n in names if n.startswith("dlr_tf/")}
    assert any(name.endswith("LICENSE") for name in names)
    assert all(name.startswith(("dlr_tf/", "dlr_tf-")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """All blocks of a page, one after the other, as a reader would paste them."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(python_blocks(page)))
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


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
