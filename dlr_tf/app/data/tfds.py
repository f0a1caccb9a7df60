"""Images of TensorFlow Datasets, which is imported only to read one of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from dlr_tf._names import some_of
from dlr_tf.app.data.image_data import ImageData, Settings, ready, training_batches
from dlr_tf.app.data.image_files import WORKERS
from dlr_tf.app.data.images import resize
from dlr_tf.app.data.order import steps_per_epoch
from dlr_tf.app.data.splits import TEST_FRACTION
from dlr_tf.app.data.targets import CLASS
from dlr_tf.training.training_data import without_autotuning

_SHUFFLED = 1024  # images that are shuffled at a time


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A data set of TensorFlow Datasets: its name, its builder and its labels."""

    name: str
    builder: Any
    class_names: tuple[str, ...]
    kind: ClassVar[str] = CLASS

    @property
    def image(self) -> Any:
        """The feature that decodes the images."""
        return self.builder.info.features[self.builder.info.supervised_keys[0]]


def find_tfds(name: str) -> TfdsSource:
    """Find a data set, such as `"tf_flowers"` or `"mnist:3.*.*"`, without reading its images.

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        ValueError: If there is no such data set, or it does not hold images with one label each.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data {'tfds:' + name!r} needs TensorFlow Datasets, which is not installed. "
            'Run: pip install "dlr_tf[data]"'
        ) from error
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"TensorFlow Datasets has no data set {name!r}. The names are listed at "
            "https://www.tensorflow.org/datasets/catalog."
        ) from error
    keys = builder.info.supervised_keys
    # A feature can be looked up only after the pair of names is known to exist.
    is_pair = isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) for k in keys)
    image, label = [builder.info.features[key] for key in keys] if is_pair else [None, None]
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise ValueError(
            f"The data set {name!r} does not hold images with one label each, so it cannot be "
            f"classified. Received: supervised keys {keys!r}. Choose one of the section "
            "'Image classification' of https://www.tensorflow.org/datasets/catalog."
        )
    if label.num_classes is None:
        builder.download_and_prepare()  # the names of the classes are in the data
    return TfdsSource(name, builder, tuple(label.names))


def load_tfds(found: TfdsSource, settings: Settings) -> ImageData:
    """Read the images of a data set.

    A `test` split is for the scores at the end, a `validation` split for those after each epoch. If
    there is neither, the end of `train` is kept for testing. The files of `train` are read in
    another order in each epoch, and 1024 images at a time are shuffled.

    Raises:
        ValueError: If it has no split `train`.
    """
    found.builder.download_and_prepare()
    splits = _splits(found, settings)
    counts = {split: _class_counts(found, read) for split, read in splits.items()}
    steps = steps_per_epoch(sum(counts["train"]), settings.batch_size)

    def decode(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = (*settings.size, 3)
        images = tf.map_fn(
            lambda image: resize(found.image.decode_example(image), settings.size),
            images,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )
        return tf.ensure_shape(images, (None, *shape)), labels

    def decoded(batches: tf.data.Dataset) -> tf.data.Dataset:
        return batches.map(decode, num_parallel_calls=WORKERS, deterministic=True)

    def epoch(number: int, order_seed: int) -> tf.data.Dataset:
        state = np.random.SeedSequence([order_seed, number]).generate_state(1)
        epoch_seed = int(state[0]) >> 1
        encoded = _encoded(found, splits["train"], shuffle_seed=epoch_seed)
        encoded = encoded.shuffle(_SHUFFLED, seed=epoch_seed, reshuffle_each_iteration=False)
        return encoded.batch(settings.batch_size)

    def train_from(step: int, order_seed: int = settings.seed) -> tf.data.Dataset:
        def batches() -> Iterator[Any]:
            first, done = divmod(step, steps)
            # It reads what it skips, but does not decode it.
            yield from epoch(first, order_seed).skip(done)
            for number in itertools.count(first + 1):
                yield from epoch(number, order_seed)

        spec = epoch(0, order_seed).element_spec
        endless = tf.data.Dataset.from_generator(batches, output_signature=spec)
        return training_batches(
            decoded(endless), settings.augmentations, order_seed, step, len(found.class_names)
        )

    def evaluation(split: str) -> tf.data.Dataset:
        size = settings.images_per_evaluation_batch
        batches = decoded(_encoded(found, splits[split]).batch(size))
        return ready(batches, steps_per_epoch(sum(counts[split]), size))

    test = evaluation("test")
    return ImageData(
        name=f"tfds:{found.name}",
        train_from=train_from,
        steps_per_epoch=steps,
        validation=evaluation("validation") if "validation" in splits else test,
        test=test,
        class_names=found.class_names,
        image_shape=(*settings.size, 3),
        test_names=[f"{splits['test']} {index}" for index in range(sum(counts["test"]))],
        class_counts=counts,
        found=f"{len(found.class_names)} classes",
    )


def _splits(found: TfdsSource, settings: Settings) -> dict[str, str]:
    """Return the split or the slice of a split that each of our splits is read from."""
    known = found.builder.info.splits
    if "train" not in known:
        raise ValueError(
            f"The data set {found.name!r} has no split 'train'. "
            f"Received: splits {some_of(sorted(known))}"
        )
    given = [split for split in ("test", "validation") if split in known]
    cuts = [100]  # percent of `train`, from its end
    if not given:
        cuts.append(cuts[-1] - round(100 * TEST_FRACTION))
    if len(given) < 2 and settings.validation_fraction > 0:
        cuts.append(cuts[-1] - round(cuts[-1] * settings.validation_fraction))
    slices = [
        f"train[{low}%:{'' if high == 100 else f'{high}%'}]"
        for high, low in itertools.pairwise(cuts)
    ]
    splits = {"train": "train" if len(cuts) == 1 else f"train[:{cuts[-1]}%]"}
    if len(given) == 2:
        splits["validation"] = "validation"
    elif settings.validation_fraction > 0:
        splits["validation"] = slices.pop()
    splits["test"] = given[0] if given else slices.pop()
    return splits


def _encoded(found: TfdsSource, split: str, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """Return encoded images and their labels. With a seed, the files are in another order."""
    import tensorflow_datasets as tfds

    encoded = found.builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=shuffle_seed is not None,
        read_config=tfds.ReadConfig(shuffle_seed=shuffle_seed),
        decoders={found.builder.info.supervised_keys[0]: tfds.decode.SkipDecoding()},
    )
    return without_autotuning(encoded)


def _class_counts(found: TfdsSource, split: str) -> list[int]:
    """Count the images of each class. That reads all of them, but decodes none."""
    counts = np.zeros(len(found.class_names), np.int64)
    for labels in _encoded(found, split).map(lambda _, label: label).batch(4096):
        counts += np.bincount(labels, minlength=len(counts))
    return counts.tolist()
