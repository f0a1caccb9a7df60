"""Texts with their classes, from tables and folders."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlr_tf.app.data import Columns, LabelledTexts, find, load, named_texts


def texts_of(found: LabelledTexts) -> dict[str, dict[str, list[Any]]]:
    """What was found: the texts of each class of each split."""
    result: dict[str, dict[str, list[Any]]] = {}
    for split, indices in found.splits.items():
        for index in indices:
            name = found.class_names[found.labels[index]]
            text = found.texts[index]
            result.setdefault(split, {}).setdefault(name, []).append(
                text if isinstance(text, str) else tuple(text)
            )
    return result


def written(folder: Path, text: str, name: str = "texts.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_file(tmp_path: Path, encoding: str) -> None:
    text = 'Sentence,id,label\n"Well, naïve",1,b\n"two\nlines",2,a\n\nthird,3,a\n'
    found = find(written(tmp_path, text, encoding=encoding))
    assert texts_of(found) == {"train": {"b": ["Well, naïve"], "a": ["two\nlines", "third"]}}


def test_tables_of_other_formats(tmp_path: Path) -> None:
    tsv = "split\ttext\tsection\ntrain\ta, b\tx\ntrain\tc\ty\ndev\td\tx\n"
    with pytest.warns(UserWarning, match=r"no texts to validate on for 1 of 2 classes: \['y'\]"):
        found = find(written(tmp_path, tsv, "a.tsv"))
    assert texts_of(found) == {
        "train": {"x": ["a, b"], "y": ["c"]},
        "validation": {"x": ["d"]},
    }
    lines = '{"text": "one", "label": 1}\n\n{"label": 0, "text": "two", "more": [1]}\n'
    found = find(written(tmp_path, lines, "a.jsonl"))
    assert texts_of(found) == {"train": {"1": ["one"], "0": ["two"]}}


def test_pairs(tmp_path: Path) -> None:
    text = "premise,hypothesis,label\na,b,yes\nc,d,no\n"
    found = find(written(tmp_path, text))
    assert texts_of(found) == {"train": {"yes": [("a", "b")], "no": [("c", "d")]}}
    assert found.texts.shape == (2, 2)
    one = find(written(tmp_path, text), columns=Columns(text_column="hypothesis"))
    assert texts_of(one) == {"train": {"yes": ["b"], "no": ["d"]}}


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    for name in ("train/a/1.txt", "train/b/sub/2.txt", "test/a/3.txt", "test/b/4.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {name}")
    assert texts_of(find(tmp_path)) == {
        "train": {"a": ["text train/a/1.txt"], "b": ["text train/b/sub/2.txt"]},
        "test": {"a": ["text test/a/3.txt"], "b": ["text test/b/4.txt"]},
    }
    assert texts_of(find(tmp_path / "train")) == {
        "train": {"a": ["text train/a/1.txt"], "b": ["text train/b/sub/2.txt"]}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,x\nb,x\n", "only one class to train on, 'x'"),
        ("text,label,split\na,x,train\nb,y,train\nc,z,test\n", r"to test on that are not .*'z'"),
        ("text,label,split\na,x,test\nb,y,test\n", "should be train, and test or validation"),
        ("text,one,two\na,x,1\n", r"Missing: \['label'\]. Received: \['text', 'one', 'two'\]"),
        ("text,text,label\na,b,x\n", "names the column 'text' more than once"),
        ("text,label\n", "hold no texts"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(written(tmp_path, text))


def test_the_text_column_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "Wording,label\na,x\nb,y\n")
    assert texts_of(find(path, columns=Columns(text_column="wording"))) == {
        "train": {"x": ["a"], "y": ["b"]}
    }
    with pytest.raises(ValueError, match=r"--text-column.* Missing: \['words'\]. Received"):
        find(path, columns=Columns(text_column="words"))
    with pytest.raises(ValueError, match="should name one column, or of texts the two of a pair"):
        find(path, columns=Columns(text_column="wording,label,id"))
    tsv = written(tmp_path, "Wording\tlabel\na\tx\n", "a.tsv")
    with pytest.raises(ValueError, match=r"those of --text-column, .* Missing: \['text'\]"):
        find(tsv)
    with pytest.raises(ValueError, match="--text-column is for a CSV file: a folder"):
        find(tmp_path, columns=Columns(text_column="text"))


def test_other_encodings_are_named_with_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, "text,label\na,x\ncafé,y\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"Line 3 of .* byte 0xe9\. Save .* iconv -f WINDOWS-1252"):
        find(path)
    path = written(tmp_path, "text,label\na,x\n", "a.tsv", encoding="utf-16")
    with pytest.raises(ValueError, match="Line 1 of .* is in UTF-16, .* iconv -f UTF-16"):
        find(path)


def test_broken_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "text,label\na,x\n  ,y\nb,\nc,y\nd,e,y\n"
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match="3 texts of the data .* cannot be used"):
        find(path)
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:3: its text is empty",
        f"{path}:4: it has no label",
        f"{path}:6: it has 3 cells, and the first line names 2 columns; a text with a separator "
        "needs quotation marks",
    ]
    assert texts_of(find(path, skip_broken=True)) == {"train": {"x": ["a"], "y": ["c"]}}
    lines = written(tmp_path, '{"text": "a", "label": "x"}\nno\n', "a.jsonl")
    with pytest.raises(ValueError, match="1 text of the data"):
        find(lines)
    assert f"{lines}:2: it is no JSON object" in capsys.readouterr().err


def test_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "text,labels\na,red|big\nb,\nc,red\n,red\n"
    path = written(tmp_path, text)
    found = find(path, skip_broken=True)
    assert (found.kind, found.class_names) == ("labels", ("big", "red"))
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 0], [0, 1]])
    assert capsys.readouterr().err == f"{path}:5: its text is empty\n"
    columns = "text,Red,big\na,1,1\nb,0,0\nc,1,\nd,0,1\n"
    path = written(tmp_path, columns)
    found = find(path, columns=Columns(label_column="red,big"), skip_broken=True)
    assert found.class_names == ("Red", "big")
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 0], [0, 1]])
    assert "csv:4: no big: expected 0 or 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--target class needs one label column"):
        find(path, columns=Columns("class", "red,big"))
    one = find(path, columns=Columns("class", "red"))
    assert (one.kind, one.class_names) == ("class", ("0", "1"))
    tags = {"a": ["x", "y"], "b": [], "c": ["x"]}
    lines = "\n".join(json.dumps({"text": text, "tags": some}) for text, some in tags.items())
    found = find(written(tmp_path, lines, "a.jsonl"))
    assert found.class_names == ("x", "y")
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 0], [1, 0]])
    rows = ["text,labels,split", *["a,x|y,train"] * 9, "b,x|z,test", ""]
    with pytest.raises(ValueError, match=r"labels without a text to train on: \['z'\]\. Add"):
        load(written(tmp_path, "\n".join(rows)))


def test_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"text {number},{number / 4},{number}" for number in range(10)]
    path = written(
        tmp_path, "\n".join(["text,Price,stars", *rows, "more,5 dollars,2", "last,1,", ""])
    )
    columns = Columns(label_column="price,stars")
    with pytest.raises(ValueError, match="2 texts of the data"):
        find(path, columns=columns)
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:12: the Price '5 dollars' is not a number",
        f"{path}:13: the stars '' is not a number",
    ]
    data = load(find(path, columns=columns, skip_broken=True), batch_size=4)
    assert (data.kind, data.class_names, data.train_images) == ("number", ("Price", "stars"), 8)
    texts, labels = next(iter(data.train))
    for text, row in zip(texts.numpy(), labels.numpy(), strict=True):
        number = int(text.decode().split()[1])
        assert row.tolist() == [number / 4, number]
    assert data.found == "numbers: Price from 0 to 2.25, stars from 0 to 9"
    scored = load(find(path, columns=columns, to_score=True))
    assert (scored.train_images, scored.test_images) == (0, 10)


def test_many_integers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{number},{number % 12}" for number in range(144)]
    path = written(tmp_path, "\n".join(["text,label", *rows]))
    assert find(path).kind == "class"
    assert capsys.readouterr().err == "12 integers are taken for classes (--target number)\n"
    assert find(path, columns=Columns("class")).kind == "class"
    assert find(path, columns=Columns("number")).kind == "number"
    assert capsys.readouterr().err == ""


def test_pairs_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"a\tb\nno tab\n\tx\n"))
    monkeypatch.setattr(sys, "stdin", lines)
    assert [*named_texts(["-"], 2)] == [
        ("-:1", ["a", "b"], ""),
        ("-:2", ["no tab", ""], "it has no tab between two texts"),
        ("-:3", ["", "x"], "its text is empty"),
    ]


def test_batches(tmp_path: Path) -> None:
    rows = [f"text {number},{'xy'[number % 2]}" for number in range(10)]
    path = written(tmp_path, "\n".join(["text,label", *rows, ""]))
    data = load(path, batch_size=4, seed=1)
    assert (data.train_images, data.test_images, data.unit) == (8, 2, "text")
    texts, labels = next(iter(data.train))
    assert texts.shape == (4,)
    for text, label in zip(texts.numpy(), labels.numpy(), strict=True):
        assert int(text.decode().split()[1]) % 2 == label
    again = load(path, batch_size=4, seed=1)
    np.testing.assert_array_equal(next(iter(again.train))[0], texts)
    assert again.fingerprint == data.fingerprint
    changed = written(tmp_path, "\n".join(["text,label", "other,x", *rows[1:], ""]))
    assert load(changed, batch_size=4, seed=1).fingerprint != data.fingerprint
    scored = load(find(path, to_score=True))
    assert (scored.train_images, scored.test_images) == (0, 10)
