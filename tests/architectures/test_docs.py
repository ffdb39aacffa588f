"""The reference of the table format: its examples hold, and it misses no key."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from converter.architectures.lint import lint
from converter.architectures.schema import (
    CrossAttentionInitRules,
    Dialect,
    LanguageCodes,
    LegacyDetection,
    ModuleEntry,
    Role,
    Tie,
    Token,
    UnsupportedConfig,
)

PAGE = Path(__file__).parents[2] / "docs" / "mapping-tables.md"
TEXT = PAGE.read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_example_holds(example, tmp_path):
    data = tomllib.loads(example)
    name = "_dialects" if "dialects" in data else data.get("family", data.get("composite"))
    if name is None:
        assert set(data) == {"modules"}, "neither a whole table nor rows"
        return
    path = tmp_path / f"{name}.toml"
    path.write_text(example)
    assert [str(problem) for problem in lint(path)] == []


SPELLED = {"paths": "path", "leaves": "leaf", "base_always": "base", "drops": "drop"}
NO_KEYS = {"name", "kind", "sizes"}


@pytest.mark.parametrize(
    "table",
    [
        Dialect,
        LanguageCodes,
        UnsupportedConfig,
        LegacyDetection,
        Role,
        ModuleEntry,
        Tie,
        Token,
        CrossAttentionInitRules,
    ],
)
def test_page_misses_no_key(table):
    for field in fields(table):
        key = SPELLED.get(field.name, field.name)
        if field.name not in NO_KEYS and (table, key) != (ModuleEntry, "path"):
            assert f"`{key}" in TEXT, key
