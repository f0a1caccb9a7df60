"""Image folders and TensorFlow Datasets."""

from __future__ import annotations

import itertools
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from app_helpers import write_images

from dlr_tf.app.data import batches as data
from dlr_tf.app.data import folders, image_files, images
from dlr_tf.app.data.folders import find_images


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


def sizes(batches: Any) -> list[int]:
    return [len(labels) for _, labels in batches]


def test_batches_of_an_evaluation_are_larger(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part / "a", 10, value=0)
        write_images(tmp_path / part / "b", 3, value=100)
    loaded = data.load_folder(tmp_path, image_size=6, batch_size=3)
    assert sizes(loaded.train) == [3, 3, 3, 3, 1]
    assert sizes(loaded.test) == [12, 1]
    assert loaded.test.cardinality() == 2
    loaded = data.load_folder(tmp_path, image_size=6, batch_size=3, evaluation_batch_size=5)
    assert sizes(loaded.test) == [5, 5, 3]


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


def test_a_class_may_have_one_image(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 5, value=10)
    write_images(tmp_path / "b", 1, value=20)
    message = r"one image, which is trained on, so that none is left for the test: \['b'\]"
    with pytest.warns(UserWarning, match=message):
        loaded = data.load_folder(tmp_path, image_size=6)
    assert loaded.class_counts == {"train": [4, 1], "test": [1, 0]}


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 1)
    write_images(tmp_path / "dog", 1)
    with pytest.raises(ValueError, match="hold 2 images that can be read, too few to keep some"):
        data.load_folder(tmp_path, image_size=6)


@pytest.mark.parametrize("few", [True, False], ids=["kept", "streamed"])
def test_the_split_is_stratified_and_needs_no_order_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", 1e9 if few else 0)
    write_images(tmp_path / "a", 20, value=0)
    write_images(tmp_path / "b", 5, value=100)
    settings = {"image_size": 4, "seed": 1, "test_fraction": 0.4, "validation_fraction": 0.25}
    loaded = data.load_folder(tmp_path, **settings)
    assert loaded.class_counts == {"train": [9, 2], "validation": [3, 1], "test": [8, 2]}
    assert loaded.train_images == 11
    parts = [levels(part) for part in (loaded.train, loaded.validation, loaded.test)]
    everything = [(float(i), 0) for i in range(20)] + [(100.0 + i, 1) for i in range(5)]
    assert sorted(itertools.chain(*parts)) == everything
    names = [Path(name).name for name in loaded.test_names]
    first = [int(image[0, 0, 0]) % 100 for batch, _ in loaded.test for image in batch]
    assert names == [f"{level:03d}.png" for level in first]

    scan = folders.os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            with scan(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[object]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(folders.os, "scandir", Reversed)
    again = data.load_folder(tmp_path, **settings)
    assert list(again.test_names) == list(loaded.test_names)
    assert_same_batches(again.train, loaded.train)


def assert_same_batches(one: tf.data.Dataset, other: tf.data.Dataset) -> None:
    pairs = list(zip(one, other, strict=True))
    assert pairs
    for batch, other_batch in pairs:
        for part, other_part in zip(batch, other_batch, strict=True):
            np.testing.assert_array_equal(part, other_part)


@pytest.mark.parametrize(
    "augmentations", [(), ("flip", "crop", "colour")], ids=["plain", "changed"]
)
def test_the_batches_are_the_same_from_every_step_and_however_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augmentations: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for path in write_images(tmp_path / name, 4):
            pixels = rng.integers(0, 256, (*rng.integers(3, 9, 2), 3)).astype(np.uint8)
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    settings = {"image_size": 5, "batch_size": 3, "seed": 2, "augmentations": augmentations}
    kept = data.load_folder(tmp_path, **settings)
    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    streamed = data.load_folder(tmp_path, **settings)
    assert (len(kept.train), len(kept.test)) == (len(streamed.train), len(streamed.test)) == (2, 1)
    assert kept.train_from(0).cardinality() == tf.data.INFINITE_CARDINALITY
    whole = kept.train_from(0)
    assert [len(labels) for _, labels in whole.take(4)] == [3, 3, 3, 3]
    assert_same_batches(kept.train, whole.take(2))
    for loaded in (kept, streamed):
        for step in (0, 1, 5):
            assert_same_batches(loaded.train_from(step).take(3), whole.skip(step).take(3))
    assert_same_batches(kept.test, streamed.test)
    images = np.concatenate([batch for batch, _ in whole.take(4)])
    assert images.dtype == "float32"
    assert images.min() >= 0
    assert images.max() <= 255
    plain = data.load_folder(tmp_path, **{**settings, "augmentations": ()})
    for (changed, _), (image, _) in zip(whole.take(2), plain.train_from(0)):
        assert np.array_equal(changed, image) is not bool(augmentations)
    assert_same_batches(plain.test, kept.test)


def test_images_are_resized_as_tensorflow_does(tmp_path: Path) -> None:
    (path, *_) = write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 2)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    found = find_images(tmp_path)
    files = image_files.ImageFiles(found.root, found.files, 5)
    assert files.check() == {}
    (batch,) = files.batches(tf.data.Dataset.from_tensors(tf.constant([0], tf.int64)), 1)
    np.testing.assert_array_equal(batch[0], tf.image.resize(pixels, (5, 5)))


