"""`check_table`: the problems of mapping tables, and drafts, as values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter import (
    ConverterError,
    OutputError,
    UnsupportedError,
    UsageError,
    check_table,
    convert,
)
from converter.commands import draft_table
from converter.commands.draft_table import open_marks
from tests.factories import make

MAPPINGS = Path(__file__).parents[2] / "mappings"


def test_a_bundled_table_is_valid() -> None:
    result = check_table(MAPPINGS / "gpt2.toml")
    assert result.valid
    assert result.to_dict() == {
        "tables": {str(MAPPINGS / "gpt2.toml"): {"problems": [], "marks": []}}
    }


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
    assert result.to_dict()["draft"] == result.draft


def test_a_draft_is_finished_once_its_marks_are_decided(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert")
    table = tmp_path / "draft.toml"
    drafted = check_table(draft=tmp_path / "bert", output=table)
    assert table.read_text() == drafted.draft
    checked = check_table(table)
    assert checked.valid and not checked.finished
    marks = checked.marks[str(table)]
    lines = table.read_text().splitlines()
    assert len(marks) == drafted.draft.count("decide:") > 3
    assert all(lines[number - 1].endswith(f"decide: {what}") for number, what in marks.items())
    document = checked.to_dict()["tables"][str(table)]
    assert document["marks"][0] == {"line": 2, "decide": "a common name, and the paper"}
    table.write_text(re.sub(" *# decide:.*", "", table.read_text()))
    assert check_table(table).finished


def test_no_bundled_table_has_an_open_mark() -> None:
    assert not [path for path in MAPPINGS.glob("*.toml") if open_marks(path.read_text())]


def test_a_draft_replaces_no_file_and_a_failed_one_leaves_none(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert")
    table = tmp_path / "bert.toml"
    with pytest.raises(ConverterError):
        check_table(draft=tmp_path / "nothing", output=table)
    assert not table.exists()
    table.write_text("decided")
    with pytest.raises(OutputError, match=r"bert\.toml exists"):
        check_table(draft=tmp_path / "bert", output=table)
    assert table.read_text() == "decided"
    with pytest.raises(UsageError, match="requires draft=CHECKPOINT"):
        check_table(table, output=tmp_path / "other.toml")


MODELING = {
    "bert/modeling_bert.py": "class BertModel(",
    "bert/modeling_tf_bert.py": "class TFBertModel(",
    "gpt2/modeling_flax_gpt2.py": "class FlaxGPT2Model(",
}


@pytest.mark.parametrize(
    ("files", "model_class", "line"),
    [
        ((), "BertModel", '["pytorch"]  # decide: no transformers is installed'),
        (tuple(MODELING)[:1], "BertModel", '["pytorch"]  # decide: transformers 4.57.6 is'),
        (tuple(MODELING), "BertModel", '["pytorch", "tensorflow"]  # by transformers 4.57.6'),
        (tuple(MODELING), "GPT2Model", '["pytorch", "flax"]  # by transformers 4.57.6'),
        (tuple(MODELING), "EuroBertModel", '["pytorch"]  # by transformers 4.57.6'),
    ],
)
def test_a_draft_has_the_frameworks_of_the_installed_transformers(
    files: tuple[str, ...],
    model_class: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found in its files, since importing it takes seconds."""
    for name in files:
        path = tmp_path / "transformers" / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODELING[name])
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "transformers")])
    monkeypatch.setattr(draft_table, "find_spec", lambda name: spec if files else None)
    monkeypatch.setattr(draft_table, "version", lambda name: "4.57.6")
    made = make(tmp_path / "bert", "bert")
    config = json.loads((made.directory / "config.json").read_text())
    (made.directory / "config.json").write_text(
        json.dumps({**config, "architectures": [model_class]})
    )
    text = check_table(draft=made.directory).draft
    assert text is not None and f"frameworks = {line}" in text


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
