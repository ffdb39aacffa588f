"""Tensors are verified piece by piece, and read ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.commands.verify import verify
from converter.formats.file_handle import LocalFile
from converter.plan import SourceTensor
from converter.tensors import Axes, Rearrangement, TensorSpec
from converter.verification import comparison, values
from converter.verification.comparison import ReadAhead
from tests.verification.damage import DENSE, FILES, alter, copy_of, key_of
from tests.verification.test_damage import problems_of

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(params=[10 << 20, 1000], ids=["one block", "several blocks"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks and pieces smaller than the matrices of tiny models."""
    monkeypatch.setattr(comparison, "BLOCK", request.param)
    monkeypatch.setattr(values, "_PIECE", 256)


def last(array: Array) -> None:
    """Change the last value by one unit in the last place."""
    array.reshape(-1).view("u4")[-1] ^= 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FILES)
def test_the_last_value_of_a_tensor_of_many_pieces_is_compared(
    sound: Path, tmp_path: Path, name: str
) -> None:
    directory = copy_of(sound, tmp_path / "it")
    assert verify(directory).verified
    file = directory / name
    key = key_of(file, DENSE)
    alter(file, [key], last)
    result = verify(directory)
    assert len(problems_of(result, file, key)) == len(result.problems) == 1


@pytest.mark.usefixtures("small")
def test_values_that_all_files_have_are_compared_with_the_manifest(
    sound: Path, tmp_path: Path
) -> None:
    directory = copy_of(sound, tmp_path / "it")
    for name in FILES:
        alter(directory / name, [key_of(directory / name, DENSE)], last)
    result = verify(directory)
    assert {each.what for each in result.problems} == {
        "its values differ from those that were written"
    }
    assert len(result.problems) == len(FILES)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", [None, last], ids=["equal", "different"])
def test_files_that_are_all_stored_transposed_are_compared(
    sound: Path, tmp_path: Path, change: Any
) -> None:
    directory = copy_of(sound, tmp_path / "it")
    for name in ("model.safetensors", "pytorch_model.bin", "converter-manifest.json"):
        (directory / name).unlink()
    file = directory / "flax_model.msgpack"
    if change is None:
        assert verify(directory).verified
        return
    alter(file, [key_of(file, DENSE)], change)
    assert [each.file for each in verify(directory).problems] == [str(file)]


def test_each_file_is_read_once_and_hashed_once(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of files, the bytes that are read are those of the files."""
    read: list[int] = []
    hashed: list[int] = []
    fill = LocalFile._fill

    class Digest:
        def __init__(self) -> None:
            self._digest = hashlib.sha256()

        def update(self, data: memoryview) -> None:
            hashed.append(len(data))
            self._digest.update(data)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    def counted(file: LocalFile, buffer: memoryview, offset: int) -> None:
        read.append(len(buffer))
        fill(file, buffer, offset)

    monkeypatch.setattr(LocalFile, "_fill", counted)
    monkeypatch.setattr("converter.verification.values.hashlib", SimpleNamespace(sha256=Digest))
    monkeypatch.setattr(values, "_PIECE", 256)
    assert verify(sound).verified
    sizes = [(sound / name).stat().st_size for name in FILES]
    assert sum(read) < 1.5 * sum(sizes)  # the headers, too, which are half of tiny files
    assert sum(hashed) < min(sizes)


class Announced:
    """A stored tensor that notes what is announced of it."""

    def __init__(self, name: str, nbytes: int, log: list[tuple[str, int, int]]) -> None:
        self.spec = TensorSpec(name, "uint8", (nbytes,))
        self._log = log

    def read_ahead(self, offset: int, nbytes: int) -> None:
        self._log.append((self.spec.name, offset, nbytes))


def stored(name: str, nbytes: int, log: list[tuple[str, int, int]]) -> SourceTensor:
    tensor: Any = Announced(name, nbytes, log)
    return SourceTensor("", tensor, Rearrangement(Axes(("n",)), Axes(("n",))))


def test_tensors_are_announced_in_order_and_not_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_AHEAD", 1000)
    log: list[tuple[str, int, int]] = []
    items = [[stored(f"{n}.{file}", 100, log) for file in "ab"] for n in range(20)]
    ahead = ReadAhead(items)
    for number, item in enumerate(items):
        ahead.begin(item)
        announced = [name for name, *_ in log]
        assert announced == [f"{n}.{file}" for n in range(len(log) // 2) for file in "ab"]
        assert number < len(log) // 2 <= number + 6
    assert len(log) == 40


def test_a_large_tensor_is_announced_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_AHEAD", 1000)
    log: list[tuple[str, int, int]] = []
    large, small_one = stored("large", 2500, log), stored("small", 900, log)
    ReadAhead([[large]]).begin([large])
    for start in range(0, 2500, 500):
        ReadAhead.advance(large, start, 500)
        ReadAhead.advance(small_one, start, 500)
    assert log[0] == ("large", 0, 1000)
    assert log[1:] == [("large", start, 500) for start in range(1000, 3500, 500)]


def test_the_system_is_asked_to_read_ahead_in_parts_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def fadvise(fd: int, offset: int, nbytes: int, advice: int) -> None:
        asked.append((offset, nbytes))

    monkeypatch.setattr("os.posix_fadvise", fadvise, raising=False)
    monkeypatch.setattr("os.POSIX_FADV_WILLNEED", 3, raising=False)
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    file = LocalFile(path)
    file.read_ahead(10, 3 << 20)
    file.read_ahead(5 << 20, 7)
    assert all(nbytes <= 1 << 20 for _, nbytes in asked)
    assert list(joined(asked)) == [(10, 3 << 20), (5 << 20, 7)]
    monkeypatch.delattr("os.posix_fadvise")
    file.read_ahead(0, 100)  # a system without the call
    file.close()


def joined(parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield adjacent ranges as one."""
    begin, length = parts[0]
    for offset, nbytes in parts[1:]:
        if offset == begin + length:
            length += nbytes
        else:
            yield begin, length
            begin, length = offset, nbytes
    yield begin, length
