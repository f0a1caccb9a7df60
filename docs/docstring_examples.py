"""An extension of griffe: examples in docstrings become code blocks on the pages.

In Markdown, a line that begins with `>>>` is a quotation.
"""

from __future__ import annotations

from typing import Any

import griffe


def fence_examples(text: str) -> str:
    """Return a docstring with a fence around each of its examples.

    An example begins with a line `>>> ...` and ends before the next empty line.

    >>> fence_examples("Add.\\n>>> 1 + 1\\n2\\n\\nEnd.").splitlines()
    ['Add.', '``` pycon', '>>> 1 + 1', '2', '```', '', 'End.']
    """
    lines: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        if line.startswith(">>>") and not inside:
            lines.append("``` pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join(lines[:-1])


class DocstringExamples(griffe.Extension):
    """Rewrite the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = fence_examples(obj.docstring.value)
