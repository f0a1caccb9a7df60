"""Who may touch names with an underscore: a class its own, and `core/_keras` those of Keras."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import dlr_tf

PACKAGE = Path(dlr_tf.__file__).parent
KERAS = PACKAGE / "core" / "_keras"
INTERNAL = ("keras.src", "tensorflow.python", "tensorflow.core", "tensorflow.compiler")


@functools.cache
def sources() -> dict[str, str]:
    return {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def own_names(node: ast.ClassDef) -> set[str]:
    """The private names that a class defines: methods, attributes, and those set on `self`."""
    found = set()
    for item in ast.walk(node):
        if isinstance(item, (ast.FunctionDef, ast.ClassDef)):
            found.add(item.name)
        elif isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
            found.add(item.id)
        elif isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
            found.add(item.attr)
    return {name for name in found if is_private(name)}


def names_by_class(texts: dict[str, str]) -> dict[str, set[str]]:
    """The private names of every class, with those of its bases in the package."""
    classes = {
        node.name: node
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }

    def inherited(name: str) -> set[str]:
        node = classes[name]
        bases = [ast.unparse(base).rsplit(".", 1)[-1] for base in node.bases]
        return own_names(node).union(*(inherited(base) for base in bases if base in classes))

    return {name: inherited(name) for name in classes}


# Documented, in spite of their names: of `os`, and of a named tuple.
PUBLIC = {"_exit", "_replace", "_asdict"}


def touched(text: str, classes: dict[str, set[str]]) -> Iterator[str]:
    """The private attributes that a source touches and that are not of the class around it."""

    def visit(node: ast.AST, own: set[str]) -> Iterator[str]:
        if isinstance(node, ast.ClassDef):
            own = classes[node.name]
        if (
            isinstance(node, ast.Attribute)
            and is_private(node.attr)
            and node.attr not in own
            and node.attr not in PUBLIC
        ):
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and node.attr == "__internal__":
            yield f"{node.lineno}: {ast.unparse(node)}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, own)

    return visit(ast.parse(text), set())


def internal_imports(text: str) -> list[str]:
    return [
        name
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.startswith(INTERNAL)
    ]


def test_no_private_name_of_another_object_is_touched():
    classes = names_by_class(sources())
    for module, text in sources().items():
        if not module.startswith("core/_keras/"):
            assert list(touched(text, classes)) == [], module
            assert internal_imports(text) == [], module


def test_every_private_name_of_keras_has_its_reason():
    """Each function of that folder says in its docstring why it is there."""
    files = [ast.parse(path.read_text()) for path in KERAS.glob("*.py")]
    nodes = [n for file in files for n in file.body if isinstance(n, ast.FunctionDef)]
    assert len(nodes) > 50
    setters = {"set_keras_generator", "set_tensorflow_generator", "set_operation_seeds"}
    assert [n.name for n in nodes if not ast.get_docstring(n)] == sorted(
        setters, key=[n.name for n in nodes].index
    )


def test_the_checks_can_fail():
    text = """
import keras.src.backend
from tensorflow.python.ops import math_ops
class Own:
    def __init__(self):
        self._mine = 1
    def method(self, other):
        return other._mine + self._theirs + other.public._hidden
def function(owner):
    return owner._mine, tf.__internal__.distribute
"""
    found = [line.split(": ")[1] for line in touched(text, names_by_class({"a": text}))]
    assert found == ["self._theirs", "other.public._hidden", "owner._mine", "tf.__internal__"]
    assert internal_imports(text) == ["keras.src.backend", "tensorflow.python.ops"]
