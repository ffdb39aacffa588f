"""Temporary directories are removed: by their run, or by the next one."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.cleanup import TemporaryDirectory
from tests.test_cleanup import interrupted

HOLD = """
import time
from converter.cleanup import TemporaryDirectory
temporary = TemporaryDirectory()
(temporary.path / "file").write_text("x")
print(temporary.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_is_private_and_removed_with_its_lock(place: Path) -> None:
    with TemporaryDirectory() as temporary:
        assert temporary.path.parent == place
        assert temporary.path.stat().st_mode & 0o777 == 0o700
        assert names(place) == [temporary.path.name, f"{temporary.path.name}.lock"]
    temporary.close()
    assert names(place) == []


def test_it_is_removed_when_forgotten(place: Path) -> None:
    temporary = TemporaryDirectory()
    del temporary
    gc.collect()
    assert names(place) == []


def test_the_next_run_removes_those_of_killed_runs_only(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        held = Path(run.stdout.readline().strip())
        with TemporaryDirectory():
            assert (held / "file").exists()
        assert held.exists()
        run.kill()
        run.wait()
        assert names(place) == [held.name, f"{held.name}.lock"]
    with TemporaryDirectory() as temporary:
        assert not held.exists()
    assert not temporary.path.exists()
    assert names(place) == []


def test_what_only_looks_like_it_stays(place: Path) -> None:
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    number = "0123456789abcdef"
    kept = {"converter-mine", "converter-mine.lock", f"converter-{number}", "outside"}
    (place / "converter-mine").mkdir()
    (place / "converter-mine.lock").write_text("")
    (place / f"converter-{number}").symlink_to(outside)
    (place / f"converter-{number}.lock").symlink_to(outside / "file")
    os.mkfifo(place / "converter-0000000000000000.lock")
    with TemporaryDirectory():
        pass
    left = {*kept, f"converter-{number}.lock", "converter-0000000000000000.lock"}
    assert set(names(place)) == left
    (place / f"converter-{number}.lock").unlink()
    (place / f"converter-{number}.lock").write_text("")
    with TemporaryDirectory():
        pass
    assert set(names(place)) == left - {f"converter-{number}", f"converter-{number}.lock"}
    assert (outside / "file").read_text() == "precious"


def test_a_forked_process_does_not_remove_it(place: Path) -> None:
    with TemporaryDirectory() as temporary:
        child = os.fork()
        if not child:
            try:
                temporary.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert temporary.path.exists()
    assert names(place) == []


@pytest.mark.slow
def test_an_interrupt_at_any_step_leaves_nothing(place: Path) -> None:
    def use() -> None:
        with TemporaryDirectory() as temporary:
            (temporary.path / "file").write_text("x")

    for step in range(1, 1000):
        going = interrupted(step, use, "converter/cleanup", __file__)
        gc.collect()
        assert names(place) == [], step
        if not going:
            break
    assert 30 < step < 999


def test_a_killed_download(place: Path) -> None:
    """The command line, with a URL; `tests/cli/test_signals.py` has signals that can be caught."""
    from tests import factories

    made = factories.make(place / "bert", "bert").directory
    code = "import os, sys\nfrom converter.cli import main\n"
    code += "sys.addaudithook(lambda name, arguments: name == 'open' and 'converter-' in "
    code += "str(arguments[0]) and '/config.json' in str(arguments[0]) and os.kill(os.getpid(), 9))"
    command = ["convert", f"local://{made}", str(place / "out"), "--to", "flax"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    killed = subprocess.run([sys.executable, "-c", f"{code}\nmain()", *command], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(place)) == 3
    subprocess.run([sys.executable, "-m", "converter", *command, "-q"], env=environment, check=True)
    assert names(place) == ["bert", "out"]
