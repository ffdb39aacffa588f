"""Generated pages are up to date."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

_DOCS = Path(__file__).parents[2] / "docs"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_page", _DOCS / f"{name}.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


@pytest.mark.parametrize("name", ["api", "commands", "families", "recipe_schema", "pictures"])
def test_the_page_is_up_to_date(name: str) -> None:
    page = module(name)
    assert page.PAGE.read_text("utf-8") == page.text(), f"run: python docs/{name}.py"


def test_the_picture_of_the_page_is_up_to_date() -> None:
    """The PNG states the digest of the page that it shows, and is small enough for a README."""
    pictures = module("pictures")
    png = pictures.PICTURE.read_bytes()
    assert pictures.KEYWORD + b"\0" + pictures.digest(pictures.html()) in png, (
        "run: python docs/pictures.py"
    )
    assert len(png) < 200_000


def test_the_picture_of_the_terminal_asks_for_nothing_and_shows_no_time() -> None:
    """Forges and indexes show an SVG without scripts, and load nothing that it refers to."""
    svg = module("pictures").PAGE.read_text("utf-8")
    assert not re.search(r"<(?:script|image|use)\b|href|@import|@font-face|url\((?!#)", svg)
    assert "verified" in svg and "crossattention" in svg
    assert not re.search(r"\d&#160;s\b", svg)
