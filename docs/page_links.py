"""The links of a Markdown page: where they point to after the page was moved."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

# Code, which stays as it is, or the target of a link to another file: not of one with a scheme, and
# not of `#anchor` alone.
_CODE_OR_TARGET = re.compile(
    r"^```.*?^```|`[^`]+`|(?<=\]\()(?P<target>(?!\w+:|#)[^)#\s]+)(?=[)#])", re.MULTILINE | re.DOTALL
)


def moved_links(
    text: str, source: str, to: str, place: Callable[[str], str] = lambda path: path
) -> str:
    """Return the text of a page with the links that it needs in another folder.

    Args:
        text: Markdown.
        source: Folder of the page, relative to the root: `"docs"`, or `""` for the root itself.
        to: Folder that the page is moved to, in the same form.
        place: Function from the path of a file, relative to the root, to the path of the same file
            where the page is moved to. Defaults to the path as it is.

    >>> moved_links("[a](docs/a.md#b), [c](https://c.de), [d](#d)", "", "docs")
    '[a](a.md#b), [c](https://c.de), [d](#d)'
    >>> moved_links("![a](images/a.png), `b[c](d)`", "docs", "docs/notebooks")
    '![a](../images/a.png), `b[c](d)`'
    """

    def moved(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        target = place(posixpath.normpath(posixpath.join(source, match["target"])))
        return posixpath.relpath(target, to or ".")

    return _CODE_OR_TARGET.sub(moved, text)
