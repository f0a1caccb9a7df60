"""Which images a CSV file names."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from data_helpers import listing, table, touch

from dlr_tf.app.data import find


def test_a_table_without_parts(tmp_path: Path) -> None:
    touch(tmp_path, "img/1.png", "img/é, 2.png", "3")
    text = 'label, path,note\r\nb,img/1.png,x\r\na,"img/é, 2.png",\r\nb,./3,\r\n'
    found = find(table(tmp_path, text, "utf-8-sig"))  # as spreadsheets write it
    assert listing(found) == {"train": {"a": ["img/é, 2.png"], "b": ["3", "img/1.png"]}}
    assert (found.root, found.name) == (str(tmp_path), str(tmp_path / "labels.csv"))


def test_a_table_with_parts(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.png" for number in range(5)))
    text = "Path,label,Split\n0.png,a,Train\n1.png,b,train\n2.png,a,TEST\n3.png,b,test\n4.png,a,val"
    found = find(table(tmp_path, text))
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
    expected = f"there is no such file ({path}:4)"
    assert find(path).broken == {str(tmp_path / "gone.png"): expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"should name the columns path and label.* Missing: \['path', 'label'\]"),
        ("path,kind\n1.png,a", r"Missing: \['label'\]. Received: \['path', 'kind'\]"),
        ("path;label\n1.png;a", "Separate the columns by commas"),
        ("path\tlabel\n1.png\ta", "Separate the columns by commas"),
        ("path,label,Path\n1.png,a,x", "names the column 'path' more than once. Rename"),
        ("path,label\n", "hold no images that can be used"),
        (
            "path,label\n1.png,a\n2.png,a",
            "have only one class to train on, 'a'. Expected: two",
        ),
        ("path,label\nx.png,a\ny.png,b", "No file that the CSV file .* names exists, such as .*x"),
        ("path,label,split\n1.png,a,test\n2.png,b,test", r"should be train, and .* \['test'\]"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "1.png", "2.png")
    with pytest.raises(ValueError, match=message):
        find(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('path,label\n1.png,"a\n2.png,b\n', 2, "its label has several lines; perhaps a quotation"),
        ("path,label\n1.png,a\n,b", 3, "it has no path"),
        ("path,label\n1.png,a\n2.png", 3, "it has no label"),
        ("path,label\n1.png,a\n./1.png,b", 3, "it repeats the path '1.png' of line 2; keep one"),
        ("path,label,split\n1.png,a,rest", 2, "its split is 'rest'; expected: train, test or val"),
        ("path,label,split\n1.png,a,", 2, "its split is ''; expected: train, test or val"),
        ("path,label\n1.png,a\0\n", 2, "its label has a null character; save the file as UTF-8"),
        ("path,label\n1\0.png,a\n", 2, "its path has a null character; save the file as UTF-8"),
    ],
)
def test_rows_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, reason: str
) -> None:
    if "\0" in text and sys.version_info < (3, 11):
        pytest.skip("before Python 3.11, its module csv refuses such a file")
    touch(tmp_path, "1.png", "2.png")
    path = table(tmp_path, text)
    with pytest.raises(ValueError, match="1 row of the data .* cannot be used, for the reasons ab"):
        find(path)
    assert capsys.readouterr().err.startswith(f"{path}:{line}: {reason}")


def test_a_table_to_score_may_be_without_lines_for_training(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    path = table(tmp_path, "path,label,split\n1.png,a,test\n")
    assert listing(find(path, to_score=True)) == {"test": {"a": ["1.png"]}}
    for text in ("path,label\n", "path,label,split\n"):
        with pytest.raises(ValueError, match="hold no images that can be used"):
            find(table(tmp_path, text), to_score=True)


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    with pytest.raises(ValueError, match="labels.csv' is not in UTF-8"):
        find(table(tmp_path, "path,label\n1.png,caf\xe9\n", "latin-1"))


def test_a_file_that_a_table_names_twice_by_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    (tmp_path / "link.png").symlink_to("1.png")
    found = find(table(tmp_path, "path,label\n1.png,a\n2.png,b\nlink.png,b\n"))
    assert found.broken.keys() == {str(tmp_path / "1.png"), str(tmp_path / "link.png")}


def test_a_table_may_have_the_paths_of_windows(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "b/back\\slash.png")
    path = table(tmp_path, "path,label\na\\1.png,a\n.\\b\\2.png,b\nb/back\\slash.png,b\n")
    found = find(path)
    assert listing(found) == {"train": {"a": ["a/1.png"], "b": ["b/2.png", "b/back\\slash.png"]}}
    assert found.broken == {}
