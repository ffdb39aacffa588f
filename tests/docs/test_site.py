"""The documentation as a site: every link leads somewhere, and nothing comes from other servers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]
EXTERNAL = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the site, built with ``--strict``: a wrong link or anchor is an error."""
    directory = tmp_path_factory.mktemp("site")
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(directory), strict=False))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert not warned
    yield directory


def test_every_page_is_in_the_site_and_in_its_search(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text("utf-8"))["docs"]
    searched = {each["location"].partition("#")[0].strip("/") for each in found}
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"", "architecture", "contributing", "changelog", "security"} <= searched
    assert any("verify(" in each["text"] for each in found if each["location"] == "api/#verify")


def test_a_page_loads_nothing_from_other_servers(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 20
    for page in pages:
        assert not EXTERNAL.search(page.read_text("utf-8")), page


def test_links_lead_to_pages_and_other_files_to_the_repository(site: Path) -> None:
    page = (site / "adding-an-architecture" / "index.html").read_text("utf-8")
    assert 'href="../mapping-tables/#tables-of-your-own"' in page
    assert "encdec-converter/blob/main/mappings/bert.toml" in page
    contributing = (site / "contributing" / "index.html").read_text("utf-8")
    assert 'href="../architecture/"' in contributing
    assert 'href="tutorial/"' in (site / "index.html").read_text("utf-8")


def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    config = re.sub(r"^(?:nav|hooks|exclude_docs):.*\n(?:  .*\n)*", "", config, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(config)
    for link in ("nowhere.md", "#nowhere"):
        (docs / "index.md").write_text(f"# Page\n\n[link]({link})\n")
        with pytest.raises(BaseException, match="Aborted with 1"):
            build(load_config(str(tmp_path / "mkdocs.yml"), strict=True))
