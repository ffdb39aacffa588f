"""SIGINT, SIGTERM and SIGHUP end every command in the same way: nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import converter
from converter.cleanup import EndingSignals
from tests import factories

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

SCRIPT = """
import os, signal, sys
from converter.cli import main
event, place, number, times, ignored = sys.argv.pop(1).split(",")
number, times = signal.Signals(int(number)), int(times)
signal.signal(number, signal.SIG_IGN if ignored else
              signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
def hook(name, arguments):
    global times
    if name == event and place in str(arguments[0]) and times:
        times -= 1
        os.kill(os.getpid(), number)
sys.addaudithook(hook)
main()
"""
"""Runs the command line and sends itself a signal at its first calls of one kind."""

COMMANDS = {
    "compose": ["bert", "gpt2", "out/made"],
    "convert": ["bert", "out/made"],
    "split": ["composed", "out/made"],
    "inspect": ["bert", "--stats"],
    "verify": ["composed", "--against", "bert", "--against", "gpt2"],
    "diff": ["bert", "bert"],
    "run": ["recipe.json", "--summary", "out/summary.json"],
    "check-table": ["--draft", "bert"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("signals")
    factories.make(directory / "bert", "bert")
    factories.make(directory / "gpt2", "gpt2", "GPT2LMHeadModel")
    converter.compose(directory / "bert", directory / "gpt2", directory / "composed")
    job = {"convert": {"source": "bert", "output": "out/made"}}
    (directory / "recipe.json").write_text(json.dumps({"jobs": [job]}))
    for name in ("out", "tmp"):
        (directory / name).mkdir()
    return directory


def run(
    place: Path, *command: str, at: str, number: int, times: int = 1, ignored: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command, with `number` sent at an audit event, given as ``NAME,PATH``."""
    when = f"{at},{int(number)},{times},{'yes' if ignored else ''}"
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, when, *command],
        cwd=place,
        env={**os.environ, "TMPDIR": str(place / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(autouse=True)
def empty(place: Path) -> Iterator[None]:
    """Empty the two directories that commands write to."""
    yield
    for name in ("out", "tmp"):
        shutil.rmtree(place / name)
        (place / name).mkdir()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_as_by_an_interrupt(place: Path, command: str) -> None:
    number = SIGNALS[list(COMMANDS).index(command) % len(SIGNALS)]
    done = run(place, command, *COMMANDS[command], "--json", at="open,model.safe", number=number)
    assert done.returncode == 128 + number, done.stderr
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert done.stderr.endswith(f"Interrupted{by}: partial output was removed.\n")
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    if command == "run":
        made = ["made"] * document["counts"]["done"]  # a small job may end before it is stopped
        assert document["counts"]["failed"] == 0
        assert names(place / "out") == [*made, "summary.json"]
    else:
        assert document["error"]["kind"] == "interrupted"
        assert names(place / "out") == []
    assert names(place / "tmp") == []


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("at", ["os.mkdir,.partial-", "open,out/.made.lock", "os.rename,.partial-"])
def test_while_the_output_is_written(place: Path, number: signal.Signals, at: str) -> None:
    """Each is sent twice, as `timeout` does, which must not interrupt the cleanup."""
    done = run(place, "convert", "bert", "out/made", at=at, number=number, times=2)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert names(place / "out") == names(place / "tmp") == []


@pytest.mark.parametrize("at", ["os.mkdir,converter-", "open,tmp/converter-"])
def test_while_a_source_is_downloaded(place: Path, at: str) -> None:
    url = f"local://{place / 'bert'}"
    done = run(place, "convert", url, "out/made", at=at, number=signal.SIGTERM, times=3)
    assert done.returncode == 143, done.stderr
    assert names(place / "out") == names(place / "tmp") == []


def test_an_ignored_signal_stays_ignored(place: Path) -> None:
    """As after ``nohup``."""
    at = "open,model.safe"
    done = run(place, "inspect", "bert", at=at, number=signal.SIGHUP, ignored=True)
    assert done.returncode == 0, done.stderr


def test_handlers_are_restored_and_only_the_main_thread_has_them() -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with EndingSignals() as signals:
        assert all(signal.getsignal(each) == signals._handle for each in SIGNALS)
    assert [signal.getsignal(each) for each in SIGNALS] == before
    seen: list[object] = []

    def other() -> None:
        with EndingSignals():
            seen.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == before


def test_later_signals_do_not_interrupt_the_cleanup_but_ctrl_c_does_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 10.0
    monkeypatch.setattr("converter.cleanup.time.monotonic", lambda: now)
    codes: list[int] = []
    monkeypatch.setattr("converter.cleanup.os._exit", codes.append)
    with EndingSignals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        for each in SIGNALS:
            signal.raise_signal(each)
        now = 12.0
        signal.raise_signal(signal.SIGTERM)
        assert not codes
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signals.exit_code == codes[0] == 143
    with EndingSignals() as signals:
        signals.deferred = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        now = 14.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signals.exit_code == 130


@pytest.mark.parametrize("module", ["click", "converter.cli.options"])
def test_an_interrupt_of_the_start_shows_no_traceback(place: Path, module: str) -> None:
    """Sent when `module` is imported, which is before there is any error handling."""
    script = (
        "import os, runpy, signal, sys\n"
        "module = sys.argv.pop(1)\n"
        "def hook(name, arguments):\n"
        "    if name == 'import' and arguments[0] == module:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(hook)\n"
        "runpy.run_module('converter', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, module, "inspect", "bert"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""
