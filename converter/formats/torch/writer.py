"""Writing of the zip form of ``torch.save``, preallocated before any tensor's bytes are known.

The archive holds ``data.pkl`` (a state dict whose tensors name their storages), ``byteorder``,
``version`` and one record per storage, each aligned to 64 bytes by padding in its local header, as
torch does. Records have no data descriptor; `finalize` patches their CRC-32. The record
``.format_version`` is omitted on purpose: with it torch may compute the offsets of storages from
its own writer's layout instead of reading the directory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from converter.formats.base import FileSpec, PreallocatedFile, Segment
from converter.formats.file_handle import create_file
from converter.formats.stored_tensors import contiguous_strides
from converter.formats.torch.storages import STORAGE_OF
from converter.formats.torch.zip_archive import DIRECTORY_ENTRY, END, END64, LOCAL_HEADER, LOCATOR64
from converter.tensors import TensorSpec

_PREFIX = "archive"
_ALIGNMENT = 64
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_UTF8 = 0x0800
_PLAIN, _ZIP64 = 20, 45
"""Versions of the zip format that a reader must understand."""
_DATE = 0x0021
"""1980-01-01, the first day of the format: output does not depend on the time."""


def create_archive(spec: FileSpec) -> PreallocatedFile:
    """Create the archive with a hole for each tensor; see `FileFormat.preallocate`."""
    path, tensors, aliases = spec.path, spec.tensors, spec.aliases
    pieces: list[tuple[int, bytes]] = []
    entries: list[_Entry] = []
    end = 0

    def add(name: str, size: int, data: bytes | None) -> _Entry:
        nonlocal end
        crc32 = zlib.crc32(data) if data is not None else 0
        entry = _Entry(f"{_PREFIX}/{name}".encode(), size, end, crc32)
        header = entry.local_header()
        pieces.append((end, header + (data or b"")))
        entries.append(entry)
        end += len(header) + size
        return entry

    def add_small(name: str, data: bytes) -> None:
        add(name, len(data), data)

    add_small("data.pkl", _state_dict(tensors, aliases))
    add_small("byteorder", b"little")
    storages = {}
    segments = {}
    for key, tensor in enumerate(tensors):
        storages[tensor.name] = add(f"data/{key}", tensor.nbytes, None)
        segments[tensor.name] = (Segment(0, end - tensor.nbytes, tensor.nbytes),)
    add_small("version", b"3\n")

    directory = end
    crc32_offsets = {}
    names = {id(entry): name for name, entry in storages.items()}
    for entry in entries:
        data = entry.directory_entry()
        if id(entry) in names:
            crc32_offsets[names[id(entry)]] = (entry.header + 14, end + 16)
        pieces.append((end, data))
        end += len(data)
    trailer = _trailer(len(entries), directory, end - directory)
    pieces.append((end, trailer))
    create_file(path, end + len(trailer), pieces)
    return _Archive(path, segments, True, crc32_offsets)


@dataclass
class _Archive(PreallocatedFile):
    """A zip archive that lacks its tensors and their CRC-32s."""

    crc32_offsets: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Tensor → offsets of its CRC-32 in the local header and in the directory."""

    def finalize(self, crc32: Mapping[str, int]) -> None:
        """Write the CRC-32s; raise KeyError if one is missing."""
        with self.path.open("r+b") as file:
            for name, offsets in self.crc32_offsets.items():
                for offset in offsets:
                    file.seek(offset)
                    file.write(crc32[name].to_bytes(4, "little"))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A stored record of the archive."""

    name: bytes
    size: int
    header: int
    """Offset of the local header."""
    crc32: int

    def local_header(self) -> bytes:
        """Return the header before the data, which ends at a multiple of 64."""
        large = self.size >= _FULL32
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.size) if large else b""
        end = self.header + 30 + len(self.name) + len(extra) + 4
        padding = -end % _ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        shown = _FULL32 if large else self.size
        version, n = _ZIP64 if large else _PLAIN, len(self.name)
        head = LOCAL_HEADER.pack(
            b"PK\3\4", version, _UTF8, 0, 0, _DATE, self.crc32, shown, shown, n, len(extra)
        )
        return head + self.name + extra

    def directory_entry(self) -> bytes:
        """Return the record's entry in the directory."""
        size, header, longs = self.size, self.header, b""
        if size >= _FULL32:
            longs, size = struct.pack("<QQ", size, size), _FULL32
        if header >= _FULL32:
            longs, header = longs + struct.pack("<Q", header), _FULL32
        extra = struct.pack("<HH", 1, len(longs)) + longs if longs else b""
        version = _ZIP64 if longs else _PLAIN
        lengths = (len(self.name), len(extra), 0, 0, 0, 0, header)
        head = DIRECTORY_ENTRY.pack(
            b"PK\1\2", version, version, _UTF8, 0, 0, _DATE, self.crc32, size, size, *lengths
        )
        return head + self.name + extra


