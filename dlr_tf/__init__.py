"""Differential learning rates and SGDR for fine-tuning Keras models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dlr_tf._import_hook import after_import
from dlr_tf._versions import check_installed

check_installed()

if TYPE_CHECKING:
    from dlr_tf._public import *  # noqa: F403

__version__ = "1.0.0"


def _load_public_names() -> None:
    public = importlib.import_module("dlr_tf._public")
    globals().update({name: getattr(public, name) for name in ("__all__", *public.__all__)})


# The command answers `--help` and mistakes without TensorFlow, so this module does not load it. The
# public names are loaded together with Keras: `keras.models.load_model` needs the classes among
# them, also where no name of `dlr_tf` was used. The first use of a name loads Keras.
after_import("keras", _load_public_names)


def __getattr__(name: str) -> Any:
    if name == "__all__" or not name.startswith("_"):
        importlib.import_module("keras")
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'dlr_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
