"""The embedded network: small, for the digits of scikit-learn."""

from __future__ import annotations

import keras


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
