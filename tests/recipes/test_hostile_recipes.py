"""Recipes that are made to cost time or memory, or to write to the terminal, are refused."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from converter.cli import commands
from converter.errors import OutputError, UsageError
from converter.recipes.parser import read_recipes, save_recipe
from converter.storage.references import location_key
from tests.formats.mutations import mutate
from tests.formats.work import check_work, work_at_most
from tests.hostile.test_hostile_files import MEMORY, RUN

CASES = int(os.environ.get("FUZZ_COMMANDS", "40")) * 10
SEED = int(os.environ.get("FUZZ_SEED", "0"))
JOB = "jobs: [{name: a, convert: {source: bert, output: out}}]\n"
UNITS = 300
"""Of work (`tests.formats.work`), the start of the interpreter included."""


def _levels(first: str, again: Callable[[str], str], levels: int = 13) -> str:
    lines = [f"  v0: &v0 {first}"]
    lines += [f"  v{n}: &v{n} {again(f'*v{n - 1}')}" for n in range(1, levels)]
    return "variables:\n" + "\n".join(lines) + "\n" + JOB


def _json(job: object) -> str:
    return json.dumps({"jobs": [job]})


def _convert(**options: object) -> str:
    return _json({"name": "a", "convert": {"source": "bert", "output": "o", **options}})


DIGITS = "9" * 5000
BOMBS = {
    "aliases.yaml": (_levels("[x,x,x]", lambda a: f"[{','.join([a] * 9)}]"), "those of aliases"),
    "merges.yaml": (_levels("{x: 1}", lambda a: f"{{<<: [{','.join([a] * 9)}]}}"), "of aliases"),
    "keys.yaml": (_levels("[x,x]", lambda a: f"{{k: {a}, l: {a}, m: {a}}}"), "those of aliases"),
    "circle.yaml": ("variables: &a {b: *a}\n" + JOB, "contains itself"),
    "deep.yaml": ("[" * 100_000, "recursion"),
    "deep.json": ("[" * 100_000, "recursion"),
    "nested.json": (_convert(set=[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]), "levels deep"),
    "twice.json": (
        json.dumps(dict.fromkeys(f"k{n}" for n in range(120_000)))[:-1] + ', "k7": 1}',
        "'k7' occurs twice",
    ),
    "twice.yaml": ("\n".join(f"k{n}: 1" for n in range(20_000)) + "\nk7: 1", "'k7' occurs twice"),
    "unknown.yaml": ("\n".join(f"k{n}: 1" for n in range(20_000)) + "\n" + JOB, "200 problems"),
    "unknown.json": (
        json.dumps({**dict.fromkeys(map(str, range(100_000))), "jobs": []}),
        "200 problems",
    ),
    "variables.json": (
        json.dumps(
            {
                "variables": {"v": "x" * 1_000_000},
                "jobs": [{"convert": {"source": "$v" * 500_000, "output": "o"}}],
            }
        ),
        "variables make more than",
    ),
    "defaults.json": (
        json.dumps(
            {
                "defaults": {"set": ["a=1"] * 100_000},
                "jobs": [{"convert": {"source": "a", "output": f"{n}"}} for n in range(9_000)],
            }
        ),
        "variables make more than",
    ),
    "jobs.json": (
        json.dumps({"jobs": [{"split": {"source": "a", "output": "b"}}] * 20_000}),
        "more than 10,000 jobs",
    ),
    "long.json": (_convert(source="a/" * 500_000), "at most 4,096 characters"),
    "large.yaml": ("#" * 300_000, "larger than"),
    "large.json": (" " * 3_000_000, "larger than"),
    "digits.json": (_convert(seed=0).replace(": 0", f": {DIGITS}"), "5,000 digits"),
    "digits.yaml": (f"variables: {{n: {DIGITS}}}\n" + JOB, "5,000 digits"),
    "hex.yaml": (f"variables: {{n: 0x{'f' * 60}}}\n" + JOB, "more than 64 bits"),
    "sixty.yaml": (f"variables: {{n: 1{':59' * 20}}}\n" + JOB, "more than 64 bits"),
    **{
        f"tag {number}.yaml": (f"variables: {{n: {value}}}\n" + JOB, "is not a recipe in YAML")
        for number, value in enumerate(
            (
                "!!bool x",
                "!!timestamp x",
                "!!timestamp 2001-99-99",
                "!!int ''",
                "!!float ''",
                f"!!float 1{':59' * 400}.5",
                "!!int [1]",
                "!!binary é",
                "!!python/object/apply:os.system [x]",
            )
        )
    },
    "filled.yaml": (
        f"variables: {{n: '{DIGITS[:4000]}'}}\n"
        "jobs: [{convert: {source: a, output: b, seed: $n}}]",
        "seed: ",
    ),
    "nul.yaml": (JOB.replace("output: out", 'output: "a\\0b"'), "control character"),
    "nul.json": (_convert(output="a\0b"), "control character"),
    "escape.yaml": (JOB.replace("a,", '"\\e]0;owned\\a\\e[31m",'), "control character"),
    "key.yaml": (JOB.replace("source", '"\\e[31msource"'), "control character"),
    "raw.yaml": (JOB.replace("a,", "\x1b[31m,"), "special characters"),
    "surrogate.json": (_convert(output="\ud800"), "control character"),
    "lines.json": (_json({"name": "a\nb", "convert": {"source": "s", "output": "o"}}), "one line"),
    "name.yaml": (JOB.replace("name: a", "name: [a]"), "must be text"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_recipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    text, message = BOMBS[name]
    path = tmp_path / name
    path.write_text(text)
    with work_at_most(UNITS):
        result = CliRunner().invoke(commands, ["run", str(path), "--dry-run"])
    assert result.exit_code == 2, result.output
    assert name in result.output
    assert message in result.output
    assert result.output.replace("\n", "").isprintable()
    assert len(result.output) < 40_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large.yaml", "large.json"])
def test_the_largest_recipe_takes_bounded_time_and_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = "[" + "[],a," * 40_000 + "]" if name == "large.yaml" else "[" + "[]," * 690_000 + "0]"
    path.write_text(text)
    call = [sys.executable, "-c", RUN, "run", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "must be a list of jobs" in done.stderr
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    assert peak < MEMORY
    check_work(seconds, UNITS)


VALID = """version: 1
variables: {results: made, n: 7, when: 2001-01-01}
defaults: &all {to: [pytorch, flax], seed: "${n}"}
jobs:
  - name: one
    compose: &one {encoder: a, decoder: b, output: "${results}/one", set: [x=0.2], layers: all}
  - {name: two, convert: {<<: *all, source: "${results}/one", output: "$results/two"}}
  - name: three
    split: {source: "${results}/two", output: three}
    push: {repo_id: me/model, private: true, description: "$$ each\\n"}
