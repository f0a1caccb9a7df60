"""The pretraining of the embedded network, on the first half of the digits."""

from __future__ import annotations

import keras

from dlr_tf.app import models
from dlr_tf.app.data import ImageData
from dlr_tf.training.distribution import distributed_fit


def pretrain_on_digits(
    data: ImageData, *, epochs: int = 12, verbose: int | str = "auto"
) -> tuple[keras.Model, float]:
    """Train a small convolutional network with batch normalization on the task of `load_digits`.

    Returns:
        The network without its classifier (images in, one vector per image out), and the accuracy
        it reached with its classifier on the test images.
    """
    backbone = models.digits_backbone()
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
            verbose=verbose,
        )
        accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    return backbone, float(accuracy)