BROKEN = {
    "empty": (b"", "it is empty"),
    "text": (b"not an image", "it is not an image of a known format"),
    "truncated": (None, "it is damaged"),
}


@pytest.mark.parametrize("few", [True, False], ids=["kept", "streamed"])
def test_all_broken_files_are_named_before_training(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    few: bool,
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", 1e9 if few else 0)
    for number, (content, _) in enumerate(BROKEN.values()):
        path = folder / "dog" / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:50] if content is None else content)
    (folder / "cat" / "link.png").symlink_to("gone.png")
    expected = [f"{folder}/cat/link.png: it is a link to 'gone.png', which does not exist"]
    expected += [f"{folder}/dog/{n:03d}.png: {why}" for n, (_, why) in enumerate(BROKEN.values())]
    message = (
        r"4 files of the data '.*pets' cannot be read, for the reasons above: \['.*cat/link.png', "
        r".*and 1 more\]. Repair or remove what is broken, or give --skip-broken"
    )
    with pytest.raises(ValueError, match=message):
        data.load_folder(folder, image_size=6)
    lines = [line for line in capsys.readouterr().err.splitlines() if "checking" not in line]
    assert len(lines) == 4
    for line, start in zip(lines, expected):
        assert line.startswith(start)
    loaded = data.load_folder(folder, image_size=6, skip_broken=True)
    assert "pets: 4 files left out (--skip-broken)" in capsys.readouterr().err
    assert loaded.class_counts == {"train": [8, 6], "test": [2, 1]}
    expected = [(float(i), 0) for i in range(10)] + [(100.0 + i, 1) for i in range(3, 10)]
    assert sorted(levels(loaded.train) + levels(loaded.test)) == expected


def test_a_class_of_broken_files(folder: Path) -> None:
    for path in (folder / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="10 files of the data"):
        data.load_folder(folder, image_size=6)
    with pytest.raises(ValueError, match=r"classes without an image to train on: \['dog'\]. Add"):
        data.load_folder(folder, image_size=6, skip_broken=True)


def test_whole_files_are_not_decoded_to_check_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(path: str) -> np.ndarray:
        raise AssertionError(f"decoded {path}")

    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    monkeypatch.setattr(image_files, "read_pixels", read)
    monkeypatch.setattr(images, "read_pixels", read)
    data.load_folder(folder, image_size=6)
    assert "pets: checking 20 files\n" in capsys.readouterr().err


def test_few_images_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def record(path: str) -> np.ndarray:
        read.append(path)
        return images.read_pixels(path)

    monkeypatch.setattr(image_files, "read_pixels", record)
    loaded = data.load_folder(folder, image_size=6)
    for part in (loaded.train, loaded.train, loaded.test):
        levels(part)
    assert len(read) == len(set(read)) == 20


