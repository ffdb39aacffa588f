"""Torch files that are bombs, and invalid zip directories. Needs no torch."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from converter.errors import FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.torch import FORMAT
from tests.formats.torch_files import KEY, TENSOR, archive, long, state
from tests.formats.work import work_at_most

pytestmark = pytest.mark.slow

BOMBS = {
    "operations": b"\x80\2" + b"N" * 5_000_000 + b".",
    "lists": b"\x80\2" + b"]" * 5_000_000 + b".",
    "marks": b"\x80\2" + b"(" * 5_000_000 + b".",
    "doubling": b"\x80\2]q\0" + b"(h\0h\0lq\0" * 200_000 + b"0" + state()[2:],
    "doubled tensors": b"\x80\2" + TENSOR + b"q\0" + b"0(h\0h\0lq\0" * 64 + b"0}" + KEY + b"h\0s.",
    "doubled names": b"\x80\2"
    + TENSOR
    + b"q\0"
    + b"0(h\0h\0lq\0" * 50
    + b"0}"
    + (b"X" + struct.pack("<I", 1 << 20) + b"n" * (1 << 20))
    + b"h\0s.",
    "tuples as keys": b"\x80\2)q\0" + b"0h\0h\0\x86q\0" * 100 + b"0}h\0Ns.",
    "deep key": b"\x80\2)" + b"\x85" * 1_000_000 + b"q\0}h\0Ns.",
    "cycle": b"\x80\2}q\0" + KEY + b"h\0s" + b"X\1\0\0\0x" + TENSOR + b"s.",
    "deep lists": b"\x80\2]" + b"q\0](h\0e" * 200_000 + b"q\1}" + KEY + b"h\1s.",
    "integers that collide": b"\x80\2}("
    + b"".join(long(n * (2**61 - 1)) + b"N" for n in range(50_000))
    + b"u.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_take_neither_time_nor_memory(case: str, tmp_path: Path):
    path = archive(tmp_path / "zip", BOMBS[case])
    with work_at_most(300), suppress(FormatError), FORMAT.open(LocalFile(path)) as reader:
        assert len(reader.tensors) < 3


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\2" + b"N" * 300_000_000)
    tracemalloc.start()
    with pytest.raises(FormatError, match="too long"):
        FORMAT.open(LocalFile(tmp_path / "bomb"))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_compressed_listings_are_read_and_compressed_storages_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "listing", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16), zipfile.ZIP_STORED)
    with FORMAT.open(LocalFile(tmp_path / "listing")) as reader:
        assert reader.tensors["w"].read().tolist() == [0] * 4
    with zipfile.ZipFile(tmp_path / "storage", "w") as file:
        file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16), zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="compressed storage"):
        FORMAT.open(LocalFile(tmp_path / "storage"))


SHARED = b"(" + b"N" * 30 + b"tq\1]q\2(" + b"N" * 30 + b"e"
CALL = b"ca\nb\nq\3"
VIEW = b"ctorch._utils\n_rebuild_tensor_v2\nq\3" + TENSOR[33:-1].replace(
    b"(K\4t(K\1t", b"(" + b"K\1" * 32 + b"t" + b"(" + b"K\1" * 32 + b"t"
)
REPEATED = {
    "arguments of an unknown call": (SHARED + CALL, b"h\3h\1R"),
    "arguments of NEWOBJ": (SHARED + CALL, b"h\3h\1\x81"),
    "arguments of OBJ": (SHARED + CALL, b"h\3h\1R0(h\3h\1o"),
    "calls of a result": (SHARED + CALL + b")Rq\3", b"h\3h\1R"),
    "items of an OrderedDict": (
        b"]q\1(" + b"NN\x86" * 9 + b"eccollections\nOrderedDict\nq\3",
        b"h\3h\1\x85R",
    ),
    "torch.Size": (SHARED + b"ctorch\nSize\nq\3", b"h\3h\2\x85R"),
    "shapes": (VIEW + b"q\1", b"h\3h\1R"),
    "names": (b"X" + struct.pack("<I", 4000) + b"n" * 4000 + b"q\1", b"h\1h\1\x93"),
    "tuples": (b"N", b")" + b"\x85" * 7),
    "lists": (b"N", b"]"),
    "dictionaries": (b"N", b"}"),
    "sets": (b"N", b"\x8f"),
}
"""What is put into the memo, and operations that copy it or make an object, again and again."""


@pytest.mark.parametrize("case", REPEATED)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_objects_count_against_a_budget_of_the_file_s_size(case: str, method: int, tmp_path: Path):
    memo, operations = REPEATED[case]
    for times in (1, 100_000):
        listing = b"\x80\2" + memo + b"0}(X\1\0\0\0x(" + operations * times + b"t"
        with zipfile.ZipFile(tmp_path / "bomb", "w", method) as file:
            file.writestr("archive/data.pkl", listing + KEY + TENSOR + b"u.")
            file.writestr("archive/data/0", bytes(16), zipfile.ZIP_STORED)
        if times == 1:
            with suppress(FormatError), FORMAT.open(LocalFile(tmp_path / "bomb")) as reader:
                assert "w" in reader.tensors
            continue
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match=r"more or larger objects|record too long"):
                FORMAT.open(LocalFile(tmp_path / "bomb"))
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()


def test_long_strings_count_against_the_budget(tmp_path: Path):
    """A character takes up to four bytes."""
    text = b"X" + struct.pack("<I", 30_000_004) + "😀".encode() + b"n" * 30_000_000
    path = archive(tmp_path / "file", b"\x80\2" + text + b"0" + state()[2:])
    with pytest.raises(FormatError, match="more or larger objects"):
        FORMAT.open(LocalFile(path))


def patched(data: bytes, old: bytes, new: bytes, place: int = 0) -> bytes:
    """Return `data` with `new` written `place` bytes after the start of the last `old`."""
    at = data.rindex(old) + place
    return data[:at] + new + data[at + len(new) :]


INVALID_ZIPS = {
    "no directory": (lambda d: d[:-22], "no directory"),
    "bytes behind": (lambda d: d + b"x", "bytes after|no directory"),
    "bytes before": (lambda d: b"PK\3\4" + d, "impossible zip directory"),
    "entries": (lambda d: patched(d, b"PK\5\6", b"\7\0\7\0", 8), "zip directory"),
    "fewer entries": (lambda d: patched(d, b"PK\5\6", b"\1\0\1\0", 8), "zip directory"),
    "disks": (lambda d: patched(d, b"PK\5\6", b"\1\0", 4), "several disks"),
    "directory offset": (lambda d: patched(d, b"PK\5\6", b"\1\0\0\0", 16), "zip directory"),
    "zip64 missing": (lambda d: patched(d, b"PK\5\6", b"\xff" * 4, 16), "zip64"),
    "local offset": (lambda d: patched(d, b"PK\1\2", b"\1\0\0\0", 42), "overlap|disagrees"),
    "local offset far": (lambda d: patched(d, b"PK\1\2", b"\0\0\0\x7f", 42), "ends early|overlaps"),
    "local name": (lambda d: patched(d, b"PK\3\4", b"X", 31), "disagrees"),
    "local size": (lambda d: patched(d, b"PK\3\4", b"\x08", 22), "disagrees"),
    "local crc": (lambda d: patched(d, b"PK\3\4", b"\1\2\3\4", 14), "disagrees"),
    "local method": (lambda d: patched(d, b"PK\3\4", b"\x08", 8), "disagrees"),
    "two sizes": (lambda d: patched(d, b"PK\1\2", b"\x08", 20), "two sizes"),
    "size": (lambda d: patched(d, b"PK\1\2", b"\x11\0\0\0\x11\0\0\0", 20), "disagrees|reaches"),
    "encrypted": (lambda d: patched(d, b"PK\1\2", b"\1", 8), "not write"),
    "method": (lambda d: patched(d, b"PK\1\2", b"\x0e", 10), "not write"),
    "zip64 size missing": (lambda d: patched(d, b"PK\1\2", b"\xff" * 8, 20), "zip64 size"),
    "listing": (lambda d: patched(d, b"X\1\0\0\0w", b"v", 5), "CRC-32"),
}


@pytest.mark.parametrize("case", INVALID_ZIPS)
def test_invalid_zip_directories_are_refused(case: str, tmp_path: Path):
    change, message = INVALID_ZIPS[case]
    good = archive(tmp_path / "good", state()).read_bytes()
    (tmp_path / "bad").write_bytes(change(good))
    with pytest.raises(FormatError, match=message):
        FORMAT.open(LocalFile(tmp_path / "bad"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_twice_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "file", "w") as file:
        for _ in range(2):
            file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16))
    with pytest.raises(FormatError, match="duplicate record"):
        FORMAT.open(LocalFile(tmp_path / "file"))


def test_two_entries_for_the_same_bytes_are_refused(tmp_path: Path):
    """The overlap of which zip bombs are made."""
    data = archive(tmp_path / "file", state()).read_bytes()
    start = data.index(b"PK\1\2")
    last = data.rindex(b"PK\1\2")
    end = data.rindex(b"PK\5\6")
    twin = data[last:end].replace(b"data/0", b"data/1")
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 3, 3, end - start + len(twin), start, 0)
    (tmp_path / "bad").write_bytes(data[:end] + twin + tail)
    with pytest.raises(FormatError, match="overlaps"):
        FORMAT.open(LocalFile(tmp_path / "bad"))


def test_a_huge_directory_is_not_read(tmp_path: Path):
    """Of 1 GB, which a sparse file takes no room for."""
    length = 1 << 30
    with (tmp_path / "bomb").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(4 + length)
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, length, 4, 0))
    tracemalloc.start()
    with pytest.raises(FormatError, match="impossible zip directory"):
        FORMAT.open(LocalFile(tmp_path / "bomb"))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
