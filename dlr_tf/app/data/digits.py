"""The digits of scikit-learn as two tasks, which need no network."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dlr_tf.app.data.image_data import ImageData, Settings, indexed_data
from dlr_tf.app.data.splits import held_out


def load_digits(
    *,
    batch_size: int = 32,
    seed: int = 0,
    images_per_class: int = 20,
    validation_fraction: float = 0.0,
) -> tuple[ImageData, ImageData]:
    """Read scikit-learn's handwritten digits as two tasks: to pretrain on, and to fine-tune on.

    The images are 8 by 8 pixels with values from 0 to 256, so that the values of an image file,
    0 to 255, mean nearly the same. They come with scikit-learn, so no network is needed.

    Returns:
        The digits 0 to 4 (four fifths to pretrain on, the others to test on), and the digits 5
        to 9 (`images_per_class` of each to train on, of which a fraction can become `validation`).

    >>> pretraining, fine_tuning = load_digits()
    >>> pretraining.train_images, fine_tuning.train_images, fine_tuning.test_images
    (720, 100, 796)
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "The embedded data set needs scikit-learn, which is not installed. "
            'Run: pip install "dlr_tf[demo]", or give a folder of images'
        ) from error
    bunch = load()
    images = bunch.images[..., np.newaxis].astype("float32") * 16  # from 0 to 16 in the source
    order = np.random.default_rng(seed).permutation(len(images))
    images, digits = images[order], bunch.target[order]
    settings = Settings(images.shape[1], batch_size, evaluation_batch_size=256, seed=seed)

    def task(classes: range, **splits: np.ndarray) -> ImageData:
        return indexed_data(
            lambda indices, _: indices.map(lambda batch: tf.gather(images, batch)),
            (digits - classes[0]).astype("int32"),
            splits,
            settings,
            name=f"digits {classes[0]}-{classes[-1]}",
            class_names=tuple(str(digit) for digit in classes),
            image_shape=images.shape[1:],
            test_names=[f"digit {index}" for index in splits["test"]],
        )

    first = np.flatnonzero(digits < 5)
    cut = len(first) * 4 // 5
    chosen = np.concatenate(
        [np.flatnonzero(digits == digit)[:images_per_class] for digit in range(5, 10)]
    )
    rest = np.setdiff1d(np.flatnonzero(digits >= 5), chosen)
    splits = {"train": chosen, "test": rest}
    if validation_fraction > 0:
        is_held_out = held_out(digits[chosen], validation_fraction, seed)
        train, validation = chosen[~is_held_out], chosen[is_held_out]
        splits = {"train": train, "validation": validation, "test": rest}
    pretraining = task(range(5), train=first[:cut], test=first[cut:])
    return pretraining, task(range(5, 10), **splits)
