"""The examples on the page of recipes work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from converter.cli import commands
from converter.recipes.job import STATUSES
from converter.recipes.parser import read_recipes
from converter.recipes.schema import recipe_schema
from tests.docs.reading_pages import ROOT, blocks
from tests.recipes.test_scheduler import statuses

PAGE = "recipes.md"


def test_every_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    recipe, each, pushing = blocks(PAGE, "yaml")
    Path("recipes.yaml").write_text(recipe)
    Path("each.yaml").write_text(each)
    assert statuses("each.yaml") == dict.fromkeys(
        (
            f"{name}-{dtype}"
            for name in ("bert-tiny", "gpt2-tiny")
            for dtype in ("float16", "bfloat16")
        ),
        "done",
    )
    forced = "1 done, 1 skipped\n"
    printed = []
    for line in "".join(blocks(PAGE, "sh")).splitlines():
        result = CliRunner().invoke(commands, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
        printed.append(result.stdout)
    assert printed[1:] == ["1 skipped\n", printed[2], "3 done\n", "3 done\n", "4 skipped\n", forced]
    assert printed[2].endswith("3 planned\n")
    assert json.loads(Path("done.json").read_text())["counts"]["skipped"] == 4
    assert Path("other/parts/encoder/config.json").is_file()
    Path("push.yaml").write_text(f"jobs:\n{pushing}")
    (job,) = read_recipes([Path("push.yaml")])
    assert job.push == {"repo_id": "me/bert2gpt2", "private": True}


def test_the_schema_accepts_what_the_parser_accepts() -> None:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    recipe, each, pushing = (yaml.safe_load(text) for text in blocks(PAGE, "yaml"))
    assert check.is_valid(recipe) and check.is_valid(each)
    assert not check.is_valid({"jobs": [{**each["jobs"][0], "for_each": {"a": "b"}}]})
    assert check.is_valid({"jobs": pushing})
    typed = {"source": "a", "output": "b", "seed": "${n}", "dtype": "$d", "to": ["flax"]}
    assert check.is_valid({"$schema": "x", "jobs": [{"convert": typed}]})
    for wrong in (
        {"seed": "many"},
        {"dtype": "float8"},
        {"to": ["jax"]},
        {"color": "red"},
        {"overwrite": True},
        {"jobs": 1.5},
    ):
        assert not check.is_valid({"jobs": [{"convert": {**typed, **wrong}}]}), wrong
    assert not check.is_valid({"jobs": [{"convert": {"source": "a"}}]})
    assert not check.is_valid({"jobs": [{"convert": typed, "split": typed}]})


def test_every_status_is_documented() -> None:
    text = (ROOT / "docs" / PAGE).read_text()
    for status in STATUSES:
        assert f"`{status}`" in text or status == "planned", status


def test_messages_are_those_of_the_page() -> None:
    """The messages on the page on storage are those of the code."""
    page = (ROOT / "docs" / "clusters.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    code = "".join(path.read_text() for path in (ROOT / "converter" / "storage").glob("*.py"))
    for row in rows:
        for part in row.replace("s3://", "…").split("…"):
            assert part.strip() in code, row
