"""The command `export`: write a model for another tool, and check that it is the same."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf.app import models
from dlr_tf.app.commands.evaluate import find_examples
from dlr_tf.app.config import EvaluateConfig, ExportConfig
from dlr_tf.app.data import ImageData
from dlr_tf.app.results import atomic_write, check_new, target_of
from dlr_tf.app.run import Classifier, evaluate_data, run_settings
from dlr_tf.app.startup import stderr_in_file
from dlr_tf.app.terminal import (
    CommandError,
    messages_to_stderr,
    one_line,
    print_note,
    usage_errors,
)

# Largest difference of a probability that is allowed.
TOLERANCE = 1e-4
CALIBRATION = 100  # images


class ExportError(CommandError):
    """The model cannot be written in this format, or what was written is not the same."""


def run(config: ExportConfig) -> int:
    """Write the model, load it again, and compare its predictions. Return the exit code, 0.

    Raises:
        UsageError: If there is no such model, the output exists, a package is missing, or there are
            no images for `--quantize int8`.
        ExportError: If the model cannot be written in this format, or is not the same there.
            Nothing is left behind then.
    """
    form = models.FORMATS[config.format]
    data, is_tflite = None, config.format == "tflite"
    with messages_to_stderr(), usage_errors():
        path = models.model_path(config.run)
        name = Path(form.file_name)
        if config.quantize:
            name = name.with_stem(f"{name.stem}_{config.quantize}")
        output = Path(config.output) if config.output else path.parent / name
        check_new(output)
        form.require()
        model = models.load_model_file(path)
        takes, examples = "", models.example_inputs(model)
        if models.takes_texts(model) and config.format != "saved-model":
            takes, model, examples = _of_tokens(config, path, model, examples)
        if config.format != "saved-model":  # other tools know no mixed precision
            model = models.in_float32(model)
        if is_tflite:
            examples = examples[:1]  # images of one size
            data = find_data(config)
            form = form._replace(write=_write_tflite(form, config, path, data))
    with messages_to_stderr():
        tolerance = TOLERANCE if config.quantize is None else math.inf
        difference = export(model, form, output, examples, tolerance)
    if takes:
        print(takes)
    if data is None:
        on = "4 texts"
        if not takes and not models.takes_texts(model):
            sizes = " and ".join(f"{images.shape[1]} x {images.shape[2]}" for images in examples)
            on = f"images of {sizes} pixels"
        print(f"the largest difference of an output is {difference:.1e}, on {on}")
    else:
        with messages_to_stderr():
            lines = scores_of_both(config, data, form.load(output))
        print(*lines, sep="\n")
    size = f" ({output.stat().st_size / 1e6:.3g} MB)" if output.is_file() else ""
    print(f"written to {output}{size}")
    if is_tflite:
        print(f"to run it: {models.line_of_python(output)}")
    return 0


def _of_tokens(
    config: ExportConfig, path: Path, model: keras.Model, texts: list[Any]
) -> tuple[str, keras.Model, list[Any]]:
    """Return what a model takes without its tokenizer, that model, and tokens to try it on."""
    found = None if config.format == "tflite" else models.of_tokens(model)
    if found is None:
        raise ValueError(
            "A model that takes texts can be exported as saved-model, with strings, or as onnx, "
            f"with the token ids of its layer `tokens`; {config.format} has no tokenizer. Give "
            "--format saved-model."
        )
    layer, rest = found
    tokens = [{name: np.asarray(ids) for name, ids in layer(one).items()} for one in texts]
    length = rest.inputs[0].shape[1]
    line = (
        f"it takes token ids instead of strings: {', '.join(rest.input)}, int32 of {length} per "
        f"text. keras.models.load_model({str(path)!r}).get_layer({layer.name!r})(texts) makes them"
    )
    return line, rest, tokens


def find_data(config: ExportConfig) -> ImageData | None:
    """Return the images that a model was trained and tested on, `None` where none are needed."""
    if config.quantize is None:
        return None
    try:
        trained = models.load_trained(config.run)
        if "data" not in run_settings(trained.folder):
            raise ValueError("They are known where finetune wrote the model. Give that folder.")
        classify = Classifier(trained.model, trained.known.kind)
        found = find_examples(trained, classify, EvaluateConfig(run=config.run))
    except ValueError as error:
        if config.quantize == "int8":
            raise ValueError(
                f"--quantize int8 needs the images that the model was trained on. {error}"
            ) from error
        print_note(f"the scores are not measured, which needs the images. {one_line(error)}")
        return None
    assert isinstance(found, ImageData)
    return found


def _write_tflite(
    form: models.Format, config: ExportConfig, path: Path, data: ImageData | None
) -> Callable[..., None]:
    """Return the function that writes a model with the names of its classes, and its precision."""

    def images() -> Iterator[np.ndarray]:
        for batch, _ in data.train if data is not None else ():
            yield from np.asarray(batch)

    return functools.partial(
        form.write,
        class_names=models.known_target(path).names,
        quantize=config.quantize,
        calibration=itertools.islice(images(), CALIBRATION),
    )


def scores_of_both(
    config: ExportConfig, data: ImageData, predict: Callable[[Any], np.ndarray]
) -> list[str]:
    """Return the lines with the scores on the test images, before and after the export."""
    trained = models.load_trained(config.run)
    target = target_of(**trained.described)
    before = Classifier(trained.model, target.kind)
    after = copy.copy(before)
    after.call = lambda images: np.asarray(before.outputs(predict(np.asarray(images))))
    lines = []
    for name, classify in (("before", before), (f"after ({config.quantize})", after)):
        scores = evaluate_data(classify, data, target).scores
        words = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in scores.items())
        lines.append(f"on the {data.test_images} test images, {name}: {words}")
    return lines


def export(
    model: keras.Model,
    form: models.Format,
    output: Path,
    examples: list[Any],
    tolerance: float = TOLERANCE,
) -> float:
    """Write a model, check it on batches of examples, and return the largest difference.

    Raises:
        ExportError: If the model cannot be written in this format, or its predictions differ by
            more than the tolerance. Then nothing is left of it.
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
        if not difference <= tolerance:
            raise ExportError(
                f"The predictions of the exported model differ by {difference:.1e}, and "
                f"{tolerance:g} is allowed. The output was removed. Try another --format."
            )
    return difference
