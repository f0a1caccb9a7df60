"""Tables of plain text, at the width of a terminal and without one."""

from __future__ import annotations

import pytest

from dlr_tf.app.terminal import table

COLUMNS = ("image", "class", "images")
PATH = "photos/" + "long_name/" * 9 + "a.png"
ROWS = [(PATH, "[red]dog", "1,200"), ("b\udcff.png", "\u732b", 7)]


def test_without_a_terminal_nothing_is_wrapped() -> None:
    assert table(COLUMNS, ROWS, numbers=1).splitlines() == [
        f"image{'':{len(PATH) - 5}}  class     images",
        f"{PATH}  [red]dog   1,200",
        f"b\\xff.png{'':{len(PATH) - 9}}  \u732b             7",
    ]


@pytest.mark.parametrize("width", [80, 70])
def test_on_a_terminal_long_texts_go_on_below(width: int) -> None:
    lines = table(COLUMNS, ROWS, numbers=1, width=width).splitlines()
    assert max(map(len, lines)) == width
    assert lines[1].endswith("[red]dog   1,200")
    assert "".join(line.split("  ")[0] for line in lines[1:-1]) == PATH


def test_without_headings_and_without_rows() -> None:
    assert table(("", ""), [("a", 1), ("bc", 22)], numbers=1) == "a    1\nbc  22"
    assert table(("a", "b"), []) == "a  b"
