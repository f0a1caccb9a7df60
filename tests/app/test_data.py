"""Image folders and TensorFlow Datasets."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from app_helpers import write_images

from dlr_tf.app import data


def levels(dataset: tf.data.Dataset) -> list[tuple[float, int]]:
    """Each image's brightness and label, sorted."""
    pairs = [
        (float(image[0, 0, 0]), int(label)) for batch in dataset for image, label in zip(*batch)
    ]
    return sorted(pairs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "pets" / "cat", 10, value=0)
    write_images(tmp_path / "pets" / "dog", 10, value=100)
    return tmp_path / "pets"


def test_folder_without_parts_is_split_by_the_seed(folder: Path) -> None:
    loaded = data.load_folder(folder, image_size=8, batch_size=4, seed=3)
    again = data.load_folder(folder, image_size=8, batch_size=4, seed=3)
    other = data.load_folder(folder, image_size=8, batch_size=4, seed=4)
    train, test = levels(loaded.train), levels(loaded.test)
    assert (loaded.train_images, loaded.test_images) == (len(train), len(test)) == (16, 4)
    expected = [(float(i), 0) for i in range(10)] + [(100.0 + i, 1) for i in range(10)]
    assert sorted(train + test) == expected
    assert levels(again.test) == test
    assert levels(other.test) != test
    assert loaded.class_names == ("cat", "dog")
    assert loaded.image_shape == (8, 8, 3)
    assert loaded.train.element_spec[0].shape.as_list() == [None, 8, 8, 3]
    assert loaded.validation is loaded.test


@pytest.mark.parametrize("held_out", ["test", "val", "validation", "valid"])
def test_folder_with_two_parts_keeps_its_split(tmp_path: Path, held_out: str) -> None:
    write_images(tmp_path / "train" / "a", 2, value=10)
    write_images(tmp_path / "train" / "b", 3, value=20)
    write_images(tmp_path / held_out / "a", 1, value=30)
    write_images(tmp_path / held_out / "b", 2, value=40)
    loaded = data.load_folder(tmp_path, image_size=6)
    assert levels(loaded.train) == [(10, 0), (11, 0), (20, 1), (21, 1), (22, 1)]
    assert levels(loaded.test) == [(30, 0), (40, 1), (41, 1)]
    assert levels(loaded.validation) == levels(loaded.test)


def test_folder_with_three_parts_watches_one_and_reports_on_the_other(tmp_path: Path) -> None:
    for value, part in enumerate(("train", "val", "test")):
        write_images(tmp_path / part / "a", 1, value=10 * value)
        write_images(tmp_path / part / "b", 1, value=10 * value + 5)
    loaded = data.load_folder(tmp_path, image_size=6)
    assert levels(loaded.validation) == [(10, 0), (15, 1)]
    assert levels(loaded.test) == [(20, 0), (25, 1)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 5, value=10)
    write_images(tmp_path / "tram", 5, value=20)
    assert data.load_folder(tmp_path, image_size=6).class_names == ("train", "tram")


def test_grey_images_become_rgb_and_hidden_folders_are_passed_by(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3, channels=1, value=7)
    write_images(tmp_path / "b", 3, channels=3, value=9)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("not an image")
    images, _ = next(iter(data.load_folder(tmp_path, image_size=6, batch_size=8).train))
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    assert images.dtype == "float32"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere' does not exist: expected one sub-folder"):
        data.load_folder(tmp_path / "nowhere", image_size=6)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file' is a file, not a folder: expected one sub-folder"):
        data.load_folder(tmp_path / "file", image_size=6)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images in sub-folders"):
        data.load_folder(tmp_path, image_size=6)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="holds no images in sub-folders"):
        data.load_folder(tmp_path, image_size=6)


def test_images_beside_the_class_folders_are_no_class(tmp_path: Path) -> None:
    write_images(tmp_path / "flat", 3)
    with pytest.raises(ValueError, match="flat' holds no images in sub-folders"):
        data.load_folder(tmp_path / "flat", image_size=6)


