"""The images below a folder."""

from __future__ import annotations

from pathlib import Path

from data_helpers import touch

from dlr_tf.app.data import list_images


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
    assert list(list_images(named)) == [str(tmp_path / name) for name in names]
