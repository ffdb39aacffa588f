"""A process with too little memory, or without threads, says so in one line and leaves nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands, error_handling
from converter.errors import resource_error
from tests import factories
from tests.test_cleanup import working_threads

COMMANDS = {
    "compose": ["bert", "gpt2", "out"],
    "convert": ["bert", "out"],
    "split": ["composed", "out"],
    "verify": ["composed"],
    "diff": ["bert", "bert"],
    "run": ["recipe.json"],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("resources")
    factories.make(directory / "bert", "bert", file_format="keras-hdf5", dialect="tensorflow")
    factories.make(directory / "gpt2", "gpt2", "GPT2LMHeadModel")
    converter.compose(directory / "bert", directory / "gpt2", directory / "composed")
    job = {"convert": {"source": "bert", "output": "out"}}
    (directory / "recipe.json").write_text(json.dumps({"jobs": [job]}))
    return directory


@pytest.fixture
def place(sources: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = names(sources)
    monkeypatch.chdir(sources)
    yield sources
    assert names(sources) == before


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("allowed", [0, 1, 2])
@pytest.mark.parametrize("command", COMMANDS)
def test_threads_that_cannot_be_started(
    place: Path, command: str, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``ulimit -u``, or the limit on the processes of a container."""
    name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
    start, started = getattr(threading, name), []

    def limited(*args: Any, **kwargs: Any) -> Any:
        started.append(args)
        if len(started) > allowed:
            raise RuntimeError("can't start new thread")
        return start(*args, **kwargs)

    monkeypatch.setattr(threading, name, limited)
    jobs = [] if command in ("run", "diff", "verify") else ["--jobs", "9"]
    result = CliRunner().invoke(commands, [command, *COMMANDS[command], *jobs])
    if len(started) <= allowed:
        assert result.exit_code == 0, result.output
        shutil.rmtree("out", ignore_errors=True)
        return
    assert result.exit_code == 1, result.output
    assert "cannot start a thread: too many processes, or not enough memory\n" in result.stderr
    assert "bug in converter" not in result.stderr
    assert not working_threads()


LIMITED = """
import resource, sys
import numpy
import converter.commands.convert, converter.commands.verify, converter.commands.diff
from converter.cli import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""
"""Runs the command line with a limit on what it may take beyond the libraries."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
@pytest.mark.parametrize("megabytes", [0, 1, 3, 10, 30, 100])
def test_memory_that_is_not_there(place: Path, megabytes: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(megabytes << 20)]
    # Without HDF5, whose library can crash where memory ends.
    command += ["convert", "gpt2", "out", "--to", "pytorch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert megabytes >= 10
        shutil.rmtree("out")
        return
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[0] in (
        "Error: not enough memory",
        "Error: cannot start a thread: too many processes, or not enough memory",
    )


def test_errors_that_have_a_cause_in_memory() -> None:
    linker = ImportError("libhdf5.so: failed to map segment from shared object")
    numpy = ImportError("Error importing numpy")
    numpy.__cause__ = linker
    for error in (MemoryError(), linker, numpy, OSError(12, "Cannot allocate memory")):
        lacking = resource_error(error)
        assert lacking is not None
        assert (lacking.kind, lacking.message) == ("memory", "not enough memory")
    for other in (ImportError("No module named x"), OSError(2, "No such file"), RuntimeError("x")):
        assert resource_error(other) is None


def test_memory_that_ends_while_an_error_is_reported(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*_: object) -> int:
        raise MemoryError

    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(error_handling, "_report", report)
    assert error_handling.run_with_error_handling(fail, json=False) == 1
    assert capsys.readouterr().err.startswith("Error: not enough memory\n")
