"""Unusual environments: full disks, closed pipes, other locales, unreadable directories."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from converter.cli import COMMANDS
from tests import factories

FULL = Path("/dev/full")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def run(
    *args: object, prefix: tuple[str, ...] = (), **how: Any
) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "converter", *map(str, args)],
        env={**env, **how.pop("env", {})},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
    )


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "bert", "bert").directory


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_full_disk_for_results(bert: Path, json: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = run("inspect", bert, *json, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "Error: standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_full_disk_for_messages_does_not_stop_the_work(bert: Path, tmp_path: Path) -> None:
    with FULL.open("w") as full:
        args = ("convert", bert, tmp_path / "out", "--dtype", "bfloat16", "--log-level", "info")
        done = run(*args, stderr=full)
    assert done.returncode == 0
    assert "model.safetensors" in done.stdout
    with FULL.open("w") as full:
        assert run("inspect", tmp_path / "none", stderr=full).returncode == 1
        assert run("inspect", tmp_path / "none", stderr=full, stdout=full).returncode == 1


@pytest.mark.parametrize("command", ["inspect {} --tensors", "families", "--help"])
def test_a_pipe_that_closes_early(bert: Path, command: str) -> None:
    line = f"'{sys.executable}' -m converter {command.format(bert)} | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_names_survive_an_ascii_locale(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "wéird ü", "bert")
    done = run("inspect", made.directory, "--json", env=ASCII)
    assert done.returncode == 0, done.stderr
    message = json.loads(done.stdout)["source"]
    assert os.fsencode(message) == os.fsencode(made.directory)
    done = run("convert", made.directory, tmp_path / "wéird ö", env=ASCII)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "wéird ö" / "config.json").is_file()
    assert run("compose", "--help", env=ASCII).returncode == 0
    latin = run("inspect", made.directory, env={"PYTHONIOENCODING": "latin-1"}, encoding="latin-1")
    assert latin.stdout.startswith(f"{made.directory}: BertModel\n")


def test_names_that_are_not_text(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    factories.make(directory, "bert")
    done = run("convert", directory, f"{directory}-out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == f"{directory}-out"
    assert run("verify", f"{directory}-out").returncode == 0


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read everything"
)
def test_a_directory_that_may_not_be_read(bert: Path, tmp_path: Path) -> None:
    prefix = tuple(POWERLESS) if os.geteuid() == 0 else ()
    bert.chmod(0)
    try:
        for args in (("inspect", bert), ("convert", bert, tmp_path / "out"), ("verify", bert)):
            done = run(*args, prefix=prefix)
            assert done.returncode in (1, 2)
            assert str(bert) in done.stderr
            assert re.search("Permission denied|is not readable", done.stderr)
            assert "TRACEBACK" not in done.stderr
    finally:
        bert.chmod(0o700)


def test_a_misspelled_model_type(bert: Path) -> None:
    (bert / "config.json").write_text(json.dumps(factories.tiny_config("bert", model_type="bart2")))
    message = run("inspect", bert).stderr
    assert "there is no mapping table for model_type 'bart2'" in message
    assert "Did you mean bart" in message


WRONG: dict[str, tuple[str, ...]] = {
    "compose": ("nowhere", "nowhere", "out"),
    "convert": ("nowhere", "out"),
    "split": ("nowhere", "out"),
    "inspect": ("nowhere",),
    "verify": ("nowhere",),
    "diff": ("nowhere", "nowhere"),
    "push": ("nowhere", "a/b"),
    "run": ("wrong.yaml",),
    "families": ("nowhere",),
    "check-table": ("wrong.toml",),
    "app": ("--port", "65536"),
    "env": ("nowhere",),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_one_document_whatever_fails(command: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("jobs: [1]")
    (tmp_path / "wrong.toml").write_text("model_type = 1")
    done = run(command, *WRONG[command], "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    if command == "check-table":  # its findings are its result
        assert done.returncode == 1
        assert document["tables"]["wrong.toml"]["problems"]
    else:
        assert done.returncode == (2 if command in ("run", "app", "env") else 1)
        assert document["error"]["message"]
        assert document["error"]["message"] in done.stderr
    wrong = run(command, *WRONG[command], "--json", "--frobnicate", cwd=tmp_path)
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["error"]["kind"] == "usage"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrong.toml", "wrong.yaml"]
