"""The texts that a person names to be classified: files, folders, tables, and lines on stdin."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlr_tf.app.data import tables
from dlr_tf.app.data.tables import Row, read_table, read_utf8
from dlr_tf.app.data.targets import Columns
from dlr_tf.app.data.texts import problem_of

STDIN = "-"


class TextToPredict(NamedTuple):
    """A text, or the two of a pair: where it is, and why it cannot be used, if it cannot."""

    place: str
    text: Any
    error: str = ""


def named_texts(
    paths: Sequence[str], n_columns: int, text_column: str | None = None
) -> Iterator[TextToPredict]:
    """Give the texts of `.txt` files, of folders of them, of tables, and the lines on stdin.

    A file is one text; each row of a table and each line on stdin is one. The two of a pair are two
    columns, or are separated by a tab on stdin. Tables are read at once.

    Args:
        paths: Files and folders; `-` for stdin.
        n_columns: 1, or 2 for pairs.
        text_column: The columns of tables. Defaults to `None`: those with usual names.

    Raises:
        ValueError: If a table cannot be used, or a pair is expected and a file is no table.
    """
    parts: list[Iterable[TextToPredict]] = []
    for name in paths:
        path = Path(name)
        if name == STDIN:
            parts.append(_lines(sys.stdin.buffer, n_columns))
        elif path.suffix.lower() in tables.ENDINGS:
            names, rows = read_table(path)
            columns = Columns(text_column=text_column).find(names, name, ["text"])["text"]
            if len(columns) != n_columns:
                nouns = "single texts" if n_columns == 1 else "pairs of texts"
                raise ValueError(
                    f"The model takes {nouns}, and {name!r} has other columns: "
                    f"{', '.join(columns)}. Give --text-column."
                )
            parts.append(_row(name, row, columns) for row in rows)
        elif n_columns > 1:
            raise ValueError(
                "The model takes pairs of texts: give a table with two text columns, or lines with "
                f"a tab on stdin (-). Received: {name!r}"
            )
        elif path.is_dir():
            files = sorted(path.rglob("*.txt"))
            if not files:
                raise ValueError(f"There are no texts in {name!r}: expected .txt files.")
            parts.append(map(_file, files))
        else:
            parts.append([_file(path)])
    return itertools.chain.from_iterable(parts)


def _file(path: Path) -> TextToPredict:
    try:
        return _checked(str(path), Row(1, {"text": read_utf8(path)}), ["text"])
    except (ValueError, OSError) as error:
        return TextToPredict(str(path), "", str(error))


def _row(name: str, row: Row, columns: Sequence[str]) -> TextToPredict:
    return _checked(f"{name}:{row.line}", row, columns)


def _lines(stream: Iterable[bytes], n_columns: int) -> Iterator[TextToPredict]:
    columns = [str(number) for number in range(n_columns)]
    for number, line in enumerate(stream, 1):
        place = f"{STDIN}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            yield TextToPredict(place, "", "the line is not in UTF-8")
            continue
        cells = text.split("\t", n_columns - 1) if n_columns > 1 else [text]
        problem = "" if len(cells) == n_columns else "it has no tab between two texts"
        yield _checked(place, Row(number, dict(zip(columns, cells)), problem), columns)


def _checked(place: str, row: Row, columns: Sequence[str]) -> TextToPredict:
    problem, text = problem_of(row, columns)
    return TextToPredict(place, text[0] if len(columns) == 1 else list(text), problem)
