"""`check_table`: the problems of mapping tables, and drafts, as values."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter import UnsupportedError, UsageError, check_table, convert
from tests.factories import make

MAPPINGS = Path(__file__).parents[2] / "mappings"


def test_a_bundled_table_is_valid() -> None:
    result = check_table(MAPPINGS / "gpt2.toml")
    assert result.valid
    assert result.to_dict() == {"tables": {str(MAPPINGS / "gpt2.toml"): {"problems": []}}}


def test_problems_are_listed_by_file(tmp_path: Path) -> None:
    table = tmp_path / "broken.toml"
    text = (MAPPINGS / "gpt2.toml").read_text().replace("n_positions ->", "n_place ->")
    table.write_text(text)
    result = check_table([MAPPINGS / "bert.toml", table])
    assert not result.valid
    assert not result.problems[str(MAPPINGS / "bert.toml")]
    assert any("n_place" in str(problem) for problem in result.problems[str(table)])
    table.write_text("model_type = ")
    result = check_table([MAPPINGS / "bert.toml", table])
    assert [file for file, problems in result.problems.items() if problems] == [str(table)]


def test_tables_that_extend_each_other_are_checked_together(tmp_path: Path) -> None:
    parent, child = tmp_path / "pebble.toml", tmp_path / "boulder.toml"
    text = (MAPPINGS / "gpt2.toml").read_text()
    parent.write_text(text.replace('"gpt2"', '"pebble"', 1))
    child.write_text('model_type = "boulder"\ntitle = "Boulder"\nextends = "pebble"\n')
    alone = check_table(child).problems[str(child)]
    together = check_table([parent, child]).problems[str(child)]
    assert "pebble" in str(alone[0])
    assert not any("no mapping table" in str(problem) for problem in together)


def test_a_draft_is_the_text_of_a_table(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert")
    result = check_table(draft=tmp_path / "bert")
    assert result.valid
    assert result.draft is not None
    assert result.draft.startswith('model_type = "bert"')
    assert result.to_dict() == {"draft": result.draft}


def test_a_draft_needs_the_names_of_pytorch(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert")
    convert(tmp_path / "bert", tmp_path / "flax", to=["flax"])
    with pytest.raises(UnsupportedError, match="PyTorch"):
        check_table(draft=tmp_path / "flax")


def test_it_takes_either_tables_or_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table"):
        check_table()
    with pytest.raises(UsageError, match="takes no tables"):
        check_table(MAPPINGS / "bert.toml", draft=str(tmp_path))
