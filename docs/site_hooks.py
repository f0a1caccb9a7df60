"""Hooks for MkDocs: pages of the site that are files outside `docs/`, and links between all pages.

README.md and its like are read where they are, so every text has one source. Their links are those
that GitHub follows, relative to the file in the repository. Here each becomes the link to the same
page on the site.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from page_links import moved_links

# Files outside `docs/`, and where they stand on the site.
PAGES = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


PICTURES = {
    f"benchmarks/results/{name}": f"images/{name}"
    for name in ("transfer_curves.png", "transfer_sensitivity.png", "transfer_seconds.png")
}


def site_path(path: str) -> str:
    """Return where a file of the repository stands on the site.

    >>> site_path("docs/how-to.md"), site_path("README.md")
    ('how-to.md', 'index.md')
    """
    return {**PAGES, **PICTURES}.get(path, posixpath.relpath(path, "docs"))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and the pictures that are not in `docs/`."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        content = moved_links(text, posixpath.dirname(source), "", site_path)
        files.append(File.generated(config, page, content=content))
    for source, picture in PICTURES.items():
        files.append(File.generated(config, picture, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of the pages in `docs/`."""
    place = page.file.src_uri
    if place in PAGES.values():
        return markdown
    folder = posixpath.dirname(place)
    return moved_links(markdown, posixpath.join("docs", folder), folder, site_path)
