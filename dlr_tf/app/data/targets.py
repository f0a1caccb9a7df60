"""What a table tells of each example: one class, several labels, or numbers. All of it is text."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dlr_tf._names import some_of
from dlr_tf.app.terminal import print_stderr, printable_name

CLASS, LABELS, NUMBER = "class", "labels", "number"
# The usual names of columns, in lower case, the first one that there is.
USUAL = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "labels", "class", "category", "tags"),
    "split": ("split", "subset"),
    "text": (
        *("text", "sentence", "review", "content", "comment", "message", "document", "body"),
        *("description", "question", "tweet"),
    ),
}
PAIRS = (
    *(("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2")),
    *(("premise", "hypothesis"), ("text", "text_pair")),
)
_LABELS_OF_TEXTS = ("sentiment", "target")
_SEPARATORS = "|;,"
_IS_SET = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_MIN_SHARE = 0.8  # of the values, that are numbers: the others are mistakes
_MAX_INTEGERS, _MIN_PER_INTEGER = 10, 10  # more different integers, with fewer examples each


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a table are read, and as what: the options of these names.

    `None` stands for a column with a usual name, and for a target that the values tell.
    """

    target: str | None = None
    label_column: str | None = None
    path_column: str | None = None
    split_column: str | None = None
    text_column: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Columns:
        """Return what these options say. Other names are ignored."""
        return cls(**{field.name: options.get(field.name) for field in dataclasses.fields(cls)})

    @property
    def given(self) -> list[str]:
        """The options that are given."""
        names = [name for name, value in vars(self).items() if value is not None]
        return [f"--{name.replace('_', '-')}" for name in names]

    def find(
        self, names: Sequence[str], table: str, needed: Sequence[str] = ("path", "label")
    ) -> dict[str, list[str]]:
        """Return the columns for "path" or "text", for "label" and for "split", in lower case.

        Args:
            names: The names of the columns, as the table has them.
            table: The table.
            needed: What there must be columns for: "path" or "text", and perhaps "label".

        Raises:
            ValueError: If one is missing.
        """
        lower, content = [name.lower() for name in names], needed[0]

        def columns(role: str) -> list[str]:
            option = getattr(self, f"{role}_column") or ""
            given = [name.strip().lower() for name in option.split(",") if name.strip()]
            return given or [name for name in USUAL[role] if name in lower][:1]

        found = {role: columns(role) for role in (content, "label", "split")}
        if content == "text":
            pair = next((pair for pair in PAIRS if {*pair} <= {*lower}), ())
            if pair and self.text_column is None:
                found["text"] = [*pair]
            others = [name for name in lower if name not in (*found["text"], *found["split"])]
            if self.label_column is None:
                usual = [n for n in (*USUAL["label"], *_LABELS_OF_TEXTS) if n in others][:1]
                found["label"] = usual or (others if len(others) == 1 else [])
        given = [name for role in found if role in (*needed, "split") for name in found[role]]
        missing = [name for name in given if name not in lower]
        missing += [role for role in needed if not found[role]]
        if len(found[content]) > (2 if content == "text" else 1):
            raise ValueError(
                f"--{content}-column should name one column, or of texts the two of a pair. "
                f"Received: --{content}-column {','.join(found[content])}"
            )
        if missing:
            other = any(separator in name for name in lower for separator in ";\t")
            hint = " Separate the columns by commas." if other else ""
            hint += " Texts: text, or --text-column." if "path" in missing else ""
            raise ValueError(
                f"The table {table!r} should name the columns {' and '.join(needed)}, and perhaps "
                f"split, or those of --{content}-column, --label-column and --split-column. "
                f"Missing: {some_of(missing)}. Received: {some_of(names)}.{hint}"
            )
        return found


@dataclasses.dataclass(frozen=True)
class Targets:
    """What the model should say of each row.

    Args:
        kind: "labels" or "number".
        names: The labels, or the columns of the numbers.
        values: Float array of shape `(rows, names)`: 0 or 1 for a label, else the number.
        broken: The index of each row that cannot be used, and why.
    """

    kind: str
    names: tuple[str, ...]
    values: np.ndarray
    broken: Mapping[int, str]


def kind_of(rows: Sequence[Sequence[str]]) -> str:
    """Return the kind of target that the values of the label columns tell.

    Several columns are labels if they hold 0 and 1 alone, else numbers. One column holds several
    labels if parts of its values, between `|`, `;` or commas, occur in more than one of them. It
    holds numbers if some have a fraction, or there are many different ones with few examples each.
    Else each value is a class.

    >>> kind_of([["red|small"], ["red"]]), kind_of([["tench, Tinca tinca"], ["goldfish"]])
    ('labels', 'class')
    >>> kind_of([["0.5"], ["2"]]), kind_of([["0"], ["1"]]), kind_of([["0", "1"], ["1", "1"]])
    ('number', 'class', 'labels')
    """
    cells = [cell for row in rows for cell in row if cell]
    if rows and len(rows[0]) > 1:
        return LABELS if all(cell.lower() in _IS_SET for cell in cells) else NUMBER
    numbers = [_number(cell.replace(",", ".", 1)) for cell in cells]
    finite = [number for number in numbers if number is not None]
    if cells and len(finite) >= _MIN_SHARE * len(cells):
        different = len(set(finite))
        are_many = different > max(_MAX_INTEGERS, len(finite) / _MIN_PER_INTEGER)
        if are_many or not all(number.is_integer() for number in finite):
            return NUMBER
    return LABELS if _separator(cells) else CLASS