def _trailer(count: int, start: int, size: int) -> bytes:
    """Return the end of the archive, with the offset of its directory."""
    end64 = b""
    if count >= _FULL16 or max(start, size) >= _FULL32:
        end64 = END64.pack(
            b"PK\6\6", 44, _ZIP64, _ZIP64, 0, 0, count, count, size, start
        ) + LOCATOR64.pack(b"PK\6\7", 0, start + size, 1)
    short = min(count, _FULL16)
    sizes = (min(size, _FULL32), min(start, _FULL32))
    return end64 + END.pack(b"PK\5\6", 0, 0, short, short, *sizes, 0)


def _state_dict(tensors: Sequence[TensorSpec], aliases: Mapping[str, str]) -> bytes:
    """Return the pickle of an ``OrderedDict`` with the tensors and then their aliases."""
    pickle = _Pickle()
    pickle.ordered_dict()
    pickle.write(b"(")
    storages = {spec.name: (key, spec) for key, spec in enumerate(tensors)}
    for name, (key, spec) in storages.items():
        pickle.item(name, key, spec)
    for alias, name in aliases.items():
        pickle.item(alias, *storages[name])
    pickle.write(b"u.")
    return pickle.data()


class _Pickle:
    """A writer of pickle protocol 2 for a state dict."""

    def __init__(self) -> None:
        self._parts = [b"\x80\x02"]
        self._memo: dict[str, int] = {}

    def data(self) -> bytes:
        """Return everything written so far."""
        return b"".join(self._parts)

    def write(self, code: bytes) -> None:
        """Append opcodes."""
        self._parts.append(code)

    def ordered_dict(self) -> None:
        """Write an empty ``OrderedDict``."""
        self._global("collections\nOrderedDict")
        self.write(b")R")

    def item(self, name: str, key: int, spec: TensorSpec) -> None:
        """Write a name and the call that rebuilds its tensor from storage `key`."""
        self._text(name)
        untyped = spec.dtype not in STORAGE_OF
        self._global(f"torch._utils\n_rebuild_tensor_{'v3' if untyped else 'v2'}")
        self.write(b"((")
        self._text("storage")
        self._global("torch.storage\nUntypedStorage" if untyped else STORAGE_OF[spec.dtype])
        self._text(str(key))
        self._text("cpu")
        self._integer(spec.nbytes if untyped else spec.size)
        self.write(b"tQ")
        self._integer(0)
        self._integers(spec.shape)
        self._integers(contiguous_strides(spec.shape))
        self.write(b"\x89")  # requires no gradient
        self.ordered_dict()  # has no backward hooks
        if untyped:
            self._global(f"torch\n{spec.dtype}")
        self.write(b"tR")

    def _global(self, lines: str) -> None:
        """Write a module and a name in it, spelled out once."""
        if lines in self._memo:
            self.write(b"h" + bytes([self._memo[lines]]))
        else:
            index = self._memo[lines] = len(self._memo)
            self.write(b"c" + lines.encode() + b"\nq" + bytes([index]))

    def _text(self, text: str) -> None:
        data = text.encode()
        self.write(b"X" + struct.pack("<I", len(data)) + data)

    def _integers(self, values: Sequence[int]) -> None:
        self.write(b"(")
        for value in values:
            self._integer(value)
        self.write(b"t")

    def _integer(self, value: int) -> None:
        if value < 1 << 8:
            self.write(b"K" + value.to_bytes(1, "little"))
        elif value < 1 << 31:
            self.write(b"J" + value.to_bytes(4, "little"))
        else:
            self.write(b"\x8a\x08" + value.to_bytes(8, "little"))
