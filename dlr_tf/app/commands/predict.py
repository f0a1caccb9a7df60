"""The command `predict`: the most probable classes of images."""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.data import images
from dlr_tf.app.data.folders import is_foreign
from dlr_tf.app.models import sources as models
from dlr_tf.app.models.trained import load_trained
from dlr_tf.app.terminal.messages import messages_to_stderr, mistakes, one_line, say
from dlr_tf.training.losses import last_activation

# Wider paths do not move the columns.
_MAX_WIDTH = 60


class Prediction(NamedTuple):
    """What a model says of an image.

    Args:
        path: The image.
        probabilities: One per class; `None` if the image cannot be read.
        error: Why it cannot be read; else empty.
    """

    path: str
    probabilities: np.ndarray | None
    error: str = ""


def run(args: argparse.Namespace) -> int:
    """Print one line per image.

    Args:
        args: What `parse_arguments` returns for `predict`.

    Returns:
        The exit code: 0, or 1 if an image cannot be read.

    Raises:
        MistakeError: If there is no such model, a path does not exist, or there are no images.
    """
    with messages_to_stderr(), mistakes():
        check_paths(args.paths)
        trained = load_trained(args.run)
        classify = Classifier(trained.model)
        paths = image_files(args.paths)
        first = next(paths, None)
        if first is None:
            raise ValueError(
                f"There are no images in {args.paths[0]!r}: expected files that end in "
                f"{', '.join(images.ENDINGS)}."
            )
    everything = itertools.chain([first], paths)
    readable = _Readable(predictions(classify, everything, batch_size=args.batch_size))
    write = _write_csv if args.csv else _write_json if args.json else _write_text
    top = min(args.top, len(trained.class_names))
    write(readable, trained.class_names, top)
    sys.stdout.flush()
    if readable.n_unreadable:
        say(f"{readable.n_unreadable} of {readable.n_images} images cannot be read")
    return 1 if readable.n_unreadable else 0


def check_paths(paths: Sequence[str]) -> None:
    """Check that all paths exist.

    Raises:
        ValueError: If one does not.
    """
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"The image {missing[0]!r}{others} does not exist. Correct the path.")


