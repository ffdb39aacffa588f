"""The page on the command line: variables, examples and the image."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converter.cli import commands
from tests import factories
from tests.docs.reading_pages import ROOT, blocks

TEXT = (ROOT / "docs" / "shell.md").read_text("utf-8")
DOCUMENTED = set(
    re.findall(r"`([A-Z_]+)`", "\n".join(re.findall(r"^\| (`[A-Z].*?) \|", TEXT, re.M)))
)


def run(*args: object, **env: str) -> Any:
    return CliRunner(env=env).invoke(commands, [str(arg) for arg in args])


def test_every_variable_that_is_read_is_documented() -> None:
    """All constants in the code that look like environment variables."""
    used = set()
    for path in (ROOT / "converter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                pattern = r"(?:CONVERTER|HF|TF|OPENBLAS)_[A-Z_]+|NO_COLOR|TERM|COLUMNS|TMPDIR"
                used |= {node.value} if re.fullmatch(pattern, node.value) else set()
    assert {"CONVERTER_JOBS", "NO_COLOR", "TERM", "OPENBLAS_NUM_THREADS"} <= used
    assert used <= DOCUMENTED


def test_variables_stand_for_options_and_options_win(tmp_path: Path) -> None:
    factories.make(tmp_path / "bert", "bert")
    args = ("convert", tmp_path / "bert", tmp_path / "out", "--overwrite", "--log-level", "info")
    printed = run(*args, CONVERTER_JOBS="3", CONVERTER_MEMORY="48MB").stderr
    assert "with 3 thread(s) in blocks of 4,000,000 bytes" in printed
    printed = run(*args, "--jobs", "1", "--memory", "8MB", CONVERTER_JOBS="3").stderr
    assert "with 1 thread(s) in blocks of 2,000,000 bytes" in printed
    wrong = run(*args, CONVERTER_JOBS="many")
    assert wrong.exit_code == 2
    assert "'many' is not a valid integer" in wrong.stderr


def test_variables_do_not_change_what_is_written(tmp_path: Path) -> None:
    factories.make(tmp_path / "bert", "bert")
    env = {"CONVERTER_JOBS": "3", "CONVERTER_MEMORY": "4MB", "CONVERTER_LOG_LEVEL": "debug"}
    for name, variables in (("plain", {}), ("set", env)):
        assert run("convert", tmp_path / "bert", tmp_path / name, **variables).exit_code == 0
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "set").iterdir())
    for file in files:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "set" / file).read_bytes()


def test_a_saved_recipe_holds_what_was_given_not_what_was_set(tmp_path: Path) -> None:
    factories.make(tmp_path / "bert", "bert")
    recipe = tmp_path / "recipe.json"
    args = ("convert", tmp_path / "bert", tmp_path / "out", "--save-recipe", recipe)
    done = run(*args, "--dtype", "float16", CONVERTER_JOBS="3")
    assert done.exit_code == 0, done.output
    (job,) = json.loads(recipe.read_text())["jobs"]
    assert job["convert"].keys() == {"source", "output", "dtype"}


def test_the_log_is_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    (command,) = [c for c in blocks("shell.md", "sh") if c.startswith("converter ")]
    (shown,) = blocks("shell.md", "text")
    assert shown in run(*command.split()[1:]).stderr


def test_the_image_holds_what_installing_needs() -> None:
    """The image cannot be built in tests; its Dockerfile is checked."""
    text = (ROOT / "Dockerfile").read_text()
    copied = [
        name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()
    ]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    setup = (ROOT / "setup.cfg").read_text()
    needed = {"setup.cfg", "setup.py", "pyproject.toml", "README.md", "converter", "mappings"}
    needed |= set(re.findall(r"^license_files = (\S+)", setup, re.M))
    assert needed == set(copied)
    assert re.search(r"^USER converter$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["converter"]' in text
