"""Which images a folder holds."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from data_helpers import listing, touch

from dlr_tf.app.data import find
from dlr_tf.app.data.splits import split_named


def test_a_folder_without_parts(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.JPG", "dog/a.png", "cat/x.WebP", "cat/deep/y.tiff")
    found = find(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert listing(found) == {
        "train": {"cat": ["cat/deep/y.tiff", "cat/x.WebP"], "dog": ["dog/a.png", "dog/b.JPG"]}
    }
    assert found.labels.dtype == "int32"
    assert (found.root, found.name) == (str(tmp_path), str(tmp_path))
    assert (found.ignored, found.broken, list(found.warnings)) == ("", {}, [])


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [
        ("train", "test", "val"),
        ("Train", "Test", "Valid"),
        ("TRAINING", "testing", "Validation"),
        ("training_set", "test_set", "eval"),
        ("Training-Set", "Test-Set", "dev"),
    ],
)
def test_parts_have_several_names(tmp_path: Path, train: str, test: str, validation: str) -> None:
    for part in (train, test, validation):
        touch(tmp_path, f"{part}/a/1.png", f"{part}/b/2.png")
    assert listing(find(tmp_path)) == {
        "train": {"a": [f"{train}/a/1.png"], "b": [f"{train}/b/2.png"]},
        "test": {"a": [f"{test}/a/1.png"], "b": [f"{test}/b/2.png"]},
        "validation": {"a": [f"{validation}/a/1.png"], "b": [f"{validation}/b/2.png"]},
    }
    assert split_named("contest") is None


def test_what_is_ignored_is_counted(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("a/1.png", "a/._1.png", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/notes.txt"),
        *("b/2.png", "b/@eaDir/2.png", "b/.ipynb_checkpoints/2.png", "b/LICENSE"),
        *("__MACOSX/a/._1.png", ".git/config", "README.txt", "cover.jpg"),
    )
    found = find(tmp_path)
    assert listing(found) == {"train": {"a": ["a/1.png"], "b": ["b/2.png"]}}
    assert found.ignored == (
        "files .txt (2), files without an ending (1), folders called '.git' (1), "
        "folders called '.ipynb_checkpoints' (1), folders called '@eaDir' (1), "
        "folders called '__MACOSX' (1), hidden files (4), images outside of the class folders (1)"
    )


def test_folders_beside_the_splits_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png", "raw/c/3.png")
    found = find(tmp_path)
    assert found.ignored == "folders called 'raw' (1)"
    assert found.class_names == ("a", "b")


def test_a_name_of_two_spellings_is_one_class(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert one != two
    touch(tmp_path, f"train/{one}/1.png", f"test/{two}/2.png", "train/thé/3.png", "test/thé/4.png")
    assert listing(find(tmp_path)) == {
        "train": {one: [f"train/{one}/1.png"], "thé": ["train/thé/3.png"]},
        "test": {one: [f"test/{two}/2.png"], "thé": ["test/thé/4.png"]},
    }


def test_classes_that_are_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "0"):
        touch(tmp_path, f"{name}/a.png")
    assert find(tmp_path).class_names == ("0", "9", "10")
    touch(tmp_path, "none/a.png")
    assert find(tmp_path).class_names == ("0", "10", "9", "none")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "data/b/1.png", "elsewhere/2.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "above").symlink_to(tmp_path / "elsewhere")
    found = find(tmp_path / "data")
    assert listing(found) == {"train": {"a": ["a/2.png"], "b": ["b/1.png"]}}


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    for name in ("a/gone.png", "b/folder", "b/notes.txt"):
        (tmp_path / name).symlink_to("nowhere")
    found = find(tmp_path)
    reason = "it is a link to 'nowhere', which does not exist"
    assert found.broken == {
        str(tmp_path / "a/gone.png"): reason,
        str(tmp_path / "b/folder"): reason,  # perhaps a folder of images
    }
    # The link is an image of a class, so that its class is not taken for empty.
    assert listing(found)["train"]["a"] == ["a/1.png", "a/gone.png"]
    assert found.ignored == "files .txt (1)"


def test_links_that_lead_to_themselves_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    for name in ("circle", "a/circle"):
        (tmp_path / name).symlink_to("circle")
    reason = "it is a link to 'circle', which does not exist"
    expected = {str(tmp_path / name): reason for name in ("circle", "a/circle")}
    assert find(tmp_path).broken == expected


def test_a_folder_that_may_not_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "b/closed/3.png")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = {str(tmp_path / "b/closed"): "permission to open this folder is denied"}
    assert find(tmp_path).broken == expected


def test_classes_of_sub_folders_give_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "cats/tabby/1.png", "cats/siamese/2.png", "dogs/3.png", "dogs/old/4.png")
    (warning,) = find(tmp_path).warnings
    assert "['cats'] hold images in sub-folders only. Each counts as one class." in warning


def test_classes_that_are_not_in_test_give_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/2.png")
    (tmp_path / "test/c").mkdir()
    found = find(tmp_path)
    assert list(found.warnings) == [
        "There are no images to test on for 2 of 3 classes: ['b', 'c']."
    ]
    assert listing(found)["test"] == {"a": ["test/a/2.png"], "b": [], "c": []}


def test_a_class_that_is_only_in_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/Cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/2.png")
    message = r"classes to test on that are not in the training images: \['cat'\]. Did you mean 'C"
    with pytest.raises(ValueError, match=message):
        find(tmp_path)
    touch(tmp_path, *(f"val/{number:02d}/1.png" for number in range(12)))
    (tmp_path / "test/cat").rename(tmp_path / "test/Cat")
    with pytest.raises(ValueError, match=r"to validate on that are .* '09', and 2 more\]"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images in sub-folders: expected one sub-folder of images per class"),
        (["1.png", "2.png"], "holds no images in sub-folders"),
        (["a/notes.md", "b/notes.md"], "have an ending of an image, such as .jpg, .png or .webp"),
        (["a/1.png", "b/notes.txt"], r"class folder '.*/b' holds no images. Add files"),
        (["a/1.png"], r"has only one class, 'a': .* two classes or more\.$"),
        (["set/a/1.png", "set/b/1.png"], r"or give '.*/set', which holds sub-folders\.$"),
        (["test/a/1.png", "val/a/1.png"], r"holds \['test', 'val'\] but no folder 'train'"),
        (
            ["Train/a/1.png", "Train/b/1.png"],
            r"holds 'Train' but neither 'test' nor 'val'. Add one of them, or give '.*/Train'",
        ),
        (
            ["train/a/1.png", "val/a/1.png", "Valid/a/1.png"],
            r"holds \['Valid', 'val'\], which have the same meaning. Keep one of them",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "test/1.png"],
            r"/test' holds no images in sub-folders: .* Images without a class cannot be tested on",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_folders_that_cannot_be_used(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        find(tmp_path)


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "test/1.png")
    assert find(tmp_path).class_names == ("test", "train")


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere' do not exist: expected a folder with one"):
        find(tmp_path / "nowhere")
    touch(tmp_path, "images.zip")
    message = "images.zip' is a file, but not a CSV file: .* or a CSV file with the columns path"
    with pytest.raises(ValueError, match=message):
        find(tmp_path / "images.zip")


@pytest.mark.parametrize(
    ("names", "scored"),
    [
        (["test/a/1.png", "test/b/2.png"], {"a": ["test/a/1.png"], "b": ["test/b/2.png"]}),
        (["Test/a/1.png", "val/a/2.png"], {"a": ["Test/a/1.png"]}),
        (["val/a/1.png", "train/a/2.png", "more/3.png"], {"a": ["val/a/1.png"]}),
        (["train/a/1.png"], {"a": ["train/a/1.png"]}),
        # Classes, not parts.
        (["test/1.png", "train/2.png"], {"test": ["test/1.png"], "train": ["train/2.png"]}),
        (["a/1.png", "test/b/2.png"], {"a": ["a/1.png"], "test": ["test/b/2.png"]}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_the_part_to_score(tmp_path: Path, names: list[str], scored: dict[str, list[str]]) -> None:
    touch(tmp_path, *names)
    assert listing(find(tmp_path, to_score=True)) == {"test": scored}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "holds no images in sub-folders: expected one"),
        (["train/a/1.png", "test/1.png"], "/test' holds no images in sub-folders"),
        (["test/a/1.png", "Testing/a/1.png"], "which have the same meaning. Keep one of them"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_folders_that_cannot_be_scored(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        find(tmp_path, to_score=True)


def test_what_cannot_be_read_may_be_why_there_is_nothing_to_score(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to("gone")
    with pytest.raises(ValueError, match=r"or \.webp\. '.*a/link': it is a link to 'gone', which"):
        find(tmp_path, to_score=True)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"the"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        for image in (b"1.png", b"\xe9.png"):
            with open(folder + b"/" + image, "wb"):
                pass
    found = find(tmp_path)
    assert found.class_names == ("caf\\xe9", "the")  # as it is printed
    assert found.files[:2] == ["caf\udce9/1.png", "caf\udce9/\udce9.png"]
