"""Images of folders and CSV files in batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from app_helpers import write_images
from data_helpers import assert_same_batches, levels

from dlr_tf.app import data
from dlr_tf.app.data import image_files, images


def test_folder_without_parts_is_split_by_the_seed(folder: Path) -> None:
    loaded = data.load(folder, image_size=8, batch_size=4, seed=3)
    again = data.load(folder, image_size=8, batch_size=4, seed=3)
    other = data.load(folder, image_size=8, batch_size=4, seed=4)
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
    loaded = data.load(tmp_path, image_size=6)
    assert levels(loaded.train) == [(10, 0), (11, 0), (20, 1), (21, 1), (22, 1)]
    assert levels(loaded.test) == [(30, 0), (40, 1), (41, 1)]
    assert levels(loaded.validation) == levels(loaded.test)


def test_folder_with_three_parts_watches_one_and_reports_on_the_other(tmp_path: Path) -> None:
    for value, part in enumerate(("train", "val", "test")):
        write_images(tmp_path / part / "a", 1, value=10 * value)
        write_images(tmp_path / part / "b", 1, value=10 * value + 5)
    loaded = data.load(tmp_path, image_size=6)
    assert levels(loaded.validation) == [(10, 0), (15, 1)]
    assert levels(loaded.test) == [(20, 0), (25, 1)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 5, value=10)
    write_images(tmp_path / "tram", 5, value=20)
    assert data.load(tmp_path, image_size=6).class_names == ("train", "tram")


def test_grey_images_become_rgb_and_hidden_folders_are_passed_by(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3, channels=1, value=7)
    write_images(tmp_path / "b", 3, channels=3, value=9)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("not an image")
    images, _ = next(iter(data.load(tmp_path, image_size=6, batch_size=8).train))
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    assert images.dtype == "float32"


def test_a_class_may_have_one_image(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 5, value=10)
    write_images(tmp_path / "b", 1, value=20)
    message = r"one image, which is trained on, so that none is left for the test: \['b'\]"
    with pytest.warns(UserWarning, match=message):
        loaded = data.load(tmp_path, image_size=6)
    assert loaded.class_counts == {"train": [4, 1], "test": [1, 0]}


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 1)
    write_images(tmp_path / "dog", 1)
    with pytest.raises(ValueError, match="hold 2 images that can be read, too few to keep some"):
        data.load(tmp_path, image_size=6)


@pytest.mark.parametrize("few", [True, False], ids=["kept", "streamed"])
def test_the_split_is_stratified_and_needs_no_order_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", 1e9 if few else 0)
    write_images(tmp_path / "a", 20, value=0)
    write_images(tmp_path / "b", 5, value=100)
    settings = {"image_size": 4, "seed": 1, "validation_fraction": 0.25}
    loaded = data.load(tmp_path, **settings)
    assert loaded.class_counts == {"train": [12, 3], "validation": [4, 1], "test": [4, 1]}
    assert loaded.train_images == 15
    parts = [levels(part) for part in (loaded.train, loaded.validation, loaded.test)]
    everything = [(float(i), 0) for i in range(20)] + [(100.0 + i, 1) for i in range(5)]
    assert sorted(itertools.chain(*parts)) == everything
    names = [Path(name).name for name in loaded.test_names]
    first = [int(image[0, 0, 0]) % 100 for batch, _ in loaded.test for image in batch]
    assert names == [f"{level:03d}.png" for level in first]

    scan = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            with scan(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> Iterator[Any]:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    again = data.load(tmp_path, **settings)
    assert list(again.test_names) == list(loaded.test_names)
    assert_same_batches(again.train, loaded.train)


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
    kept = data.load(tmp_path, **settings)
    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    streamed = data.load(tmp_path, **settings)
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
    plain = data.load(tmp_path, **{**settings, "augmentations": ()})
    for (changed, _), (image, _) in zip(whole.take(2), plain.train_from(0)):
        assert np.array_equal(changed, image) is not bool(augmentations)
    assert_same_batches(plain.test, kept.test)


def test_images_are_resized_as_tensorflow_does(tmp_path: Path) -> None:
    (path, *_) = write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 2)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    found = data.find(tmp_path)
    files = image_files.ImageFiles(found.root, found.files, 5)
    assert files.check() == {}
    (batch,) = files.batches(tf.data.Dataset.from_tensors(tf.constant([0], tf.int64)), 1)
    np.testing.assert_array_equal(batch[0], tf.image.resize(pixels, (5, 5)))


BROKEN = {
    "empty": (b"", "it is empty, no image"),
    "text": (b"not an image", "it is empty, no image, damaged at its beginning"),
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
        data.load(folder, image_size=6)
    lines = [line for line in capsys.readouterr().err.splitlines() if "checking" not in line]
    assert len(lines) == 4
    for line, start in zip(lines, expected):
        assert line.startswith(start)
    loaded = data.load(data.find(folder, skip_broken=True), image_size=6)
    assert "pets: 4 files left out (--skip-broken)" in capsys.readouterr().err
    assert loaded.class_counts == {"train": [8, 6], "test": [2, 1]}
    expected = [(float(i), 0) for i in range(10)] + [(100.0 + i, 1) for i in range(3, 10)]
    assert sorted(levels(loaded.train) + levels(loaded.test)) == expected


def test_a_class_of_broken_files(folder: Path) -> None:
    for path in (folder / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="10 files of the data"):
        data.load(folder, image_size=6)
    with pytest.raises(ValueError, match=r"classes without an image to train on: \['dog'\]. Add"):
        data.load(data.find(folder, skip_broken=True), image_size=6)


def test_whole_files_are_not_decoded_to_check_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(path: str) -> np.ndarray:
        raise AssertionError(f"decoded {path}")

    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    monkeypatch.setattr(image_files, "read_pixels", read)
    monkeypatch.setattr(images, "read_pixels", read)
    data.load(folder, image_size=6)
    assert "pets: checking 20 files\n" in capsys.readouterr().err


def test_few_images_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def record(path: str) -> np.ndarray:
        read.append(path)
        return images.read_pixels(path)

    monkeypatch.setattr(image_files, "read_pixels", record)
    loaded = data.load(folder, image_size=6)
    for part in (loaded.train, loaded.train, loaded.test):
        levels(part)
    assert len(read) == len(set(read)) == 20


def test_damage_that_only_decoding_finds_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "KEPT_BYTES", 0)
    loaded = data.load(folder, image_size=6)
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
        data.load(folder, image_size=6)
    assert [str(warning.message).split(" hold ")[0] for warning in caught] == [
        f"In {str(folder)!r}, ['fish']",
        "There are classes with one image, which is trained on, so that none is left for the "
        "test: ['fish'].",
    ]
    assert capsys.readouterr().err == (
        f"{folder}: ignored: folders called '__MACOSX' (1), hidden files (1)\n"
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
    loaded = data.load(tmp_path, image_size=4, validation_fraction=0.25)
    assert loaded.class_counts == {"train": [3, 3], "validation": [1, 1], "test": [4, 4]}
    assert all("/val/" in name for name in loaded.test_names)
    assert len(levels(loaded.validation)) == 2


def test_the_fingerprint_tells_other_files_and_classes_apart(folder: Path) -> None:
    def fingerprint() -> str:
        return data.load(folder, image_size=4).fingerprint

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
    loaded = data.load(data.find(str(folder), skip_broken=True), image_size=4)
    assert loaded.class_names == ("cat", "dog")
    expected = [(float(i), 0) for i in range(10) if i != 3] + [(100.0 + i, 1) for i in range(10)]
    assert sorted(levels(loaded.train) + levels(loaded.test)) == expected
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{folder}: ignored: class 'empty' without images (1)"
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
