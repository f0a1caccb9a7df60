from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlr_tf

PACKAGE = Path(dlr_tf.__file__).parent

# An import goes down these storeys, never up.
STOREYS = ("core", "training", "app")

BELOW_ALL = (
    "dlr_tf._clusters",
    "dlr_tf._import_hook",
    "dlr_tf._names",
    "dlr_tf._rendezvous",
    "dlr_tf._versions",
)

# The rooms of the command, by how far down they are.
ROOMS = {"commands": 3, "run": 2, "results": 1, "models": 1, "data": 1, "terminal": 0}
# What other rooms may import beside the names of `__init__`: it loads Keras.
SIDE_DOORS = ("dlr_tf.app.terminal.progress",)

EXTRAS = ("matplotlib", "tensorflow_datasets", "sklearn", "PIL", "jinja2")


def imported_modules(source: str, *, at_load: bool = False, typing: bool = False) -> set[str]:
    """Dotted names of what a source imports.

    Args:
        source: Python code.
        at_load: Without what functions import.
        typing: With what only a type checker imports.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
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


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    named = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


@functools.cache
def imported_of_ours(source: str) -> frozenset[str]:
    """The modules of the package that a source imports."""
    found = [f"{name}." for name in imported_modules(source, typing=True)]
    return frozenset(
        name for name in modules() if any(text.startswith(f"{name}.") for text in found)
    )


def storey(module: str) -> int:
    """The number of a module's storey.

    Modules such as `_names` stand below all, the package itself and `__main__` above.
    """
    parts = module.split(".")
    if module in BELOW_ALL:
        return -1
    return STOREYS.index(parts[1]) if len(parts) > 1 and parts[1] in STOREYS else len(STOREYS)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=env, cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", [name for name in modules() if storey(name) < len(STOREYS)])
def test_imports_never_go_up(module):
    source = modules()[module].read_text()
    assert all(
        storey(name) <= storey(module) for name in imported_of_ours(source) if name != "dlr_tf"
    )


def wrong_ways(imports: dict[str, set[str]], doors: set[str]) -> list[str]:
    """Imports from room to room that go up, or that pass by the door of a room.

    Args:
        imports: The modules that each module imports.
        doors: The rooms whose `__init__` lists what other rooms may use.
    """

    def room_of(module: str) -> str:
        return module.split(".")[2] if module.startswith("dlr_tf.app.") else ""

    found = []
    for module, names in imports.items():
        here = room_of(module)
        for name in names:
            there = room_of(name)
            if here == there or here not in ROOMS or there not in ROOMS:
                continue
            is_room = name == f"dlr_tf.app.{there}"
            if ROOMS[there] >= ROOMS[here]:
                found.append(f"up: {module} imports {name}")
            if there in doors and not is_room and name not in SIDE_DOORS:
                found.append(f"past the door: {module} imports {name}")
    return sorted(found)


def test_rooms_import_downwards_and_through_the_door():
    imports = {name: set(imported_of_ours(path.read_text())) for name, path in modules().items()}
    doors = {
        room for room in ROOMS if "\nfrom " in (PACKAGE / "app" / room / "__init__.py").read_text()
    }
    assert doors >= {"data", "models", "results", "run", "terminal"}
    assert wrong_ways(imports, doors) == []
    # What can be typed and what a command does is known to all rooms, and knows none but the
    # terminal, whose errors it raises.
    for module in ("arguments", "config", "paths"):
        rooms = {
            name.split(".")[2] for name in imports[f"dlr_tf.app.{module}"] if name.count(".") > 1
        }
        assert rooms & ROOMS.keys() <= {"terminal"}


def test_the_check_of_rooms_can_fail():
    module, files = "dlr_tf.app.results.page", "dlr_tf.app.results.files"
    assert wrong_ways({module: {"dlr_tf.app.run.tasks"}}, set()) == [
        f"up: {module} imports dlr_tf.app.run.tasks"
    ]
    command = "dlr_tf.app.commands.finetune"
    assert wrong_ways({command: {files}}, {"results"}) == [
        f"past the door: {command} imports {files}"
    ]
    assert wrong_ways({command: {"dlr_tf.app.results", SIDE_DOORS[0]}}, {"results"}) == []


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, an empty list if there is none."""
    left = {module: set(names) for module, names in imports.items()}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def test_no_import_runs_in_a_circle():
    """What only a type checker imports counts too. A package's own `__init__` hands names on."""
    files = {name: path for name, path in modules().items() if path.name != "__init__.py"}
    imports = {
        name: imported_of_ours(path.read_text()) & files.keys() - {name}
        for name, path in files.items()
    }
    assert circle(imports) == []
    assert imports["dlr_tf.core.optimizer"] >= {"dlr_tf.core.groups", "dlr_tf.core.update"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]