def test_damage_that_only_decoding_finds_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    loaded = data.load_folder(folder, image_size=6)
    path = Path(loaded.test_names[0])
    content = bytearray(path.read_bytes())
    content[-20:-12] = b"\0" * 8
    path.write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ImageFileError") as caught:
        list(loaded.test)
    message = str(images.failed_image(caught.value))
    assert message.startswith(f"The image file {str(path)!r} cannot be read: it is damaged (")
    assert message.endswith("). Repair or remove it.")


def test_what_is_found_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "__MACOSX").mkdir()
    (folder / "fish" / "deep").mkdir(parents=True)
    (folder / "cat" / "000.png").rename(folder / "fish" / "deep" / "1.png")
    with pytest.warns(UserWarning, match="fish") as caught:
        data.load_folder(folder, image_size=6)
    assert [str(warning.message).split(" hold ")[0] for warning in caught] == [
        f"In {str(folder)!r}, ['fish']",
        "There are classes with one image, which is trained on, so that none is left for the "
        "test: ['fish'].",
    ]
    assert capsys.readouterr().err == (
        f"{folder}: left aside: 1 hidden file, 1 folder ['__MACOSX']\n"
    )


def test_a_table_of_images(folder: Path) -> None:
    path = folder / "labels.csv"
    rows = [f"cat/{n:03d}.png,c" for n in range(4)] + [f"dog/{n:03d}.png,d" for n in range(6)]
    path.write_text("path,label\n" + "\n".join(rows))
    loaded = data.load(str(path), image_size=4)
    assert (loaded.name, loaded.class_names) == (str(path), ("c", "d"))
    assert loaded.class_counts == {"train": [3, 5], "test": [1, 1]}
    expected = [(float(i), 0) for i in range(4)] + [(100.0 + i, 1) for i in range(6)]
    assert sorted(levels(loaded.train) + levels(loaded.test)) == expected


