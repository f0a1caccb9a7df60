"""Each worker reads only its part of the files, and all together read what one reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_helpers import write_images

from dlr_tf.app import data
from dlr_tf.app.data import image_files
from dlr_tf.app.data.order import Parts

BATCH, COUNT = 6, 16  # the last batch has 4 images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for number, name in enumerate("ab"):
            write_images(tmp_path / part / name, COUNT // 2, value=20 + 100 * number)
    return tmp_path


def loaded(folder: Path, *augmentations: str) -> data.ImageData:
    return data.load(folder, image_size=4, batch_size=BATCH, augmentations=augmentations)


def of_steps(batches: Any, devices: int, steps: int) -> list[list[tuple[np.ndarray, ...]]]:
    """The parts of each step."""
    parts = [tuple(map(np.asarray, part)) for part in batches.take(devices * steps)]
    assert len(parts) == devices * steps
    return [parts[begin : begin + devices] for begin in range(0, len(parts), devices)]


@pytest.mark.parametrize(("workers", "devices"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("start", [0, 2])
def test_the_order_does_not_depend_on_how_many_read(folder, workers, devices, start):
    images = loaded(folder, "flip", "crop", "colour")
    total, steps = workers * devices, 4
    found = [
        of_steps(
            images.train_from(start, 3, Parts(range(w * devices, (w + 1) * devices), total)),
            devices,
            steps,
        )
        for w in range(workers)
    ]
    for step, (x, y) in enumerate(images.train_from(start, 3).take(steps)):
        parts = [part for worker in found for part in worker[step]]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)
        sizes = [len(part[0]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_batch_with_fewer_images_than_devices_goes_to_all(folder):
    images = loaded(folder, "flip")
    *_, (x, y) = images.train
    assert len(x) == 4
    for number in range(5):
        part = Parts(range(number, number + 1), 5)
        assert part.largest(BATCH) == 4
        *_, ((own_x, own_y),) = of_steps(images.train_from(0, 0, part), 1, images.steps_per_epoch)
        np.testing.assert_array_equal(own_x, x)
        np.testing.assert_array_equal(own_y, y)


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 16])
def test_the_parts_of_an_evaluation(folder, workers):
    """Nobody gets an image twice, and nobody gets none."""
    images = data.load(folder, image_size=4, batch_size=BATCH, evaluation_batch_size=15)
    own_parts = [Parts(range(worker, worker + 1), workers) for worker in range(workers)]
    parts = [images.evaluation_part("test", own) for own in own_parts]
    assert all(part.cardinality() == images.test.cardinality() for part in parts)
    steps = list(zip(*parts, strict=True))
    assert all(len(part[0]) for step in steps for part in step)
    for number, known in enumerate(zip(*images.test.unbatch().batch(COUNT))):
        found = [part[number] for step in steps for part in step]
        if workers < 16:
            np.testing.assert_array_equal(np.concatenate(found), known[0])


def test_more_devices_than_images_of_an_evaluation(folder):
    """Each gets all, so that the mean over all is that of the images."""
    images = loaded(folder)
    for number in (0, 39):
        part = images.evaluation_part("test", Parts(range(number, number + 1), 40))
        for batch, known in zip(part, images.test, strict=True):
            np.testing.assert_array_equal(batch[0], known[0])
            np.testing.assert_array_equal(batch[1], known[1])


def test_each_worker_reads_its_own_files(folder, monkeypatch):
    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    images = loaded(folder)
    read, readers = image_files.read_pixels, [set[str](), set[str]()]

    def reads_of(worker: int, batches: Any, count: int) -> None:
        def noted(path: str) -> np.ndarray:
            readers[worker].add(path)
            return read(path)

        with monkeypatch.context() as patch:
            patch.setattr(image_files, "read_pixels", noted)
            assert len(list(batches.take(count))) == count

    for worker in (0, 1):
        part = Parts(range(worker, worker + 1), 2)
        # To the end: what is read ahead is not counted.
        reads_of(worker, images.evaluation_part("test", part), 1)
    assert not readers[0] & readers[1]
    assert len(readers[0]) == len(readers[1]) == COUNT // 2
    assert all(f"{Path('test')}" in path for path in readers[0] | readers[1])
