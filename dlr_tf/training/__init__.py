"""Training with the optimizer: freezing, callbacks, the range test, fine-tuning."""

import dlr_tf.core  # noqa: F401  (loads Keras first)
