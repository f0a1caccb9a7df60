"""The embedded task."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.app.data import digits


def test_digits_are_two_tasks_without_a_shared_image() -> None:
    pytest.importorskip("sklearn")
    pretraining, fine_tuning = digits.load_digits(seed=1)
    assert pretraining.class_names == ("0", "1", "2", "3", "4")
    assert fine_tuning.class_names == ("5", "6", "7", "8", "9")
    sets = [pretraining.train, pretraining.test, fine_tuning.train, fine_tuning.test]
    images = [np.concatenate([batch for batch, _ in part]) for part in sets]
    labels = [np.concatenate([batch for _, batch in part]) for part in sets]
    assert [len(part) for part in images] == [720, 181, 100, 796]
    np.testing.assert_array_equal(np.bincount(labels[2]), [20] * 5)
    assert all(set(part) == {0, 1, 2, 3, 4} for part in labels)
    everything = np.concatenate(images).reshape(1797, -1)
    assert (everything.min(), everything.max()) == (0, 256)
    # Every digit of the source, once.
    from sklearn.datasets import load_digits

    source = load_digits().data * 16
    order, other = np.lexsort(everything.T), np.lexsort(source.T)
    np.testing.assert_array_equal(everything[order], source[other])


def test_digits_hold_out_training_images() -> None:
    pytest.importorskip("sklearn")
    whole = digits.load_digits()[1]
    assert whole.validation is whole.test
    held_out = digits.load_digits(validation_fraction=0.2)[1]
    assert held_out.class_counts["train"] == [16] * 5
    assert held_out.class_counts["validation"] == [4] * 5
    assert held_out.class_counts["test"] == whole.class_counts["test"]

    def images(*parts: tf.data.Dataset) -> set[bytes]:
        return {image.numpy().tobytes() for part in parts for batch, _ in part for image in batch}

    assert images(held_out.train, held_out.validation) == images(whole.train)
    assert len(images(held_out.validation)) == 20


def test_digits_choice_follows_the_seed() -> None:
    pytest.importorskip("sklearn")

    def chosen(seed: int) -> set[bytes]:
        train = digits.load_digits(seed=seed)[1].train
        return {image.numpy().tobytes() for batch, _ in train for image in batch}

    assert chosen(0) == chosen(0) != chosen(1)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "dlr_tf\[demo\]"'):
        digits.load_digits()
