"""The page of commands is what the commands say of themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SCRIPT = Path(__file__).parents[1] / "docs" / "commands.py"


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("commands_page", _SCRIPT)
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.PAGE.read_text("utf-8") == page.text(), "run: python docs/commands.py"
