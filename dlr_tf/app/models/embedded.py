"""The embedded network: small, and pretrained on half of the digits of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from dlr_tf.app.data import ImageData
from dlr_tf.training.distribution import distributed_fit


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
            steps_per_epoch=data.steps_per_epoch,
            shuffle=False,
            callbacks=list(callbacks),
            verbose=verbose,
        )
        accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    return backbone, float(accuracy)
