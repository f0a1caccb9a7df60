"""Texts with their classes: tables, and folders of `.txt` files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dlr_tf._names import some_of
from dlr_tf.app.data import images, tables
from dlr_tf.app.data.image_data import ImageData, Settings, indexed_data
from dlr_tf.app.data.splits import TO_SCORE, check_classes, complete_splits, split_named
from dlr_tf.app.data.tables import Row, missing_column, read_table, read_utf8
from dlr_tf.app.data.targets import (
    CLASS,
    USUAL,
    Columns,
    Targets,
    class_name,
    in_order,
    kind_wanted,
    read_targets,
)
from dlr_tf.app.terminal import print_stderr, printable_name
from dlr_tf.core._validation import warn_user

# The names that columns usually have, the most frequent first.
_TEXT = (
    *("text", "sentence", "review", "content", "comment", "message", "document", "body"),
    *("description", "question", "tweet"),
)
_PAIRS = (
    *(("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2")),
    *(("premise", "hypothesis"), ("text", "text_pair")),
)
_LABEL = (*USUAL["label"], "sentiment", "target")
_SHOWN = 60  # characters of a text in a line


class _Example(NamedTuple):
    split: str
    place: str
    text: tuple[str, ...]
    target: Any  # the name of a class, or a row of numbers


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Texts with their classes, labels or numbers, read and checked.

    Args:
        name: The table or the folder.
        class_names: The names of the classes, sorted: numbers as numbers; or as in `LabelledFiles`.
        texts: Array of strings, of shape `(texts,)`, or `(texts, 2)` for pairs.
        places: Where each text is: its file, or its line.
        labels: The class of each text, or its labels or numbers.
        splits: As in `LabelledFiles`.
        kind: The kind of target. Defaults to "class".
    """

    name: str
    class_names: tuple[str, ...]
    texts: np.ndarray
    places: Sequence[str]
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
        usual = (*_TEXT, *(first for first, _ in _PAIRS))
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
        targets, examples = _table_examples(path, columns, broken)
    for place, reason in broken.items():
        print_stderr(f"{place}: {reason}")
    if broken and not (skip_broken or to_score):
        count = "1 text" if len(broken) == 1 else f"{len(broken)} texts"
        raise ValueError(
            f"{count} of the data {name!r} cannot be used, for the reasons above: "
            f"{some_of(list(broken), 3)}. Correct them, or give --skip-broken to go on without."
        )
    if not examples:
        raise ValueError(f"The data {name!r} hold no texts that can be used.")
    splits = {example.split for example in examples}
    if to_score:
        scored = next(split for split in TO_SCORE if split in splits)
        examples = [e._replace(split="test") for e in examples if e.split == scored]
        splits = {"test"}
    elif "train" not in splits:
        raise ValueError(
            f"The splits of {name!r} should be train, and test or validation. Received: "
            f"{some_of(sorted(splits))}."
        )
    class_names = targets.names if targets else _checked_classes(name, examples, to_score)
    numbers = {one: number for number, one in enumerate(class_names)}
    labels = [numbers[e.target] if targets is None else e.target for e in examples]
    texts = np.array([e.text for e in examples], object)
    return LabelledTexts(
        name=name,
        class_names=class_names,
        texts=texts[:, 0] if texts.shape[1] == 1 else texts,
        places=[e.place for e in examples],
        labels=np.array(labels, "int32" if targets is None else "float32"),
        splits={
            split: np.array([index for index, e in enumerate(examples) if e.split == split])
            for split in dict.fromkeys(e.split for e in examples)
        },
        kind=targets.kind if targets else CLASS,
    )


def _checked_classes(name: str, examples: Sequence[_Example], to_score: bool) -> tuple[str, ...]:
    """Return the names of the classes of the training texts, which every split should know."""
    present: dict[str, set[str]] = {}
    for example in examples:
        present.setdefault(example.split, set()).add(example.target)
    class_names = in_order(present["test" if to_score else "train"])
    for warning in check_classes(name, present, class_names, "text"):
        warn_user(warning)
    return tuple(class_names)


