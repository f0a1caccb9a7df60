"""Make the notebooks of docs/notebooks from the pages docs/images.md and docs/text.md.

The page is the source; the notebook has no outputs. A test fails if a notebook is not what its page
gives. After a change of a page, run

    python docs/make_notebooks.py
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
from page_links import moved_links

DOCS = Path(__file__).parent
PAGES = ("images", "text")


def notebook(name: str) -> nbformat.NotebookNode:
    """Return the notebook of a page: the same for the same page, on every machine.

    Args:
        name: Name of the page without its ending.
    """
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    made = jupytext.reads(moved_links(text, "docs", "docs/notebooks"), fmt="md")
    made.nbformat, made.nbformat_minor = 4, 5
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(made.cells):
        cell.id = f"{name}-{number}"
        cell.metadata = nbformat.from_dict({})
    return made


def main() -> None:
    """Write the notebooks."""
    for name in PAGES:
        text = nbformat.writes(notebook(name))
        (DOCS / "notebooks" / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
