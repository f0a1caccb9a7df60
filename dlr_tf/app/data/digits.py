"""The embedded task: scikit-learn's digits, and a network pretrained on half of them."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.app.data.batches import ImageData
from dlr_tf.app.data.order import index_batches, steps_per_epoch
from dlr_tf.app.data.splits import held_out
from dlr_tf.training.distribution import distributed_fit
from dlr_tf.training.training_data import steps_in_epoch, without_autotuning


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

    Args:
        batch_size: Images per batch. Defaults to 32.
        seed: Seed of the choice and the order of the images. Defaults to 0.
        images_per_class: Number of images of each digit to fine-tune on; the others are to test on.
            Defaults to 20.
        validation_fraction: Fraction of the images to fine-tune on that is not trained on and
            becomes `validation`. Defaults to 0: `validation` is `test`.

    Returns:
        The digits 0 to 4 (four fifths to pretrain on, the others to test on), and the digits 5
        to 9.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:

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
    first = np.flatnonzero(digits < 5)
    cut = len(first) * 4 // 5
    pretraining = _from_arrays(
        "digits 0-4", images, digits, first[:cut], first[cut:], range(5), batch_size, seed
    )
    chosen = np.concatenate(
        [np.flatnonzero(digits == digit)[:images_per_class] for digit in range(5, 10)]
    )
    rest = np.setdiff1d(np.flatnonzero(digits >= 5), chosen)
    validation = None
    if validation_fraction > 0:
        is_held_out = held_out(digits[chosen], validation_fraction, seed)
        validation, chosen = chosen[is_held_out], chosen[~is_held_out]
    fine_tuning = _from_arrays(
        "digits 5-9", images, digits, chosen, rest, range(5, 10), batch_size, seed, validation
    )
    return pretraining, fine_tuning


def _from_arrays(
    name: str,
    images: np.ndarray,
    digits: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    classes: range,
    batch_size: int,
    seed: int,
    validation: np.ndarray | None = None,
) -> ImageData:
    def examples(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images[indices], (digits[indices] - classes[0]).astype("int32")

    training = examples(train)

    def train_from(step: int, order_seed: int = seed) -> tf.data.Dataset:
        batches = index_batches(len(train), batch_size, order_seed, start=step)
        batches = batches.map(lambda indices: tuple(tf.gather(part, indices) for part in training))
        return without_autotuning(batches.prefetch(2))

    def evaluation(indices: np.ndarray) -> tf.data.Dataset:
        batches = tf.data.Dataset.from_tensor_slices(examples(indices)).batch(256)
        return without_autotuning(batches.prefetch(2))

    parts = {"train": train, "test": test}
    if validation is not None:
        parts = {"train": train, "validation": validation, "test": test}
    testing = evaluation(test)
    steps = steps_per_epoch(len(train), batch_size)
    return ImageData(
        name=name,
        train=train_from(0).take(steps),
        train_from=train_from,
        validation=testing if validation is None else evaluation(validation),
        test=testing,
        class_names=tuple(str(digit) for digit in classes),
        image_shape=images.shape[1:],
        train_images=len(train),
        test_images=len(test),
        test_names=[f"digit {number}" for number in test],
        class_counts={
            part: np.bincount(examples(indices)[1], minlength=len(classes)).tolist()
            for part, indices in parts.items()
        },
    )


def digits_backbone() -> keras.Model:
    """Return the small convolutional network for the digits, not trained, without a classifier."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 256, name="rescaling")(inputs)
    for number, filters in enumerate((32, 32, 64, 64), 1):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv_{number}")(
            x
        )
        # The default momentum of 0.99 needs more steps than this training has.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
        if number == 2:
            x = keras.layers.MaxPooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Flatten(name="features")(x), name="digits_backbone")


def pretrain_on_digits(
    data: ImageData,
    *,
    epochs: int = 12,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> tuple[keras.Model, float]:
    """Train a small convolutional network with batch normalization, to fine-tune later.

    Args:
        data: The task to pretrain on, from `load_digits`.
        epochs: Number of epochs. Defaults to 12.
        callbacks: As in `keras.Model.fit`. Defaults to none.
        verbose: As in `keras.Model.fit`.

    Returns:
        The network without its classifier (images in, one vector per image out), and the accuracy
        it reached with its classifier on the test images.
    """
    backbone = digits_backbone()
    model = keras.Sequential(
        [backbone, keras.layers.Dense(len(data.class_names), activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with distributed_fit(model, data.train.element_spec):
        model.fit(
            data.train_from(0),
            epochs=epochs,
            steps_per_epoch=steps_in_epoch(data.train),
            shuffle=False,
            callbacks=list(callbacks),
            verbose=verbose,
        )
        accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    return backbone, float(accuracy)
