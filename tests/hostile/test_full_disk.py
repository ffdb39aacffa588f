"""A disk that is full from any call on: one message, the old output, and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import OutputError
from tests import factories
from tests.hostile.disks import mounted
from tests.hostile.reliability import digests

pytestmark = pytest.mark.slow

STRIDE = int(os.environ.get("FULL_DISK_STRIDE", "23"))
"""Each of so many calls fails; by hand, 1."""


class Disk:
    """Makes calls that write below `place` fail, all from a given number on."""

    def __init__(self) -> None:
        self.place, self.calls, self.allowed = "", 0, 0

    def limit(self, place: Path, allowed: int) -> None:
        self.place, self.calls, self.allowed = str(place), 0, allowed

    def free(self) -> None:
        self.place = ""

    def call(self) -> None:
        if self.place:
            self.calls += 1
            if self.calls > self.allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See what Python calls, also in C."""
        if not self.place or event not in ("open", "os.mkdir", "os.rename", "os.truncate"):
            return
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and self.place in str(arguments[0]):
            self.call()


DISK = Disk()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("full")
    factories.make(directory / "bert", "bert")
    (directory / "bert" / "vocab.txt").write_text("[PAD]\n")
    factories.make(directory / "gpt2", "gpt2", "GPT2LMHeadModel")
    sys.addaudithook(DISK.hook)  # there is no way to remove it
    return directory


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    for name in ("write", "pwrite", "fsync", "ftruncate"):
        original = getattr(os, name)

        def checked(*args: Any, original: Any = original) -> Any:
            DISK.call()
            return original(*args)

        monkeypatch.setattr(os, name, checked)
    yield DISK
    DISK.free()


@pytest.mark.parametrize("mode", ["new", "overwrite", "sync", "resume"])
def test_every_call_that_writes_fails_in_turn(
    sources: Path, tmp_path: Path, disk: Disk, mode: str
) -> None:
    output = tmp_path / "home" / "model"
    options: dict[str, Any] = {"jobs": 1, "checksums": True, "max_shard_size": "200kB"}
    options |= {mode: True} if mode != "new" else {}
    converter.compose(sources / "bert", sources / "gpt2", tmp_path / "expected", **options)
    expected = digests(tmp_path / "expected")
    old = None
    if mode == "overwrite":
        converter.convert(sources / "bert", output, to=["flax"])
        old = digests(output)
    failures = 0
    for step in range(len(mode), 100_000, STRIDE):
        disk.limit(tmp_path, step)
        try:
            converter.compose(sources / "bert", sources / "gpt2", output, **options)
        except OutputError as error:
            disk.free()
            failures += 1
            assert "No space left on device" in str(error), step
            assert digests(output) == old, step
            hidden = {path.name for path in output.parent.glob("*")} - {"model"}
            if mode != "resume":
                assert not hidden, step
            assert all(name.startswith(".model.partial-") for name in hidden), step
        else:
            break
    disk.free()
    assert digests(output) == expected
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    assert failures > 100 // STRIDE


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system whose size can be changed."""
    with mounted(tmp_path / "disk", "4k") as place:
        yield place


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "flax"])
def test_every_size_of_a_disk(
    sources: Path, small: Path, framework: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checks in advance, so that the disk is full at each of its pages in turn."""
    monkeypatch.setattr("converter.execution.write_checkpoint.require_space", lambda *args: None)
    monkeypatch.setattr("converter.execution.file_writer.reserve_space", lambda fd: None)
    failures = 0
    for pages in range(1, 2000, 2):
        command = ["mount", "-o", f"remount,size={4 * pages}k", str(small)]
        subprocess.run(command, check=True)
        try:
            converter.convert(sources / "bert", small / "model", to=[framework])
        except OutputError as error:
            failures += 1
            assert "No space left on device" in str(error), pages
            assert not any(small.iterdir()), pages
        else:
            break
    assert failures > 5
    converter.convert(sources / "bert", small.parent / "right", to=[framework])
    assert digests(small / "model") == digests(small.parent / "right")
