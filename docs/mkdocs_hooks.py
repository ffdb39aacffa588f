"""What the site needs beyond `docs/`: the pages above it, and links that work in both places.

The pages are written for the repository. In the site, a link to another page leads to it, and one
to any other file of the repository leads to where that file is published.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OTHER_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages outside of `docs/`, by their place in the repository → in the site."""

_SOURCES = {site: source for source, site in OTHER_PAGES.items()}
_BLOCK = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()[^()\s]+(?=\))|(?<=\]: )\S+$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are outside of `docs/`."""
    for source, site in OTHER_PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, site, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Return the page with the links of the repository changed to those of the site."""
    site = page.file.src_uri
    source = _SOURCES.get(site, f"docs/{site}")

    def link(match: re.Match[str]) -> str:
        return site_link(match[0], source, files, config.extra["repository"])

    parts = _BLOCK.split(markdown)
    return "".join(part if n % 2 else _LINK.sub(link, part) for n, part in enumerate(parts))


def site_link(link: str, source: str, files: Files, repository: str) -> str:
    """Return the link of the page at `source` of the repository, as the site has it."""
    path, hash_, anchor = link.partition("#")
    if match := re.fullmatch(rf"{re.escape(repository)}/(?:blob|tree)/main/(.+)", path):
        target = match[1]
    elif not path or urlsplit(path).scheme:
        return link
    else:
        target = os.path.normpath(Path(source).parent / path)
    page = OTHER_PAGES.get(
        target, target.removeprefix("docs/") if target.startswith("docs/") else ""
    )
    if page and files.get_file_from_path(page):
        return page + hash_ + anchor
    if not (ROOT / target).exists():
        return link  # which fails with --strict
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{repository}/{kind}/main/{target}{hash_}{anchor}"