def test_one_held_out_part_is_for_the_test(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_images(tmp_path / part / "a", 4, value=10)
        write_images(tmp_path / part / "b", 4, value=20)
    loaded = data.load_folder(tmp_path, image_size=4, validation_fraction=0.25)
    assert loaded.class_counts == {"train": [3, 3], "validation": [1, 1], "test": [4, 4]}
    assert all("/val/" in name for name in loaded.test_names)
    assert len(levels(loaded.validation)) == 2


def test_class_weights(folder: Path) -> None:
    for number in range(5):
        (folder / "cat" / f"{number:03d}.png").unlink()
    loaded = data.load_folder(folder, image_size=4)
    assert loaded.class_counts["train"] == [4, 8]
    assert loaded.class_weights("none") is None
    weights = loaded.class_weights()
    assert weights == {0: 1.5, 1: 0.75}
    assert sum(weights[label] for _, label in levels(loaded.train)) == 12  # the mean is 1


def test_many_classes_are_counted_in_ten_lines() -> None:
    names = [f"c{number}" for number in range(13)]
    lines = data.class_table(names, {"train": [*range(10, 23)], "test": [2] * 13})
    assert len(lines) == 12
    assert lines[0] == "class  train  test"
    assert lines[10] == "c9        19     2"
    assert lines[11] == "and 3 more classes: 20 to 22 in train, 2 to 2 in test"


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
    loaded = data.load_tfds("three", image_size=7, batch_size=3)
    assert loaded.name == "tfds:three"
    assert loaded.class_names == ("no", "yes")
    assert loaded.train.element_spec[0].shape.as_list() == [None, 7, 7, 3]
    assert (loaded.train_images, loaded.test_images) == (6, 4)
    assert [level for level, _ in levels(loaded.train)] == [0, 1, 2, 3, 4, 5]
    assert len(levels(loaded.validation)) == 2
    assert len(levels(loaded.test)) == 4
    small = data.load_tfds("three", image_size=7, batch_size=3, evaluation_batch_size=1)
    assert (sizes(loaded.train), sizes(loaded.test)) == ([3, 3], [4])
    assert (sizes(small.train), sizes(small.test)) == ([3, 3], [1, 1, 1, 1])


def test_tfds_with_one_split_keeps_its_end_for_testing(fake_tfds) -> None:
    fake_tfds("one", {"train": 10})
    loaded = data.load_tfds("one", image_size=4)
    assert [level for level, _ in levels(loaded.train)] == list(range(8))
    assert [level for level, _ in levels(loaded.test)] == [8, 9]
    assert loaded.validation is loaded.test
    assert loaded.class_counts == {"train": [4, 4], "test": [1, 1]}
    assert loaded.test_names == ["train[80%:] 0", "train[80%:] 1"]


def test_tfds_holds_out_training_images(fake_tfds) -> None:
    fake_tfds("one", {"train": 20})
    loaded = data.load_tfds("one", image_size=4, validation_fraction=0.25)
    assert [level for level, _ in levels(loaded.train)] == list(range(12))
    assert [level for level, _ in levels(loaded.validation)] == list(range(12, 16))
    assert [level for level, _ in levels(loaded.test)] == list(range(16, 20))
    fake_tfds("two", {"train": 20, "validation": 3})
    loaded = data.load_tfds("two", image_size=4, validation_fraction=0.25)
    counts = [len(levels(part)) for part in (loaded.train, loaded.validation, loaded.test)]
    assert counts == [15, 5, 3]


def test_tfds_goes_on_at_any_step(fake_tfds) -> None:
    fake_tfds("one", {"train": 7, "test": 2})
    loaded = data.load_tfds("one", image_size=4, batch_size=3, augmentations=["colour"])
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
        data.load("tfds:one", image_size=4, skip_broken=True)


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


def test_the_fingerprint_tells_other_files_and_classes_apart(folder: Path) -> None:
    def fingerprint() -> str:
        return data.load_folder(folder, image_size=4).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    cat, dog = folder / "cat" / "000.png", folder / "dog" / "000.png"
    content = cat.read_bytes()
    cat.write_bytes(content + b"more")
    assert fingerprint() != first
    cat.write_bytes(content)
    assert fingerprint() == first
    cat.rename(folder / "dog" / "100.png")
    dog.rename(folder / "cat" / "100.png")
    assert fingerprint() != first


def test_an_image_of_two_classes_and_an_empty_class(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    (folder / "dog" / "link.png").symlink_to(folder / "cat" / "003.png")
    with pytest.raises(ValueError, match="/empty' holds no images"):
        data.load(str(folder), image_size=4)
    loaded = data.load(str(folder), image_size=4, skip_broken=True)
    assert loaded.class_names == ("cat", "dog")
    expected = [(float(i), 0) for i in range(10) if i != 3] + [(100.0 + i, 1) for i in range(10)]
    assert sorted(levels(loaded.train) + levels(loaded.test)) == expected
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{folder}: left aside: 1 class without images ['empty']"
    assert "cat/003.png: it is the same file as" in lines[1]
    assert "dog/link.png: it is the same file as" in lines[2]
    assert lines[3] == f"{folder}: 2 files left out (--skip-broken)"
    (folder / "empty").rmdir()
    with pytest.raises(ValueError, match="2 files of the data .* cannot be read"):
        data.load(str(folder), image_size=4)


@pytest.mark.parametrize("few", [True, False], ids=["kept", "streamed"])
def test_names_that_are_not_utf_8_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", 1e9 if few else 0)
    for name in (b"caf\xe9", b"the"):
        (path, *_) = write_images(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), 3)
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xe9.png"))
    loaded = data.load(str(tmp_path), image_size=4)
    assert loaded.class_counts == {"train": [2, 2], "test": [1, 1]}
    assert len(levels(loaded.train) + levels(loaded.test)) == 6
    assert len(loaded.fingerprint) == 64
    with open(os.fsencode(tmp_path) + b"/the/\xe9.png", "wb"):
        pass
    with pytest.raises(ValueError, match=r"1 file of the data .*: \['.*/the/\\udce9.png'\]. Repai"):
        data.load(str(tmp_path), image_size=4)
