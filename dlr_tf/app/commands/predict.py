"""The command `predict`: the classes, the labels or the numbers of images."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from dlr_tf.app.config import PredictConfig
from dlr_tf.app.data import ENDINGS, list_images, require_pillow
from dlr_tf.app.models import load_trained
from dlr_tf.app.results import Target, target_of
from dlr_tf.app.run import Classifier, Prediction, predict_files
from dlr_tf.app.terminal import messages_to_stderr, print_stderr, printable_name, usage_errors

# Wider paths do not move the columns.
_MAX_WIDTH = 60

# An image, and the outputs of the model.
Row = tuple[str, np.ndarray]


def run(config: PredictConfig) -> int:
    """Print one line per image.

    Returns:
        The exit code: 0, or 1 if an image has no prediction.

    Raises:
        UsageError: If there is no such model, a path does not exist, or there are no images.
    """
    with messages_to_stderr(), usage_errors():
        require_pillow()
        trained = load_trained(config.run)
        classify = Classifier(trained.model, trained.known.kind)
        paths = list_images(config.paths)
        first = next(paths, None)
        if first is None:
            raise ValueError(
                f"There are no images in {config.paths[0]!r}: expected files that end in "
                f"{', '.join(ENDINGS)}."
            )
    everything = itertools.chain([first], paths)
    predicted = _Predicted(predict_files(classify, everything, batch_size=config.batch_size))
    write = _write_csv if config.csv else _write_json if config.json else _write_text
    write(iter(predicted), target_of(**trained.described), config.top)
    sys.stdout.flush()
    if predicted.n_failed:
        print_stderr(f"{predicted.n_failed} of {predicted.n_images} images have no prediction")
    return 1 if predicted.n_failed else 0


@dataclasses.dataclass
class _Predicted:
    """The predictions of the images that have one. The others are named on stderr, and counted."""

    found: Iterable[Prediction]
    n_images: int = 0
    n_failed: int = 0

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for path, probabilities, error in self.found:
            self.n_images += 1
            if probabilities is not None and not np.isfinite(probabilities).all():
                probabilities = None
                error = f"{path}: the model answers with numbers that are not finite"
            if probabilities is None:
                self.n_failed += 1
                print_stderr(error)
            else:
                yield printable_name(path), probabilities


def _write_text(rows: Iterator[Row], target: Target, top: int) -> None:
    path_width = 0
    # The width follows the paths seen so far, since the rest is not known yet.
    while group := list(itertools.islice(rows, 32)):
        lengths = [len(path) for path, _ in group]
        path_width = max([path_width, *(length for length in lengths if length <= _MAX_WIDTH)])
        for path, outputs in group:
            print(f"{path:{path_width}}  {target.text(outputs, top)}")


def _write_csv(rows: Iterator[Row], target: Target, top: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", *target.csv_header(top)])
    for path, outputs in rows:
        writer.writerow([path, *target.csv_cells(outputs, top)])


def _write_json(rows: Iterator[Row], target: Target, top: int) -> None:
    separator = "["
    for path, outputs in rows:
        found = {"path": path, **target.json_item(outputs, top)}
        item = json.dumps(found, ensure_ascii=False, allow_nan=False)
        print(f"{separator}\n  {item}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")