def image_files(paths: Iterable[str]) -> Iterator[str]:
    """Give the files that are named, and the images in the folders that are named, in order.

    Hidden files and folders are left aside. Nothing is listed before it is needed.

    Args:
        paths: Files and folders.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for base, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not is_foreign(name))
            for name in sorted(names):
                if not is_foreign(name) and name.lower().endswith(images.ENDINGS):
                    yield os.path.join(base, name)


class Classifier:
    """A model that is called on image files and on batches of images.

    Args:
        model: A model from images with values from 0 to 255 to probabilities or logits.

    Raises:
        ValueError: If the model takes no images.
    """

    def __init__(self, model: keras.Model) -> None:
        shape = models.image_shape(model)
        if shape is None:
            raise ValueError(
                "The model should take images, of shape (batch, height, width, channels). "
                f"Received: input shape {getattr(model, 'input_shape', None)}"
            )
        height, width, self.channels = shape
        self.size = None if height is None or width is None else (height, width)
        self._has_logits = last_activation(model) == "linear"

        @tf.function(reduce_retracing=True)
        def predict(batch: tf.Tensor) -> tf.Tensor:
            # `Model.predict_on_batch` gives one copy per device under a strategy.
            return model(batch, training=False)

        self._predict = predict

    def read(self, path: str) -> np.ndarray:
        """Read an image, and resize it as the training does.

        Args:
            path: The file.

        Returns:
            float32 array of shape `(height, width, channels)`, with values from 0 to 255.

        Raises:
            ValueError: If it cannot be read.
        """
        return self.prepare(images.read_image(path))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return an RGB image in the size and with the channels that the model was trained on."""
        prepared = tf.cast(image, tf.float32)
        if self.size is not None:
            prepared = tf.image.resize(prepared, self.size)
        if self.channels == 1:
            prepared = tf.image.rgb_to_grayscale(prepared)
        return prepared.numpy()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, of shape `(batch, classes)`."""
        outputs = self._predict(tf.convert_to_tensor(batch))
        return (tf.nn.softmax(outputs) if self._has_logits else outputs).numpy()


def predictions(
    classify: Classifier, paths: Iterable[str], *, batch_size: int = 32
) -> Iterator[Prediction]:
    """Classify image files, in order. Only two batches of images are held in memory.

    Args:
        classify: The model.
        paths: The files.
        batch_size: Images in a batch. Defaults to 32. A model without a size of its own gets images
            one by one.
    """
    size = batch_size if classify.size is not None else 1

    def read(path: str) -> np.ndarray | str:
        try:
            return classify.read(path)
        except ValueError as error:
            return one_line(error)

    with ThreadPoolExecutor() as pool:
        for batch in _read_ahead(pool, read, paths, size):
            readable = [image for _, image in batch if isinstance(image, np.ndarray)]
            rows: Iterator[np.ndarray] = iter(())
            if readable:
                # Batches of one size, so that the model is compiled once.
                filled = readable + readable[-1:] * (size - len(readable))
                rows = iter(classify(np.stack(filled))[: len(readable)])
            for path, image in batch:
                if isinstance(image, np.ndarray):
                    yield Prediction(path, next(rows))
                else:
                    yield Prediction(path, None, image)


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[str], Any], paths: Iterable[str], size: int
) -> Iterator[list[tuple[str, Any]]]:
    """Give batches of paths and what was read from them; the next batch is read meanwhile."""
    waiting: collections.deque[tuple[str, Future[Any]]] = collections.deque()
    paths = iter(paths)
    while True:
        for path in itertools.islice(paths, 2 * size - len(waiting)):
            waiting.append((path, pool.submit(read, path)))
        if not waiting:
            return
        now = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        yield [(path, future.result()) for path, future in now]


def best_classes(
    probabilities: np.ndarray, class_names: Sequence[str], top: int
) -> list[tuple[str, float]]:
    """Return the most probable classes, the best one first.

    >>> best_classes(np.array([0.25, 0.5, 0.25]), ["a", "b", "c"], 2)
    [('b', 0.5), ('a', 0.25)]
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(class_names[number], float(probabilities[number])) for number in order]


@dataclasses.dataclass
class _Readable:
    """The predictions of the images that can be read. The others are named on stderr, and counted.

    Args:
        found: All predictions.
    """

    found: Iterable[Prediction]
    n_images: int = 0
    n_unreadable: int = 0

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for path, probabilities, error in self.found:
            self.n_images += 1
            if probabilities is None:
                self.n_unreadable += 1
                say(error)
            else:
                yield path, probabilities


def _write_text(readable: _Readable, class_names: Sequence[str], top: int) -> None:
    name_width = max(map(len, class_names))
    path_width = 0
    items = iter(readable)
    # The width follows the paths seen so far, since the rest is not known yet.
    while group := list(itertools.islice(items, 32)):
        lengths = [len(path) for path, _ in group]
        path_width = max([path_width, *(length for length in lengths if length <= _MAX_WIDTH)])
        for path, probabilities in group:
            best = best_classes(probabilities, class_names, top)
            cells = "  ".join(f"{name:{name_width}} {p:.3f}" for name, p in best)
            print(f"{path:{path_width}}  {cells}")


def _write_csv(readable: _Readable, class_names: Sequence[str], top: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    header = [f"{word}_{n}" for n in range(1, top + 1) for word in ("class", "probability")]
    writer.writerow(["path", *header])
    for path, probabilities in readable:
        best = best_classes(probabilities, class_names, top)
        writer.writerow([path, *itertools.chain(*((name, f"{p:.6f}") for name, p in best))])


def _write_json(readable: _Readable, class_names: Sequence[str], top: int) -> None:
    separator = "["
    for path, probabilities in readable:
        best = best_classes(probabilities, class_names, top)
        classes = [{"class": name, "probability": round(p, 6)} for name, p in best]
        item = json.dumps({"path": path, "classes": classes}, ensure_ascii=False)
        print(f"{separator}\n  {item}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")