def test_empty_class(folder: Path) -> None:
    (folder / "fish").mkdir()
    with pytest.raises(ValueError, match=r"class folder '.*fish' holds no images"):
        data.load_folder(folder, image_size=6)


def test_one_class_only(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 4)
    with pytest.raises(ValueError, match="has only one class, 'cat'"):
        data.load_folder(tmp_path, image_size=6)


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 1)
    write_images(tmp_path / "dog", 1)
    with pytest.raises(ValueError, match="holds 2 images, too few"):
        data.load_folder(tmp_path, image_size=6)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_unreadable_image(folder: Path, damage: str) -> None:
    path = folder / "dog" / "004.png"
    whole = path.read_bytes()
    content = {"empty": b"", "text": b"not an image", "truncated": whole[: len(whole) // 2]}
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=r"image file '.*dog/004\.png' cannot be read"):
        data.load_folder(folder, image_size=6)


def test_at_most_ten_classes_are_named(tmp_path: Path) -> None:
    for number in range(12):
        write_images(tmp_path / "train" / f"a{number:02d}", 1)
        write_images(tmp_path / "test" / f"b{number:02d}", 1)
    with pytest.raises(ValueError, match=r"'a09', and 2 more\]. .* 'b09', and 2 more\]"):
        data.load_folder(tmp_path, image_size=6)


def test_several_unreadable_images_are_counted(folder: Path) -> None:
    for name in ("dog/001.png", "cat/002.png", "cat/007.png"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"'.*cat/002\.png' \(and 2 more\) cannot be read"):
        data.load_folder(folder, image_size=6)


def test_image_of_a_foreign_format(folder: Path) -> None:
    (folder / "cat" / "photo.WEBP").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"photo\.WEBP' is of a format that cannot be read"):
        data.load_folder(folder, image_size=6)


