"""The file of a checkpoint: arrays by name, and a record, written atomically.

It is an `.npz` of NumPy. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf.app.results import atomic_write
from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.restoring import copies_of, state_of


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is not of this training."""


FORMAT = 1
_RECORD = "dlr_tf"  # the entry that no other file has

Arrays = Mapping[str, np.ndarray]


def write_checkpoint(path: Path, arrays: Arrays, record: Mapping[str, Any]) -> None:
    """Write arrays by name, of any dtype, and a record of what JSON can store, NaN included.

    Raises:
        WriteError: If the operating system refuses, for example because the disk is full.
    """
    dtypes = {name: array.dtype.name for name, array in arrays.items()}
    text = json.dumps({"format": FORMAT, "dtypes": dtypes, "record": record})
    stored: dict[str, Any] = {**arrays, _RECORD: np.frombuffer(text.encode(), np.uint8)}
    with atomic_write(path) as partial:
        np.savez(partial, **stored)


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Return the arrays and the record that `write_checkpoint` wrote, `None` if there is no file.

    Raises:
        CheckpointError: If the file is damaged or is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        # NumPy leaves a damaged file open that it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            content = json.loads(stored[_RECORD].tobytes())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            # Reads every entry, and so compares every checksum.
            # NumPy stores `bfloat16` and the like as bytes without a name.
            arrays = {name: stored[name].view(dtype) for name, dtype in content["dtypes"].items()}
    except (ValueError, LookupError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"The checkpoint {str(path)!r} cannot be read: it is damaged, or was not written by "
            f"this version of dlr-tf ({error}). Remove it to start that training again."
        ) from error
    return arrays, content["record"]


def _parts(variables: Iterable[Any], prefix: str) -> dict[str, Any]:
    """Return the variables by their position. Each copy on a device has a name of its own."""
    return {
        f"{prefix}/{number}/{copy}": part
        for number, variable in enumerate(variables)
        for copy, part in enumerate(copies_of(variable))
    }


def variable_arrays(variables: Iterable[Any], prefix: str) -> dict[str, np.ndarray]:
    """Return the values of variables by their position, bit for bit.

    If a strategy has one copy of a variable per device, each copy has an entry of its own.

    >>> variable_arrays([keras.Variable([2.0])], "model")
    {'model/0/0': array([2.], dtype=float32)}
    """
    return {name: part.numpy() for name, part in _parts(variables, prefix).items()}


def assign_arrays(variables: Iterable[Any], prefix: str, arrays: Arrays) -> None:
    """Give the variables of a model that was built again the values of `variable_arrays`.

    Raises:
        CheckpointError: If a variable has no array of its shape, or there are more arrays with this
            prefix. Nothing is written then.
    """
    parts = _parts(variables, prefix)
    stored = {name for name in arrays if name.startswith(f"{prefix}/")}
    if stored != parts.keys() or any(
        tuple(arrays[name].shape) != tuple(part.shape) for name, part in parts.items()
    ):
        raise CheckpointError(
            f"The checkpoint does not fit: it has {len(stored)} arrays for the {len(parts)} "
            f"variables of this {prefix}, or they have other shapes. It was written on other "
            "devices, or by another version of Keras."
        )
    for name, part in parts.items():
        part.assign(arrays[name])


def optimizer_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the state of a model's `MultiGroupOptimizer`, and of a `LossScaleOptimizer` around it.

    The names do not depend on the order of its variables: see `save_own_variables`.
    """
    optimizer = unwrap_optimizer(model.optimizer, MultiGroupOptimizer)
    own: dict[str, Any] = {}
    optimizer.save_own_variables(own)
    arrays = {f"optimizer/{name}": np.asarray(value) for name, value in own.items()}
    return arrays | variable_arrays(_wrapper_variables(model), "loss scale")


def load_optimizer(model: keras.Model, arrays: Arrays) -> None:
    """Give a model's optimizer the state that `optimizer_arrays` returned.

    Raises:
        CheckpointError: If its groups are not those of the state. Nothing is written then.
    """
    optimizer = unwrap_optimizer(model.optimizer, MultiGroupOptimizer)
    try:
        optimizer.load_own_variables(arrays_under("optimizer", arrays))
    except ValueError as error:
        raise CheckpointError(f"The checkpoint does not fit: {error}") from error
    assign_arrays(_wrapper_variables(model), "loss scale", arrays)


def _wrapper_variables(model: keras.Model) -> list[Any]:
    """The variables of a `LossScaleOptimizer` itself; none without one."""
    wrapper = model.optimizer
    inner = unwrap_optimizer(wrapper, MultiGroupOptimizer)
    if wrapper is inner:
        return []
    known = {id(variable) for variable in inner.variables}
    return [variable for variable in wrapper.variables if id(variable) not in known]


def model_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the state of a model: weights, statistics, and the states of its random generators."""
    return variable_arrays(state_of(model), "model")


def load_model_arrays(model: keras.Model, arrays: Arrays) -> None:
    """Give a model the state that `model_arrays` returned, or raise a `CheckpointError`."""
    assign_arrays(state_of(model), "model", arrays)


def trained_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the state of a model and of its optimizer."""
    return model_arrays(model) | optimizer_arrays(model)


def load_trained_arrays(model: keras.Model, arrays: Arrays) -> None:
    """Give a compiled model and its optimizer the state that `trained_arrays` returned.

    Raises:
        CheckpointError: If it does not fit.
    """
    load_model_arrays(model, arrays)
    load_optimizer(model, arrays)


def arrays_under(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, under the rest of their names.

    >>> arrays_under("best", {"best/model/0/0": np.zeros(2), "model/0/0": np.ones(2)})
    {'model/0/0': array([0., 0.])}
    """
    start = f"{prefix}/"
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}
