"""An error names only options that the command which raises it has."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from converter.cli import COMMANDS, commands
from tests import factories
from tests.test_architecture import MODULES

FLAG = re.compile(r"(?<![\w/-])--[a-z][a-z0-9_-]+")
OF_OTHERS = re.compile(
    r"\b(?:git|hf|python|pip|dask|mlx_lm\S*) [^\n`;]*|`?converter [^\n`]*|--local-dir"
)
"""A command, whose options are its own."""


def flags_of(name: str) -> set[str]:
    command = commands.get_command(click.Context(commands), name)
    assert command
    params = command.get_params(click.Context(command))
    return {flag for each in params for flag in (*each.opts, *each.secondary_opts)}


def test_every_option_that_a_message_names_exists() -> None:
    flags = set().union(*map(flags_of, COMMANDS))
    unknown = [
        f"{path}:{node.lineno}: {flag}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for flag in FLAG.findall(OF_OTHERS.sub("", node.value))
        if flag not in flags
    ]
    assert not unknown


def edit(path: Path, **fields: Any) -> None:
    config = {**json.loads((path / "config.json").read_text()), **fields}
    kept = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(kept))


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def rename(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[f"other_{name}"] = tensors.pop(name)


def twice(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[f"x.{name}"] = tensors[f"y.{name}"] = tensors.pop(name)


def tokenizer_only(path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (path / name).unlink()
    (path / "vocab.txt").write_text("a\nb")


def below(path: Path) -> None:
    (path / "checkpoint-5").mkdir()
    for name in ("config.json", "model.safetensors"):
        (path / name).rename(path / "checkpoint-5" / name)


def orbax(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "config.json").unlink()
    for step in "12":
        (path / step / "default").mkdir(parents=True)
        (path / step / "default" / "_METADATA").write_text("{}")


def quantized(path: Path) -> None:
    rewrite(path, lambda tensors: tensors.update({"x.absmax": np.zeros(3, np.float32)}))


FAULTS: dict[str, Callable[[Path], object]] = {
    "no configuration": lambda path: (path / "config.json").unlink(),
    "no model type": lambda path: edit(path, model_type=None, architectures=None),
    "unknown model type": lambda path: edit(path, model_type="brt", architectures=None),
    "two models": lambda path: rewrite(path, twice),
    "no field": lambda path: edit(path, hidden_size=None, n_embd=None),
    "wrong sizes": lambda path: edit(path, vocab_size=77),
    "other names": lambda path: rewrite(path, rename),
    "further tensors": lambda path: rewrite(
        path, lambda tensors: tensors.update({"loss.weight": np.zeros(3, np.float32)})
    ),
    "quantized": quantized,
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "nothing": shutil.rmtree,
    "garbage": lambda path: (path / "model.safetensors").write_bytes(b"\1\2\3" * 999),
    "checkpoints below": below,
    "Orbax steps": orbax,
    "no weights, no configuration": tokenizer_only,
}
CALLS = [
    "compose bad gpt2 out",
    "compose gpt2 bad out",
    "convert bad out",
    "split bad out",
    "inspect bad",
    "inspect bad --stats",
    "verify bad",
    "verify gpt2 --against bad",
    "diff bad gpt2",
    "diff gpt2 bad",
    "check-table --draft bad",
    "push bad org/name",
]


def messages(call: str) -> Iterator[str]:
    """Yield the lines of messages with options that the command does not have."""
    words = call.split()
    result = CliRunner().invoke(commands, words)
    assert result.exit_code in range(3), result.output
    assert "bug in converter" not in result.output
    explained = re.findall(r"(--\S+) is an option of", result.output)
    named = FLAG.findall(OF_OTHERS.sub("", result.output))
    if not {*named} <= {*flags_of(words[0]), *explained}:
        yield f"{call}: {result.output}"


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_name_options_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    factories.make(tmp_path / "bad", "bert")
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    FAULTS[fault](tmp_path / "bad")
    monkeypatch.chdir(tmp_path)
    wrong = [line for call in CALLS for line in messages(call)]
    assert not wrong, "\n".join(wrong)
