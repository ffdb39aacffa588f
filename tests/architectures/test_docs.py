"""The reference of the table format: its examples hold, and it misses no key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from converter.architectures.lint import lint
from converter.architectures.schema import (
    ArchitectureTable,
    CompositeTable,
    CrossAttentionInitRules,
    Detection,
    Dialect,
    LanguageCodes,
    LayoutOptions,
    ModelOptions,
    ParamOptions,
    Role,
    RowOptions,
    TieOptions,
    Token,
    UnsupportedConfig,
)

PAGE = Path(__file__).parents[2] / "docs" / "mapping-tables.md"
TEXT = PAGE.read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_example_holds(example, tmp_path):
    data = tomllib.loads(example)
    name = "_dialects" if "dialects" in data else data.get("model_type", data.get("composite"))
    if name is None:
        assert set(data) == {"modules"}, "neither a whole table nor rows"
        return
    path = tmp_path / f"{name}.toml"
    path.write_text(example)
    assert [str(problem) for problem in lint(path)] == []


NO_KEYS = {"name"}


@pytest.mark.parametrize(
    "table",
    [
        Dialect,
        LanguageCodes,
        UnsupportedConfig,
        Detection,
        Role,
        RowOptions,
        TieOptions,
        ArchitectureTable,
        CompositeTable,
        ParamOptions,
        LayoutOptions,
        ModelOptions,
        Token,
        CrossAttentionInitRules,
    ],
)
def test_page_misses_no_key(table):
    for key in set(table.__struct_fields__) - NO_KEYS:
        assert f"`{key}" in TEXT or f"`[{key}" in TEXT or f"`[[{key}" in TEXT, key
