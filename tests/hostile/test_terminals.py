"""Nothing that a file, a recipe, a table or a server says controls a terminal, a page or a card."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file

from converter.cli import commands
from converter.cli.console import emit_json, safe_messages
from tests import factories
from tests.storage.url.http_server import Handler, serving_web

pytestmark = pytest.mark.slow

EVIL = "\x1b]0;evil\x07\x9b31m\u202eevil\nError: all is well\r\x08\x7f[red]x[/red]\u2028&<script>"
"""Sets a title, colors, turns the direction of writing, fakes a message, is markup and HTML."""
ROOT = Path(__file__).parents[2]


def check(text: str) -> None:
    """Check that a text has no control characters, and no line that `EVIL` starts."""
    unprintable = {char for char in text if not char.isprintable() and char != "\n"}
    assert not unprintable, text
    assert not re.search(r"^\W*Error: all is well", text, re.MULTILINE), text


def run(*args: object, shows: bool = True) -> str:
    """Run a command as text and as JSON, with logs; return what the first printed."""
    done = CliRunner().invoke(commands, ["--log-level", "debug", *map(str, args)])
    assert "bug in converter" not in done.output, done.output
    check(done.stdout)
    check(done.stderr)
    assert not shows or "[red]" in done.output, done.output
    as_json = CliRunner().invoke(commands, [*map(str, args), "--json"])
    check(as_json.output)
    if as_json.stdout:
        json.loads(as_json.stdout)
    return done.output


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evil_checkpoint(directory: Path, **config: Any) -> Path:
    """Write a BERT with one more tensor and with metadata of hostile names."""
    made = factories.make(directory, "bert").directory
    tensors = factories.stored(factories.model_spec(factories.tiny_config("bert")))
    tensors[EVIL] = np.zeros(3, np.float32)
    save_file(tensors, made / "model.safetensors", metadata={EVIL: EVIL, "format": "pt"})
    settings = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**settings, **config}))
    return made


def test_names_of_tensors(work: Path) -> None:
    evil_checkpoint(work / "bert")
    factories.make(work / "good", "bert")
    factories.make(work / "gpt2", "gpt2", "GPT2LMHeadModel")
    run("inspect", "bert", "--tensors")
    run("inspect", "bert", "--stats")
    run("convert", "bert", "out")
    run("convert", "bert", "out", "--dry-run")
    run("compose", "bert", "gpt2", "out")
    run("diff", "bert", "good")
    run("split", "bert", "out", shows=False)
    run("verify", "bert", "--html", "page.html")
    page = Path("page.html").read_text()
    check(page)
    assert "<script" not in page
    assert "[red]x" in page
    run("check-table", "--draft", "bert", shows=False)
    run("convert", "bert", "out", "--ignore", EVIL, shows=False)


@pytest.mark.parametrize("field", ["model_type", "architectures", "hidden_act", "vocab_size"])
def test_fields_of_configurations(work: Path, field: str) -> None:
    value = [EVIL] if field == "architectures" else EVIL
    made = evil_checkpoint(work / "bert", **{field: value})
    factories.make(work / "gpt2", "gpt2", "GPT2LMHeadModel")
    for args in (("inspect", made), ("convert", made, "out"), ("compose", made, "gpt2", "out")):
        run(*args, shows=False)


@pytest.mark.parametrize("name", [EVIL.replace("/", ""), "\ud800\udcff", "[red]\x1b[31m"])
def test_names_of_files(work: Path, name: str) -> None:
    directory = os.fsdecode(os.fsencode("d")) + name.encode("utf-8", "replace").decode()
    factories.make(work / directory, "bert")
    (work / directory / f"{directory}.json").write_text("{")
    for args in (
        ("inspect", directory),
        ("inspect", f"{directory}/missing"),
        ("convert", directory, "out"),
        ("verify", "out", "--against", directory),
        ("diff", "out", directory),
        ("convert", directory, f"{directory}-out"),
        ("convert", "out", "out2", "--mapping", f"{directory}/{directory}.json"),
        ("check-table", f"{directory}/{directory}.json"),
        ("run", f"{directory}/{directory}.json"),
        ("push", directory, name),
        (name,),
    ):
        run(*args, shows=False)


def test_recipes(work: Path) -> None:
    factories.make(work / "bert", "bert")
    jobs = [
        {"name": EVIL, "convert": {"source": "bert", "output": "out"}},
        {"name": "two", "convert": {"source": EVIL, "output": "two"}},
        {"name": "three", "convert": {"source": "bert", "output": "three", EVIL: EVIL}},
    ]
    for chosen in (jobs, jobs[:1], jobs[1:2]):
        Path("recipe.json").write_text(json.dumps({"jobs": chosen}))
        run("run", "recipe.json")
        run("run", "recipe.json", "--dry-run")
    Path("recipe.json").write_text(json.dumps({EVIL: 1}))
    run("run", "recipe.json")
    Path("recipe.yaml").write_text(f"jobs: [{{a: '{EVIL[-30:]}'}}")
    run("run", "recipe.yaml", shows=False)


def test_mapping_tables(work: Path) -> None:
    factories.make(work / "bert", "bert")
    table = (ROOT / "mappings/bert.toml").read_text()
    evil = json.dumps(EVIL, ensure_ascii=True)
    for number, change in enumerate(
        [
            (r"^title = .*$", f"title = {evil}"),
            (r"^title = .*$", f'title = "x"\n{evil} = 1'),
            (r'"hidden_size"', evil),
            (r"^\[config\]$", f"[config]\n{evil} = {evil}"),
        ]
    ):
        path = work / f"bert{number}" / "bert.toml"
        path.parent.mkdir()
        path.write_text(re.sub(change[0], lambda match: change[1], table, flags=re.MULTILINE))  # noqa: B023
        run("check-table", path, shows=False)
        run("inspect", "bert", "--mapping", path, shows=False)
        run("families", "bert", "--rows", "--mapping", path, shows=False)
        run("families", "--mapping", path, shows=False)
        run("convert", "bert", "out", "--mapping", path, "--overwrite", shows=False)


def say_evil(handler: Handler, path: str, data: bytes) -> None:
    handler.send_response(500, "\x1b[31m\x9b[red]")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_what_a_server_says(work: Path) -> None:
    from urllib.parse import quote

    with serving_web() as server:
        server.misbehave["GET /"] = say_evil
        assert "500" in run("inspect", f"{server.address}/x")
        run("inspect", f"{server.address}/{quote(EVIL)}", shows=False)


def test_the_model_card(work: Path) -> None:
    names = [
        "---",
        "a](javascript:x) [b",
        "x | y `z` <img src=x>",
        "license: mit\n---\n",
        "#[x](y)",
    ]
    for name in names:
        directory = work / name.replace("/", "")
        factories.make(directory, "bert")
        run("convert", directory, "out", "--overwrite", shows=False)
        card = Path("out/README.md").read_text()
        _, front, text = card.split("---\n", 2)
        assert yaml.safe_load(front) == {"library_name": "transformers", "tags": ["bert"]}
        check(text)
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        assert not re.search(r"(?<!\\)\]\(", prose)
        assert not re.search(r"(?<!\\)<(?!!--)", prose)
        (row,) = [line for line in text.splitlines() if line.startswith("| model")][:1] or [""]
        assert not row or len(re.findall(r"(?<!\\)\|", row)) == 5


def test_warnings_and_logs_of_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    import logging
    import warnings

    with safe_messages():
        warnings.warn(EVIL, stacklevel=1)
        logging.getLogger("somebody").warning("%s: %s", EVIL, "https://me:secret@host/x")
        logging.getLogger("somebody").warning("%d", EVIL)
    text = capsys.readouterr().err
    check(text)
    assert "secret" not in text


def test_json_is_ascii_where_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    document = {EVIL: [EVIL, "\ud800", "é → 日本", "\U000e0001"]}
    emit_json(document)
    text = capsys.readouterr().out
    check(text)
    assert json.loads(text) == document
    assert "é → 日本" in text


def on_a_terminal(directory: Path, *args: str) -> bytes:
    """Run a command on a terminal; return the bytes that it wrote."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "converter", *args],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=directory,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            data = os.read(leader, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        written += data
    process.wait(timeout=60)
    os.close(leader)
    return written


def test_on_a_terminal_only_our_own_sequences_are_written(work: Path) -> None:
    evil_checkpoint(work / "bert")
    job = {"name": EVIL, "convert": {"source": "bert", "output": "out"}}
    Path("recipe.json").write_text(json.dumps({"jobs": [job]}))
    for args in (("inspect", "bert", "--tensors"), ("run", "recipe.json"), ("verify", "bert")):
        text = on_a_terminal(work, *args).decode()
        assert "[red]" in text
        sequences = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r\n|\r")
        check(sequences.sub("\n", text).replace("Error: all", "Error:all"))
        assert not re.search(r"\x1b(?!\[)", text)
