"""Files that several links lead to, and classes without files."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_helpers import listing, table, touch

from dlr_tf.app.data import find


def test_a_file_that_is_reached_twice_in_one_class_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "b/deep/3.png")
    (tmp_path / "a/again.png").symlink_to("1.png")
    (tmp_path / "b/other").symlink_to("deep")
    found = find(tmp_path)
    assert listing(found) == {"train": {"a": ["a/1.png"], "b": ["b/2.png", "b/deep/3.png"]}}
    assert found.ignored == "links to an image that is there already (2)"


def test_a_file_of_two_classes_or_two_parts_is_broken(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/3.png", "test/a/4.png")
    touch(tmp_path, "test/b/5.png")
    (tmp_path / "train/b/link.png").symlink_to(tmp_path / "train/a/1.png")
    (tmp_path / "test/b/deep").symlink_to(tmp_path / "train/b")
    found = find(tmp_path)
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
    assert listing(find(tmp_path, skip_broken=True)) == {
        "train": {"a": ["train/a/2.png"], "b": ["train/b/3.png", "train/b/6.png"]},
        "test": {"a": ["test/a/4.png"], "b": ["test/b/5.png"]},
    }
    assert listing(find(tmp_path, to_score=True)) == {
        "test": {"a": ["test/a/4.png"], "b": ["test/b/5.png"]}
    }


def test_classes_without_images_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "empty/notes.txt")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/1.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"/empty' holds no images. .* or give --skip-broken to"):
        find(tmp_path)
    found = find(tmp_path, skip_broken=True)
    assert found.class_names == ("a", "b")
    assert found.ignored == (
        "class 'empty' without images (1), class 'gone' without images (1), files .txt (1)"
    )
    assert found.broken.keys() == {str(tmp_path / "gone/1.png")}  # it is named, and not used
    path = table(tmp_path, "path,label\na/1.png,a\nb/2.png,b\nc.png,c\n")
    found = find(path, skip_broken=True)
    assert (found.class_names, found.ignored) == (("a", "b"), "class 'c' without images (1)")
