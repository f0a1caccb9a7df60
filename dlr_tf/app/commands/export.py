"""The command `export`: write a model for another tool, and check that it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf.app import models
from dlr_tf.app.config import ExportConfig
from dlr_tf.app.results import atomic_write, check_new
from dlr_tf.app.startup import stderr_in_file
from dlr_tf.app.terminal import CommandError, messages_to_stderr, one_line, usage_errors

# Largest difference of a probability that is allowed.
TOLERANCE = 1e-4


class ExportError(CommandError):
    """The model cannot be written in this format, or what was written is not the same."""


def run(config: ExportConfig) -> int:
    """Write the model, load it again, and compare its predictions. Return the exit code, 0.

    Raises:
        UsageError: If there is no such model, the output exists, or a package is missing.
        ExportError: If the model cannot be written in this format, or is not the same there.
            Nothing is left behind then.
    """
    form = models.FORMATS[config.format]
    with messages_to_stderr(), usage_errors():
        path = models.model_path(config.run)
        output = Path(config.output) if config.output else path.parent / form.file_name
        check_new(output)
        form.require()
        model = models.load_model_file(path)
        if models.takes_texts(model) and config.format != "saved-model":
            raise ValueError(
                "A model that takes texts can be exported as saved-model alone, since "
                f"{config.format} has no tokenizer. Give --format saved-model."
            )
        examples = models.example_inputs(model)
    with messages_to_stderr():
        difference = export(model, form, output, examples)
    on = f"{len(examples[0])} texts"
    if not models.takes_texts(model):
        sizes = " and ".join(f"{images.shape[1]} x {images.shape[2]}" for images in examples)
        on = f"images of {sizes} pixels"
    print(f"the largest difference of a probability is {difference:.1e}, on {on}")
    print(f"written to {output}")
    return 0


def export(model: keras.Model, form: models.Format, output: Path, examples: list[Any]) -> float:
    """Write a model, check it on batches of examples, and return the largest difference.

    Raises:
        ExportError: If the model cannot be written in this format, or its predictions differ by
            more than 1e-4. Then nothing is left of it.
    """
    expected = [np.asarray(model(images, training=False)) for images in examples]
    # What is not checked yet never has the final name.
    with atomic_write(output) as partial:
        try:
            with stderr_in_file():  # the converter of TFLite prints what it then raises
                form.write(model, partial)
                predict = form.load(partial)
                found = [predict(images) for images in examples]
        except Exception as error:  # whatever a converter or a runtime raises
            raise ExportError(
                f"{model.name} cannot be written in this format by the versions that are "
                f"installed. Try another --format. Received: {one_line(error)[:300]}"
            ) from error
        # Numbers have a unit of their own, probabilities are at most 1.
        unit = max([1.0, *(float(np.abs(a).max()) for a in expected)])
        difference = max(
            float(np.abs(a - b).max()) / unit if a.shape == b.shape else np.inf
            for a, b in zip(expected, found)
        )
        if not difference <= TOLERANCE:
            raise ExportError(
                f"The predictions of the exported model differ by {difference:.1e}, and "
                f"{TOLERANCE:g} is allowed. The output was removed. Try another --format."
            )
    return difference
