"""Images of TensorFlow Datasets in batches."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_helpers import assert_same_batches, levels, sizes

from dlr_tf.app import data


class FakeBuilder:
    """Stands for a prepared data set of grey 4 by 5 images, so that no network is needed."""

    def __init__(self, tfds: types.ModuleType, sizes: dict[str, int], supervised: object) -> None:
        self.sizes = sizes
        self.prepared = False
        features = _Features(
            image=tfds.features.Image(),  # decodes what it gets to itself
            text=tfds.features.Text(),
            label=tfds.features.ClassLabel(["no", "yes"]),
        )
        self.info = types.SimpleNamespace(
            features=features, supervised_keys=supervised, splits=sizes
        )

    def download_and_prepare(self) -> None:
        self.prepared = True

    def as_dataset(self, *, split: str, **_: object) -> tf.data.Dataset:
        assert self.prepared
        name, _, cut = split.rstrip("]").partition("[")
        low, _, high = cut.partition(":")
        percent = self.sizes[name] / 100
        numbers = range(
            round(int(low.rstrip("%") or 0) * percent),
            round(int(high.rstrip("%") or 100) * percent),
        )
        images = np.stack([np.full((4, 5, 1), number, np.uint8) for number in numbers])
        return tf.data.Dataset.from_tensor_slices((images, np.arange(len(images)) % 2))


class _Features:
    """Features are looked up with `[]` only, as in TensorFlow Datasets."""

    def __init__(self, **features: object) -> None:
        self.features = features

    def __getitem__(self, key: str) -> object:
        return self.features[key]


@pytest.fixture
def fake_tfds(monkeypatch: pytest.MonkeyPatch):
    class ClassLabel:
        def __init__(self, names: list[str]) -> None:
            self.names, self.num_classes = names, len(names)

    class Image:
        def decode_example(self, encoded: tf.Tensor) -> tf.Tensor:
            return encoded

    class DatasetNotFoundError(ValueError):
        pass

    tfds = types.ModuleType("tensorflow_datasets")
    tfds.features = types.SimpleNamespace(
        ClassLabel=ClassLabel, Image=Image, Text=type("Text", (), {})
    )
    tfds.decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    tfds.core = types.SimpleNamespace(DatasetNotFoundError=DatasetNotFoundError)
    tfds.ReadConfig = lambda **settings: settings
    known: dict[str, FakeBuilder] = {}

    def builder(name: str) -> FakeBuilder:
        if name not in known:
            raise DatasetNotFoundError(f"Dataset {name} not found.\nIt has many lines.")
        return known[name]

    tfds.builder = builder
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", tfds)

    def add(name: str, sizes: dict[str, int], supervised: object = ("image", "label")) -> None:
        known[name] = FakeBuilder(tfds, sizes, supervised)

    return add


def test_tfds_with_its_own_splits(fake_tfds) -> None:
    fake_tfds("three", {"train": 6, "validation": 2, "test": 4})
    loaded = data.load("tfds:three", image_size=7, batch_size=3)
    assert loaded.name == "tfds:three"
    assert loaded.class_names == ("no", "yes")
    assert loaded.train.element_spec[0].shape.as_list() == [None, 7, 7, 3]
    assert (loaded.train_images, loaded.test_images) == (6, 4)
    assert [level for level, _ in levels(loaded.train)] == [0, 1, 2, 3, 4, 5]
    assert len(levels(loaded.validation)) == 2
    assert len(levels(loaded.test)) == 4
    small = data.load("tfds:three", image_size=7, batch_size=3, evaluation_batch_size=1)
    assert (sizes(loaded.train), sizes(loaded.test)) == ([3, 3], [4])
    assert (sizes(small.train), sizes(small.test)) == ([3, 3], [1, 1, 1, 1])


def test_tfds_with_one_split_keeps_its_end_for_testing(fake_tfds) -> None:
    fake_tfds("one", {"train": 10})
    loaded = data.load("tfds:one", image_size=4)
    assert [level for level, _ in levels(loaded.train)] == list(range(8))
    assert [level for level, _ in levels(loaded.test)] == [8, 9]
    assert loaded.validation is loaded.test
    assert loaded.class_counts == {"train": [4, 4], "test": [1, 1]}
    assert loaded.test_names == ["train[80%:] 0", "train[80%:] 1"]


def test_tfds_holds_out_training_images(fake_tfds) -> None:
    fake_tfds("one", {"train": 20})
    loaded = data.load("tfds:one", image_size=4, validation_fraction=0.25)
    assert [level for level, _ in levels(loaded.train)] == list(range(12))
    assert [level for level, _ in levels(loaded.validation)] == list(range(12, 16))
    assert [level for level, _ in levels(loaded.test)] == list(range(16, 20))
    fake_tfds("two", {"train": 20, "validation": 3})
    loaded = data.load("tfds:two", image_size=4, validation_fraction=0.25)
    counts = [len(levels(part)) for part in (loaded.train, loaded.validation, loaded.test)]
    assert counts == [15, 5, 3]


def test_tfds_goes_on_at_any_step(fake_tfds) -> None:
    fake_tfds("one", {"train": 7, "test": 2})
    loaded = data.load("tfds:one", image_size=4, batch_size=3, augmentations=["colour"])
    assert len(loaded.train) == 3
    whole = [(images.numpy(), labels.numpy()) for images, labels in loaded.train_from(0).take(9)]
    assert [len(labels) for _, labels in whole] == [3, 3, 1] * 3
    assert_same_batches(loaded.train_from(4).take(3), whole[4:7])
    assert_same_batches(loaded.train, whole[:3])
    orders = [np.concatenate([labels for _, labels in whole[i : i + 3]]) for i in (0, 3, 6)]
    assert len({order.tobytes() for order in orders}) > 1


def test_broken_files_cannot_be_skipped_in_tfds(fake_tfds) -> None:
    fake_tfds("one", {"train": 7, "test": 2})
    with pytest.raises(ValueError, match="--skip-broken is for a folder or a CSV file"):
        data.find("tfds:one", skip_broken=True)


def test_class_names_without_reading_images(folder: Path, fake_tfds) -> None:
    (folder / "cat" / "000.png").write_bytes(b"no image")
    assert data.find(str(folder)).class_names == ("cat", "dog")
    fake_tfds("one", {"train": 10})
    assert data.find("tfds:one").class_names == ("no", "yes")
    assert not sys.modules["tensorflow_datasets"].builder("one").prepared
    with pytest.raises(ValueError, match="has no data set 'two'"):
        data.find("tfds:two")


def test_class_names_that_only_the_data_tell(fake_tfds, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tfds("late", {"train": 10})
    builder = sys.modules["tensorflow_datasets"].builder("late")
    label = builder.info.features["label"]
    label.num_classes = None
    monkeypatch.setattr(builder, "download_and_prepare", lambda: label.names.append("maybe"))
    assert data.find("tfds:late").class_names == ("no", "yes", "maybe")


def test_a_source_is_a_folder_or_a_data_set(folder: Path, fake_tfds) -> None:
    fake_tfds("one", {"train": 10})
    assert data.load("tfds:one", image_size=4).name == "tfds:one"
    loaded = data.load(str(folder), image_size=4, batch_size=2)
    assert loaded.name == str(folder)
    assert len(loaded.train) == 8


def test_tfds_unknown_name(fake_tfds) -> None:
    with pytest.raises(ValueError, match=r"has no data set 'nothing'\. The names are listed at"):
        data.load("tfds:nothing", image_size=4)


def test_tfds_without_images_and_labels(fake_tfds) -> None:
    fake_tfds("text", {"train": 10}, supervised=("text", "label"))
    with pytest.raises(ValueError, match=r"'text' does not hold images .* \('text', 'label'\)"):
        data.load("tfds:text", image_size=4)
    fake_tfds("unlabelled", {"train": 10}, supervised=None)
    with pytest.raises(ValueError, match=r"'unlabelled' does not hold images .* keys None"):
        data.load("tfds:unlabelled", image_size=4)
    fake_tfds("untrained", {"test": 10})
    with pytest.raises(ValueError, match=r"no split 'train'. Received: splits \['test'\]"):
        data.load("tfds:untrained", image_size=4)


def test_tfds_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "dlr_tf\[data\]"'):
        data.load("tfds:mnist", image_size=4)


@pytest.mark.slow
def test_a_real_data_set_of_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for it above does not encode images, and has no files."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Stripes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tfds.core.Path(tmp_path)

        def _info(self) -> object:
            features = {
                "label": tfds.features.ClassLabel(names=["dark", "light"]),
                "picture": tfds.features.Image(shape=(None, None, 1)),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "label")
            )

        def _split_generators(self, _: object) -> dict[str, object]:
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(20):
                image = np.full((4 + number % 3, 5, 1), number, np.uint8)
                yield number, {"picture": image, "label": number % 2}

    made = Stripes(data_dir=str(tmp_path))
    monkeypatch.setattr(tfds, "builder", lambda name: made)
    loaded = data.load("tfds:stripes", image_size=6, batch_size=5, validation_fraction=0.25)
    counts = {part: sum(numbers) for part, numbers in loaded.class_counts.items()}
    assert counts == {"train": 12, "validation": 4, "test": 4}
    parts = [levels(part) for part in (loaded.train, loaded.validation, loaded.test)]
    assert sorted(itertools.chain(*parts)) == [(float(n), n % 2) for n in range(20)]
    whole = list(loaded.train_from(0).take(9))
    assert_same_batches(loaded.train_from(4).take(5), whole[4:])
    epochs = [np.concatenate([labels for _, labels in whole[i : i + 3]]) for i in (0, 3, 6)]
    assert len({epoch.tobytes() for epoch in epochs}) > 1
