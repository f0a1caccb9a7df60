"""HTML from Python values: every text is escaped, unless it is HTML already."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TypeAlias

VOID = frozenset({"br", "img", "meta"})  # elements without an end tag


class Html(str):
    """A text that is HTML already."""


Content: TypeAlias = "Html | str | int | Sequence[Content] | None"


def element(tag: str, *content: Content, **attributes: str | int | bool | None) -> Html:
    """Return an element of HTML.

    Args:
        tag: Its name.
        *content: Texts, which are escaped, elements, and lists of them. `None` is left out.
        **attributes: Its attributes; `class_` means `class`, and `aria_label` means `aria-label`.
            `None` and `False` are left out, `True` is an attribute without a value.

    >>> element("p", "1 < 2", element("b", "!"), class_="note")
    '<p class="note">1 &lt; 2<b>!</b></p>'
    """
    start = "".join(
        f" {name.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(str(value))}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{tag}{start}>" if tag in VOID else f"<{tag}{start}>{join(content)}</{tag}>")


def join(content: Content) -> Html:
    """Return texts and elements as one piece of HTML.

    >>> join(["a & b", None, element("br"), [1]])
    'a &amp; b<br>1'
    """
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, (str, int)):
        return Html(html.escape(str(content)))
    return Html("".join(join(part) for part in content))


def table(columns: Sequence[str], rows: Sequence[Sequence[Content]], numbers: int) -> Html:
    """Return a table that scrolls in a box of its own where it is wider than the page.

    Args:
        columns: The names of the columns.
        rows: The cells.
        numbers: Number of columns, from the right, that hold numbers.
    """
    text_columns = len(columns) - numbers

    def cells(tag: str, row: Sequence[Content]) -> list[Content]:
        return [
            element(tag, cell, class_="number" if column >= text_columns else None)
            for column, cell in enumerate(row)
        ]

    return scrolling(
        element(
            "table",
            element("thead", element("tr", cells("th", columns))),
            element("tbody", [element("tr", cells("td", row)) for row in rows]),
        )
    )


def scrolling(*content: Content, whole: bool = False) -> Html:
    """Return a box that scrolls, also with the keys, where its content is wider than the page.

    Args:
        *content: As in `element`.
        whole: Whether to show the full height. Defaults to `False`: about that of a screen.
    """
    return element("div", *content, class_="scrolls whole" if whole else "scrolls", tabindex=0)