"""
PIECES = (b"*all", b"&one", b"<<: ", b"!!bool ", b"!!int ", b"${", b"$", b"? ", b"{", b"]", b"1:1")


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_damaged_recipes_are_jobs_or_one_usage_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"recipe.{kind}"
    jobs = {"jobs": [{"name": "a", "convert": {"source": "b", "output": "c", "seed": 1}}]}
    valid = VALID.encode() if kind == "yaml" else json.dumps({"version": 1, **jobs}).encode()
    for number in range(CASES):
        rng = random.Random(f"{SEED} {kind} {number}")
        data = valid
        for _ in range(rng.choice((0, 1, 2, 3))):
            place = rng.randrange(len(data))
            data = data[:place] + rng.choice(PIECES) + data[place + rng.randrange(6) :]
        path.write_bytes(mutate(data, rng) if rng.random() < 0.7 else data)
        with contextlib.suppress(UsageError), work_at_most(UNITS):
            for job in read_recipes([path]):
                assert job.name.isprintable()
                assert "\0" not in job.output


@pytest.mark.slow
def test_the_work_of_many_jobs_is_in_proportion(tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    chain = [{"convert": {"source": f"$o/{n - 1}", "output": f"$o/{n}"}} for n in range(9000)]
    path.write_text(json.dumps({"variables": {"o": "made"}, "jobs": chain}))
    with work_at_most(UNITS):
        jobs = read_recipes([path])
        outputs = {location_key(job.output): number for number, job in enumerate(jobs)}
        assert [job.needed(outputs) for job in jobs] == [[], *([n] for n in range(8999))]


def test_a_name_that_is_not_text_is_not_saved(tmp_path: Path) -> None:
    options = {"source": "s", "output": "\udce4"}  # what a path that is not UTF-8 becomes
    with pytest.raises(OutputError, match=r"it\.json: cannot be written: .*surrogates"):
        save_recipe(tmp_path / "it.json", "convert", options, {})
    assert not list(tmp_path.iterdir())


def test_a_dry_run_escapes_what_a_recipe_says(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_text(_json({"name": "a\u202eb", "convert": {"source": "s\u2028", "output": "o"}}))
    result = CliRunner().invoke(commands, ["run", str(path), "--dry-run"])
    assert result.exit_code == 1
    assert "a\\u202eb: failed" in result.stdout
    assert result.output.replace("\n", "").isprintable()


def test_values_of_variables_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(JOB.replace("output: out", "output: $out"))
    with pytest.raises(UsageError, match=r"--var\.out: has a control character"):
        read_recipes([path], {"out": "a\0b"})


def test_aliases_and_merges_remain_useful(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(
        "jobs:\n"
        "- {name: a, convert: &c {source: bert, output: a, to: &to [flax]}}\n"
        "- {name: b, convert: {<<: *c, output: b}}\n"
        "- {name: c, split: {source: a, output: c, to: *to}}\n"
    )
    first, second, third = read_recipes([path])
    assert second.options == {**first.options, "output": "b"}
    assert third.options["to"] == ["flax"]
    assert third.needed({str(tmp_path.cwd() / "a"): 0}) == [0]


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/proc/self/environ", "directory"])
def test_a_recipe_that_is_not_a_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "recipe.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)
    with pytest.raises(UsageError, match=r"recipe\.json: cannot be read: .*not a regular file"):
        read_recipes([path])
