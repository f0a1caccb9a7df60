"""A few examples of each class, for a quick try."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from app_helpers import write_garments
from data_helpers import levels, listing

from dlr_tf.app.data import Columns, find, load
from dlr_tf.app.data.limits import limited
from dlr_tf.app.data.tfds import TfdsSource


def test_a_few_of_each_class(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    image_folder("images", classes=3)
    found = find("images")
    some = limited(found, 2, seed=0)
    before, after = listing(found)["train"], listing(some)["train"]
    assert [*after] == [*before]
    assert all(len(after[name]) == 2 and {*after[name]} <= {*before[name]} for name in before)
    assert listing(limited(found, 2, seed=0)) == listing(some) != listing(limited(found, 2, seed=1))
    assert listing(limited(found, 9, seed=0)) == listing(found)
    assert limited(found, None, seed=0) is found


def test_the_images_are_those_that_are_listed(image_folder: Callable[..., Path]) -> None:
    data = load(find(image_folder("images")), image_size=16, limit=3)
    assert (data.train_images, data.test_images) == (4, 2)
    pairs = levels(data.train) + levels(data.test)
    assert all(label == brightness // 100 for brightness, label in pairs)


def test_other_kinds(tmp_path: Path) -> None:
    table = write_garments(Path("garments"))
    labels = limited(find(table, columns=Columns(label_column="tags")), 2, seed=0)
    # The strata are: no label, and each label as the rarest.
    assert labels.labels.any(axis=0).all()
    assert len(labels.files) <= 3 * 2
    numbers = limited(
        find(table, columns=Columns(target="number", label_column="price")), 5, seed=0
    )
    assert len(numbers.files) == len(numbers.labels) == 5
    Path("texts.csv").write_text("text,label\n" + "".join(f"{n},{n % 2}\n" for n in range(10)))
    texts = limited(find("texts.csv"), 3, seed=0)
    assert [int(text) % 2 for text in texts.texts] == texts.labels.tolist()
    assert np.bincount(texts.labels).tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"--limit is for files and tables, and not for tfds:m, "):
        limited(TfdsSource("m", SimpleNamespace(), ("a", "b")), 3, seed=0)
