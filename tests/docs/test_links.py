"""Links between the pages lead to files that exist, also from a package index."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/encdec-converter/encdec-converter"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")],
    key=lambda page: page.as_posix(),
)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links, without code blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    return inline + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in links(page):
        target = link.partition("#")[0]
        if match := re.fullmatch(rf"{REPOSITORY}/(?:blob|tree)/main/(.*)", target):
            assert (ROOT / match[1]).exists(), link
        elif target and "://" not in target:
            assert (page.parent / target).exists(), link


def test_an_index_shows_the_readme_with_absolute_links(tmp_path: Path) -> None:
    """`setup.py` makes the long description; in the repository links are relative."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    shown = tmp_path / "README.md"
    shown.write_text(script.long_description(), "utf-8")
    absolute, relative = links(shown), links(ROOT / "README.md")
    assert len(absolute) == len(relative) >= 25
    for link, target in zip(absolute, relative, strict=True):
        kind = "raw" if target.endswith((".svg", ".png")) else "(?:blob|tree)"
        assert re.fullmatch(rf"{REPOSITORY}/{kind}/main/{re.escape(target)}", link)


def test_every_reference_of_the_readme_is_defined() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    defined = re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`]*`|^\[[^\]]+\]: .*$", "", prose, flags=re.MULTILINE)
    used = re.findall(r"\[([^\]]+)\](?:\[([^\]]+)\])?", prose)
    assert {(key or text).lower() for text, key in used} == {*defined}


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"`((?:[\w.*-]+/)*[\w*-]*\.(?:py|md|toml|json))`", text)
    named += re.findall(r"`((?:[\w-]+/)+)`", text)
    placeholders = {
        "config.json",
        "converter-manifest.json",
        "reader.py",
        "writer.py",
        "tests/test_words.py",
    }
    for name in {name for name in named if "NAME" not in name} - placeholders:
        assert [*ROOT.glob(name), *(ROOT / "converter").glob(name)], name
