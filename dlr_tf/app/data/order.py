"""The order in which a training sees its examples. It depends on the seed and the step alone.

By hand, since `tf.data`'s own shuffle has a state: a training could not be resumed at any step.
"""

from __future__ import annotations

from typing import NamedTuple

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


class Parts(NamedTuple):
    """The parts of each batch that one worker reads, of all parts: one per device.

    Args:
        own: The numbers of its own parts, in a row.
        total: How many there are.
    """

    own: range
    total: int

    def largest(self, batch_size: int) -> int:
        """Return the number of examples of the largest part of a training batch."""
        return max(-(-batch_size // self.total), min(batch_size, self.total - 1))


def parts_of(batches: tf.data.Dataset, parts: Parts) -> tf.data.Dataset:
    """Return for each part of a worker its examples, and where in the batch they are.

    The parts of a batch are rows, and differ by at most one example. So a run sees its examples in
    the same order, however many workers read them. A batch with fewer examples than parts goes to
    all parts as a whole, since layers of TensorFlow fail on an empty batch. The mean of the
    gradients of all parts is that of the batch.

    Args:
        batches: Batches of indices.
        parts: The parts of the worker.

    Returns:
        Pairs of indices and `[first, last, all]`: the first position of the part in the batch, the
        one after the last, and the size of the batch.

    >>> batches = tf.data.Dataset.range(8).batch(6)
    >>> parts = parts_of(batches, Parts(range(2, 4), 4))
    >>> [[*map(int, indices)] for indices, _ in parts.as_numpy_iterator()]
    [[3, 4], [5], [6, 7], [6, 7]]
    """

    def cut(batch: tf.Tensor) -> tf.data.Dataset:
        size = tf.shape(batch, tf.int64)[0]
        # Rounded up, so that the first parts are the larger ones.
        bounds = -(-size * tf.range(parts.total + 1, dtype=tf.int64) // parts.total)
        firsts, lasts = bounds[:-1], bounds[1:]
        is_small = size < parts.total
        firsts = tf.where(is_small, tf.zeros_like(firsts), firsts)
        lasts = tf.where(is_small, size, lasts)

        def part(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            first, last = firsts[number], lasts[number]
            return batch[first:last], tf.stack([first, last, size])

        return tf.data.Dataset.range(parts.own.start, parts.own.stop).map(part)

    return batches.flat_map(cut)


def batches_in_order(count: int, batch_size: int, parts: int) -> tf.data.Dataset:
    """Return batches of the numbers below `count`, in order, each with a number for every part.

    The last one takes what it lacks from the one before. Only if there are fewer numbers than parts
    it stays small.

    >>> [batch.tolist() for batch in batches_in_order(7, 6, 3).as_numpy_iterator()]
    [[0, 1, 2, 3], [4, 5, 6]]
    """
    steps = steps_per_epoch(count, batch_size)
    starts = [batch_size * step for step in range(steps)] + [count]
    if steps > 1:
        starts[-2] = min(starts[-2], count - min(parts, batch_size))
    bounds = tf.data.Dataset.from_tensor_slices((starts[:-1], starts[1:]))
    return bounds.map(lambda start, stop: tf.range(start, stop, dtype=tf.int64))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches in an epoch, the last one perhaps smaller.

    >>> steps_per_epoch(5, 2)
    3
    """
    return -(-count // batch_size)
