"""The protobuf messages of a TensorFlow checkpoint's index, decoded from the wire format.

Source: ``tensor_bundle.proto``, ``tensor_shape.proto``, ``tensor_slice.proto`` and
``versions.proto`` of tensorflow 2.20, and protobuf's "Encoding" page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from converter.formats.file_handle import MAX_RANK, FileHandle

MAX_SLICES = 10_000
"""Parts of one variable; TensorFlow's own partitioners make one for each parameter server."""
_STATE = re.compile(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_MAX_STATE_BYTES = 1 << 16
"""Bytes of a ``checkpoint`` file that are read; the newest checkpoint is named first."""
_MINUS_ONE = (1 << 64) - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Invalid encoding; readers turn it into a `FormatError` that names the file."""


@dataclass(slots=True)
class BundleHeader:
    """``BundleHeaderProto``, the entry with the empty key."""

    num_shards: int = 0
    big_endian: bool = False
    min_consumer: int = 0
    """Oldest version of readers that may read it."""


@dataclass(slots=True)
class BundleEntry:
    """``BundleEntryProto``: a tensor's dtype, shape, shard, offset and bytes."""

    dtype: int = 0
    """TensorFlow's ``DataType`` number."""
    shape: list[int] = field(default_factory=list)
    unknown_rank: bool = False
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    """Masked CRC-32C of the bytes."""
    slices: list[bytes] = field(default_factory=list)
    """Parts of a partitioned variable, each to be decoded by `parse_slice`."""


_INTEGERS = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "checksum"}
"""Numbers of the fields of an entry that are integers."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned number at `at`, and the position after it.

    Raise WireError if `data` ends first or the number takes more than 64 bits.
    """
    if at < len(data) and data[at] < 0x80:  # most are short
        return data[at], at + 1
    number = shift = 0
    while True:
        if at >= len(data):
            raise WireError(f"a number at byte {at} exceeds the data")
        byte, at = data[at], at + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise WireError(f"a number at byte {at} takes more than 64 bits")
    if number >> 64:
        raise WireError(f"a number at byte {at} takes more than 64 bits")
    return number, at


def parse_header(data: bytes) -> BundleHeader:
    """Decode a ``BundleHeaderProto``; raise WireError if `data` is malformed."""
    fields = _last_values(data)
    versions = _last_values(as_message(fields.get(3, b"")))
    num_shards, big_endian, min_consumer = fields.get(1, 0), fields.get(2, 0), versions.get(2, 0)
    return BundleHeader(
        as_integer(num_shards), bool(as_integer(big_endian)), as_integer(min_consumer)
    )


def parse_entry(data: bytes) -> BundleEntry:
    """Decode a ``BundleEntryProto``.

    Raise WireError if `data` is malformed or has too many axes or parts.
    """
    entry = BundleEntry()
    for number, value in fields_of(data):
        if number in _INTEGERS:
            setattr(entry, _INTEGERS[number], as_integer(value))
        elif number == 2:
            for inner, part in fields_of(as_message(value)):
                if inner == 2:
                    entry.shape.append(as_integer(_last_values(as_message(part)).get(1, 0)))
                elif inner == 3:
                    entry.unknown_rank = bool(as_integer(part))
        elif number == 7:
            entry.slices.append(as_message(value))
        if len(entry.shape) > MAX_RANK or len(entry.slices) > MAX_SLICES:
            raise WireError(f"more than {MAX_RANK} axes or {MAX_SLICES} parts")
    return entry


def parse_slice(data: bytes) -> list[tuple[int, int]]:
    """Decode a ``TensorSliceProto``: for each axis start and length, -1 for the complete axis.

    Raise WireError if `data` is malformed or has too many axes.
    """
    extents = []
    for number, value in fields_of(data):
        if number == 1:
            extent = _last_values(as_message(value))
            extents.append((as_integer(extent.get(1, 0)), as_integer(extent.get(2, _MINUS_ONE))))
        if len(extents) > MAX_RANK:
            raise WireError(f"a part of more than {MAX_RANK} axes")
    return extents


def read_checkpoint_state(file: FileHandle) -> str:
    """Return the prefix of the checkpoint that a ``checkpoint`` file names, without directories.

    The file is a ``CheckpointState`` in protobuf's text format; return ``""`` if it is not. Only
    the name counts, since the path is often that of the machine that wrote the file. The file is
    closed.
    """
    with closing(file):
        data = file.read(0, min(file.size, _MAX_STATE_BYTES))
    match = _STATE.search(data)
    if match is None:
        return ""
    path = _ESCAPE.sub(lambda each: _unescape(each[1]), match[1]).decode(errors="replace")
    name = path.replace("\\", "/").rpartition("/")[2]
    return name if name.strip(".") else ""  # neither this directory nor the one above


def _unescape(code: bytes) -> bytes:
    """Return the byte that an escape sequence of the text format stands for."""
    return bytes([int(code, 8) & 0xFF]) if b"0" <= code < b"8" else code


def _last_values(data: bytes) -> dict[int, int | bytes]:
    """Return the fields 1 to 3, of which the last value counts; proto3 omits those that are 0."""
    return {number: value for number, value in fields_of(data) if number <= 3}


def as_integer(value: int | bytes) -> int:
    """Return a field as ``int64``; raise WireError if it is not a number."""
    if isinstance(value, bytes):
        raise WireError("a field is not a number")
    return value - (1 << 64) if value >> 63 else value


def as_message(value: int | bytes) -> bytes:
    """Return a field as bytes; raise WireError if it is a number."""
    if isinstance(value, int):
        raise WireError("a field is not a message")
    return value


def as_text(value: int | bytes) -> str:
    """Return a field as text; raise WireError if it is not UTF-8."""
    try:
        return as_message(value).decode()
    except UnicodeDecodeError as error:
        raise WireError(f"a text is not UTF-8: {error}") from None


def fields_of(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of every field; fixed-size fields are numbers, too."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise WireError(f"invalid field number {number}")
        if kind == _VARINT:
            value, at = read_varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = read_varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise WireError(f"field {number} has the unknown wire type {kind}")
        if at + size > len(data):
            raise WireError(f"field {number} of {size} bytes exceeds the data")
        raw = data[at : at + size]
        at += size
        yield number, raw if kind == _BYTES else int.from_bytes(raw, "little")
