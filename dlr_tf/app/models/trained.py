"""What `finetune` leaves behind: a model, and the names of its classes beside it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from dlr_tf.app.models.outputs import class_count
from dlr_tf.app.paths import check_run
from dlr_tf.app.terminal import one_line

MODEL_FILE = "model.keras"
CLASSES_FILE = "classes.json"
CHECKPOINTS = "checkpoint"  # the folder in that of a run that is not finished


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model, its `.keras` file, and the names of its classes in the order of its outputs."""

    path: Path
    model: keras.Model
    class_names: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder that holds the file."""
        return self.path.parent


def write_class_names(path: Path, class_names: Sequence[str]) -> None:
    """Write the names of the classes, in the order of the labels, as a JSON list."""
    text = json.dumps(list(class_names), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def known_class_names(model_path: Path) -> tuple[str, ...] | None:
    """Return the names of the classes that stand beside a model, `None` if there are none.

    Raises:
        ValueError: If the file is not a JSON list of strings.
    """
    path = model_path.parent / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"The file {str(path)!r} should hold a JSON list of the names of the classes, in the "
            "order of the outputs of the model."
        )
    return tuple(names)


def model_path(run: str) -> Path:
    """Return the `.keras` file of a run: of the folder that `finetune` wrote, or the file itself.

    Raises:
        ValueError: If there is no such file, or the run is not finished.
    """
    path = Path(run)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            hint = "Give a folder that `dlr-tf finetune` wrote, or a .keras file."
            if (path / CHECKPOINTS).is_dir():
                hint = f"The run is not finished: dlr-tf finetune --resume {shlex.quote(run)}"
            raise ValueError(f"The folder {run!r} holds no {MODEL_FILE}. {hint}")
        return path / MODEL_FILE
    check_run(run)
    return path


def load_trained(run: str) -> TrainedModel:
    """Load the model of a run with the names of its classes, without its optimizer.

    Raises:
        ValueError: If a file is missing or cannot be read, or the model does not give one
            probability per class.
    """
    path = model_path(run)
    class_names = known_class_names(path)
    if class_names is None:
        raise ValueError(
            f"There is no {CLASSES_FILE} beside {str(path)!r}. Write one: a JSON list of the names "
            "of the classes, in the order of the outputs of the model."
        )
    model = load_model_file(path)
    if class_count(model) != len(class_names):
        raise ValueError(
            f"The model {str(path)!r} should give one probability for each of the "
            f"{len(class_names)} classes in {CLASSES_FILE}. "
            f"Received: output shape {model.output_shape}"
        )
    return TrainedModel(path, model, class_names)


def load_model_file(path: Path) -> keras.Model:
    """Load a `.keras` file without its optimizer.

    Raises:
        ValueError: If it cannot be loaded, or some of its weights are NaN or infinite.
    """
    try:
        model = keras.models.load_model(path, compile=False)
    except MemoryError:
        raise
    # Damaged files raise errors of many kinds.
    except Exception as error:
        is_archive = zipfile.is_zipfile(path)
        received = one_line(error)[:300] if is_archive else "a damaged file or another format"
        raise ValueError(
            f"The model {str(path)!r} cannot be loaded: expected a .keras file of Keras 3 whose "
            "layers are Keras' own or registered. Save it again with `model.save`. "
            f"Received: {received}"
        ) from error
    if not all(_is_usable(variable) for variable in model.weights):
        raise ValueError(
            f"The model {str(path)!r} holds weights that are NaN or infinite: its training has "
            "diverged. Train it again with smaller learning rates."
        )
    return model


def _is_usable(variable: keras.Variable) -> bool:
    if not keras.backend.is_float_dtype(variable.dtype):
        return True
    # A mask that is added to scores holds -inf. It is not trained.
    unusable = ~np.isfinite(variable) if variable.trainable else np.isnan(variable)
    return not unusable.any()
