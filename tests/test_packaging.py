"""What is required, and what the archives hold."""

from __future__ import annotations

import configparser
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from dlr_tf import _versions

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
INSTALL_REQUIRES = CONFIG["options"]["install_requires"].split()


def requirements(extra: str) -> set[str]:
    """The requirements of an extra, those of the extras that it names included."""
    found: set[str] = set()
    for line in CONFIG["options.extras_require"][extra].split():
        own = re.fullmatch(r"dlr-tf\[(.+)\]", line)
        found |= set().union(*map(requirements, own[1].split(","))) if own else {line}
    return found


def test_what_is_required_does_not_depend_on_the_machine_that_builds():
    """pip keeps the wheels that it builds, and installs them elsewhere."""
    assert INSTALL_REQUIRES == ["keras>=3.10", "numpy>=1.26"]
    assert (ROOT / "setup.py").read_text().splitlines()[-1] == "setup()"


def test_the_extras_of_the_two_commands_bring_tensorflow():
    for extra in ("demo", "test", "bench"):
        assert "tensorflow>=2.16" in requirements(extra)
    for extra in ("command", "plot", "data", "export", "text", "docs"):
        assert not any(name.startswith("tensorflow>") for name in requirements(extra))
    assert requirements("command") < requirements("demo")


def test_the_requirements_are_what_the_import_checks():
    for name, lowest, text in (
        ("tensorflow", _versions.LOWEST_TENSORFLOW, CONFIG["options.extras_require"]["tensorflow"]),
        ("keras", _versions.LOWEST_KERAS, " ".join(INSTALL_REQUIRES)),
    ):
        assert f"{name}>={lowest[0]}.{lowest[1]}" in text.split()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    """It is built from the source distribution, as pip does where there is no wheel."""
    build = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = files.getnames()
    assert not any(pathlib.PurePath(name).parts[1:2] == ("benchmarks",) for name in names)
    wheel = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w"]
    done = subprocess.run(
        [sys.executable, *wheel, str(tmp_path), str(archive)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    archive_of_wheel = zipfile.ZipFile(path)
    names = archive_of_wheel.namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dlr_tf").rglob("*.py")}
    data = {"dlr_tf/py.typed", "dlr_tf/app/results/report.html.jinja"}
    assert modules | data == {n for n in names if n.startswith("dlr_tf/")}
    assert any(name.endswith("LICENSE") for name in names)
    assert all(name.startswith(("dlr_tf/", "dlr_tf-")) for name in names)
    (metadata,) = [name for name in names if name.endswith("/METADATA")]
    lines = archive_of_wheel.read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist") and ";" not in line]
    assert required == [f"Requires-Dist: {name}" for name in INSTALL_REQUIRES]
    assert "Requires-Python: >=3.10" in lines
