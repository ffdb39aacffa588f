"""How many modules one `compose` runs through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOST = 65
"""Modules that a reader of a small `compose` may have to open."""

PROFILED = """
import inspect, json, sys, threading
from collections import Counter

calls = Counter()

def is_import(frame):
    while frame is not None:
        module = frame.f_globals["__name__"]
        if frame.f_code.co_name == "<module>" and module.startswith("converter"):
            return True
        frame = frame.f_back
    return False

def profile(frame, event, argument):
    if event != "call" or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
        return
    module = frame.f_globals.get("__name__", "")
    if module.split(".")[0] == "converter" and (module in calls or not is_import(frame)):
        calls[module] += 1

from click.testing import CliRunner
from converter.cli import commands

threading.setprofile(profile)
sys.setprofile(profile)
result = CliRunner().invoke(commands, ["compose", *sys.argv[1:], "--to", "pytorch"])
sys.setprofile(None)
assert result.exit_code == 0, result.output
print(json.dumps(sorted(calls)))
"""


def test_a_small_compose_runs_through_few_modules(tmp_path: Path) -> None:
    sources = [ROOT / "fixtures" / name for name in ("bert-tiny", "gpt2-tiny")]
    done = subprocess.run(
        [sys.executable, "-c", PROFILED, *map(str, sources), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)
    assert "converter.commands.compose" in modules
    assert len(modules) <= MOST, modules
