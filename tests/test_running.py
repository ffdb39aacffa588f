"""Recipes: read, checked, run, and not run again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import converter
from converter.cli import commands
from converter.errors import UsageError
from converter.recipes.reading import read_recipes
from converter.recipes.schema import recipe_schema
from tests import factories

ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    factories.make(tmp_path / "bert", "bert", intermediate_size=41)
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(recipe: Any, name: str = "recipe.yaml") -> str:
    Path(name).write_text(yaml.safe_dump(recipe, sort_keys=False))
    return name


def job(name: str, source: str = "bert", **more: Any) -> dict[str, Any]:
    return {"name": name, "convert": {"source": source, "output": f"made/{name}", **more}}


def statuses(*args: object, code: int = 0) -> dict[str, str]:
    result = CliRunner().invoke(commands, ["run", *map(str, args), "--json"])
    assert result.exit_code == code, result.output
    jobs = json.loads(result.stdout)["jobs"]
    return {name: outcome["status"] for name, outcome in jobs.items()}


def test_a_recipe_makes_what_the_command_makes(place: Path) -> None:
    recipe = {
        "version": 1,
        "variables": {"decoder": "gpt2", "out": "made"},
        "defaults": {"to": "pytorch", "seed": 5, "init": "truncated-normal"},
        "jobs": [
            {"compose": {"encoder": "bert", "decoder": "${decoder}", "output": "${out}/both"}},
            {"name": "flax", "convert": {"source": "made/both", "output": "x", "to": ["flax"]}},
        ],
    }
    assert statuses(write(recipe)) == {"both": "done", "flax": "done"}
    how = {"to": ["pytorch"], "seed": 5, "init": "truncated-normal"}
    converter.compose("bert", "gpt2", "direct", **how)  # type: ignore[arg-type]
    for path in Path("direct").iterdir():
        assert (Path("made/both") / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in Path("x").iterdir()} >= {"flax_model.msgpack", "config.json"}


def test_what_is_done_and_unchanged_is_skipped(place: Path) -> None:
    jobs = [job("one", to=["pytorch"]), job("two", "gpt2", to=["pytorch"])]
    recipe = write({"jobs": jobs})
    assert set(statuses(recipe).values()) == {"done"}
    assert set(statuses(recipe).values()) == {"skipped"}
    jobs[0]["convert"]["dtype"] = "float16"  # another option
    recipe = write({"jobs": jobs})
    assert statuses(recipe) == {"one": "done", "two": "skipped"}
    os.utime("gpt2/model.safetensors")  # a source was written to
    assert statuses(recipe) == {"one": "skipped", "two": "done"}
    os.truncate("made/one/model.safetensors", 100)  # an output is broken
    assert statuses(recipe) == {"one": "done", "two": "skipped"}
    Path("made/two/config.json").write_text("{}")
    assert statuses(recipe) == {"one": "skipped", "two": "done"}
    jobs[1]["convert"]["set"] = ["resid_pdrop=0.3"]
    assert statuses(write({"jobs": jobs})) == {"one": "skipped", "two": "done"}


def test_fifty_jobs_with_three_faults(place: Path) -> None:
    faults = {7, 23, 41}
    jobs = [
        job(f"j{n:02}", "bert" if n not in faults else f"missing{n}/", to="pytorch")
        for n in range(50)
    ]
    recipe = write({"jobs": jobs})
    refused = statuses(recipe, code=1)
    assert sum(status == "failed" for status in refused.values()) == 3
    assert sum(status == "not started" for status in refused.values()) == 47
    assert not Path("made").exists()
    found = statuses(recipe, "--keep-going", "--jobs", 2, "--summary", "s.json", code=1)
    assert {name for name, status in found.items() if status == "failed"} == {"j07", "j23", "j41"}
    assert sum(status == "done" for status in found.values()) == 47
    assert json.loads(Path("s.json").read_text())["counts"]["failed"] == 3
    for fault in faults:
        Path(f"missing{fault}").symlink_to("bert")
    again = statuses(recipe, "--keep-going")
    assert {name for name, status in again.items() if status == "done"} == {"j07", "j23", "j41"}


def test_what_needs_a_failed_job_is_not_tried(place: Path) -> None:
    recipe = write({"jobs": [job("a", "missing/"), job("b", "made/a"), job("c", to="pytorch")]})
    found = statuses(recipe, "--keep-going", code=1)
    assert found == {"a": "failed", "b": "failed", "c": "done"}


def test_what_is_not_ours_is_not_replaced(place: Path) -> None:
    Path("made/one").mkdir(parents=True)
    Path("made/one/thesis.txt").write_text("years of work")
    assert statuses(write({"jobs": [job("one")]}), code=1) == {"one": "failed"}
    assert Path("made/one/thesis.txt").read_text() == "years of work"


def test_everything_that_is_wrong_is_told_at_once(place: Path) -> None:
    recipe = {
        "version": 2,
        "extra": 1,
        "defaults": {"colour": "red"},
        "jobs": [
            job("one", sed=1),
            job("two", seed="many"),
            job("three", "${nothing}"),
            {"convert": {"source": "bert"}},
            {"name": "none"},
            job("same"),
            job("same"),
        ],
    }
    with pytest.raises(UsageError) as caught:
        read_recipes([Path(write(recipe))])
    told = str(caught.value)
    for part in (
        "version",
        "extra",
        "colour",
        "one.convert.sed",
        "two.convert.seed",
        "variable",
        "job 4.convert.output",
        "exactly one command",
        "same name",
    ):
        assert part in told, part


@pytest.mark.parametrize(
    "text", ["", "[1", "jobs: 1", "jobs: [1]", "!!python/name:os.system", "- a"]
)
def test_files_that_are_no_recipes(place: Path, text: str) -> None:
    Path("it.yaml").write_text(text)
    with pytest.raises(UsageError):
        read_recipes([Path("it.yaml")])


def test_the_schema_for_editors_is_up_to_date() -> None:
    published = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert published == recipe_schema(), "see docs/recipes.md"


@pytest.mark.parametrize("name", ["saved.yaml", "saved.json"])
def test_a_command_is_saved_as_a_recipe(place: Path, name: str) -> None:
    args = ["compose", "bert", "gpt2", "both", "--to", "pytorch,flax", "--seed", "3", "-q"]
    args += ["--set", "decoder.resid_pdrop=0.3", "--pad-token", "7", "--save-recipe", name]
    result = CliRunner().invoke(commands, args)
    assert result.exit_code == 0, result.output
    saved = yaml.safe_load(Path(name).read_text())
    assert saved["jobs"][0]["compose"] == {
        "encoder": "bert",
        "decoder": "gpt2",
        "output": "both",
        "seed": 3,
        "pad_token": "7",
        "set": ["decoder.resid_pdrop=0.3"],
        "to": ["pytorch", "flax"],
    }
    assert statuses(name) == {"both": "skipped"}  # it is what the recipe would make
