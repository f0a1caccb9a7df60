"""Tables of plain text."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from dlr_tf.app.terminal.names import printable_name

_NO_LIMIT = 100_000


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: int = 0,
    width: int | None = None,
) -> str:
    """Return a table as lines of text, without a line break at its end.

    Args:
        columns: The headings. If all are empty, there is no line of headings.
        rows: The cells of each row. What cannot be printed is escaped.
        numbers: Int, number of columns from the right that hold numbers: they are aligned to the
            right and never wrapped. Defaults to 0.
        width: Int, number of characters in a line: longer texts go on below, inside their column.
            Defaults to `None`: as wide as stdout if that is a terminal, else without a limit.

    >>> print(table(["class", "images"], [("cat", 1200), ("a dog", 7)], numbers=1))
    class  images
    cat      1200
    a dog       7
    """
    # Loaded here, so that help is printed at once.
    import rich.console
    import rich.table
    import rich.text

    lines = rich.table.Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(columns)
    )
    for number, column in enumerate(columns):
        is_number = number >= len(columns) - numbers
        lines.add_column(
            rich.text.Text(column),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    for row in rows:
        lines.add_row(*(rich.text.Text(printable_name(str(cell))) for cell in row))
    if width is None:
        is_terminal = sys.stdout.isatty()
        width = rich.console.Console(file=sys.stdout).width if is_terminal else _NO_LIMIT
    stream = io.StringIO()
    console = rich.console.Console(
        file=stream, width=width, color_system=None, legacy_windows=False
    )
    console.print(lines)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
