"""One class, several labels or numbers: what the columns of a table tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from app_helpers import write_garments
from data_helpers import table, touch

from dlr_tf.app.data import Columns, find, load
from dlr_tf.app.data.splits import FOR_THRESHOLDS
from dlr_tf.app.data.targets import kind_of, strata


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["cat", "dog", "cat"], "class"),
        (["0", "1", "9"], "class"),
        ([str(number) for number in range(50) for _ in range(10)], "class"),
        ([str(number) for number in range(50)], "number"),
        (["1.5", "2", "3"], "number"),
        (["1,5", "2,5", "3"], "number"),  # which is refused later, with its line
        (["1.5", "2", "3", "4", "?"], "number"),
        (["1.5", "?", "?"], "class"),
        (["a|b", "a", ""], "labels"),
        (["a, b", "b, c"], "labels"),
        (["a; b", "b"], "labels"),
        (["tench, Tinca tinca", "goldfish, Carassius auratus"], "class"),
    ],
)
def test_the_kind_that_the_values_of_one_column_tell(cells: list[str], kind: str) -> None:
    assert kind_of([[cell] for cell in cells]) == kind


def test_columns_with_other_names(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    path = table(tmp_path, "where,what,part\n1.png,a,train\n2.png,b,train\n1.png.x,a,test\n")
    touch(tmp_path, "1.png.x")
    columns = Columns(label_column="What", path_column="where", split_column="part")
    found = find(path, columns=columns)
    assert found.class_names == ("a", "b")
    assert {split: len(indices) for split, indices in found.splits.items()} == {
        "train": 2,
        "test": 1,
    }
    with pytest.raises(ValueError, match=r"--label-column .*Missing: \['who'\]. Received: \['whe"):
        find(path, columns=Columns(label_column="who", path_column="where"))
    with pytest.raises(ValueError, match="--label-column is for a CSV file: a folder and tfds"):
        find(tmp_path, columns=Columns(label_column="what"))
    with pytest.raises(ValueError, match="--target is for a CSV file"):
        find(tmp_path, columns=Columns(target="labels"))


def test_several_labels(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "3.png")
    path = table(tmp_path, "file,tags\n1.png,red | small\n2.png,\n3.png,red|red\n")
    found = find(path)
    assert (found.kind, found.class_names) == ("labels", ("red", "small"))
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 0], [1, 0]])
    # The same as one column per label.
    path = table(tmp_path, "file,red,small\n1.png,1,1\n2.png,0,0\n3.png,1,0\n")
    columns = find(path, columns=Columns(label_column="red,small"))
    assert (columns.kind, columns.class_names) == ("labels", ("red", "small"))
    np.testing.assert_array_equal(columns.labels, found.labels)
    one = find(path, columns=Columns(target="labels", label_column="small"))
    np.testing.assert_array_equal(one.labels, [[1], [0], [0]])


def test_a_kind_that_is_forced(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "3.png")
    path = table(tmp_path, "file,label\n1.png,3\n2.png,4\n3.png,3\n")
    assert find(path).kind == "class"
    number = find(path, columns=Columns(target="number"))
    assert number.class_names == ("label",)
    np.testing.assert_array_equal(number.labels, [[3.0], [4.0], [3.0]])
    assert find(path, columns=Columns(target="labels")).class_names == ("3", "4")
    with pytest.raises(ValueError, match="--target class needs one label column"):
        find(path, columns=Columns(target="class", label_column="label,file"))
    with pytest.raises(ValueError, match="should hold 0 or 1, one column per label"):
        find(path, columns=Columns(target="labels", label_column="label,file"))


def test_rows_that_cannot_be_used_are_listed_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, *(f"{number}.png" for number in range(8)))
    rows = "".join(f"{number}.png,{number}.5\n" for number in range(5))
    path = table(tmp_path, f'file,price\n{rows}5.png,"1,5"\n6.png,\n7.png,nan\n')
    with pytest.raises(ValueError, match="3 rows of the data"):
        find(path, columns=Columns(label_column="price"))
    reasons = {
        f"{path}:7": "the price '1,5' is not a number, write 1.5",
        f"{path}:8": "the price '' is not a number",
        f"{path}:9": "the price 'nan' is not a number",
    }
    lines = [f"{place}: {reason}" for place, reason in reasons.items()]
    assert capsys.readouterr().err.splitlines() == lines
    kept = find(path, columns=Columns(label_column="price"), skip_broken=True)
    assert kept.files == [f"{number}.png" for number in range(5)]
    assert kept.broken == reasons
    path = table(tmp_path, "file,red\n1.png,1\n2.png,\n")
    columns = Columns(target="labels", label_column="red")
    found = find(path, columns=columns, skip_broken=True)
    assert found.broken == {f"{path}:3": "no red: expected 0 or 1"}


def test_a_label_that_is_only_tested_on(tmp_path: Path) -> None:
    path = write_garments(tmp_path / "g")
    lines = path.read_text().splitlines()
    split = ["split", *(["train"] * 20 + ["test"] * 4)]
    lines[-1] += "0"  # is_red
    text = "\n".join(f"{line},{part}" for line, part in zip(lines, split))
    path.write_text(text.replace("023.png,red|bright", "023.png,red|new"))
    with pytest.raises(ValueError, match=r"labels without an image to train on: \['new'\]. Add"):
        load(find(path, columns=Columns(label_column="tags")), image_size=16)


def test_numbers_that_are_all_the_same(tmp_path: Path) -> None:
    path = write_garments(tmp_path / "g")
    path.write_text(path.read_text().replace(",1500,", ",1000,"))
    with pytest.raises(ValueError, match=r"the same number in every training image: \['price'\]"):
        load(find(path, columns=Columns(target="number", label_column="price,size")), image_size=16)


def test_batches_of_labels_and_of_numbers(tmp_path: Path) -> None:
    path = write_garments(tmp_path / "g", count=40)
    labels = load(find(path, columns=Columns(label_column="tags")), image_size=16, batch_size=8)
    assert (labels.kind, labels.found) == (
        "labels",
        "several labels: 2, of which a row has 0 to 2",
    )
    # A part of the training images is kept aside for the thresholds.
    sizes = {split: labels.size(split) for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == 40
    assert sizes["validation"] == pytest.approx(FOR_THRESHOLDS * 32, abs=2)
    _, some = next(iter(labels.train))
    assert some.shape == (8, 2)
    numbers = load(find(path, columns=Columns(label_column="price,size")), image_size=16)
    assert numbers.found == "numbers: price from 1000 to 1500, size from 0.01 to 0.51"
    assert numbers.validation is numbers.test
    values = np.concatenate([values for _, values in numbers.train])
    mean, deviation = numbers.scaling
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, values.std(axis=0), rtol=1e-6)
    assert labels.fingerprint != numbers.fingerprint


def test_the_rarest_label_is_held_out_too() -> None:
    values = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32)
    assert strata("labels", values).tolist() == [0, 1, 2, 0]
    assert strata("number", values).tolist() == [0, 0, 0, 0]
