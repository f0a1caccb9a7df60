"""What is required, and what the archives hold."""

from __future__ import annotations

import pathlib
import runpy
import site
import subprocess
import sys
import tarfile
import zipfile

import pytest

from dlr_tf.core import _versions

ROOT = pathlib.Path(__file__).parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"))
ALL = ["tensorflow>=2.16", "keras>=3.10", "numpy>=1.26"]


@pytest.mark.parametrize("installed", [[], ["numpy", "keras"], ["tensorflow"], ["tensorboard"]])
def test_tensorflow_is_required(installed):
    assert SETUP["requirements"](installed) == ALL


@pytest.mark.parametrize(
    "build", ["tensorflow-cpu", "tensorflow_cpu", "tf_nightly", "tensorflow-rocm", "TF-nightly-cpu"]
)
def test_another_build_of_tensorflow_is_enough(build):
    assert SETUP["requirements"](["numpy", build]) == ALL[1:]


def test_the_packages_of_the_environment_are_seen():
    assert {"numpy", "keras"} <= {name.lower() for name in SETUP["installed_packages"]()}


@pytest.mark.parametrize("in_environment", [False, True])
def test_packages_of_the_user_count_only_outside_of_a_virtual_environment(
    tmp_path, monkeypatch, in_environment
):
    (tmp_path / "tensorflow_cpu-2.18.0.dist-info").mkdir()
    metadata = tmp_path / "tensorflow_cpu-2.18.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 2.18.0\n")
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(tmp_path))
    monkeypatch.setattr(sys, "prefix", "/environment" if in_environment else sys.base_prefix)
    assert ("tensorflow-cpu" in SETUP["installed_packages"]()) is not in_environment


def test_the_requirements_are_what_the_import_checks():
    for name, lowest in (
        ("tensorflow", _versions.LOWEST_TENSORFLOW),
        ("keras", _versions.LOWEST_KERAS),
    ):
        assert f"{name}>={lowest[0]}.{lowest[1]}" in ALL


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
    assert modules | {"dlr_tf/py.typed"} == {n for n in names if n.startswith("dlr_tf/")}
    assert any(name.endswith("LICENSE") for name in names)
    assert all(name.startswith(("dlr_tf/", "dlr_tf-")) for name in names)
    (metadata,) = [name for name in names if name.endswith("/METADATA")]
    lines = archive_of_wheel.read(metadata).decode().splitlines()
    assert {f"Requires-Dist: {requirement}" for requirement in ALL} <= set(lines)
    assert "Requires-Python: >=3.10" in lines
