"""A writer of TensorFlow checkpoints, which the package only reads; independent of its reader.

Tables, protobuf and checksums are written as specified, with every part open to invalid values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.formats.base import Array
from converter.tensors import TensorSpec

DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "complex128": 18,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
    "float8_e5m2": 24,
    "float8_e4m3fn": 25,
    "float8_e4m3fnuz": 26,
    "float8_e5m2fnuz": 28,
}
MAGIC = 0xDB4775248B80FB57
VARIABLE_VALUE = b"/.ATTRIBUTES/VARIABLE_VALUE"
HEADER = b"\x08\x01"
"""One data file, little-endian."""


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


class Entry(bytes):
    """A ``BundleEntryProto`` that knows where its tensor is, for `checksummed`."""

    place: tuple[int, int, int] = (0, 0, 0)
    """Data file, offset and bytes."""
    checksum_at: int = 0


def entry(
    dtype: int,
    shape: Sequence[int],
    shard: int = 0,
    offset: int = 0,
    size: int = 0,
    more: bytes = b"",
    checksum: int = 0,
) -> Entry:
    """Return a ``BundleEntryProto``, without the fields that are 0."""
    axes = b"".join(message(2, number(1, length) if length else b"") for length in shape)
    fields = [(1, dtype), (3, shard), (4, offset), (5, size)]
    numbers = {field: number(field, value) for field, value in fields if value}
    before = numbers.get(1, b"") + message(2, axes)
    before += b"".join(numbers.get(field, b"") for field in (3, 4, 5)) + varint(6 << 3 | 5)
    result = Entry(before + struct.pack("<I", checksum) + more)
    result.place, result.checksum_at = (shard, offset, size), len(before)
    return result


def checksummed(value: bytes, data: Sequence[bytes]) -> bytes:
    """Return an entry with the checksum of its tensor, if that is in `data` and it has none."""
    if not isinstance(value, Entry):
        return value
    at, (shard, offset, size) = value.checksum_at, value.place
    stored = data[shard][offset : offset + size] if 0 <= shard < len(data) and offset >= 0 else b""
    if any(value[at : at + 4]) or not size or len(stored) != size:
        return bytes(value)
    return value[:at] + struct.pack("<I", masked(crc32c(stored))) + value[at + 4 :]


def slices(parts: Sequence[Sequence[tuple[int, int]]]) -> bytes:
    """Return the ``BundleEntryProto`` field of parts, by start and length of each axis."""

    def extent(start: int, length: int) -> bytes:
        first = number(1, start) if start else b""
        return first + (number(2, length) if length >= 0 else b"")

    return b"".join(
        message(7, b"".join(message(1, extent(*axis)) for axis in part)) for part in parts
    )


def _of_a_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRC32C = [_of_a_byte(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: Sequence[tuple[bytes, bytes]], restart: int = 16) -> bytes:
    out, restarts, last = bytearray(), [], b""
    for index, (key, value) in enumerate(entries):
        shared = 0
        if index % restart == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(blocks: Sequence[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """Return a table of blocks, each with its last key; `kind` is the compression type."""
    out, handles = bytearray(), []

    def append(content: bytes, compression: int) -> bytes:
        handle = varint(len(out)) + varint(len(content))
        tail = content + bytes([compression])
        out.extend(tail + struct.pack("<I", masked(crc32c(tail))))
        return handle

    for last, content in blocks:
        handles.append((last, append(content, kind)))
    meta = append(block([]), 0)
    index = append(block(handles, 1), 0)
    return bytes(out) + (meta + index).ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def first_block(data: bytes) -> bytes:
    """Return the content of the first block of a table whose blocks are smaller than 16 KiB."""
    end = len(data) - 48
    handle, places, at = data[end:], [], 0
    for _ in range(4):
        value = shift = 0
        while True:
            value |= (handle[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if handle[at - 1] < 0x80:
                break
        places.append(value)
    return data[: places[0] - 5]


def write(
    path: Path,
    arrays: Mapping[TensorSpec, Array],
    metadata: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint of one data file whose index is `path`."""
    if aliases:
        raise ValueError("a TensorFlow checkpoint cannot express that tensors share their bytes")
    data, entries = bytearray(), [(b"", HEADER)]
    for spec, array in sorted(arrays.items(), key=lambda item: item[0].name):
        raw = array.tobytes()
        entries.append(
            (spec.name.encode(), entry(DTYPES[spec.dtype], spec.shape, 0, len(data), len(raw)))
        )
        data += raw
    write_parts(path, entries, [bytes(data)])


def write_parts(
    path: Path, entries: Sequence[tuple[bytes, bytes]], data: Sequence[bytes], **options: Any
) -> None:
    """Write an index of any entries, and data files of any content."""
    entries = [(key, checksummed(value, data)) for key, value in entries]
    path.write_bytes(table([(entries[-1][0] if entries else b"", block(entries))], **options))
    stem = path.name.removesuffix(".index")
    for shard, content in enumerate(data):
        path.with_name(f"{stem}.data-{shard:05}-of-{len(data):05}").write_bytes(content)


def node(
    children: Mapping[str, int] | None = None,
    variable: tuple[str, str] | None = None,
    slots: Sequence[int] = (),
) -> bytes:
    """Return an object of a ``TrackableObjectGraph``; `variable` is its name and its key."""
    fields = [
        message(1, number(1, target) + message(2, text.encode()))
        for text, target in (children or {}).items()
    ]
    if variable:
        name, key = (text.encode() for text in variable)
        content = message(1, b"VARIABLE_VALUE") + message(2, name) + message(3, key)
        fields.append(message(2, content))
    fields += [message(3, number(1, 0) + message(2, b"m") + number(3, slot)) for slot in slots]
    return b"".join(fields)


def graph(nodes: Sequence[bytes]) -> bytes:
    return b"".join(message(1, each) for each in nodes)


def string_tensor(content: bytes) -> tuple[bytes, int]:
    """Return what the data file holds of a tensor of one string, and its checksum."""
    length = masked(crc32c(struct.pack("<I", len(content))))
    tail = struct.pack("<I", length) + content
    return varint(len(content)) + tail, masked(crc32c(struct.pack("<I", len(content)) + tail))


def write_objects(
    path: Path, arrays: Mapping[str, Array], nodes: Sequence[bytes], tail: bytes = b""
) -> Path:
    """Write an object-based checkpoint of arrays by key, with the graph of `nodes`."""
    data, checksum = string_tensor(graph(nodes) + tail)
    entries = [(b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(7, (), 0, 0, len(data), b"", checksum))]
    for key, array in sorted(arrays.items()):
        raw = array.tobytes()
        place = entry(DTYPES[array.dtype.name], array.shape, 0, len(data), len(raw))
        entries.append((key.encode() + VARIABLE_VALUE, place))
        data += raw
    write_parts(path, [(b"", HEADER), *sorted(entries)], [data])
    return path
