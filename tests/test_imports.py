from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlr_tf

PACKAGE = Path(dlr_tf.__file__).parent

# What each module may import of the package: one way, from the bottom up.
BASE = {"groups", "schedules", "plotting", "fused_adam"}
HELPERS = {"learning_rates", "slots", "summary"}  # of the optimizer
MAY_IMPORT: dict[str, set[str]] = {
    **{module: set() for module in BASE | HELPERS | {"distribution", "applications", "preserving"}},
    "data": {"distribution"},
    "state": {"slots"},
    "members": {"fused_adam", "slots"},
    "optimizer": {"groups", "fused_adam", "members", "state"} | HELPERS,
    "freezing": {"groups"},
}
MAY_IMPORT["lr_finder"] = BASE | {"optimizer", "freezing", "preserving"}
MAY_IMPORT["callbacks"] = MAY_IMPORT["lr_finder"] | {"lr_finder"}
MAY_IMPORT["fine_tuning"] = MAY_IMPORT["callbacks"] | {
    "callbacks",
    "learning_rates",
    "data",
    "distribution",
    "applications",
}
MAY_IMPORT["cli"] = MAY_IMPORT["fine_tuning"] | {"fine_tuning"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"cli", "__main__"}

EXTRAS = ("matplotlib", "tensorflow_datasets", "sklearn", "PIL")


def imported_modules(source: str, *, at_load: bool = False) -> set[str]:
    """Dotted names of all that a source imports, inside functions too unless `at_load`."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return  # what only a type checker sees is no import
        if at_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return set(visit(ast.parse(source)))


def imported_of_ours(source: str) -> set[str]:
    return {
        name.split(".")[1]
        for name in imported_modules(source)
        if name.startswith("dlr_tf.") and (PACKAGE / f"{name.split('.')[1]}.py").exists()
    }


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=env, cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_imports_run_one_way(module):
    path = PACKAGE / f"{module}.py"
    if path.exists():
        assert imported_of_ours(path.read_text()) <= MAY_IMPORT[module]


def test_the_check_of_imports_can_fail():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from dlr_tf.optimizer import MultiGroupOptimizer
import dlr_tf.groups
def function():
    from dlr_tf import schedules
    from dlr_tf.data import load
"""
    assert imported_of_ours(source) == {"groups", "schedules", "data"}
    assert not imported_of_ours(source) <= MAY_IMPORT["optimizer"]
    assert "schedules" not in MAY_IMPORT["optimizer"]


def users_of(extra: str, **kwargs: bool) -> set[str]:
    return {
        path.stem
        for path in PACKAGE.glob("*.py")
        for name in imported_modules(path.read_text(), **kwargs)
        if name.split(".")[0] == extra
    }


def test_extras_are_imported_where_they_are_used():
    assert users_of("matplotlib") <= {"plotting"}
    for extra in EXTRAS:
        assert users_of(extra, at_load=True) == set()
    assert "optimizer" in users_of("keras", at_load=True)
    assert imported_modules("def f():\n    import a\nimport b", at_load=True) == {"b"}


def test_importing_loads_no_extra_and_needs_none():
    """Keras loads some of them where it finds them, so those that it loads do not count."""
    modules = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))
    code = f"""
import importlib, sys, types
extras = set({EXTRAS!r})
def loaded():
    return {{name.split(".")[0] for name, module in sys.modules.items() if module}} & extras
if len(sys.argv) > 1:
    sys.modules.update(dict.fromkeys(extras))  # as if they were not installed
import keras, tensorflow
before = loaded()
import dlr_tf
print(sorted(loaded() - before))
for module in {modules!r}:
    importlib.import_module("dlr_tf." + module)
print(sorted(loaded() - before))
sys.modules["tensorflow_datasets"] = types.ModuleType("tensorflow_datasets")
print(sorted(loaded() - before))
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    # The last line shows that the check can fail.
    assert result.stdout.splitlines() == ["[]", "[]", "['tensorflow_datasets']"]
    without = run(code, "without")
    assert without.returncode == 0, without.stderr
    assert without.stdout.splitlines() == ["[]", "[]", "['tensorflow_datasets']"]


def test_another_backend_is_refused():
    # Stands for an installed backend, which would take long to load.
    result = run("import keras; keras.backend.backend = lambda: 'jax'; import dlr_tf")
    assert result.returncode == 1
    expected = "ImportError: dlr_tf works with Keras on TensorFlow. Set the environment variable "
    assert expected + "KERAS_BACKEND=tensorflow" in result.stderr
    assert result.stderr.rstrip().endswith("Received: 'jax'")


def test_the_public_face_is_small_and_complete():
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) < 60
    assert len(set(dlr_tf.__all__)) == len(dlr_tf.__all__)
    for name in dlr_tf.__all__:
        assert getattr(dlr_tf, name).__doc__, name
    assert dlr_tf.__version__.count(".") == 2
