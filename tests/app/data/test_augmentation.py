"""Random changes of images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.app.data.augmentation import AUGMENTATIONS, augment, mixup

IMAGES = np.random.default_rng(0).uniform(0, 255, (64, 6, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_changes_depend_on_the_seed_alone(kind: str) -> None:
    tf.random.set_seed(1)
    one = augment(IMAGES, [kind], (3, 5)).numpy()
    tf.random.set_seed(2)
    traced = tf.function(augment)(IMAGES, (kind,), tf.constant([3, 5], tf.int64))
    np.testing.assert_allclose(traced, one, atol=1e-3)
    for seed in ((3, 6), (4, 5)):
        assert not np.allclose(augment(IMAGES, [kind], seed), one)
    assert one.shape == IMAGES.shape
    assert one.dtype == "float32"
    assert one.min() >= 0
    assert one.max() <= 255
    assert not np.array_equal(one, IMAGES)


def test_half_of_the_images_are_mirrored() -> None:
    flipped = augment(IMAGES, ["flip"], (0, 0)).numpy()
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, IMAGES)]
    unchanged = [np.array_equal(a, b) for a, b in zip(flipped, IMAGES)]
    assert sum(mirrored) + sum(unchanged) == 64
    assert 16 < sum(mirrored) < 48


def test_a_crop_is_a_part_of_the_image() -> None:
    ramp = np.broadcast_to(np.arange(101, dtype=np.float32)[:, None, None], (101, 5, 3))
    crops = augment(np.stack([ramp] * 64), ["crop"], (0, 1)).numpy()[:, :, 0, 0]
    heights = crops[:, -1] - crops[:, 0]
    assert heights.min() >= 70 - 1e-3
    assert heights.max() <= 100
    assert heights.std() > 5
    assert crops[:, 0].min() >= 0
    assert crops[:, -1].max() <= 100
    # Evenly spaced, so nothing is bent.
    np.testing.assert_allclose(np.diff(crops), np.repeat(heights[:, None] / 100, 100, 1), atol=1e-3)


def test_colours_of_grey_images_stay_grey() -> None:
    grey = np.repeat(IMAGES[..., :1], 3, axis=3)
    changed = augment(grey, ["colour"], (0, 1)).numpy()
    np.testing.assert_allclose(changed[..., 0], changed[..., 2], atol=1e-3)
    means = changed.mean(axis=(1, 2, 3)) / grey.mean(axis=(1, 2, 3))
    assert 0.7 < means.min() < 0.9 < 1.1 < means.max() < 1.3


def test_each_kind_has_numbers_of_its_own() -> None:
    both = augment(IMAGES, ["flip", "colour"], (0, 0))
    np.testing.assert_array_equal(
        both, augment(augment(IMAGES, ["flip"], (0, 0)), ["colour"], (0, 0))
    )


def test_a_crop_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """TensorFlow warns on stderr if it cannot estimate the costs of an operation."""
    batches = tf.data.Dataset.range(10).batch(4).map(lambda indices: tf.gather(IMAGES, indices))
    changed = batches.map(lambda images: augment(images, ["crop"], (0, 1)))
    assert [batch.shape[0] for batch in changed] == [4, 4, 2]
    assert "PredictCost" not in capfd.readouterr().err


def test_a_rotation_turns_around_the_middle() -> None:
    rows, columns = np.mgrid[0:41, 0:41] - 20.0
    disc = np.where(rows**2 + columns**2 < 100, 200.0, 50.0)
    bar = np.where(abs(rows) < 3, 200.0, 50.0)
    images = np.repeat(np.stack([disc, bar] * 16)[..., None], 3, axis=3).astype(np.float32)
    turned = augment(images, ["rotation"], (0, 1)).numpy()
    # A disc stays where it is, and the edges are filled with what is near.
    assert abs(turned[::2] - images[::2]).mean() < 3
    assert turned.min() >= 49
    # The end of the bar moves by up to 20 * sin(15 degrees) = 5.2 pixels.
    ends = turned[1::2, :, -3, 0].argmax(axis=1) - 20
    assert 2 <= abs(ends).max() <= 9
    assert len({*ends.tolist()}) > 3
    np.testing.assert_allclose(turned[1::2, 20, 20], 200, atol=1)


def test_mixup_mixes_images_as_their_labels() -> None:
    n_classes = 64
    levels = np.arange(64, dtype=np.float32)
    images = np.broadcast_to(levels[:, None, None, None], (64, 2, 3, 3))
    mixed, shares = mixup(images, np.arange(64), (3, 5), n_classes)
    np.testing.assert_allclose(shares.numpy() @ levels, mixed[:, 0, 0, 0], atol=1e-3)
    own = np.diag(shares.numpy())
    assert own.min() >= 0.5
    assert (own > 0.99).mean() > 0.3
    assert (own < 0.9).mean() > 0.2
    again, numbers = mixup(images, levels[:, None], (3, 5))
    np.testing.assert_array_equal(again, mixed)
    np.testing.assert_allclose(numbers[:, 0], mixed[:, 0, 0, 0], atol=1e-3)
    assert not np.allclose(mixup(images, np.arange(64), (3, 6), n_classes)[0], mixed)