def _table_examples(
    path: Path, columns: Columns, broken: dict[str, str]
) -> tuple[Targets | None, list[_Example]]:
    """Return the labels or numbers of a table, `None` for one class of each text, and its rows."""
    names, rows = read_table(path)
    texts = text_columns_of(path, names, columns.text_column)
    splits = _named(path, names, "--split-column", columns.split_column)
    split = next((name for name in splits or USUAL["split"] if name in _lower(names)), None)
    labels = _named(path, names, "--label-column", columns.label_column)
    labels = labels or [_label_column(path, names, {*texts, split})]
    cells = [
        ["" if row.problem else row.cells.get(label, "").strip() for label in labels]
        for row in rows
    ]
    kind, targets = kind_wanted(columns.target, cells), None
    if kind != CLASS:
        spelled = dict(zip(_lower(names), names, strict=True))
        targets = read_targets(kind, [spelled[label] for label in labels], cells)
    elif len(labels) > 1:
        raise ValueError(
            f"--target class needs one label column. Received: --label-column {','.join(labels)}"
        )
    examples = []
    for index, row in enumerate(rows):
        place = f"{path}:{row.line}"
        problem, text = problem_of(row, texts)
        part = split_named(row.cells.get(split, "").strip()) if split else "train"
        if not problem and targets:
            problem = targets.broken.get(index, "")
        elif not problem and not cells[index][0]:
            problem = f"it has no {labels[0]}"
        if not problem and part is None:
            problem = (
                f"its split is {row.cells.get(str(split), '')!r}; expected: train, test or val"
            )
        if problem:
            broken[place] = problem
        else:
            target = targets.values[index] if targets else class_name(cells[index][0])
            examples.append(_Example(str(part), place, text, target))
    return targets, examples


def problem_of(row: Row, columns: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what is wrong with the texts of a row, empty if nothing, and the texts."""
    text = tuple(row.cells.get(column, "") for column in columns)
    problem = row.problem
    if not problem and not all(part.strip() for part in text):
        problem = "its text is empty"
    if not problem and any("\0" in part for part in text):
        problem = "its text has a null character; save the file as UTF-8"
    return problem, text


def text_columns_of(path: Path, names: Sequence[str], wanted: str | None = None) -> list[str]:
    """Return the names, in lower case, of the columns with the text, or with the two of a pair.

    Raises:
        ValueError: If there is no such column.
    """
    lower = [name.lower() for name in names]
    if wanted is not None:
        columns = [name.strip().lower() for name in wanted.split(",")]
        missing = [column for column in columns if column not in lower]
        if missing or not 1 <= len(columns) <= 2:
            raise ValueError(
                "--text-column should name the column of the text, or the two of a pair, separated "
                f"by a comma, of {some_of(list(names))}. Received: --text-column {wanted}"
            )
        return columns
    for pair in _PAIRS:
        if {*pair} <= {*lower}:
            return list(pair)
    found = next((name for name in _TEXT if name in lower), None)
    if found is None:
        remedy = "Give its name with --text-column."
        raise missing_column(path, "texts that has a usual name", list(names), remedy)
    return [found]


def _lower(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]


def _named(path: Path, names: Sequence[str], option: str, wanted: str | None) -> list[str]:
    """Return the columns that an option names, in lower case, none if it is not given."""
    columns = [name.strip().lower() for name in wanted.split(",")] if wanted else []
    if not {*columns} <= {*_lower(names)}:
        raise ValueError(
            f"{option} should name columns of {str(path)!r}: {some_of(list(names))}. Received: "
            f"{option} {wanted}"
        )
    return columns


def _label_column(path: Path, names: Sequence[str], taken: set[str | None]) -> str:
    others = [name.lower() for name in names if name.lower() not in taken]
    found = next((name for name in _LABEL if name in others), None)
    if found is None and len(others) == 1:
        (found,) = others
    if found is None:
        remedy = "Give its name with --label-column."
        raise missing_column(path, "the classes", list(names), remedy)
    return found


def _folder_examples(root: Path, broken: dict[str, str]) -> Iterator[_Example]:
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
                    yield _Example(str(split), str(file), texts, class_name(folder.name))


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


def shown(text: str | Sequence[str], length: int = _SHOWN) -> str:
    """Return the beginning of a text, or of the two of a pair, in one line.

    >>> shown("two\\nlines"), shown("x" * 9, 5)
    ('two lines', 'xx...')
    """
    whole = text if isinstance(text, str) else " | ".join(text)
    line = printable_name(" ".join(whole.split()))
    return line if len(line) <= length else f"{line[: length - 3]}..."
