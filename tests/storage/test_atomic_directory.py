"""Outputs are complete or absent, and existing data is never lost."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter import system
from converter.errors import OutputError, UsageError
from converter.storage import atomic_directory as module
from converter.storage.atomic_directory import atomic_directory, require_space, write_file
from converter.storage.base import temporary_output


def fill(directory: Path, text: str) -> None:
    (directory / "config.json").write_text(text)
    (directory / "sub").mkdir()
    (directory / "sub" / "weights").write_text(text * 1000)


def content(directory: Path) -> str:
    text = _config(directory)
    assert (directory / "sub" / "weights").read_text() == text * 1000
    return text


def _config(directory: Path) -> str:
    return (directory / "config.json").read_text()


def make(output: Path, text: str, overwrite: bool = False) -> None:
    with atomic_directory(output, overwrite) as partial:
        assert partial.parent == output.parent
        assert partial.name.startswith(f".{output.name}.partial-")
        fill(partial, text)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_new_output_and_its_parents_appear(tmp_path):
    output = tmp_path / "a" / "b" / "model"
    make(output, "new")
    assert content(output) == "new"
    assert names(output.parent) == {"model"}


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    make(tmp_path / "model", "new")
    assert content(tmp_path / "model") == "new"
    assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_replaces_everything(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(module, "exchange", lambda first, second: False)
    output = tmp_path / "model"
    make(output, "old")
    (output / "stale").write_text("")
    make(output, "new", overwrite=True)
    assert content(output) == "new"
    assert names(output) == {"config.json", "sub"}
    assert names(tmp_path) == {"model"}


def test_an_existing_checkpoint_needs_overwrite(tmp_path):
    make(tmp_path / "model", "old")
    with pytest.raises(OutputError, match="--overwrite"):
        make(tmp_path / "model", "new")
    assert content(tmp_path / "model") == "old"
    assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_directory_that_is_not_a_checkpoint_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious")
    with pytest.raises(OutputError, match="not a checkpoint"):
        make(tmp_path / "thesis", "new", overwrite)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="not a directory"):
        make(tmp_path / "file", "new", overwrite)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OutputError, match="not a directory"):
        make(tmp_path / "link", "new", overwrite)
    assert (tmp_path / "file").read_text() == "precious"
    assert names(tmp_path) == {"thesis", "file", "link"}


def test_a_link_to_a_checkpoint_stays_a_link(tmp_path):
    make(tmp_path / "model", "old")
    (tmp_path / "latest").symlink_to("model")
    with atomic_directory(tmp_path / "latest", overwrite=True) as partial:
        fill(partial, "new")
    assert (tmp_path / "latest").is_symlink()
    assert content(tmp_path / "model") == "new"


def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch):
    make(tmp_path / "model", "old")
    monkeypatch.chdir(tmp_path / "model" / "sub")
    with pytest.raises(OutputError, match="current directory"):
        make(tmp_path / "model", "new", overwrite=True)
    assert content(tmp_path / "model") == "old"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_and_no_trace(tmp_path, error):
    make(tmp_path / "model", "old")
    with pytest.raises(error), atomic_directory(tmp_path / "model", overwrite=True) as partial:
        fill(partial, "half")
        raise error
    assert content(tmp_path / "model") == "old"
    assert names(tmp_path) == {"model"}


def test_a_failing_rename_restores_the_old(tmp_path, monkeypatch):
    make(tmp_path / "model", "old")
    monkeypatch.setattr(module, "exchange", lambda first, second: False)
    rename = Path.rename

    def refuse(self, target):
        if ".partial-" in self.name:
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        make(tmp_path / "model", "new", overwrite=True)
    assert content(tmp_path / "model") == "old"
    assert names(tmp_path) == {"model"}


def test_an_output_that_appeared_meanwhile_is_not_replaced(tmp_path):
    with (
        pytest.raises(OutputError, match="--overwrite"),
        atomic_directory(tmp_path / "model") as partial,
    ):
        fill(partial, "mine")
        (tmp_path / "model").mkdir()
        fill(tmp_path / "model", "theirs")
    assert content(tmp_path / "model") == "theirs"


def test_concurrent_runs_exclude_each_other(tmp_path):
    with atomic_directory(tmp_path / "model") as partial:
        fill(partial, "first")
        with pytest.raises(OutputError, match="another run is writing it"):
            make(tmp_path / "model", "second")
        make(tmp_path / "other", "other")
    assert content(tmp_path / "model") == "first"
    assert names(tmp_path) == {"model", "other"}


KILLED = """
import sys, time
from pathlib import Path
from converter.storage.atomic_directory import atomic_directory
with atomic_directory(Path(sys.argv[1]), overwrite=True) as partial:
    (partial / "config.json").write_text("killed")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_the_old_output_and_the_next_cleans_up(tmp_path):
    output = tmp_path / "model"
    make(output, "old")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(output)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(OutputError, match="another run"):
            make(output, "new", overwrite=True)
        process.kill()
    assert content(output) == "old"
    assert len(names(tmp_path)) == 3  # the output, the partial directory, the lock file
    make(output, "new", overwrite=True)
    assert content(output) == "new"
    assert names(tmp_path) == {"model"}


