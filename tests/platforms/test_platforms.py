"""The complete engine on this system, and by the rules of Windows: the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.reliability import digests
from tests.platforms import engine

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the rules need /proc")

RULES = "tests.platforms.windows_rules"
ROOT = Path(__file__).parents[2]


def python(*arguments: object) -> None:
    """Run a Python process, which must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


RUN = f"""
import sys, {RULES}
from pathlib import Path
from tests.platforms import engine
from converter import system
assert system._fcntl is None and system._msvcrt is not None
engine.run(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("home")
    engine.run(directory)
    return directory


def test_weight_files_are_those_that_linux_writes(home: Path) -> None:
    """They are recorded; see `tests.platforms.engine`."""
    assert engine.weights(home) == json.loads(engine.RECORDED.read_text("utf-8"))


@only_linux
@pytest.mark.slow
def test_every_command_writes_the_same_bytes_by_the_rules(home: Path, tmp_path: Path) -> None:
    (tmp_path / home.name).mkdir()
    python("-c", RUN, tmp_path / home.name)
    assert digests(tmp_path / home.name) == digests(home)


QUICK = ("tests/storage/test_atomic_directory.py", "tests/formats/test_contract.py")
SLOW = ("tests/execution", "tests/commands/test_split.py", "tests/checkpoint/test_shards.py")


@only_linux
@pytest.mark.parametrize("paths", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=" ".join)
@pytest.mark.slow
def test_publishing_locking_and_resuming_by_the_rules(
    tmp_path: Path, paths: tuple[str, ...]
) -> None:
    # The plugin of platformdirs, which Jupyter needs, imports what the rules take away.
    plugins = "-p no:cacheprovider -p no:platformdirs -p tests.platforms.windows_rules"
    options = f"-q -o addopts= {plugins}".split()
    quick = ["-m", "not peer and not slow", "--basetemp", tmp_path / "home"]
    python("-m", "pytest", *options, *quick, *paths)
