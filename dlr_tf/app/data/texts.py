"""Texts with their classes: tables, and folders of `.txt` files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from dlr_tf.app.data import images, tables
from dlr_tf.app.data.image_data import ImageData, Settings, indexed_data
from dlr_tf.app.data.labelled_rows import (
    Example,
    check_rows,
    examples_to_use,
    labelled_rows,
)
from dlr_tf.app.data.splits import check_classes, complete_splits, split_named
from dlr_tf.app.data.tables import Row, read_table, read_utf8
from dlr_tf.app.data.targets import CLASS, PAIRS, USUAL, Columns, class_name, in_order
from dlr_tf.app.terminal import printable_name
from dlr_tf.core._validation import warn_user

_SHOWN = 60  # characters of a text in a line


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Texts with their classes, labels or numbers, read and checked.

    Args:
        name: The table or the folder.
        class_names: The names of the classes, sorted: numbers as numbers; or as in `LabelledFiles`.
        texts: Array of strings, of shape `(texts,)`, or `(texts, 2)` for pairs.
        labels: The class of each text, or its labels or numbers.
        splits: As in `LabelledFiles`.
        kind: The kind of target. Defaults to "class".
    """

    name: str
    class_names: tuple[str, ...]
    texts: np.ndarray
    labels: np.ndarray
    splits: Mapping[str, np.ndarray]
    kind: str = CLASS

    @property
    def n_columns(self) -> int:
        """The number of texts of an example: 1, or 2 for pairs."""
        return 2 if self.texts.ndim == 2 else 1

    @property
    def training_texts(self) -> np.ndarray:
        """The texts to train on, before some are held out."""
        return self.texts[self.splits["train"]]


def are_texts(source: str, columns: Columns) -> bool:
    """Return whether a source holds texts: a table with such a column, or `.txt` files alone."""
    path = Path(source)
    if path.is_file():
        ending = path.suffix.lower()
        if ending != ".csv":
            return ending in tables.ENDINGS
        if columns.text_column or columns.path_column:
            return columns.path_column is None
        with path.open("rb") as file:  # in any encoding that keeps ASCII
            first = file.readline().decode("latin-1").removeprefix("ï»¿").lower()
        names = [name.strip().strip('"') for name in first.split(",")]
        usual = (*USUAL["text"], *(first for first, _ in PAIRS))
        return not {*USUAL["path"]} & {*names} and bool({*usual} & {*names})
    found = False
    for folder, _, files in os.walk(path):
        endings = {os.path.splitext(name)[1].lower() for name in files if name[0] != "."}
        if endings & {*images.ENDINGS}:
            return False
        found |= ".txt" in endings and folder != str(path)
    return found


def read_texts(
    path: Path,
    *,
    columns: Columns,
    skip_broken: bool = False,
    to_score: bool = False,
) -> LabelledTexts:
    """Read the texts of a table or of a folder: see `sources.find`.

    Raises:
        ValueError: If a column is missing, texts are broken, or there are fewer than two classes to
            train on.
    """
    name, broken = printable_name(str(path)), dict[str, str]()
    targets = None
    if path.is_dir():
        examples = [*_folder_examples(path, broken)]
    else:
        names, rows = read_table(path)
        found = columns.find(names, str(path), ("text", "label"))
        targets, examples, broken = labelled_rows(
            path, columns, names, rows, found, lambda row: problem_of(row, found["text"])
        )
    check_rows(name, broken, "text", skip=skip_broken or to_score)
    examples = examples_to_use(name, examples, "text", to_score=to_score)
    class_names = targets.names if targets else _checked_classes(name, examples, to_score)
    numbers = {one: number for number, one in enumerate(class_names)}
    labels = [numbers[e.target] if targets is None else e.target for e in examples]
    texts = np.array([e.content for e in examples], object)
    return LabelledTexts(
        name=name,
        class_names=class_names,
        texts=texts[:, 0] if texts.shape[1] == 1 else texts,
        labels=np.array(labels, "int32" if targets is None else "float32"),
        splits={
            split: np.array([index for index, e in enumerate(examples) if e.split == split])
            for split in dict.fromkeys(e.split for e in examples)
        },
        kind=targets.kind if targets else CLASS,
    )


def _checked_classes(name: str, examples: Sequence[Example], to_score: bool) -> tuple[str, ...]:
    """Return the names of the classes of the training texts, which every split should know."""
    present: dict[str, set[str]] = {}
    for example in examples:
        present.setdefault(example.split, set()).add(example.target)
    class_names = in_order(present["test" if to_score else "train"])
    for warning in check_classes(name, present, class_names, "text"):
        warn_user(warning)
    return tuple(class_names)


def problem_of(row: Row, columns: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what is wrong with the texts of a row, empty if nothing, and the texts."""
    text = tuple(row.cells.get(column, "") for column in columns)
    problem = row.problem
    if not problem and not all(part.strip() for part in text):
        problem = "its text is empty"
    if not problem and any("\0" in part for part in text):
        problem = "its text has a null character; save the file as UTF-8"
    return problem, text


def _folder_examples(root: Path, broken: dict[str, str]) -> Iterator[Example]:
    """Give the `.txt` files of `root/CLASS/` or of `root/SPLIT/CLASS/`."""
    folders = _subfolders(root)
    parts = {folder: split_named(folder.name) for folder in folders}
    if not folders or not all(parts.values()):
        parts = {root: "train"}
    for part, split in parts.items():
        for folder in _subfolders(part):
            for file in sorted(folder.rglob("*.txt")):
                text = read_utf8(file)
                problem, texts = problem_of(Row(1, {"text": text}), ["text"])
                if problem:
                    broken[str(file)] = problem
                else:
                    yield Example(str(split), str(file), texts, class_name(folder.name))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def load_texts(found: LabelledTexts, settings: Settings) -> ImageData:
    """Return the batches of texts, of dtype string."""
    splits = dict(found.splits)
    if "train" in splits:
        splits = complete_splits(found, splits, settings, "text")
    else:
        splits["train"] = np.array([], "int64")  # a model is scored
    with tf.device("CPU:0"):
        texts = tf.constant(found.texts, tf.string)
    return indexed_data(
        lambda indices, _: indices.map(lambda batch: tf.gather(texts, batch)),
        found.labels,
        splits,
        settings,
        found.kind,
        name=found.name,
        class_names=found.class_names,
        image_shape=(),
        test_names=[shown(found.texts[index]) for index in splits["test"]],
        fingerprint=_fingerprint(found, splits),
        unit="text",
    )


def _fingerprint(found: LabelledTexts, splits: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for split, indices in sorted(splits.items()):
        for index in indices:
            example = [split, found.texts[index], found.labels[index].tolist()]
            digest.update(json.dumps(example, default=list).encode())
    return digest.hexdigest()


def shown(text: str | Sequence[str]) -> str:
    """Return the beginning of a text, or of the two of a pair, in one line.

    >>> shown("two\\nlines"), len(shown("x" * 99))
    ('two lines', 60)
    """
    whole = text if isinstance(text, str) else " | ".join(text)
    line = printable_name(" ".join(whole.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
