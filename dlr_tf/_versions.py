"""Which versions of TensorFlow and Keras dlr_tf runs on, checked when it is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings

# The suite has passed on all of these: `python -m tests.matrix`.
LOWEST_TENSORFLOW = (2, 16)
LOWEST_KERAS = (3, 10)
NEWEST_KERAS = (3, 15)


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version.

    >>> release("3.16.0.dev2026112503"), release("2.17.0+nv25.2")
    ((3, 16), (2, 17))
    """
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def check_installed() -> None:
    """Raise in one line what `import keras` itself answers with a long traceback.

    Raises:
        ImportError: If TensorFlow is not installed, or the environment asks for another backend.
    """
    check_backend(os.environ.get("KERAS_BACKEND") or "tensorflow")
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError("dlr_tf needs TensorFlow. Run `pip install tensorflow`.")


def check_backend(backend: str) -> None:
    """Raise if the backend of Keras is not TensorFlow.

    Raises:
        ImportError: If it is another one.

    Example:

    >>> check_backend("tensorflow")
    """
    if backend != "tensorflow":
        raise ImportError(
            "dlr_tf works with Keras on TensorFlow. Set the environment variable "
            f"KERAS_BACKEND=tensorflow before importing keras. Received: {backend!r}"
        )


def check_versions(tensorflow: str, keras: str) -> None:
    """Raise if a version is too old; warn of a Keras that is newer than any that was tried.

    Before 3.10, Keras computes wrong results without an error: under `mixed_float16` its step
    count stays 0 (3.7 and 3.8), and it does not save the slots of an optimizer (3.6).

    Args:
        tensorflow: Version of TensorFlow.
        keras: Version of Keras.

    Raises:
        ImportError: If one of them is too old.

    Example:

    >>> check_versions("2.16.2", "3.10.0")
    """
    for name, version, lowest in (
        ("TensorFlow", tensorflow, LOWEST_TENSORFLOW),
        ("Keras", keras, LOWEST_KERAS),
    ):
        if release(version) < lowest:
            required = f"{name.lower()}>={lowest[0]}.{lowest[1]}"
            raise ImportError(
                f"dlr_tf needs {name} {lowest[0]}.{lowest[1]} or newer. Received: {name} "
                f'{version}. Run `pip install --upgrade "{required}"`.'
            )
    if release(keras) > NEWEST_KERAS:
        warnings.warn(
            f"Keras {keras} is newer than the newest Keras that dlr_tf was tested with "
            f"({NEWEST_KERAS[0]}.{NEWEST_KERAS[1]}). {_ADVICE}",
            UserWarning,
            stacklevel=3,
        )


_ADVICE = (
    "If something fails, look for a newer version of dlr_tf, or run "
    f'`pip install "keras<={NEWEST_KERAS[0]}.{NEWEST_KERAS[1]}.99"`.'
)


def unknown_version_error(keras: str, cause: Exception) -> ImportError:
    """Return the error for a Keras or a TensorFlow that lacks a private name.

    Args:
        keras: Version of Keras.
        cause: What Python raised.
    """
    return ImportError(
        f"dlr_tf uses a private name that Keras {keras}, or this TensorFlow, does not have: "
        f"{cause}. dlr_tf was tested with Keras {LOWEST_KERAS[0]}.{LOWEST_KERAS[1]} to "
        f"{NEWEST_KERAS[0]}.{NEWEST_KERAS[1]}. {_ADVICE}"
    )
