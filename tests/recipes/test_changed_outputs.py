"""A run neither skips nor builds on an output that was changed after it was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands
from converter.errors import UsageError
from tests import factories
from tests.recipes.test_scheduler import job, statuses, write

FIXTURES = Path(__file__).parents[2] / "fixtures"
PAIR = {"encoder": "bert-tiny", "decoder": "gpt2-tiny"}
LATER, EARLIER = 60, -1_000_000


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    factories.make(tmp_path / "bert", "bert", intermediate_size=41)
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def both(name: str = "a", **more: Any) -> dict[str, Any]:
    options = {"encoder": "bert", "decoder": "gpt2", "output": f"made/{name}"} | more
    return {"name": name, "compose": options}


def chain() -> str:
    """Return a recipe in which every job but the last needs the one before it."""
    jobs = [both(to=["pytorch", "flax"]), job("b", "made/a", to="pytorch")]
    split = {"name": "c", "split": {"source": "made/b", "output": "made/c"}}
    return write({"jobs": [*jobs, split, job("other", to="pytorch")]})


def damage(path: str | Path, at: int = -100, seconds: int | None = LATER) -> None:
    """Change bytes of a file, from `at` or that far before the end; without `seconds`, secretly."""
    path = Path(path)
    status, data = path.stat(), bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + 40] = bytes(byte ^ 0x11 for byte in data[at : at + 40])
    path.write_bytes(data)
    time = status.st_mtime_ns + (seconds or 0) * 10**9
    os.utime(path, ns=(time, time))


def screen(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(commands, ["run", *args])
    assert result.exit_code == code, result.output
    return result.stderr + result.stdout


@pytest.mark.parametrize(
    ("file", "at", "again", "seconds"),
    [
        ("a/model.safetensors", -100, "abc", LATER),
        ("a/model.safetensors", 20, "abc", EARLIER),  # its header
        ("a/flax_model.msgpack", -100, "abc", EARLIER),  # not the file that the next job reads
        ("b/model.safetensors", -100, "bc", EARLIER),
        ("c/decoder/model.safetensors", -100, "c", LATER),
    ],
)
def test_a_changed_output_is_made_again(file: str, at: int, again: str, seconds: int) -> None:
    recipe = chain()
    assert set(statuses(recipe).values()) == {"done"}
    before = {path: path.read_bytes() for path in Path("made").rglob("*") if path.is_file()}
    damage(Path("made") / file, at, seconds)
    assert "would" in screen(recipe, "--dry-run")
    printed = screen(recipe)
    name = file.partition("/")[2]
    assert f"{again[0]}: done ({name} was changed since it was written)" in printed
    for later, earlier in zip(again[1:], again, strict=False):
        assert f"{later}: done ({earlier} ran again)" in printed
    assert printed.count("skipped\n") == 5 - len(again)  # the jobs, and the count at the end
    assert {path: path.read_bytes() for path in before} == before
    assert set(statuses(recipe).values()) == {"skipped"}


def test_a_changed_tokenizer_file_is_copied_again() -> None:
    Path("bert/vocab.txt").write_text("\n".join(f"word{n}" for n in range(50)))
    Path("bert/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    recipe = write({"jobs": [job("one", to="pytorch")]})
    statuses(recipe)
    damage("made/one/vocab.txt")
    assert statuses(recipe) == {"one": "done"}
    assert "word49" in Path("made/one/vocab.txt").read_text()


def test_without_hashes_a_file_with_another_time_is_made_again() -> None:
    recipe = write({"jobs": [both(no_hash=True), job("b", "made/a", to="pytorch", no_hash=True)]})
    assert statuses(recipe) == {"a": "done", "b": "done"}
    assert statuses(recipe) == {"a": "skipped", "b": "skipped"}
    os.utime("made/b/model.safetensors", (0, 0))
    printed = screen(recipe)
    assert "b: done (model.safetensors may have been changed, and its" in printed
    assert "a: skipped" in printed


def test_a_copy_with_other_times_is_up_to_date() -> None:
    recipe = chain()
    statuses(recipe)
    for name in "ca":
        Path(f"made/{name}").rename("old")
        shutil.copytree("old", f"made/{name}", copy_function=shutil.copy)
        shutil.rmtree("old")
    assert len({path.stat().st_mtime_ns for path in Path("made/a").iterdir()}) > 1
    assert statuses(recipe, "--only", "a") == {"a": "skipped"}
    Path("made/a/converter-manifest.json").write_text("{")
    assert "a: done (its converter-manifest.json is damaged)" in screen(recipe, "--only", "a")


def test_the_reason_names_what_has_changed() -> None:
    recipe = write({"jobs": [job("one", to="pytorch")]})
    assert "[1/1] one: done\n" in screen(recipe)
    changes: list[tuple[str, Callable[[], object]]] = [
        ("model.safetensors is missing in its", Path("made/one/model.safetensors").unlink),
        ("model.safetensors was changed", lambda: os.truncate("made/one/model.safetensors", 99)),
        ("a source may have been modified", lambda: damage("bert/model.safetensors")),
        ("its options or sources have", lambda: write({"jobs": [job("one", to="flax")]})),
        ("its option seed has", lambda: write({"jobs": [job("one", to="flax", seed=3)]})),
    ]
    for reason, change in changes:
        change()
        assert f"one: would convert to made/one ({reason}" in screen(recipe, "--dry-run")
        assert f"one: done ({reason}" in screen(recipe)


@pytest.mark.slow
def test_a_job_is_forced_or_run_alone() -> None:
    recipe = chain()
    assert statuses(recipe, "--only", "b") == {"a": "done", "b": "done"}
    assert statuses(recipe) == {"a": "skipped", "b": "skipped", "c": "done", "other": "done"}
    assert statuses(recipe, "--force", "other") == {
        **dict.fromkeys("abc", "skipped"),
        "other": "done",
    }
    assert statuses(recipe, "--force", "c", "--force", "oth*")["c"] == "done"
    assert statuses("--force", recipe) == dict.fromkeys([*"abc", "other"], "done")
    assert statuses(recipe, "--force", "--dry-run")["a"] == "planned"
    assert statuses(recipe, "--only", "b", "--force") == {"a": "skipped", "b": "done"}
    assert statuses(recipe, "--only=c", "--force=a") == dict.fromkeys("abc", "done")
    result = converter.run(recipe, only=["other"], force=["*"])
    assert [(each.job.name, each.reason) for each in result.results] == [("other", "forced")]
    for option in ("--only", "--force"):
        printed = screen(recipe, option, "othre", code=2)
        assert f"{option[2:]}: no job is called 'othre'\nDid you mean 'other'?" in printed
    with pytest.raises(UsageError, match="force: no job is called 'other'"):
        converter.run(recipe, only=["a"], force=["other"])


def test_lines_have_the_number_of_the_job() -> None:
    recipe = chain()
    statuses(recipe)
    damage("made/a/model.safetensors")
    printed = screen(recipe)
    assert printed.index("[4/4] other: skipped") < printed.index("[1/4] a: done")
    assert "[3/4] c: done" in printed


def test_the_warnings_of_jobs_are_shown() -> None:
    sources = {role: str(FIXTURES / name) for role, name in PAIR.items()}
    recipe = write({"jobs": [both(to="pytorch", **sources)]})
    printed = screen(recipe, "--summary", "s.json")
    warnings = json.loads(Path("s.json").read_text())["jobs"]["a"]["warnings"]
    assert warnings == json.loads(Path("made/a/converter-manifest.json").read_text())["warnings"]
    assert warnings
    assert all(f"\n  Warning: {each}\n" in printed for each in warnings)
    assert "Warning" in screen(recipe, "--dry-run", "--force")
    again = screen(recipe, "--summary", "s.json")
    assert "Warning" not in again
    assert json.loads(Path("s.json").read_text())["jobs"]["a"]["warnings"] == warnings


@pytest.mark.slow
def test_values_changed_in_secret_are_reported_by_whoever_reads_them() -> None:
    recipe = chain()
    statuses(recipe)
    damage("made/b/model.safetensors", seconds=None)
    assert statuses(recipe)["c"] == "skipped"  # all times are as they were
    shutil.rmtree("made/c")
    assert statuses(recipe, code=1)["c"] == "failed"
    printed = screen(recipe, code=1)
    assert "A source does not hold the values that were written to it" in printed
    assert "made/b/model.safetensors: " in printed
    assert not Path("made/c").exists()
    for result in (converter.convert("made/b", "x", to=["flax"]), converter.split("made/b", "y")):
        (warning,) = (each for each in result.warnings if "manifest" in each)
        assert warning.startswith("b/model.safetensors: 1 tensor(s) have other values than")
    assert statuses(recipe, "--force", "b") == {
        **dict.fromkeys("bc", "done"),
        **dict.fromkeys(["a", "other"], "skipped"),
    }
    damage("made/c/encoder/model.safetensors", seconds=None)
    result = converter.compose("made/c/encoder", "made/c/decoder", "z", to=["pytorch"])
    assert "encoder/model.safetensors: 1 tensor(s)" in str(result.warnings)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_not_as_its_manifest_states_for_a_reason_gives_no_warning(dtype: Any) -> None:
    converter.convert("bert", "own", to=["pytorch"])
    result = converter.convert("own", "x", to=["flax"], dtype=dtype)
    assert not [each for each in result.warnings if "manifest" in each]
    config = json.loads(Path("own/config.json").read_text())
    Path("own/config.json").write_text(json.dumps({**config, "transformers_version": "4.57.6"}))
    damage("own/model.safetensors")  # trained, and saved by transformers to the same directory
    result = converter.convert("own", "y", to=["flax"], dtype=dtype)
    assert not [each for each in result.warnings if "manifest" in each]
    shutil.copy("bert/model.safetensors", "own/pytorch_model.bin")  # of another tool
    damage("own/pytorch_model.bin")
    result = converter.convert("own/pytorch_model.bin", "z", to=["flax"], dtype=dtype)
    assert not [each for each in result.warnings if "manifest" in each]


def test_a_changed_output_at_a_url_is_made_again() -> None:
    one = {"name": "one", "convert": {"source": "bert", "output": "memory://m/one", "to": "flax"}}
    recipe = write({"jobs": [one]})
    assert statuses(recipe) == {"one": "done"}
    assert statuses(recipe) == {"one": "skipped"}
    files = fsspec.filesystem("memory")
    data = files.cat_file("/m/one/flax_model.msgpack")
    files.pipe_file("/m/one/flax_model.msgpack", data)  # written again, with the same values
    assert statuses(recipe) == {"one": "skipped"}
    files.pipe_file("/m/one/flax_model.msgpack", data[:-9] + bytes(9))
    assert statuses(recipe) == {"one": "done"}
    assert files.cat_file("/m/one/flax_model.msgpack") == data
