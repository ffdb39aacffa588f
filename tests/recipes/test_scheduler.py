"""Recipes are parsed, checked and run, and up-to-date jobs are skipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import converter
from converter.cli import commands
from converter.cli.options import GENERAL
from converter.errors import UsageError
from converter.recipes.job import run_job
from converter.recipes.parser import read_recipes
from converter.recipes.schema import recipe_options
from tests import factories
from tests.recipes import fifty


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


MISSPELT = """version: 1
variabels: {a: 1}
defaults: {too: [pytorch]}
jobs:
  - nmae: x
    convert: {source: bert, output: a, lik: 3}
  - name: a2
    convrt: {source: bert, output: b}
  - convert:
      dtype: float17
      to: [flax, pytroch]
      source: bert
      output: c
"""


def statuses(*args: object, code: int = 0) -> dict[str, str]:
    result = CliRunner().invoke(commands, ["run", *map(str, args), "--json"])
    assert result.exit_code == code, result.output
    jobs = json.loads(result.stdout)["jobs"]
    return {name: outcome["status"] for name, outcome in jobs.items()}


def test_a_job_is_repeated_for_each_combination(place: Path) -> None:
    repeated = {
        "name": "${model}-${seed}",
        "for_each": {"model": ["bert", "gpt2"], "seed": [1, 2]},
        "convert": {"source": "${model}", "output": "made/${model}-${seed}", "seed": "${seed}"},
    }
    jobs = read_recipes([Path(write({"jobs": [repeated, job("last")]}))])
    assert [each.name for each in jobs] == ["bert-1", "bert-2", "gpt2-1", "gpt2-2", "last"]
    assert [each.options.get("seed") for each in jobs] == [1, 2, 1, 2, None]


@pytest.mark.parametrize(
    ("for_each", "finding"),
    [
        ("bert", "job 1: must map variables to lists"),
        ({"model": "bert"}, "job 1: must map variables to lists"),
        ({"model": [["bert"]]}, "job 1: must map variables to lists"),
        ({"a": [*range(101)], "b": [*range(100)]}, "jobs: makes more than 10,000 jobs"),
        ({"other": ["bert", "gpt2"]}, "uses an unknown variable"),
        ({"model": ["bert", "bert"]}, "another job has the same name"),
    ],
)
def test_a_repetition_that_is_wrong(place: Path, for_each: Any, finding: str) -> None:
    repeated = {**job("${model}" if "a" not in for_each else "${a}-${b}"), "for_each": for_each}
    with pytest.raises(UsageError) as caught:
        read_recipes([Path(write({"jobs": [repeated]}))])
    found = [problem for problem in caught.value.problems if finding in str(problem)]
    assert 1 <= len(found) <= 2  # not once for each combination


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


def test_up_to_date_jobs_are_skipped(place: Path) -> None:
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


@pytest.mark.slow
def test_fifty_recipes_with_three_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = fifty.write()
    refused = statuses(*recipes, code=1)
    assert sum(status == "failed" for status in refused.values()) == 3
    assert sum(status == "not started" for status in refused.values()) == 47
    assert not Path("made").exists()
    actual = statuses(*recipes, "--keep-going", "--jobs", 2, "--summary", "s.json", code=1)
    assert {name for name, status in actual.items() if status == "failed"} == fifty.FAULTS.keys()
    assert sum(status == "done" for status in actual.values()) == 47
    summary = json.loads(Path("s.json").read_text())
    assert summary["counts"]["failed"] == 3
    for name, printed in fifty.FAULTS.items():
        assert printed in json.dumps(summary["jobs"][name]["error"]), name
    fifty.repair()
    again = statuses(*recipes, "--keep-going")
    assert {name for name, status in again.items() if status == "done"} == fifty.FAULTS.keys()
    assert set(statuses(*recipes).values()) == {"skipped"}


def test_jobs_that_need_a_failed_job_fail(place: Path) -> None:
    recipe = write({"jobs": [job("a", "missing/"), job("b", "made/a"), job("c", to="pytorch")]})
    actual = statuses(recipe, "--keep-going", code=1)
    assert actual == {"a": "failed", "b": "failed", "c": "done"}


def test_files_of_others_are_not_replaced(place: Path) -> None:
    Path("made/one").mkdir(parents=True)
    Path("made/one/thesis.txt").write_text("years of work")
    assert statuses(write({"jobs": [job("one")]}), code=1) == {"one": "failed"}
    assert Path("made/one/thesis.txt").read_text() == "years of work"


def test_a_failed_job_names_a_step_that_recipes_have(place: Path) -> None:
    Path("own").mkdir()
    Path("own/config.json").write_text("{}")  # of another tool
    Path("bare").mkdir()
    Path("bare/model.safetensors").write_bytes(Path("bert/model.safetensors").read_bytes())
    own = {"name": "own", "convert": {"source": "bert", "output": "own"}}
    jobs = [job("early", "made/late"), job("late"), job("typo", "made/lat3"), own, job("x", "bare")]
    result = CliRunner().invoke(commands, ["run", write({"jobs": jobs}), "--keep-going", "--json"])
    outcomes = json.loads(result.stdout)["jobs"]
    remedies = {name: each["error"]["remedy"] for name, each in outcomes.items() if "error" in each}
    assert remedies.pop("early").startswith("late writes made/late: list that job before this one.")
    assert remedies.pop("typo").startswith("Did you mean made/late, the output of late?")
    assert remedies.pop("own").startswith("An earlier run did not write it: remove it, or choose")
    assert remedies.pop("x").startswith("Give one with config: FILE")
    assert not remedies
    assert Path("own/config.json").read_text() == "{}"


def test_all_problems_of_a_recipe_are_reported_at_once(place: Path) -> None:
    recipe = {
        "version": 2,
        "extra": 1,
        "defaults": {"color": "red"},
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
    printed = str(caught.value)
    for part in (
        "version",
        "extra",
        "color",
        "recipe.yaml:10: one.convert.sed: is not an option (Did you mean 'seed'?)",
        "two.convert.seed",
        "variable",
        "recipe.yaml:20: job 4.convert.output: is missing",
        "exactly one command",
        "same name",
    ):
        assert part in printed, part


def test_an_output_inside_another_is_refused(place: Path) -> None:
    inner = {"name": "in", "convert": {"source": "bert", "output": "made/out/in"}}
    with pytest.raises(UsageError, match="in: its output is inside that of out"):
        read_recipes([Path(write({"jobs": [job("out"), inner]}))])


def test_wrong_values(place: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"to": "pytorch,flax"},
        {"dtype": "float8"},
        {"to": ["jax"]},
        {"checksums": "yes"},
        {"set": 3},
        {"seed": 1.5},
    ]
    for each in wrong:
        with pytest.raises(UsageError, match=f"one.convert.{next(iter(each))}: has a wrong value"):
            read_recipes([Path(write({"jobs": [job("one", **each)]}))])


def test_variables(place: Path) -> None:
    recipe = {
        "variables": {"precision": "float16", "n": 7, "sums": True, "out": "made"},
        "defaults": {"seed": "${n}", "checksums": "$sums"},
        "jobs": [
            {
                "name": "${precision}-$n",
                "convert": {
                    "source": "$from",
                    "output": "${out}/$${x}",
                    "dtype": "${precision}",
                    "to": ["$to"],
                    "memory": "${n}00MB",
                },
            }
        ],
    }
    given = {"from": "bert", "to": "flax", "n": "9"}
    (read,) = read_recipes([Path(write(recipe))], given)
    assert read.name == "float16-9"
    assert read.options == {
        "source": "bert",
        "output": "made/${x}",
        "dtype": "float16",
        "to": ["flax"],
        "memory": "900MB",
        "seed": 9,
        "checksums": True,
    }
    with pytest.raises(UsageError, match=r"set it with --var from=VALUE"):
        read_recipes([Path(write(recipe))], {"to": "flax"})
    with pytest.raises(UsageError, match="typo: is not used by any recipe"):
        read_recipes([Path(write(recipe))], {**given, "typo": "1"})
    with pytest.raises(UsageError, match="seed: has a wrong value"):
        read_recipes([Path(write(recipe))], {**given, "n": "nine"})
    assert statuses("recipe.yaml", "--var", "from=bert", "--var", "to=pytorch") == {
        "float16-7": "done"
    }
    result = CliRunner().invoke(commands, ["run", "recipe.yaml", "--var", "from"])
    assert result.exit_code == 2


def test_a_dry_run_prints_and_writes_nothing(place: Path) -> None:
    jobs = [job("one", to="pytorch"), job("two", "made/one"), job("three", "gpt2", to="pytorch")]
    recipe = write({"jobs": jobs})
    before = sorted(place.rglob("*"))
    planned = {"one": "planned", "two": "planned", "three": "planned"}
    assert statuses(recipe, "--dry-run") == planned
    text = CliRunner().invoke(commands, ["run", recipe, "--dry-run"]).stdout
    assert (
        "[1/3] one: would convert to made/one\n  model.safetensors, 66,060 bytes of tensors" in text
    )
    assert "[2/3] two: would convert to made/two after one\n" in text
    assert sorted(place.rglob("*")) == before
    statuses(recipe)
    later = time.time() + 10
    os.utime("gpt2/model.safetensors", (later, later))
    actual = statuses(recipe, "--dry-run")
    assert actual == {"one": "skipped", "two": "skipped", "three": "planned"}
    jobs[0]["convert"]["source"] = "missing/"
    actual = statuses(write({"jobs": jobs}), "--dry-run", code=1)
    assert actual == {"one": "failed", "two": "failed", "three": "planned"}


def test_a_job_that_is_stopped_leaves_nothing(place: Path) -> None:
    (made,) = read_recipes([Path(write({"jobs": [job("one")]}))])
    assert run_job(made, True, lambda: True).status == "interrupted"
    assert not Path("made").exists()
    assert run_job(made, True, lambda: False).status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run(place: Path, number: signal.Signals) -> None:
    recipe = write({"jobs": [job(f"j{n}", to="pytorch") for n in range(24)]})
    process = subprocess.Popen(
        [sys.executable, "-m", "converter", "run", recipe, "--summary", "s.json", "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for _ in range(4):
        process.stderr.readline()
    process.send_signal(number)
    printed = process.stderr.read()
    assert process.wait() == 128 + number
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert printed.endswith(f"Interrupted{by}: partial output was removed.\n")
    counts = json.loads(Path("s.json").read_text())["counts"]
    assert counts["done"] >= 4
    assert counts["not started"] > 0
    assert counts["failed"] == 0
    made = sorted(path.name for path in Path("made").iterdir())
    assert len(made) == counts["done"]
    assert not [name for name in made if name.startswith(".")]
    actual = list(statuses(recipe).values())
    assert actual.count("skipped") == counts["done"]
    assert actual.count("done") == 24 - counts["done"]


def test_a_summary_that_cannot_be_written_is_reported_before_any_job_runs(place: Path) -> None:
    recipe = write({"jobs": [job("one")]})
    result = CliRunner().invoke(commands, ["run", recipe, "--summary", "no/such/s.json"])
    assert result.exit_code == 1
    assert "no/such/s.json: cannot be written: No such file" in result.stderr
    assert not Path("made").exists()


def test_a_problem_has_its_line_and_what_was_probably_meant(place: Path) -> None:
    Path("bad.yaml").write_text(MISSPELT)
    with pytest.raises(UsageError) as caught:
        read_recipes([Path("bad.yaml")])
    printed = [str(problem) for problem in caught.value.problems]
    expected = (
        "2: variabels: is unknown (Did you mean 'variables'?)",
        "3: defaults.too: is not an option (Did you mean 'to'?)",
        "5: job 1.nmae: is unknown (Did you mean 'name'?)",
        "6: job 1.convert.lik: is not an option (see `converter convert --help`)",
        "8: job 2.convrt: is not a command (Did you mean 'convert'?)",
        "10: job 3.convert.dtype: has a wrong value; expected keep or float32 or float16 or "
        "bfloat16; found 'float17' (Did you mean 'float16'?)",
        "11: job 3.convert.to: has a wrong value; expected pytorch or tensorflow or flax, or a "
        "list of such; found ['flax', 'pytroch'] (Did you mean 'pytorch'?)",
    )
    assert printed == [f"bad.yaml:{each}" for each in expected]
    content = yaml.safe_load(MISSPELT)
    Path("bad.json").write_text(json.dumps(content, indent=1))
    with pytest.raises(UsageError) as caught:
        read_recipes([Path("bad.json")])
    lines = [str(problem).split(": ", 1) for problem in caught.value.problems]
    assert [text for _, text in lines] == [each.split(": ", 1)[1] for each in expected]
    numbers = [int(line.removeprefix("bad.json:")) for line, _ in lines]
    assert numbers == sorted(numbers)


def test_a_variable_that_was_probably_meant(place: Path) -> None:
    recipe = {"variables": {"results": "x"}, "jobs": [job("one", "${resuts}")]}
    with pytest.raises(UsageError, match=r"Did you mean 'results'\? Or set it with --var resuts="):
        read_recipes([Path(write(recipe))])


def test_jobs_in_conflict_have_their_places(place: Path) -> None:
    inner = {"name": "in", "convert": {"source": "bert", "output": "made/a/in"}}
    first, second = (
        write({"jobs": [job("a"), job("b")]}),
        write({"jobs": [job("a"), inner]}, "2.yaml"),
    )
    with pytest.raises(UsageError) as caught:
        read_recipes([Path(first), Path(second)])
    assert [str(each).partition("; ")[0] for each in caught.value.problems] == [
        "2.yaml:2: a: another job has the same name: recipe.yaml:2",
        "2.yaml:2: a: another job has the same output: recipe.yaml:2",
        "2.yaml:6: in: its output is inside that of a",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.yaml",
            "jobs:\n  - name: a\n   convert: {}",
            "a.yaml:3: is not a recipe in YAML: expect",
        ),
        ("a.json", '{"jobs": [\n{"name" "a"}\n]}', "a.json:2: is not a recipe in JSON: Expecting"),
        (
            "a.json",
            '{"jobs": [\n{"name": 1,\n"name": 2}]}',
            "occurs twice, the second time in line 3",
        ),
    ],
)
def test_a_syntax_error_has_its_line(place: Path, name: str, text: str, message: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_recipes([Path(name)])


@pytest.mark.parametrize(
    "text",
    ["jobs: []\njobs: []", "jobs: [{convert: {source: a, source: b, output: c}}]", "jobs: &a [*a]"],
)
def test_yaml_with_duplicate_keys_or_cycles(place: Path, text: str) -> None:
    Path("it.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"occurs twice|contains itself"):
        read_recipes([Path("it.yaml")])


def test_json_with_duplicate_keys(place: Path) -> None:
    Path("it.json").write_text('{"jobs": [], "jobs": []}')
    with pytest.raises(UsageError, match="'jobs' occurs twice"):
        read_recipes([Path("it.json")])


@pytest.mark.parametrize(
    "text", ["", "[1", "jobs: 1", "jobs: [1]", "!!python/name:os.system", "- a"]
)
def test_files_that_are_not_recipes(place: Path, text: str) -> None:
    Path("it.yaml").write_text(text)
    with pytest.raises(UsageError):
        read_recipes([Path("it.yaml")])


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


SAMPLES: dict[str, list[str]] = {
    "ignore": ["extra.*"],
    "to": ["pytorch"],
    "pytorch_format": ["both"],
    "dtype": ["float16"],
    "max_shard_size": ["20kB"],
    "layers": ["decoder=last:1"],
    "seed": ["5"],
    "init": ["xavier"],
    "tokenizer": ["none"],
    "resize_with": ["normal"],
    "decoder_start_token": ["6"],
    "pad_token": ["7"],
    "eos_token": ["8"],
    "set": ["decoder.resid_pdrop=0.3", "encoder.x=$HOME"],
    "mapping": ["own.toml"],
    "encoder_config": ["bert/config.json"],
    "decoder_config": ["gpt2/config.json"],
    "card": ["card.md"],
    "push": ["acme/both"],
    "revision": ["next"],
    "commit_message": ["It costs $5"],
    "only": ["*.safetensors", "config.json"],
    "jobs": ["2"],
    "memory": ["100MB"],
}
"""Option of compose → a value that differs from its default."""

OTHERS: dict[str, list[str]] = {
    "preset": ["bert2rnd"],
    "random": ["encoder"],
    "title": ["Mine"],
    "model_type": ["vision-text-dual-encoder"],
}
"""The same for options that contradict the others."""

NOT_SAVED = {
    "overwrite",
    "dry_run",
    "json",
    "quiet",
    "token",
    "save_recipe",
    *(each.name for each in GENERAL),
}
"""Options of one run only, and a secret."""


@pytest.mark.parametrize("left_out", ["revision", "create_pr"])
def test_every_option_is_saved(place: Path, left_out: str) -> None:
    """A push to a revision is not a pull request, so that one of the two is left out."""
    Path("card.md").write_text("mine\n")
    Path("own.toml").write_text("")
    command = commands.get_command(click.Context(commands, **commands.context_settings), "compose")
    assert command
    every = {param.name: param for param in command.params if isinstance(param, click.Option)}
    flags = {name for name, param in every.items() if param.is_flag} - NOT_SAVED
    assert {*SAMPLES, *OTHERS, *flags, *NOT_SAVED} == every.keys()
    args = ["compose", "bert", "gpt2", "both"]
    samples = {name: each for name, each in {**SAMPLES, **OTHERS}.items() if name != left_out}
    flags -= {left_out}
    for name, values in samples.items():
        args += [word for value in values for word in (every[name].opts[0], value)]
    args += [every[name].opts[0] for name in flags]
    # Not all of this goes together: what matters is that nothing is lost on the way.
    CliRunner().invoke(commands, [*args, "--save-recipe", "saved.yaml", "--dry-run"])
    (read,) = read_recipes([Path("saved.yaml")])
    numbers = {"seed": 5, "jobs": 2}
    saved = {**read.options, **(read.push or {})}
    for name, values in samples.items():
        actual = saved.pop("repo_id" if name == "push" else name)
        assert actual in (values, values[0], numbers.get(name)), name
    assert {name for name, value in saved.items() if value is True} == flags
    assert saved.keys() - flags == {"encoder", "decoder", "output"}
    assert recipe_options("compose").keys() <= {*read.options}


@pytest.mark.parametrize("command", ["convert", "split"])
def test_other_commands_are_saved_too(place: Path, command: str) -> None:
    converter.compose("bert", "gpt2", "both", to=["pytorch"])
    args = [command, "both", "out", "--dtype", "float16", "--to", "pytorch,flax"]
    result = CliRunner().invoke(commands, [*args, "--save-recipe", "saved.json"])
    assert result.exit_code == 0, result.output
    made = {"source": "both", "output": "out", "dtype": "float16", "to": ["pytorch", "flax"]}
    assert json.loads(Path("saved.json").read_text())["jobs"] == [{"name": "out", command: made}]
    assert statuses("saved.json") == {"out": "skipped"}
