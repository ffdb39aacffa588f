"""Shell completion, requested as shells request it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from converter.architectures.loader import load_presets
from converter.cli import COMMANDS
from tests.factories import bundled_registry

HEAVY = {"numpy", "rich", "h5py", "msgpack", "safetensors", "ml_dtypes", "huggingface_hub", "yaml"}

_PROBE = """
import sys, json
sys.argv[:] = ["converter"]
from converter.cli import commands
try:
    commands.main([], prog_name="converter")
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
ours = [name for name in sys.modules if name.startswith("converter.cli.")]
print(json.dumps(ours), file=sys.stderr)
"""


def offered(line: str) -> tuple[list[str], set[str], set[str]]:
    """Return what bash offers for the last word, and the imported packages and modules."""
    words = shlex.split(line)
    place = len(words) if line.endswith(" ") else len(words) - 1
    done = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env={
            **os.environ,
            "_CONVERTER_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(place),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    packages, modules = (set(json.loads(each)) for each in done.stderr.splitlines()[-2:])
    return [line for line in done.stdout.splitlines() if line], packages, modules


CASES: list[tuple[str, list[str]]] = [
    ("converter ", [f"plain,{name}" for name in (*COMMANDS, "help")]),
    ("converter co", ["plain,compose", "plain,convert"]),
    ("converter --v", ["plain,--verbose", "plain,--version"]),
    ("converter compose --preset bert2", ["plain,bert2bert", "plain,bert2gpt", "plain,bert2rnd"]),
    ("converter compose a b c --preset nothing", []),
    ("converter compose fixtures/b", ["file,fixtures/b"]),
    ("converter compose a fixtures/b", ["file,fixtures/b"]),
    ("converter compose a b out", ["file,out"]),
    ("converter compose a b c --dtype f", ["plain,float32", "plain,float16"]),
    ("converter compose a b c --mapping own", ["file,own"]),
    ("converter convert a b --to ", ["plain,flax", "plain,pytorch", "plain,tensorflow"]),
    ("converter convert a b --to flax,", ["plain,flax,pytorch", "plain,flax,tensorflow"]),
    ("converter convert a b --to flax,py", ["plain,flax,pytorch"]),
    ("converter inspect fix", ["file,fix"]),
    ("converter inspect a --st", ["plain,--stats"]),
    ("converter verify a --against fix", ["file,fix"]),
    ("converter diff a fix", ["file,fix"]),
    ("converter families big", ["plain,big_bird", "plain,bigbird_pegasus"]),
    ("converter run rec", ["file,rec"]),
    ("converter --log-level d", ["plain,debug"]),
    ("converter push fix", ["file,fix"]),
]


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_what_is_offered_and_that_nothing_heavy_is_imported(line: str, expected: list[str]) -> None:
    result, packages, modules = offered(line)
    assert result == expected
    assert not HEAVY & packages
    named = {f"converter.cli.{name.replace('-', '_')}" for name in COMMANDS}
    command = line.split()[1] if len(line.split()) > 1 else ""
    others = named - {f"converter.cli.{command.replace('-', '_')}"}
    assert not others & modules


def test_every_architecture_and_every_preset_is_offered() -> None:
    result = offered("converter families ")[0]
    assert result == [f"plain,{name}" for name in sorted(bundled_registry().names)]
    result = offered("converter compose --preset ")[0]
    assert result == [f"plain,{name}" for name in sorted(load_presets())]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_descriptions(shell: str) -> None:
    words = ("converter compose --preset rnd", "3") if shell == "zsh" else (
        "converter compose --preset", "rnd"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "converter"],
        env={
            **os.environ,
            "_CONVERTER_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words[0],
            "COMP_CWORD": words[1],
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "rnd2bert" in done.stdout
    assert "Rothe et al. 2020" in done.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    """The script of the page, in a real bash."""
    program = tmp_path / "converter"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m converter "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_CONVERTER_COMPLETE=bash_source converter)"
        complete -p converter
        COMP_WORDS=(converter families rob) COMP_CWORD=2
        _converter_completion converter rob families
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *names = done.stdout.split("\n")
    assert first.endswith("_converter_completion converter")
    assert names[:-1] == ["roberta", "roberta-prelayernorm"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "converter"],
        env={**os.environ, "_CONVERTER_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"_CONVERTER_COMPLETE={shell}_complete" in done.stdout