def kind_wanted(target: str | None, rows: Sequence[Sequence[str]]) -> str:
    """Return the kind that is asked for, else the one that the values tell.

    One line says it where many integers are taken for classes.
    """
    kind = target or kind_of(rows)
    integers = {row[0] for row in rows if row[0].isdecimal()}
    if target is None and kind == CLASS and len(integers) > _MAX_INTEGERS:
        print_stderr(f"{len(integers)} integers are taken for classes (--target number)")
    return kind


def read_targets(kind: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Targets:
    """Return the labels or the numbers of a table.

    Args:
        kind: "labels" or "number".
        columns: The names of the label columns.
        rows: Their values.

    Raises:
        ValueError: If there are no labels.
    """
    if kind == NUMBER:
        return _numbers(columns, rows)
    values = [cell.lower() for row in rows for cell in row if cell]
    if values and all(value in _IS_SET for value in values):
        return _set_labels(columns, rows)
    if len(columns) > 1:
        bad = next(value for value in values if value not in _IS_SET)
        raise ValueError(
            f"The columns {some_of(columns)} should hold 0 or 1, one column per label. Received: "
            f"{bad!r}. Give --target number if they hold numbers."
        )
    return _named_labels(rows)


def _numbers(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Targets:
    values = np.zeros((len(rows), len(columns)), np.float32)
    broken = {}
    for index, row in enumerate(rows):
        for column, cell in enumerate(row):
            number = _number(cell)
            if number is None:
                is_comma = _number(cell.replace(",", ".")) is not None
                hint = f", write {cell.replace(',', '.')}" if is_comma else ""
                broken[index] = f"the {columns[column]} {cell!r} is not a number{hint}"
            else:
                values[index, column] = number
    return Targets(NUMBER, tuple(columns), values, broken)


def _set_labels(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Targets:
    values = np.array([[_IS_SET.get(cell.lower(), False) for cell in row] for row in rows])
    empty = {
        index: f"no {columns[row.index('')]}: expected 0 or 1"
        for index, row in enumerate(map(list, rows))
        if "" in row
    }
    return Targets(LABELS, tuple(columns), values.astype(np.float32), empty)


def _named_labels(rows: Sequence[Sequence[str]]) -> Targets:
    cells = [row[0] for row in rows]
    separator = _separator(cells) or next(
        (one for one in _SEPARATORS if any(one in cell for cell in cells)), ""
    )
    labels = [{class_name(part) for part in _parts(cell, separator)} for cell in cells]
    names = in_order(set().union(*labels))
    if not names:
        raise ValueError("The label column is empty. Expected: labels, separated by |, ; or commas")
    values = np.array([[name in some for name in names] for some in labels], np.float32)
    return Targets(LABELS, tuple(names), values, {})


def _separator(cells: Sequence[str]) -> str:
    """Return what separates labels that occur in several different cells, "" if nothing does."""
    for separator in _SEPARATORS:
        parts = [set(_parts(cell, separator)) for cell in set(cells)]
        occurrences = sum(map(len, parts))
        if any(separator in cell for cell in cells) and occurrences > len(set().union(*parts)):
            return separator
    return ""


def _parts(cell: str, separator: str) -> list[str]:
    parts = cell.split(separator) if separator else [cell]
    return [part.strip() for part in parts if part.strip()]


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in cell else None


def class_name(text: str) -> str:
    """Return the name of a class, which may be written in two ways, in one of them."""
    return printable_name(unicodedata.normalize("NFC", text))


def in_order(names: Collection[str]) -> list[str]:
    """Sort the names of classes: numbers as numbers, other names as text."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def target_words(kind: str, names: Sequence[str], values: np.ndarray) -> str:
    """Say what was found in the data.

    >>> target_words("labels", ["a", "b", "c"], np.array([[1, 1, 0], [0, 0, 0]]))
    'several labels: 3, of which a row has 0 to 2'
    >>> target_words("number", ["price"], np.array([[2.5], [10]]))
    'numbers: price from 2.5 to 10'
    """
    if kind == LABELS:
        counts = values.sum(axis=1)
        return (
            f"several labels: {len(names)}, of which a row has {counts.min():g} to {counts.max():g}"
        )
    if kind == NUMBER:
        ends = zip(names, values.min(axis=0), values.max(axis=0), strict=True)
        return "numbers: " + ", ".join(f"{name} from {a:.6g} to {b:.6g}" for name, a, b in ends)
    return f"{len(names)} classes"


def strata(kind: str, values: np.ndarray) -> np.ndarray:
    """Return the stratum of each example: a part of each is held out.

    It is the class, the rarest of several labels, or the same for all numbers.
    """
    if kind == CLASS:
        return values
    if kind == NUMBER:
        return np.zeros(len(values), np.int32)
    rarity = np.where(values > 0, values.sum(axis=0), np.inf)
    return np.where(values.any(axis=1), rarity.argmin(axis=1), values.shape[1])