def test_a_run_killed_between_two_renames_is_undone(tmp_path):
    make(tmp_path / ".model.previous-00000000", "old")
    with pytest.raises(OutputError, match="--overwrite"):
        make(tmp_path / "model", "new")
    assert content(tmp_path / "model") == "old"
    assert names(tmp_path) == {"model"}


def test_leftovers_of_other_outputs_are_left_alone(tmp_path):
    (tmp_path / ".model2.partial-1").mkdir()
    (tmp_path / ".model.partial-1").mkdir()
    make(tmp_path / "model", "new")
    assert names(tmp_path) == {"model", ".model2.partial-1"}


def test_concurrent_runs_give_one_complete_output(tmp_path):
    code = KILLED.replace("time.sleep(60)", "time.sleep(0.02)")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "model")], stderr=-3, stdout=-3
        )
        for _ in range(6)
    ]
    deadline = time.monotonic() + 30
    codes = [run.wait(max(0.1, deadline - time.monotonic())) for run in runs]
    assert 0 in codes
    assert _config(tmp_path / "model") == "killed"
    assert names(tmp_path) == {"model"}


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="nothing is forbidden")
def test_a_directory_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        make(tmp_path / "model", "new")


def test_a_file_in_the_way_of_the_parents(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        make(tmp_path / "file" / "model", "new")


def test_disk_space_is_checked(tmp_path):
    require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(OutputError, match=r"(?s)not enough disk.*1,000,000,000,000,000,000 bytes"):
        require_space(tmp_path / "not" / "there", 10**18)


syncs_directories = pytest.mark.skipif(
    not hasattr(os, "O_DIRECTORY"), reason="the system writes names through by itself"
)


class Disk:
    """Records what is written through to the disk, and the renames, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int, int]] = []
        """What happens to an inode, and the size or number of entries that it has then."""
        sync, rename, exchange = os.fsync, system.rename, system.exchange

        def synced(fd: int) -> None:
            status = os.fstat(fd)
            is_directory = stat.S_ISDIR(status.st_mode)
            size = len(os.listdir(fd)) if is_directory else status.st_size
            self.events.append(("sync", status.st_ino, size))
            sync(fd)

        def renamed(source: Path, target: Path) -> None:
            self.events.append(("rename", source.stat().st_ino, 0))
            rename(source, target)

        def exchanged(first: Path, second: Path) -> bool:
            self.events.append(("rename", first.stat().st_ino, 0))
            return exchange(first, second)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr("converter.system._fcntl", SimpleNamespace(**_without_fullfsync()))
        monkeypatch.setattr(module, "rename", renamed)
        monkeypatch.setattr(module, "exchange", exchanged)

    def check(self, output: Path, parents: int) -> None:
        """Check that all of `output` was synced before its rename, and `parents` after it."""
        moment = self.events.index(("rename", output.stat().st_ino, 0))
        inside = [*output.rglob("*"), output]
        before = self.events[:moment]
        assert len([each for each in before if each[0] == "sync"]) == len(inside)
        for path in inside:
            size = path.stat().st_size if path.is_file() else len([*path.iterdir()])
            assert ("sync", path.stat().st_ino, size) in before, path
        after = [inode for what, inode, _ in self.events[moment + 1 :] if what == "sync"]
        assert after == [each.stat().st_ino for each in [*output.parents][:parents]]


def _without_fullfsync() -> dict[str, object]:
    import fcntl

    return {k: v for k, v in vars(fcntl).items() if k != "F_FULLFSYNC"}


@syncs_directories
@pytest.mark.parametrize("exchange", [True, False])
def test_sync_writes_files_before_the_rename_and_names_after_it(tmp_path, monkeypatch, exchange):
    output = tmp_path / "new" / "home" / "model"
    disk = Disk(monkeypatch)
    if not exchange:
        monkeypatch.setattr(module, "exchange", lambda first, second: False)
    with atomic_directory(output, sync=True) as partial:
        fill(partial, "old")
    disk.check(output, parents=3)
    disk.events.clear()
    with atomic_directory(output, overwrite=True, sync=True) as partial:
        fill(partial, "new")
    disk.check(output, parents=1)
    assert content(output) == "new"
    assert names(output.parent) == {"model"}


@syncs_directories
def test_without_sync_nothing_is_written_through(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    make(tmp_path / "model", "new")
    assert [each for each in disk.events if each[0] == "sync"] == []


@syncs_directories
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_disk_that_fails_to_sync_is_an_error(tmp_path, monkeypatch, number):
    make(tmp_path / "model", "old")
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        if len(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with (
        pytest.raises(OutputError, match="Input/output error"),
        atomic_directory(tmp_path / "model", overwrite=True, sync=True) as partial,
    ):
        fill(partial, "new")
    # The last is that of the parent, when the old output has been replaced.
    assert content(tmp_path / "model") == ("new" if number == 5 else "old")
    assert names(tmp_path) == {"model"}


def test_only_a_local_output_can_be_synced():
    with (
        pytest.raises(UsageError, match="sync: only a local output"),
        temporary_output("x", None, True),
    ):
        pass


def test_a_file_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_file(path, None)
    assert names(tmp_path) == set()
    write_file(path, b"old")
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"summary.json: cannot be written: No space left"):
        write_file(path, b"newer")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"summary.json", "link"}


def test_a_fifo_or_standard_output_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "fifo", b"summary")
    assert os.read(reader, 100) == b"summary"
    os.close(reader)
    assert names(tmp_path) == {"fifo"}
    code = "from pathlib import Path; from converter.storage.atomic_directory import write_file\n"
    code += "write_file(Path('/dev/stdout'), b'summary')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"summary"
    assert names(tmp_path) == {"fifo", "out"}


@pytest.mark.parametrize("what", ["link", "dangling link", "directory", "fifo", "hard link"])
def test_what_is_in_the_place_of_the_lock_is_not_followed(tmp_path, what):
    lock_path, precious = tmp_path / ".model.lock", tmp_path / "precious"
    precious.write_text("precious")
    if what == "link":
        lock_path.symlink_to(precious)
    elif what == "dangling link":
        lock_path.symlink_to(tmp_path / "elsewhere")
    elif what == "directory":
        lock_path.mkdir()
    elif what == "fifo":
        os.mkfifo(lock_path)
    else:
        lock_path.hardlink_to(precious)
    if what in ("fifo", "hard link"):  # can be locked, and is removed afterwards
        make(tmp_path / "model", "new")
        assert names(tmp_path) == {"model", "precious"}
    else:
        with pytest.raises(OutputError, match=r"cannot be written") as caught:
            make(tmp_path / "model", "new")
        assert [each.file for each in caught.value.problems] == [str(lock_path)]
        assert names(tmp_path) == {".model.lock", "precious"}
    assert precious.read_text() == "precious"


def test_links_in_the_place_of_leftovers_are_removed_and_not_followed(tmp_path):
    other = tmp_path / "other"
    make(other, "old")
    for name in (".model.partial-0123", ".model.previous-0123", ".model.partial-0123.journal"):
        (tmp_path / name).symlink_to(other)
    make(tmp_path / "model", "new")
    assert content(other) == "old"
    assert content(tmp_path / "model") == "new"
    assert not (tmp_path / "model").is_symlink()
    assert {"model", "other"} <= names(tmp_path) <= {"model", "other", ".model.previous-0123"}
