"""The command `predict`: the classes, the labels or the numbers of images and texts."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dlr_tf.app.config import PredictConfig
from dlr_tf.app.data import ENDINGS, STDIN, list_images, named_texts, require_pillow, shown
from dlr_tf.app.models import TrainedModel, load_trained, text_columns
from dlr_tf.app.results import Target, atomic_write, check_new, target_of
from dlr_tf.app.run import Classifier, Prediction, predict_files, predict_texts, run_settings
from dlr_tf.app.terminal import (
    messages_to_stderr,
    print_stderr,
    printable_name,
    usage_errors,
    written_line,
)

# Wider paths do not move the columns.
_MAX_WIDTH = 60

# An image or a text, and the outputs of the model.
Row = tuple[Prediction, np.ndarray]


def run(config: PredictConfig) -> int:
    """Print one line per image or text.

    Returns:
        The exit code: 0, or 1 if one has no prediction.

    Raises:
        UsageError: If there is no such model, a path does not exist, or there are no images.
    """
    with messages_to_stderr(), usage_errors():
        output = None if config.output is None else Path(config.output)
        if output is not None:
            check_new(output)
        trained = load_trained(config.run)
        classify = Classifier(trained.model, trained.known.kind, tta=config.tta)
        if classify.takes_texts:
            found = _texts(config, trained, classify)
        else:
            found = _images(config, classify)
    unit = "text" if classify.takes_texts else "image"
    predicted = _Predicted(found)
    ending = "" if output is None or config.csv or config.json else output.suffix.lower()
    write = _write_text
    if config.csv or ending == ".csv":
        write = _write_csv
    elif config.json or ending == ".json":
        write = _write_json
    target = target_of(**trained.described)
    if output is None:
        write(iter(predicted), target, config.top, unit)
        sys.stdout.flush()
    else:
        with (
            atomic_write(output) as partial,
            partial.open("w", encoding="utf-8", newline="\n") as file,
            contextlib.redirect_stdout(file),
        ):
            write(iter(predicted), target, config.top, unit)
        print(written_line(output))
    if predicted.n_failed:
        print_stderr(f"{predicted.n_failed} of {predicted.n_found} {unit}s have no prediction")
    return 1 if predicted.n_failed else 0


def _texts(
    config: PredictConfig, trained: TrainedModel, classify: Classifier
) -> Iterator[Prediction]:
    """Return the predictions of the texts that are named."""
    column = config.text_column
    if column is None:
        column = run_settings(trained.folder).get("text_column")
    texts = named_texts(config.paths, text_columns(trained.model), column)
    return predict_texts(classify, texts, batch_size=config.batch_size)


def _images(config: PredictConfig, classify: Classifier) -> Iterator[Prediction]:
    """Return the predictions of the images that are named."""
    require_pillow()
    if config.text_column is not None or STDIN in config.paths:
        what = "--text-column" if config.text_column is not None else f"{STDIN} (lines on stdin)"
        raise ValueError(f"{what} is for a model of texts, and this model takes images.")
    paths = list_images(config.paths)
    first = next(paths, None)
    if first is None:
        raise ValueError(
            f"There are no images in {config.paths[0]!r}: expected files that end in "
            f"{', '.join(ENDINGS)}."
        )
    everything = itertools.chain([first], paths)
    return predict_files(classify, everything, batch_size=config.batch_size)


@dataclasses.dataclass
class _Predicted:
    """The predictions that there are. The others are named on stderr, and counted."""

    found: Iterable[Prediction]
    n_found: int = 0
    n_failed: int = 0

    def __iter__(self) -> Iterator[tuple[Prediction, np.ndarray]]:
        for one in self.found:
            self.n_found += 1
            error = one.error
            if one.probabilities is not None and not np.isfinite(one.probabilities).all():
                error = f"{one.path}: the model answers with numbers that are not finite"
            if error:
                self.n_failed += 1
                print_stderr(error)
            elif one.probabilities is not None:
                yield one._replace(path=printable_name(one.path)), one.probabilities


def _write_text(rows: Iterator[Row], target: Target, top: int, unit: str) -> None:
    path_width = 0
    # The width follows the paths seen so far, since the rest is not known yet.
    while group := list(itertools.islice(rows, 32)):
        names = [one.path if one.text is None else shown(one.text) for one, _ in group]
        path_width = max([path_width, *(len(name) for name in names if len(name) <= _MAX_WIDTH)])
        for name, (_, outputs) in zip(names, group, strict=True):
            print(f"{name:{path_width}}  {target.text(outputs, top)}")


def _write_csv(rows: Iterator[Row], target: Target, top: int, unit: str) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", *(["text"] if unit == "text" else []), *target.csv_header(top)])
    for one, outputs in rows:
        text = [] if one.text is None else [_one_text(one.text)]
        writer.writerow([one.path, *text, *target.csv_cells(outputs, top)])


def _one_text(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else "\t".join(text)


def _write_json(rows: Iterator[Row], target: Target, top: int, unit: str) -> None:
    separator = "["
    for one, outputs in rows:
        text = {} if one.text is None else {"text": one.text}
        found = {"path": one.path, **text, **target.json_item(outputs, top)}
        item = json.dumps(found, ensure_ascii=False, allow_nan=False)
        print(f"{separator}\n  {item}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")
