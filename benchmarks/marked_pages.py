"""Parts of a Markdown page that a program writes, each between two marks."""

from __future__ import annotations


def begin_mark(name: str) -> str:
    return f"<!-- begin {name} -->"


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
