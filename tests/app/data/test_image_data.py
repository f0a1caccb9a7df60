"""Batches, class weights, and the table of classes."""

from __future__ import annotations

from pathlib import Path

from app_helpers import write_images
from data_helpers import levels, sizes

from dlr_tf.app import data


def test_batches_of_an_evaluation_are_larger(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part / "a", 10, value=0)
        write_images(tmp_path / part / "b", 3, value=100)
    loaded = data.load(tmp_path, image_size=6, batch_size=3)
    assert sizes(loaded.train) == [3, 3, 3, 3, 1]
    assert sizes(loaded.test) == [12, 1]
    assert loaded.test.cardinality() == 2
    loaded = data.load(tmp_path, image_size=6, batch_size=3, evaluation_batch_size=5)
    assert sizes(loaded.test) == [5, 5, 3]


def test_class_weights(folder: Path) -> None:
    for number in range(5):
        (folder / "cat" / f"{number:03d}.png").unlink()
    loaded = data.load(folder, image_size=4)
    assert loaded.class_counts["train"] == [4, 8]
    assert loaded.class_weights("none") is None
    weights = loaded.class_weights()
    assert weights == {0: 1.5, 1: 0.75}
    assert sum(weights[label] for _, label in levels(loaded.train)) == 12  # the mean is 1


def test_many_classes_are_counted_in_ten_lines() -> None:
    names = [f"c{number}" for number in range(13)]
    lines = data.class_table(names, {"train": [*range(10, 23)], "test": [2] * 13}).splitlines()
    assert len(lines) == 12
    assert lines[0] == "class  train  test"
    assert lines[10] == "c9        19     2"
    assert lines[11] == "and 3 more classes: 20 to 22 in train, 2 to 2 in test"
