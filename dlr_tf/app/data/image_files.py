"""Batches of images from files: checked, decoded in parallel, resized, and kept if they are few."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from dlr_tf._names import some_of
from dlr_tf.app.data.image_data import ImageData, Settings, indexed_data
from dlr_tf.app.data.images import ImageFileError, problem_of, read_pixels, resize
from dlr_tf.app.data.labelled_files import LabelledFiles
from dlr_tf.app.data.splits import complete_splits
from dlr_tf.app.data.targets import CLASS
from dlr_tf.app.terminal import print_note, print_stderr, printable_name
from dlr_tf.core._validation import warn_user
from dlr_tf.training.training_data import without_autotuning

# Bytes of decoded images that are kept in memory. More than these are read again in each epoch.
KEPT_BYTES = 200 * 2**20
WORKERS = min(os.cpu_count() or 1, 16)
_CHUNK = 256  # files that one thread checks at a time
_BLANK = np.zeros((1, 1, 3), np.uint8)


def load_files(found: LabelledFiles, settings: Settings) -> ImageData:
    """Read the images of a folder or of a CSV file.

    What is split already keeps its splits. Otherwise a part of every class is kept for testing, the
    same for the same seed. Every file is checked before this function returns. What is ignored and
    what cannot be read is printed on stderr.

    Images that fit in 200 MiB are decoded once and stay in memory. More are decoded again in each
    epoch, a few at a time.

    Raises:
        ValueError: If a file cannot be read, or a class has no image to train on.
    """
    for warning in found.warnings:
        warn_user(warning)
    if found.ignored:
        print_note(f"{found.name}: ignored: {found.ignored}")
    files = ImageFiles(found.root, found.files, settings.image_size)
    readable = _readable(found, files)
    readable_of = {split: indices[readable[indices]] for split, indices in found.splits.items()}
    splits = complete_splits(found, readable_of, settings)
    return indexed_data(
        files.batches,
        found.labels,
        splits,
        settings,
        found.kind,
        name=found.name,
        class_names=found.class_names,
        image_shape=(*settings.size, 3),
        test_names=[printable_name(files.path(index)) for index in splits["test"]],
        fingerprint=_fingerprint(found, splits),
    )


def _readable(found: LabelledFiles, files: ImageFiles) -> np.ndarray:
    """Check all files, print those that cannot be read, and return which can be read."""
    if not files.are_few:
        print_note(f"{found.name}: checking {len(files)} files")
    unreadable = files.check()
    reasons = {files.path(index): reason for index, reason in unreadable.items()}
    reasons.update(found.broken)
    readable = np.array([files.path(index) not in reasons for index in range(len(files))], bool)
    if not reasons:
        return readable
    for path in sorted(reasons):
        print_stderr(f"{path}: {reasons[path]}")
    count = "1 file" if len(reasons) == 1 else f"{len(reasons)} files"
    if not found.skip_broken:
        raise ValueError(
            f"{count} of the data {found.name!r} cannot be read, for the reasons above: "
            f"{some_of(sorted(reasons), 3)}. Repair or remove what is broken, or give "
            "--skip-broken to go on without."
        )
    print_note(f"{found.name}: {count} left out (--skip-broken)")
    return readable


def _fingerprint(found: LabelledFiles, splits: Mapping[str, np.ndarray]) -> str:
    """Return a hash of the paths, sizes and classes of the files of each split."""
    digest = hashlib.sha256()
    for split, indices in sorted(splits.items()):
        for index in indices:
            path = found.files[index]
            size = os.path.getsize(os.path.join(found.root, path))
            label = _text_of(found, found.labels[index])
            digest.update(f"{split}\0{path}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _text_of(found: LabelledFiles, target: Any) -> str:
    if found.kind == CLASS:
        return found.class_names[target]
    return ",".join(f"{name}={value:.9g}" for name, value in zip(found.class_names, target))


class ImageFiles:
    """The images of a list of files, all resized to one size.

    `check` must be called once, before `batches`. It decodes the images into memory if they are
    few. Otherwise it looks at the beginning and the end of each file, and `batches` decodes. The
    numbers are the same either way.

    Args:
        root: The folder that the paths begin at.
        paths: Paths relative to it.
        image_size: Height and width of all images, in pixels.
    """

    def __init__(self, root: str, paths: Sequence[str], image_size: int) -> None:
        self.root = root
        self.paths = paths
        self.image_size = image_size
        self._kept: tf.Tensor | None = None
        self._problems: dict[int, str] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.root, self.paths[index])

    @property
    def are_few(self) -> bool:
        """Whether all images, decoded, fit in the memory that may be used for them."""
        return len(self) * self.image_size**2 * 3 * 4 <= KEPT_BYTES

    def check(self) -> dict[int, str]:
        """Return the index of each image that cannot be read, and why."""
        with warnings.catch_warnings():
            # They do not name the file. What makes it unreadable is found all the same.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return self._keep() if self.are_few else self._look()

    def _look(self) -> dict[int, str]:
        def problems(start: int) -> dict[int, str]:
            indices = range(start, min(start + _CHUNK, len(self)))
            found = {index: problem_of(self.path(index)) for index in indices}
            return {index: reason for index, reason in found.items() if reason is not None}

        found = {}
        with ThreadPoolExecutor(WORKERS) as pool:
            for some in pool.map(problems, range(0, len(self), _CHUNK)):
                found.update(some)
        return found

    def _keep(self) -> dict[int, str]:
        shape = (len(self), self.image_size, self.image_size, 3)
        images = np.empty(shape, np.float32)
        self._problems = {}
        indices = tf.data.Dataset.range(len(self)).batch(64)
        for start, batch in enumerate(without_autotuning(self._read_batches(indices, 64))):
            images[64 * start : 64 * (start + 1)] = batch
        found, self._problems = self._problems, None
        with tf.device("CPU:0"):
            self._kept = tf.constant(images)
        return found

    def batches(self, indices: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Return the images of batches of indices, at most `batch_size` in each, in their order."""
        kept = self._kept
        if kept is None:
            return self._read_batches(indices, batch_size)
        return indices.map(lambda batch: tf.gather(kept, batch))

    def _read_batches(self, indices: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        # Images are decoded one by one, also those of the next batch, so that no thread waits for
        # the end of a batch. A smaller batch is filled up with blank images.
        filled = indices.map(
            lambda batch: tf.pad(batch, [[0, batch_size - tf.shape(batch)[0]]], constant_values=-1)
        )
        images = filled.unbatch().map(
            self._read_and_resize, num_parallel_calls=WORKERS, deterministic=True
        )
        sizes = indices.map(lambda batch: tf.shape(batch)[0])
        batches = tf.data.Dataset.zip((images.batch(batch_size, drop_remainder=True), sizes))
        return batches.map(lambda batch, size: batch[:size])

    def _read_and_resize(self, index: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(self._read, [index], tf.uint8)
        image.set_shape((None, None, 3))
        return resize(image, (self.image_size, self.image_size))

    def _read(self, index: np.ndarray) -> np.ndarray:
        if index < 0:
            return _BLANK
        try:
            return read_pixels(self.path(int(index)))
        except ImageFileError as error:
            if self._problems is None:
                raise
            self._problems[int(index)] = error.reason
            return _BLANK
