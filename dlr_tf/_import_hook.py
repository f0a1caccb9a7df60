"""A function that is run as soon as a module is imported, by whomever."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any


class _Finder:
    """A finder of modules that asks the others for one module, and runs a function after it."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._name = name
        self._run = run

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)  # who looks for it may not load it
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                sys.meta_path.remove(self)
                execute(module)
                self._run()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after_import(name: str, run: Callable[[], None]) -> None:
    """Run a function when a module has been imported, now if it is there."""
    if name in sys.modules:
        run()
    else:
        sys.meta_path.insert(0, _Finder(name, run))