def test_the_check_of_imports_can_fail():
    source = """
import dlr_tf.core.groups
def function():
    from dlr_tf.core import schedules
    from dlr_tf.app.data.sources import load
"""
    found = imported_of_ours(source) - {"dlr_tf", "dlr_tf.core", "dlr_tf.app", "dlr_tf.app.data"}
    assert found == {"dlr_tf.core.groups", "dlr_tf.core.schedules", "dlr_tf.app.data.sources"}
    assert not all(storey(name) <= storey("dlr_tf.training.plotting") for name in found)


def users_of(extra: str, **kwargs: bool) -> set[str]:
    return {
        str(path.relative_to(PACKAGE).parent)
        for path in PACKAGE.rglob("*.py")
        for name in imported_modules(path.read_text(), **kwargs)
        if name.split(".")[0] == extra
    }


def test_extras_are_imported_where_they_are_used():
    assert users_of("matplotlib") <= {"training/plotting"}
    for extra in EXTRAS:
        assert users_of(extra, at_load=True) == set()
    assert "core" in users_of("keras", at_load=True)
    assert imported_modules("def f():\n    import a\nimport b", at_load=True) == {"b"}


def test_importing_loads_no_extra_and_needs_none():
    """Keras loads some of them where it finds them, so those that it loads do not count."""
    names = sorted(name for name in modules() if not name.endswith("__main__"))
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
for module in {names!r}:
    importlib.import_module(module)
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


@pytest.mark.slow
def test_another_backend_is_refused():
    # Stands for an installed backend, which would take long to load.
    result = run("import keras; keras.backend.backend = lambda: 'jax'; import dlr_tf")
    assert result.returncode == 1
    expected = "ImportError: dlr_tf works with Keras on TensorFlow. Set the environment variable "
    assert expected + "KERAS_BACKEND=tensorflow" in result.stderr
    assert result.stderr.rstrip().endswith("Received: 'jax'")


def test_options_are_there_without_docstrings():
    """Under `python -OO`, the options are read from the source."""
    code = "from dlr_tf.app.arguments import make_parser; print(make_parser().format_help())"
    code = code.replace(
        "make_parser()", "make_parser()._subparsers._actions[2].choices['finetune']"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    texts = [
        subprocess.run(
            [sys.executable, *flags, "-c", code], env=env, capture_output=True, text=True
        )
        for flags in ([], ["-OO"])
    ]
    assert "--learning-rate LO:HI" in texts[0].stdout, texts[0].stderr
    assert texts[1].stdout == texts[0].stdout, texts[1].stderr


LOADED = "; print(sorted({'keras', 'tensorflow', 'numpy'} & set(sys.modules)))"


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["finetune", "--help"],
        ["finetune", "--lr", "3"],
        ["finetune", "nowhere"],
        ["predict", "nowhere", "photo.png"],
        ["export", "nowhere"],
    ],
    ids=" ".join,
)
def test_the_command_answers_without_tensorflow(argv):
    result = run(f"import sys; from dlr_tf.app import cli; cli.main({argv!r})" + LOADED)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_the_check_of_what_is_loaded_can_fail():
    result = run("import sys; import dlr_tf; dlr_tf.SGDR" + LOADED)
    assert result.stdout == "['keras', 'numpy', 'tensorflow']\n", result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "statements",
    [
        "import dlr_tf, keras",
        "import keras, dlr_tf",
        "import dlr_tf, tensorflow; tensorflow.keras.layers; import keras",
        "import dlr_tf.core.groups, keras",
        # Who looks for Keras need not load it.
        "import dlr_tf, importlib.util; importlib.util.find_spec('keras'); import keras",
        "import dlr_tf.training.distribution, keras",
        "from dlr_tf import *; import keras; SGDR",
    ],
)
def test_importing_the_package_registers_the_classes_that_keras_saves(statements):
    """In any order, and without the use of a name."""
    code = f"""
{statements}
for name in ("MultiGroupOptimizer", "FusedAdam", "SGDR"):
    print(keras.saving.get_registered_object("dlr_tf>" + name).__name__)
"""
    result = run(code)
    assert result.stdout.split() == ["MultiGroupOptimizer", "FusedAdam", "SGDR"], result.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dlr_tf' has no attribute 'sgdr'"):
        dlr_tf.sgdr  # noqa: B018
    assert {"SGDR", "__version__"} <= set(dir(dlr_tf))


def test_the_public_face_is_small_and_complete():
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) < 60
    assert len(set(dlr_tf.__all__)) == len(dlr_tf.__all__)
    for name in dlr_tf.__all__:
        assert getattr(dlr_tf, name).__doc__, name
    assert dlr_tf.__version__.count(".") == 2
