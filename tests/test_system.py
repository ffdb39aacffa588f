"""The calls that differ between systems, and names and paths of Windows and macOS."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from converter import compose, system
from converter.errors import OutputError
from converter.file_names import auxiliary_files, name_key, name_problem
from converter.storage import atomic_directory, references
from converter.storage.base import is_inside
from converter.storage.references import Url, local_path, location_key

POSITIONED = ("pread", "preadv", "pwrite", "pwritev")


@pytest.fixture(params=["posix", "portable"])
def calls(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the calls of POSIX away, or not."""
    if request.param == "portable":
        for name in (*POSITIONED, "geteuid", "sched_getaffinity", "O_NONBLOCK", "O_NOFOLLOW"):
            monkeypatch.delattr(os, name, raising=False)
        monkeypatch.setattr(system, "_system_library", lambda: None)
    return str(request.param)


def test_threads_share_a_descriptor(calls: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    count, size = 64, 999
    path.write_bytes(bytes(count * size))
    fd = system.open_for_update(path)
    wrong: list[int] = []

    def work(numbers: range) -> None:
        buffer = memoryview(bytearray(size))
        for number in (*numbers, *numbers):
            value = bytes([number + 1]) * size
            assert system.write_at(fd, value, number * size) == size
            assert system.read_at(fd, buffer, number * size) == size
            if bytes(buffer) != value:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=[range(i, count, 8)]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert system.read_at(fd, memoryview(bytearray(1)), count * size) == 0
    os.close(fd)
    assert not wrong
    assert path.read_bytes() == b"".join(bytes([i + 1]) * size for i in range(count))


def test_a_link_is_not_opened_where_a_file_may_be_created(calls: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError) as caught:
        system.open_for_update(tmp_path / "link", create=True)
    assert caught.value.errno == errno.ELOOP
    assert not (tmp_path / "target").exists()
    assert system.is_own(tmp_path)
    assert not system.is_own(tmp_path / "link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_a_fifo_is_not_waited_for(calls: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        system.open_for_reading(tmp_path / "fifo")


def test_without_the_calls_nothing_is_exchanged_or_reserved(calls: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert system.exchange(tmp_path / "a", tmp_path / "b") in {calls == "posix", False}
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    fd = system.open_for_update(tmp_path / "file")
    system.reserve_space(fd)
    os.close(fd)
    assert system.processors() >= 1


def test_a_rename_is_repeated_where_other_programs_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("")
    refusals = iter([True, True, False])
    rename, waits = Path.rename, list[float]()

    def refuse(self: Path, target: Path) -> Path:
        if next(refusals):
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(system, "_msvcrt", None)
    with pytest.raises(PermissionError):
        system.rename(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(system, "_msvcrt", object())
    system.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").exists()
    assert waits == [0.01]


NAMES = {
    "model-00001-of-00002.safetensors": True,
    "console.json": True,
    "com.json": True,
    "com10": True,
    ".hidden": True,
    "größe.json": True,
    "a b": True,
    "a/b": False,
    "a\\b": False,
    "..": False,
    "": False,
    "CON": False,
    "nul.txt": False,
    "Aux .tar.gz": False,
    "LPT¹.json": False,
    "CONIN$": False,
    "a:b": False,
    "a|b": False,
    "a\tb": False,
    "a.": False,
    "a ": False,
    "\ud800": False,
    "ä" * 128: False,
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_every_system_accepts(name: str) -> None:
    assert (name_problem(name) is None) == NAMES[name]
    if NAMES[name]:
        assert PureWindowsPath(name).name == name
        assert not PureWindowsPath(name).is_reserved()
        assert PureWindowsPath("C:/models", name).is_relative_to("C:/models")


def test_names_that_windows_and_macos_take_for_the_same() -> None:
    assert name_key("Größe.JSON") == name_key("gro\u0308ße.json") == name_key("GRÖSSE.json")
    assert name_key("a") != name_key("b")


def test_remote_files_that_would_leave_the_directory_on_windows_are_not_selected() -> None:
    names = ["config.json", "..\\..\\evil.json", "C:x.json", "nul.json", "decoder_tokenizer/a:.txt"]
    assert auxiliary_files(names) == ["config.json"]
    assert Url("s3://bucket/C:").local_name == "checkpoint"
    assert Url("s3://bucket/nul").local_name == "checkpoint"


@pytest.mark.parametrize("name", ["con", "out.", "a:b", "sub/nul.model"])
def test_an_output_with_a_name_that_windows_refuses(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_directory, "IS_WINDOWS", True)
    with (
        pytest.raises(OutputError, match=r"on Windows|Windows drops|not allowed"),
        atomic_directory.atomic_directory(tmp_path / name),
    ):
        raise AssertionError
    with atomic_directory.atomic_directory(tmp_path / "sub" / ".." / "good"):
        pass


def test_file_urls_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_path("file:///C:/a%20b") == Path("/C:/a b")
    monkeypatch.setattr(references, "IS_WINDOWS", True)
    assert str(local_path("file:///C:/a%20b")) == "C:/a b"
    assert local_path("file:///models") == Path("/models")


def test_locations_are_compared_as_the_system_compares_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(references, "IGNORES_CASE", False)
    assert location_key("/models/A") != location_key("/models/a")
    monkeypatch.setattr(references, "IGNORES_CASE", True)
    assert location_key("/models/A") == location_key("/models/a")
    assert location_key("s3://bucket/A") != location_key("s3://bucket/a")


def test_what_is_inside_is_found_by_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    stat = Path.stat

    def ignore_case(self: Path, **options: Any) -> os.stat_result:
        return stat(Path(str(self).replace("MODEL", "model")), **options)

    monkeypatch.setattr(Path, "stat", ignore_case)
    assert is_inside(tmp_path / "model" / "sub" / "absent", tmp_path / "MODEL")
    assert is_inside(tmp_path / "MODEL", tmp_path / "model")
    assert not is_inside(tmp_path / "other" / "model", tmp_path / "MODEL")


def test_text_files_of_windows_mean_the_same(tmp_path: Path) -> None:
    fixtures = Path(__file__).parents[1] / "fixtures"
    shutil.copytree(fixtures / "bert-tiny", tmp_path / "windows")
    for path in (*(tmp_path / "windows").glob("*.json"), tmp_path / "windows" / "vocab.txt"):
        mark = b"\xef\xbb\xbf" if path.suffix == ".json" else b""  # Notepad's
        path.write_bytes(mark + path.read_bytes().replace(b"\n", b"\r\n"))
    outputs = tmp_path / "one", tmp_path / "other"
    for source, output in zip((tmp_path / "windows", fixtures / "bert-tiny"), outputs, strict=True):
        compose(source, fixtures / "gpt2-tiny", output, to=["pytorch"])
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
