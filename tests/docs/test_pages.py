"""Generated pages are up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["api", "commands", "families", "recipe_schema"])
def test_the_page_is_up_to_date(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"{name}_page", _DOCS / f"{name}.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.PAGE.read_text("utf-8") == page.text(), f"run: python docs/{name}.py"
