"""The order in which a training sees its examples. It depends on the seed and the step alone.

By hand, since `tf.data`'s own shuffle has a state: a training could not be resumed at any step.
"""

from __future__ import annotations

import tensorflow as tf


def index_batches(count: int, batch_size: int, seed: int, *, start: int = 0) -> tf.data.Dataset:
    """Return the batches of a whole training as indices of its examples, without end.

    Every epoch is a new permutation of all examples, and its last batch may be smaller. The
    permutation depends on the seed and the number of the epoch alone, so a training that goes on at
    any step sees the examples that it would have seen without the stop.

    Args:
        count: Int, 1 or more: number of examples.
        batch_size: Int, 1 or more: examples in a batch.
        seed: Int, 0 or more: seed of the permutations.
        start: Int, 0 or more: number of the first batch, counted over all epochs. Defaults to 0.

    >>> whole = list(index_batches(5, 2, seed=1).take(6).as_numpy_iterator())
    >>> later = list(index_batches(5, 2, seed=1, start=4).take(2).as_numpy_iterator())
    >>> [len(batch) for batch in whole]
    [2, 2, 1, 2, 2, 1]
    >>> all((a == b).all() for a, b in zip(whole[4:], later))
    True
    """
    steps = steps_per_epoch(count, batch_size)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), [seed, number]
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    epochs = tf.data.Dataset.counter(start // steps)
    batches = epochs.flat_map(epoch).skip(start % steps)
    # TensorFlow cannot tell. Keras counts the steps of `batches.take(n)` by it.
    return batches.apply(
        tf.data.experimental.assert_cardinality(tf.data.experimental.INFINITE_CARDINALITY)
    )


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches in an epoch, the last one perhaps smaller.

    >>> steps_per_epoch(5, 2)
    3
    """
    return -(-count // batch_size)
