"""Parts of a Markdown page that a program writes, each between two marks."""

from __future__ import annotations


def begin_mark(name: str) -> str:
    return f"<!-- begin {name} -->"


LONG = 12  # lines that a page shows of a part at most, unless it is unfolded


def folded(text: str, summary: str) -> str:
    """Return a text that is shown after a click on its summary, if it is long.

    >>> print(folded("a table", "Show the table"))
    a table
    >>> print(folded("row\\n" * 20, "Show the table").splitlines()[0])
    <details markdown="1"><summary>Show the table</summary>
    """
    if text.count("\n") < LONG:
        return text
    return f'<details markdown="1"><summary>{summary}</summary>\n\n{text}\n\n</details>'


def with_part(page: str, name: str, text: str) -> str:
    """Return a Markdown page with a text between the marks of a name.

    Args:
        page: The page, with `<!-- begin NAME -->` and `<!-- end NAME -->` once each.
        name: Name of the part.
        text: What to put there.

    Raises:
        ValueError: If the page does not hold each mark once.

    >>> with_part("# A <!-- begin b --> old <!-- end b --> Z", "b", "new")
    '# A <!-- begin b -->\\n\\nnew\\n\\n<!-- end b --> Z'
    """
    begin, end = begin_mark(name), f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(
            f"The page should hold the marks {begin!r} and {end!r} once each. Put them where the "
            "part belongs. The page was not changed."
        )
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
