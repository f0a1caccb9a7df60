"""What `finetune` leaves behind: a model, and the names of its classes beside it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf.app.models.heads import ACTIVATIONS
from dlr_tf.app.models.outputs import class_count
from dlr_tf.app.paths import MODEL_FILE, check_run
from dlr_tf.app.terminal import one_line

CLASSES_FILE = "classes.json"
CHECKPOINTS = "checkpoint"  # the folder in that of a run that is not finished


@dataclasses.dataclass(frozen=True)
class KnownTarget:
    """What the outputs of a model are: what `classes.json` holds.

    Args:
        names: The names of the classes, in the order of the outputs; or of labels or of numbers.
        kind: "class", "labels" or "number".
        thresholds: The probability from which on each label counts; of labels alone.
        means: What each number is on average over the training data; of numbers alone.
    """

    names: tuple[str, ...]
    kind: str = "class"
    thresholds: tuple[float, ...] = ()
    means: tuple[float, ...] = ()

    @property
    def nouns(self) -> str:
        """What the outputs are called."""
        return {"class": "classes", "labels": "labels"}.get(self.kind, "numbers")


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model, its `.keras` file, and what its outputs are."""

    path: Path
    model: keras.Model
    known: KnownTarget

    @property
    def described(self) -> dict[str, Any]:
        """The kind of its target, and what describes that."""
        return {**vars(self.known), "class_names": self.known.names}

    @property
    def folder(self) -> Path:
        """The folder that holds the file."""
        return self.path.parent


def write_target(path: Path, known: KnownTarget) -> None:
    """Write what the outputs of a model are: classes as a JSON list, another kind as an object."""
    content: Any = list(known.names)
    if known.kind != "class":
        content = {name: value for name, value in dataclasses.asdict(known).items() if value}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def known_target(model_path: Path) -> KnownTarget:
    """Return what stands beside a model, without names if nothing does.

    Raises:
        ValueError: If the file cannot be read.
    """
    path = model_path.parent / CLASSES_FILE
    if not path.is_file():
        return KnownTarget(())
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            content = {"names": content}
        known = KnownTarget(**{name: _tuple(value) for name, value in content.items()})
    except (ValueError, TypeError, AttributeError):
        known = KnownTarget((None,))  # type: ignore[arg-type]
    lengths = {len(known.names), len(known.thresholds), len(known.means)} - {0}
    is_text = isinstance(known.names, tuple) and all(isinstance(n, str) for n in known.names)
    if not is_text or known.kind not in ACTIVATIONS or len(lengths) > 1:
        raise ValueError(
            f"The file {str(path)!r} should hold a JSON list of the names of the classes, in the "
            "order of the outputs of the model."
        )
    return known


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
            elif (path / "metadata.json").is_file():
                hint = f"It looks like a preset of KerasHub: give hub:{run}"
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
    known = known_target(path)
    if not known.names:
        raise ValueError(
            f"There is no {CLASSES_FILE} beside {str(path)!r}. Write one: a JSON list of the names "
            "of the classes, in the order of the outputs of the model."
        )
    model = load_model_file(path)
    shape = getattr(model, "output_shape", None)
    count = class_count(model) if known.kind == "class" else (shape or [0])[-1]
    if count != len(known.names):
        raise ValueError(
            f"The model {str(path)!r} should give one "
            f"{'number' if known.kind == 'number' else 'probability'} for each of the "
            f"{len(known.names)} {known.nouns} in {CLASSES_FILE}. "
            f"Received: output shape {model.output_shape}"
        )
    return TrainedModel(path, model, known)


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
