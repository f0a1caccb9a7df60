"""Random changes of training images. They depend on the seed and the step alone.

By hand, since the layers of Keras have a random state: a training could not be resumed at any step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import tensorflow as tf

MIXUP = "mixup"
MIXUP_ALPHA = 0.2  # of the Beta distribution: most images are nearly unchanged
LARGEST_ANGLE = 15.0  # degrees
SMALLEST_SIDE = 0.7  # of a crop, as a fraction of the image's side
COLOUR_CHANGE = 0.2  # how far brightness, contrast and saturation are from 1


def augment(
    images: tf.Tensor,
    kinds: Collection[str],
    seed: tf.Tensor,
    rows: tf.Tensor | None = None,
) -> tf.Tensor:
    """Change images at random, each of a batch in its own way.

    - `flip`: half of the images are mirrored, left to right.
    - `crop`: a part whose sides are 0.7 to 1 of the image's sides, at a random place, is enlarged
      to the size of the image.
    - `colour`: brightness, contrast and saturation are multiplied by 0.8 to 1.2 each.
    - `rotation`: the image is turned by up to 15 degrees, and mirrored at its edges.

    `mixup` is not among them, since it changes the labels too.

    Args:
        images: Float32 tensor of shape `(batch, height, width, 3)`, values 0 to 255.
        kinds: Names from `AUGMENTATIONS`; others are ignored. They are applied in that order.
        seed: Two integers. The same seed gives the same changes.
        rows: `[first, last, all]`: which rows of a batch of how many images these are. Each is then
            changed as in the whole batch. Defaults to all rows.

    >>> images = tf.reshape(tf.range(2 * 2 * 3, dtype=tf.float32), (1, 2, 2, 3))
    >>> flipped = augment(images, ["flip"], (0, 4))
    >>> flipped[0, 0, :, 0].numpy().tolist(), images[0, 0, :, 0].numpy().tolist()
    ([3.0, 0.0], [0.0, 3.0])
    """
    count = tf.shape(images, tf.int64)[0]
    first, last, total = (0, count, count) if rows is None else tf.unstack(rows)

    for number, (kind, change) in enumerate(AUGMENTATIONS.items()):
        if kind in kinds:
            own_seed = tf.random.experimental.stateless_fold_in(seed, number)

            def draw(
                low: float, high: float, shape: Sequence[int], seed: tf.Tensor = own_seed
            ) -> tf.Tensor:
                """Return random numbers for each image."""
                return tf.random.stateless_uniform((total, *shape), seed, low, high)[first:last]

            images = change(images, draw)
    return images


Draw = Callable[[float, float, Sequence[int]], tf.Tensor]


def mixup(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, n_classes: int | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image of a batch, and what is to be learnt of it, with another one at random.

    Of the image itself there is always at least half: `share * own + (1 - share) * other`, with a
    share that comes from a Beta distribution of 0.2 and 0.2 (Zhang et al., 2018, mixup).

    Args:
        images: As for `augment`.
        labels: Class numbers, or a row of floats for each image.
        seed: Two integers. The same seed gives the same changes.
        n_classes: For class numbers, how many classes there are: the labels that are returned are
            the shares of all classes.

    >>> images = tf.reshape(tf.range(4.0 * 3), (4, 1, 1, 3))
    >>> mixed, shares = mixup(images, tf.constant([0, 1, 0, 1]), (0, 1), 2)
    >>> mixed.shape.as_list(), tf.reduce_sum(shares, axis=1).numpy().round(4).tolist()
    ([4, 1, 1, 3], [1.0, 1.0, 1.0, 1.0])
    """
    targets = labels if n_classes is None else tf.one_hot(labels, n_classes)
    targets = tf.cast(targets, tf.float32)
    order_seed, *share_seeds = (
        tf.random.experimental.stateless_fold_in(seed, 100 + number) for number in range(3)
    )
    size = tf.shape(images)[0]
    order = tf.random.experimental.stateless_shuffle(tf.range(size), order_seed)
    one, other = (
        tf.random.stateless_gamma([size], share, alpha=MIXUP_ALPHA) for share in share_seeds
    )
    share = tf.math.divide_no_nan(one, one + other)
    share = tf.maximum(share, 1.0 - share)

    def mixed(values: tf.Tensor) -> tf.Tensor:
        factor = tf.reshape(share, [-1] + [1] * (len(values.shape) - 1))
        return factor * values + (1.0 - factor) * tf.gather(values, order)

    return mixed(images), mixed(targets)


def _flip(images: tf.Tensor, draw: Draw) -> tf.Tensor:
    mirrored = draw(0.0, 1.0, (1, 1, 1)) < 0.5
    return tf.where(mirrored, images[:, :, ::-1], images)


def _crop(images: tf.Tensor, draw: Draw) -> tf.Tensor:
    numbers = draw(0.0, 1.0, (2, 2))
    sides = SMALLEST_SIDE + (1.0 - SMALLEST_SIDE) * numbers[:, 0]
    starts = (1.0 - sides) * numbers[:, 1]

    def crop(image_and_box: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, box = (value[tf.newaxis] for value in image_and_box)
        return tf.image.crop_and_resize(image, box, [0], tf.shape(images)[1:3])[0]

    # One by one: for a batch of unknown size, TensorFlow prints that it cannot estimate the costs
    # of this operation. It takes as long.
    return tf.map_fn(
        crop,
        (images, tf.concat([starts, starts + sides], axis=1)),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
    )


def _rotate(images: tf.Tensor, draw: Draw) -> tf.Tensor:
    angles = draw(-1.0, 1.0, ()) * (LARGEST_ANGLE * math.pi / 180)
    height, width = (tf.cast(side, tf.float32) - 1.0 for side in tf.unstack(tf.shape(images)[1:3]))
    cos, sin, zero = tf.cos(angles), tf.sin(angles), tf.zeros_like(angles)
    # Around the middle of the image.
    x = (width - cos * width + sin * height) / 2.0
    y = (height - sin * width - cos * height) / 2.0
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([cos, -sin, x, sin, cos, y, zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        interpolation="BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )
    return tf.ensure_shape(turned, images.shape)


def _colour(images: tf.Tensor, draw: Draw) -> tf.Tensor:
    factors = draw(1.0 - COLOUR_CHANGE, 1.0 + COLOUR_CHANGE, (3, 1, 1, 1))
    brightness, contrast, saturation = tf.unstack(factors, axis=1)
    images = brightness * images
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + contrast * (images - mean)
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + saturation * (images - grey)
    return tf.clip_by_value(images, 0.0, 255.0)


AUGMENTATIONS: dict[str, Callable[[tf.Tensor, Draw], tf.Tensor]] = {
    "flip": _flip,
    "crop": _crop,
    "colour": _colour,
    "rotation": _rotate,
}
