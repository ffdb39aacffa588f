"""Logging, which is off unless asked for."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands
from tests import factories

TOKENS: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "bert", "bert").directory


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory


def stderr(*args: object, code: int = 0, **env: str) -> str:
    result = CliRunner(env=env).invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.stderr


def test_the_library_logs_its_choices(
    bert: Path, gpt2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "converter"):
        converter.compose(bert, gpt2, tmp_path / "out", jobs=1, **TOKENS)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"converter"}
    text = "\n".join(caplog.messages)
    assert f"{bert}: model.safetensors as safetensors, 55 tensors" in text
    assert re.search(rf"{gpt2}: \d+ of \d+ tensors recognized, in the names of pytorch", text)
    assert "tokens of the decoder: start 5" in text
    assert "in 3 file(s), with 1 thread(s)" in text
    assert f"{tmp_path / 'out'}: complete after" in text
    assert "query.weight" not in text


def test_debug_logs_every_tensor_once(
    bert: Path, gpt2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "converter"):
        result = converter.compose(bert, gpt2, tmp_path / "out", **TOKENS)
    printed = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    assert len(printed) == len(result.plan.tensors)
    assert {text.partition(": ")[0] for text in printed} == {
        tensor.spec.name for tensor in result.plan.tensors
    }
    query = next(text for text in printed if "layer.0.attention.self.query.weight" in text)
    assert query.endswith(f"in {bert / 'model.safetensors'}")
    assert any("crossattention" in text and "initialized: " in text for text in printed)


def test_the_library_prints_nothing_and_handles_nothing(bert: Path, tmp_path: Path) -> None:
    script = """
import logging, sys, converter
converter.convert(*sys.argv[1:])
(handler,) = logging.getLogger("converter").handlers
assert type(handler) is logging.NullHandler
assert logging.getLogger("converter").level == logging.NOTSET
assert not logging.getLogger().handlers
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(bert), str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("before", [True, False])
def test_the_option_goes_before_or_after_the_command(
    before: bool, bert: Path, tmp_path: Path
) -> None:
    level, command = ["--log-level", "info"], ["convert", bert, tmp_path / "out"]
    text = stderr(*level, *command) if before else stderr(*command, *level)
    lines = text.splitlines()
    assert all(line.startswith("info: ") for line in lines)
    assert len(lines) == len(set(lines)) >= 4


def test_the_options_of_both_are_not_added_up(bert: Path, tmp_path: Path) -> None:
    text = stderr("--log-level", "info", "convert", bert, tmp_path / "out", "--log-level", "debug")
    lines = text.splitlines()
    assert len(lines) == len(set(lines))
    assert any(line.startswith("debug: ") for line in lines)


@pytest.mark.parametrize("before", [True, False])
def test_verbose_is_a_shorter_name_of_a_level(before: bool, bert: Path, tmp_path: Path) -> None:
    command = ["convert", bert, tmp_path / "out", "--overwrite", "--memory", "8MB"]
    for short, level in (["-v"], "info"), (["-vv"], "debug"), (["-v", "--verbose"], "debug"):
        text = stderr(*short, *command) if before else stderr(*command, *short)
        kinds = {line.partition(":")[0] for line in text.splitlines()}
        assert kinds == {"info", level}
    args = ["-v", *command] if before else [*command, "-v"]
    assert "info: " in stderr(*args, CONVERTER_LOG_LEVEL="error")


def test_the_next_command_is_quiet_again(bert: Path, tmp_path: Path) -> None:
    assert "info: " in stderr("inspect", bert, "--log-level", "info")
    assert stderr("inspect", bert) == ""
    (handler,) = [
        h for h in logging.getLogger("converter").handlers if "caplog" not in repr(h).lower()
    ]
    assert type(handler) is logging.NullHandler


def test_the_level_by_the_environment(bert: Path) -> None:
    assert "info: " in stderr("inspect", bert, CONVERTER_LOG_LEVEL="info")
    assert "'loud' is not one of" in stderr("inspect", bert, code=2, CONVERTER_LOG_LEVEL="loud")
    assert "'loud' is not one of" in stderr("inspect", bert, "--log-level", "loud", code=2)


def test_json_stays_one_document(bert: Path, tmp_path: Path) -> None:
    args: list[Any] = ["convert", bert, tmp_path / "out", "--json", "--log-level", "debug"]
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert json.loads(result.stdout)["written"]
    assert "debug: " in result.stderr


def test_names_cannot_steer_the_terminal_through_logs(tmp_path: Path) -> None:
    config = factories.tiny_config("bert")
    tensors = factories.stored(factories.model_spec(config))
    factories.write(tmp_path / "e\x1b[31mvil", config, tensors)
    text = stderr("inspect", tmp_path / "e\x1b[31mvil", "--log-level", "info")
    assert "\x1b" not in text
    assert r"e\x1b[31mvil" in text
