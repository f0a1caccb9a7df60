"""A model that is called on images: image files one batch ahead, in the size that it takes."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.data import ImageData, TextToPredict, read_image, resize
from dlr_tf.app.models import example_inputs, image_shape, takes_texts, to_probabilities, to_scores
from dlr_tf.app.results import Target
from dlr_tf.app.terminal import one_line


class Prediction(NamedTuple):
    """What a model says of a file or a text: its outputs, or why it cannot be read.

    Of a text, the path is the place, and the text is there too.
    """

    path: str
    probabilities: np.ndarray | None = None
    error: str = ""
    text: Any = None


class Classifier:
    """A model that is called on image files, and on batches of images or of texts.

    Args:
        model: A model from images with values from 0 to 255, or from texts, to probabilities or
            logits, or to numbers.
        kind: The kind of its target. Defaults to "class".
        tta: Whether test-time augmentation averages the outputs for an image and for its mirror
            image, left to right. Defaults to `False`.

    Raises:
        ValueError: If the model takes neither, or gives no probabilities or logits; or if texts
            are to be mirrored.
    """

    def __init__(self, model: keras.Model, kind: str = "class", *, tta: bool = False) -> None:
        self.takes_texts = takes_texts(model)
        if tta and self.takes_texts:
            raise ValueError("--tta mirrors images, and this model takes texts. Leave it out.")
        shape = (None, None, 0) if self.takes_texts else image_shape(model)
        height, width, self.channels = shape
        self.size = None if height is None or width is None else (height, width)
        outputs: Callable[[Any], Any] = tf.identity
        if kind == "class":
            outputs = to_probabilities(model, "The model", example_inputs(model)[0])
        elif kind == "labels":
            outputs = to_scores(model)

        self.outputs = outputs

        @tf.function(reduce_retracing=True)
        def predict(batch: tf.Tensor) -> tf.Tensor:
            # `Model.predict_on_batch` gives one copy per device under a strategy.
            found = outputs(model(batch, training=False))
            if not tta:
                return found
            return (found + outputs(model(batch[:, :, ::-1], training=False))) / 2.0

        self.call: Callable[[Any], Any] = predict

    def read(self, path: str) -> np.ndarray:
        """Read an image, and resize it as the training does, or raise a `ValueError`."""
        return read_image(path, self.size, channels=self.channels)

    def prepare(self, batch: Any) -> Any:
        """Return a batch of images in the channels that the model takes; texts as they are."""
        return batch if self.takes_texts else resize(batch, channels=self.channels)

    def __call__(self, batch: Any) -> np.ndarray:
        """Return the probabilities of the classes or labels, or the numbers: one row per image."""
        return np.asarray(self.call(tf.convert_to_tensor(batch)))


def evaluate_data(classify: Classifier, data: ImageData, target: Target) -> Any:
    """Return the scores on the images to test on, in one pass.

    A class of the data that has no images may be unknown to the target.
    """
    labels, outputs = outputs_on(classify, data.test)
    labels = known_labels(target, data.class_names, labels)
    evaluation = target.evaluate(labels, outputs, data.test_names)
    return dataclasses.replace(evaluation, unit=data.unit)


def outputs_on(classify: Classifier, batches: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a data set, and the outputs of a model for it."""
    labels, outputs = [], []
    for images, some_labels in batches:
        labels.append(np.asarray(some_labels))
        outputs.append(classify(classify.prepare(images)))
    return np.concatenate(labels), np.concatenate(outputs)


def known_labels(target: Target, names: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return labels of data as a target counts them, whose classes may have another order."""
    known = {name: number for number, name in enumerate(target.class_names)}
    numbers = np.array([known.get(name, -1) for name in names])
    if target.kind == "class":
        return numbers[labels.astype(int)]
    wanted = np.zeros((len(labels), len(known)), labels.dtype)
    for column, number in enumerate(numbers):
        if number >= 0:
            wanted[:, number] = labels[:, column]
    return wanted


def predict_files(
    classify: Classifier, paths: Iterable[str], *, batch_size: int = 32
) -> Iterator[Prediction]:
    """Classify image files, in order. Only two batches of images are held in memory.

    A model without a size of its own gets images one by one.
    """
    size = batch_size if classify.size is not None else 1

    def read(path: str) -> tuple[Prediction, Any]:
        try:
            return Prediction(path), classify.read(path)
        except ValueError as error:
            return Prediction(path, error=one_line(error)), None

    waiting: collections.deque[Future[tuple[Prediction, Any]]] = collections.deque()
    paths = iter(paths)
    with ThreadPoolExecutor() as pool:
        while True:
            # The next batch is read meanwhile.
            for path in itertools.islice(paths, 2 * size - len(waiting)):
                waiting.append(pool.submit(read, path))
            if not waiting:
                return
            batch = [waiting.popleft().result() for _ in range(min(size, len(waiting)))]
            yield from _classified(classify, batch, size)


def predict_texts(
    classify: Classifier, texts: Iterable[TextToPredict], *, batch_size: int = 32
) -> Iterator[Prediction]:
    """Classify texts, in order. One batch of texts is held in memory."""
    texts = iter(texts)
    while found := list(itertools.islice(texts, batch_size)):
        batch = [
            (Prediction(one.place, error=one.error and f"{one.place}: {one.error}"), one.text)
            for one in found
        ]
        for one, (_, text) in zip(_classified(classify, batch, batch_size), batch, strict=True):
            yield one if one.error else one._replace(text=text)


def _classified(
    classify: Classifier, batch: Sequence[tuple[Prediction, Any]], size: int
) -> Iterator[Prediction]:
    """Give the outputs for the examples that could be read, and the errors of the others."""
    readable = [example for one, example in batch if not one.error]
    rows: Iterator[np.ndarray] = iter(())
    if readable:
        # Batches of one size, so that the model is compiled once.
        filled = readable + readable[-1:] * (size - len(readable))
        rows = iter(classify(np.array(filled, object if classify.takes_texts else None)))
    for one, _ in batch:
        yield one if one.error else one._replace(probabilities=next(rows))
