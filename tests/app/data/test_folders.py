"""Which images a folder or a CSV file holds."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from dlr_tf.app.data.folders import Found, find_images, find_to_score, image_files, part_of


def touch(root: Path, *names: str) -> Path:
    """Make empty files. Only their names count here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listing(found: Found) -> dict[str, dict[str, list[str]]]:
    """The files of each class of each part."""
    return {
        part: {
            name: [found.files[i] for i in places if found.labels[i] == label]
            for label, name in enumerate(found.class_names)
        }
        for part, places in found.parts.items()
    }


def test_a_folder_without_parts(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.JPG", "dog/a.png", "cat/x.WebP", "cat/deep/y.tiff")
    found = find_images(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert listing(found) == {
        "train": {"cat": ["cat/deep/y.tiff", "cat/x.WebP"], "dog": ["dog/a.png", "dog/b.JPG"]}
    }
    assert found.labels.dtype == "int32"
    assert (found.root, found.name) == (str(tmp_path), str(tmp_path))
    assert (found.left_aside, found.broken, list(found.warnings)) == ("", {}, [])


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
    assert listing(find_images(tmp_path)) == {
        "train": {"a": [f"{train}/a/1.png"], "b": [f"{train}/b/2.png"]},
        "test": {"a": [f"{test}/a/1.png"], "b": [f"{test}/b/2.png"]},
        "validation": {"a": [f"{validation}/a/1.png"], "b": [f"{validation}/b/2.png"]},
    }
    assert part_of("contest") is None


def test_what_is_left_aside_is_counted(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("a/1.png", "a/._1.png", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/notes.txt"),
        *("b/2.png", "b/@eaDir/2.png", "b/.ipynb_checkpoints/2.png", "b/LICENSE"),
        *("__MACOSX/a/._1.png", ".git/config", "README.txt", "cover.jpg"),
    )
    found = find_images(tmp_path)
    assert listing(found) == {"train": {"a": ["a/1.png"], "b": ["b/2.png"]}}
    assert found.left_aside == (
        "4 hidden files, 4 folders ['.git', '.ipynb_checkpoints', '@eaDir', '__MACOSX'], "
        "3 files without the ending of an image ['.txt', 'none'], "
        "1 image outside of the class folders"
    )


def test_folders_beside_the_parts_are_left_aside(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png", "raw/c/3.png")
    found = find_images(tmp_path)
    assert found.left_aside == "1 folder ['raw']"
    assert found.class_names == ("a", "b")


def test_a_name_of_two_spellings_is_one_class(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert one != two
    touch(tmp_path, f"train/{one}/1.png", f"test/{two}/2.png", "train/thé/3.png", "test/thé/4.png")
    assert listing(find_images(tmp_path)) == {
        "train": {one: [f"train/{one}/1.png"], "thé": ["train/thé/3.png"]},
        "test": {one: [f"test/{two}/2.png"], "thé": ["test/thé/4.png"]},
    }


def test_classes_that_are_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "0"):
        touch(tmp_path, f"{name}/a.png")
    assert find_images(tmp_path).class_names == ("0", "9", "10")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "data/b/1.png", "elsewhere/2.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "above").symlink_to(tmp_path / "elsewhere")
    found = find_images(tmp_path / "data")
    assert listing(found) == {"train": {"a": ["a/2.png"], "b": ["b/1.png"]}}


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    for name in ("a/gone.png", "b/folder", "b/notes.txt"):
        (tmp_path / name).symlink_to("nowhere")
    found = find_images(tmp_path)
    reason = "it is a link to 'nowhere', which does not exist"
    assert found.broken == {
        str(tmp_path / "a/gone.png"): reason,
        str(tmp_path / "b/folder"): reason,  # perhaps a folder of images
    }
    # The link is an image of a class, so that its class is not taken for empty.
    assert listing(found)["train"]["a"] == ["a/1.png", "a/gone.png"]
    assert found.left_aside == "1 file without the ending of an image ['.txt']"


def test_a_folder_that_may_not_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlr_tf.app.data import folders

    touch(tmp_path, "a/1.png", "b/2.png", "b/closed/3.png")
    scan = folders.os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(path)
        return scan(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    expected = {str(tmp_path / "b/closed"): "permission to open this folder is denied"}
    assert find_images(tmp_path).broken == expected


def test_classes_of_sub_folders_give_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "cats/tabby/1.png", "cats/siamese/2.png", "dogs/3.png", "dogs/old/4.png")
    (warning,) = find_images(tmp_path).warnings
    assert "['cats'] hold images in sub-folders only. Each counts as one class." in warning


def test_classes_that_are_not_in_test_give_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/2.png")
    (tmp_path / "test/c").mkdir()
    found = find_images(tmp_path)
    assert list(found.warnings) == [
        "There are no images to test on for 2 of 3 classes: ['b', 'c']."
    ]
    assert listing(found)["test"] == {"a": ["test/a/2.png"], "b": [], "c": []}


def test_a_class_that_is_only_in_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/Cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/2.png")
    message = r"classes to test on that are not in the training images: \['cat'\]. Did you mean 'C"
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path)
    touch(tmp_path, *(f"val/{number:02d}/1.png" for number in range(12)))
    (tmp_path / "test/cat").rename(tmp_path / "test/Cat")
    with pytest.raises(ValueError, match=r"to validate on that are .* '09', and 2 more\]"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images in sub-folders: expected one sub-folder of images per class"),
        (["1.png", "2.png"], "holds no images in sub-folders"),
        (["a/notes.txt", "b/notes.txt"], "have an ending of an image, such as .jpg, .png or .webp"),
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
        find_images(tmp_path)


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "test/1.png")
    assert find_images(tmp_path).class_names == ("test", "train")


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere' does not exist: expected one sub-folder"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path, "images.zip")
    message = "images.zip' is a file, but not a CSV file: .* or a CSV file with the columns path"
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / "images.zip")


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "labels.csv").write_text(text, encoding=encoding)
    return root / "labels.csv"


def test_a_table_without_parts(tmp_path: Path) -> None:
    touch(tmp_path, "img/1.png", "img/é, 2.png", "3")
    text = 'label, path,note\r\nb,img/1.png,x\r\na,"img/é, 2.png",\r\nb,./3,\r\n'
    found = find_images(table(tmp_path, text, "utf-8-sig"))  # as spreadsheets write it
    assert listing(found) == {"train": {"a": ["img/é, 2.png"], "b": ["3", "img/1.png"]}}
    assert (found.root, found.name) == (str(tmp_path), str(tmp_path / "labels.csv"))


def test_a_table_with_parts(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.png" for number in range(5)))
    text = "path,label,split\n0.png,a,Train\n1.png,b,train\n2.png,a,TEST\n3.png,b,test\n4.png,a,val"
    found = find_images(table(tmp_path, text))
    assert listing(found) == {
        "train": {"a": ["0.png"], "b": ["1.png"]},
        "test": {"a": ["2.png"], "b": ["3.png"]},
        "validation": {"a": ["4.png"], "b": []},
    }
    np.testing.assert_array_equal(
        found.warnings, ["There are no images to validate on for 1 of 2 classes: ['b']."]
    )


def test_files_that_a_table_names_and_that_are_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    path = table(tmp_path, "path,label\n1.png,a\n2.png,b\ngone.png,b\n")
    expected = f"there is no such file (line 4 of {str(path)!r})"
    assert find_images(path).broken == {str(tmp_path / "gone.png"): expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"should name the columns path and label.* Missing: \['path', 'label'\]"),
        ("path,class\n1.png,a", r"Missing: \['label'\]. Received: \['path', 'class'\]"),
        ("path;label\n1.png;a", "Separate the columns by commas"),
        ("path,label\n", "names no images. Add lines: path,label"),
        ("path,label\n1.png,a\n,b", "Line 3 of the CSV file .* has no path"),
        ("path,label\n1.png,a\n2.png", "Line 3 of the CSV file .* has no label"),
        ("path,label\n1.png,a\n./1.png,b", "Line 3 .* repeats the path '1.png' of line 2. Keep"),
        ("path,label\n1.png,a\n2.png,a", "has only one class, 'a'. Expected: two classes"),
        ("path,label\nx.png,a\ny.png,b", "No file that the CSV file .* names exists, such as .*x"),
        ("path,label,split\n1.png,a,rest", "Line 2 .* the split 'rest'. Expected: train, test or"),
        ("path,label,split\n1.png,a,", "Line 2 .* has no split"),
        ("path,label,split\n1.png,a,train\n2.png,b,train", r"should hold train, and test or .*ain"),
        ("path,label,split\n1.png,a,test\n2.png,b,test", r"should hold train, and .* \['test'\]"),
        ("path,label\n1.png,a\0\n", "CSV file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "1.png", "2.png")
    with pytest.raises(ValueError, match=message):
        find_images(table(tmp_path, text))


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
    assert listing(find_to_score(tmp_path)) == {"test": scored}


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
        find_to_score(tmp_path)


def test_what_cannot_be_read_may_be_why_there_is_nothing_to_score(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to("gone")
    with pytest.raises(ValueError, match=r"or \.webp\. '.*a/link': it is a link to 'gone', which"):
        find_to_score(tmp_path)


def test_a_table_to_score_may_be_without_lines_for_training(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    path = table(tmp_path, "path,label,split\n1.png,a,test\n")
    assert listing(find_to_score(path)) == {"test": {"a": ["1.png"]}}
    for text in ("path,label\n", "path,label,split\n"):
        with pytest.raises(ValueError, match="names no images. Add lines: path,label"):
            find_to_score(table(tmp_path, text))


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    with pytest.raises(ValueError, match="labels.csv' is not in UTF-8"):
        find_images(table(tmp_path, "path,label\n1.png,caf\xe9\n", "latin-1"))


def test_a_file_that_is_reached_twice_in_one_class_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "b/deep/3.png")
    (tmp_path / "a/again.png").symlink_to("1.png")
    (tmp_path / "b/other").symlink_to("deep")
    found = find_images(tmp_path)
    assert listing(found) == {"train": {"a": ["a/1.png"], "b": ["b/2.png", "b/deep/3.png"]}}
    assert found.left_aside == "2 links to an image that is there already"


def test_a_file_of_two_classes_or_two_parts_is_broken(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/3.png", "test/a/4.png")
    touch(tmp_path, "test/b/5.png")
    (tmp_path / "train/b/link.png").symlink_to(tmp_path / "train/a/1.png")
    (tmp_path / "test/b/deep").symlink_to(tmp_path / "train/b")
    found = find_images(tmp_path)
    assert found.broken[str(tmp_path / "test/b/deep/3.png")] == (
        f"it is the same file as {str(tmp_path / 'train/b/3.png')!r}, and counts as class 'b' to "
        "test on here, and as class 'b' to train on there"
    )
    names = ("train/a/1.png", "train/b/link.png", "test/b/deep/link.png", "train/b/3.png")
    broken = {str(tmp_path / name) for name in (*names, "test/b/deep/3.png")}
    assert found.broken.keys() == broken
    # Nobody knows the class of such an image: without it, the rest can be used.
    (tmp_path / "train/b/6.png").write_bytes(b"")
    (tmp_path / "test/b/deep").unlink()
    assert listing(find_images(tmp_path, skip_broken=True)) == {
        "train": {"a": ["train/a/2.png"], "b": ["train/b/3.png", "train/b/6.png"]},
        "test": {"a": ["test/a/4.png"], "b": ["test/b/5.png"]},
    }
    assert listing(find_to_score(tmp_path)) == {
        "test": {"a": ["test/a/4.png"], "b": ["test/b/5.png"]}
    }


def test_a_file_that_a_table_names_twice_by_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    (tmp_path / "link.png").symlink_to("1.png")
    found = find_images(table(tmp_path, "path,label\n1.png,a\n2.png,b\nlink.png,b\n"))
    assert found.broken.keys() == {str(tmp_path / "1.png"), str(tmp_path / "link.png")}


def test_classes_without_images_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "empty/notes.txt")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/1.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"/empty' holds no images. .* or give --skip-broken to"):
        find_images(tmp_path)
    found = find_images(tmp_path, skip_broken=True)
    assert found.class_names == ("a", "b")
    assert found.left_aside.endswith("['.txt'], 2 classes without images ['empty', 'gone']")
    assert found.broken.keys() == {str(tmp_path / "gone/1.png")}  # it is named, and not used
    path = table(tmp_path, "path,label\na/1.png,a\nb/2.png,b\nc.png,c\n")
    found = find_images(path, skip_broken=True)
    assert (found.class_names, found.left_aside) == (("a", "b"), "1 class without images ['c']")


def test_a_table_may_have_the_paths_of_windows(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "b/back\\slash.png")
    path = table(tmp_path, "path,label\na\\1.png,a\n.\\b\\2.png,b\nb/back\\slash.png,b\n")
    found = find_images(path)
    assert listing(found) == {"train": {"a": ["a/1.png"], "b": ["b/2.png", "b/back\\slash.png"]}}
    assert found.broken == {}


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"the"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        for image in (b"1.png", b"\xe9.png"):
            with open(folder + b"/" + image, "wb"):
                pass
    found = find_images(tmp_path)
    assert found.class_names == ("caf\\xe9", "the")
    assert found.files[:2] == ["caf\udce9/1.png", "caf\udce9/\udce9.png"]


def test_images_below_the_folders_that_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "photos/b/2.png", "photos/1.png", "photos/.hidden/3.png", "elsewhere/4.png")
    touch(tmp_path, "notes.txt")
    (tmp_path / "photos/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/above").symlink_to(tmp_path / "photos")
    for name in ("gone.png", "folder"):
        (tmp_path / "photos" / name).symlink_to("nowhere")
    names = ["photos/1.png", "photos/gone.png", "photos/a/4.png", "photos/b/2.png"]
    names += ["photos/folder", "notes.txt"]  # what was named counts as an image
    named = [str(tmp_path / name) for name in ("photos", "notes.txt")]
    assert list(image_files(named)) == [str(tmp_path / name) for name in names]
