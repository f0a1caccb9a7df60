"""Tables: the rows of CSV, TSV and JSON Lines files, with their lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
_WIDE = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


class Row(NamedTuple):
    """A row: its line, its cells by the lower-case names of the columns, or why it is broken."""

    line: int
    cells: dict[str, str]
    problem: str = ""


def read_utf8(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: If it has another encoding. The message names the line.
    """
    raw = path.read_bytes()
    for mark, encoding in _WIDE:
        if raw.startswith(mark):
            raise ValueError(
                f"Line 1 of {str(path)!r} is in {encoding}, and expected is UTF-8. {_remedy(path)}"
            )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"Line {line} of {str(path)!r} is not in UTF-8: it has the byte "
            f"0x{raw[error.start]:02x}. {_remedy(path, 'WINDOWS-1252')}"
        ) from error


def _remedy(path: Path, encoding: str = "UTF-16") -> str:
    return (
        f"Save the file as UTF-8, for example: iconv -f {encoding} -t UTF-8 {path.name} > "
        f"{path.stem}-utf8{path.suffix}"
    )


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Return the names of the columns, as the file spells them, and the rows.

    The first line of a CSV or TSV file names the columns; a line of a JSON Lines file is an object.

    Raises:
        ValueError: If the file is not in UTF-8, or is no table.
    """
    text = read_utf8(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        rows = [*_json_rows(text)]
        names = list(dict.fromkeys(name for row in rows for name in row.cells))
        return names, rows
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        names = [name.lower() for name in header]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"The first line of {str(path)!r} names the column {repeated[0]!r} more than once. "
                "Rename one of them."
            )
        return header, [*_csv_rows(reader, names)]
    except csv.Error as error:
        raise ValueError(f"Line {reader.line_num} of {str(path)!r} cannot be read: {error}.") from (
            error
        )


def _csv_rows(reader: Iterator[list[str]], names: list[str]) -> Iterator[Row]:
    end = reader.line_num  # type: ignore[attr-defined]
    for cells in reader:
        line, end = end + 1, reader.line_num  # type: ignore[attr-defined]
        if not cells:
            continue
        problem = ""
        if len(cells) != len(names):
            problem = (
                f"it has {len(cells)} cell{'s' * (len(cells) != 1)}, and the first line names "
                f"{len(names)} columns; a text with a separator needs quotation marks"
            )
        yield Row(line, dict(zip(names, cells)), problem)


def _json_rows(text: str) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            yield Row(line, {}, "it is no JSON object")
            continue
        cells = {
            name.lower(): "|".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in found.items()
            if value is not None and not isinstance(value, dict)
        }
        yield Row(line, cells)