def test_parts_with_different_classes(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/c"):
        write_images(tmp_path / name, 1)
    with pytest.raises(ValueError, match=r"Only in the first: \['b'\]. .* second: \['c'\]"):
        data.load_folder(tmp_path, image_size=6)


def test_train_without_a_second_part(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", 1)
    write_images(tmp_path / "train" / "b", 1)
    with pytest.raises(ValueError, match="holds 'train' but neither 'test' nor 'val'"):
        data.load_folder(tmp_path, image_size=6)


def test_two_folders_for_one_part(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/a", "valid/a"):
        write_images(tmp_path / name, 1)
    with pytest.raises(ValueError, match=r"\['val', 'valid'\], which have the same meaning"):
        data.load_folder(tmp_path, image_size=6)


class FakeBuilder:
    """Stands for a prepared data set of grey 4 by 5 images, so that no network is needed."""

    def __init__(self, tfds: types.ModuleType, sizes: dict[str, int], supervised: object) -> None:
        self.sizes = sizes
        self.prepared = False
        features = _Features(
            image=tfds.features.Image(),
            text=tfds.features.Text(),
            label=tfds.features.ClassLabel(["no", "yes"]),
        )
        splits = _Splits({name: types.SimpleNamespace(num_examples=n) for name, n in sizes.items()})
        self.info = types.SimpleNamespace(
            features=features, supervised_keys=supervised, splits=splits
        )

    def download_and_prepare(self) -> None:
        self.prepared = True

    def as_dataset(self, *, split: str, **_: object) -> tf.data.Dataset:
        assert self.prepared
        total = self.sizes[split.partition("[")[0]]
        numbers = {"train[:80%]": range(8), "train[80%:]": range(8, 10)}.get(split, range(total))
        images = np.stack([np.full((4, 5, 1), number, np.uint8) for number in numbers])
        return tf.data.Dataset.from_tensor_slices((images, np.arange(len(images)) % 2))


class _Features:
    """Features are looked up with `[]` only, as in TensorFlow Datasets."""

    def __init__(self, **features: object) -> None:
        self.features = features

    def __getitem__(self, key: str) -> object:
        return self.features[key]


class _Splits(dict):
    def __missing__(self, key: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(num_examples=8 if key.startswith("train[:") else 2)


@pytest.fixture
def fake_tfds(monkeypatch: pytest.MonkeyPatch):
    class ClassLabel:
        def __init__(self, names: list[str]) -> None:
            self.names, self.num_classes = names, len(names)

    class DatasetNotFoundError(ValueError):
        pass

    tfds = types.ModuleType("tensorflow_datasets")
    tfds.features = types.SimpleNamespace(
        ClassLabel=ClassLabel, Image=type("Image", (), {}), Text=type("Text", (), {})
    )
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
    loaded = data.load_tfds("three", image_size=7, batch_size=3)
    assert loaded.name == "tfds:three"
    assert loaded.class_names == ("no", "yes")
    assert loaded.train.element_spec[0].shape.as_list() == [None, 7, 7, 3]
    assert (loaded.train_images, loaded.test_images) == (6, 4)
    assert [level for level, _ in levels(loaded.train)] == [0, 1, 2, 3, 4, 5]
    assert len(levels(loaded.validation)) == 2
    assert len(levels(loaded.test)) == 4


def test_tfds_with_one_split_keeps_its_end_for_testing(fake_tfds) -> None:
    fake_tfds("one", {"train": 10})
    loaded = data.load_tfds("one", image_size=4)
    assert [level for level, _ in levels(loaded.train)] == list(range(8))
    assert [level for level, _ in levels(loaded.test)] == [8, 9]
    assert loaded.validation is loaded.test


def test_class_names_without_reading_images(folder: Path, fake_tfds) -> None:
    (folder / "cat" / "000.png").write_bytes(b"no image")
    assert data.class_names(str(folder)) == ("cat", "dog")
    fake_tfds("one", {"train": 10})
    assert data.class_names("tfds:one") == ("no", "yes")
    assert not sys.modules["tensorflow_datasets"].builder("one").prepared
    with pytest.raises(ValueError, match="has no data set 'two'"):
        data.class_names("tfds:two")


def test_class_names_that_only_the_data_tell(fake_tfds, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tfds("late", {"train": 10})
    builder = sys.modules["tensorflow_datasets"].builder("late")
    label = builder.info.features["label"]
    label.num_classes = None
    monkeypatch.setattr(builder, "download_and_prepare", lambda: label.names.append("maybe"))
    assert data.class_names("tfds:late") == ("no", "yes", "maybe")


def test_a_source_is_a_folder_or_a_data_set(folder: Path, fake_tfds) -> None:
    fake_tfds("one", {"train": 10})
    assert data.load("tfds:one", image_size=4).name == "tfds:one"
    loaded = data.load(str(folder), image_size=4, batch_size=2)
    assert loaded.name == str(folder)
    assert len(loaded.train) == 8


def test_tfds_unknown_name(fake_tfds) -> None:
    with pytest.raises(ValueError, match=r"has no data set 'nothing'\. The names are listed at"):
        data.load_tfds("nothing", image_size=4)


def test_tfds_without_images_and_labels(fake_tfds) -> None:
    fake_tfds("text", {"train": 10}, supervised=("text", "label"))
    with pytest.raises(ValueError, match=r"'text' does not hold images .* \('text', 'label'\)"):
        data.load_tfds("text", image_size=4)
    fake_tfds("unlabelled", {"train": 10}, supervised=None)
    with pytest.raises(ValueError, match=r"'unlabelled' does not hold images .* keys None"):
        data.load_tfds("unlabelled", image_size=4)
    fake_tfds("untrained", {"test": 10})
    with pytest.raises(ValueError, match=r"no split 'train'. Received: splits \['test'\]"):
        data.load_tfds("untrained", image_size=4)


def test_tfds_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "dlr_tf\[data\]"'):
        data.load_tfds("mnist", image_size=4)
