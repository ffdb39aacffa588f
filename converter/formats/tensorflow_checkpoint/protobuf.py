"""The three messages of a TensorFlow bundle, read from protobuf's wire format.

Source: ``tensor_bundle.proto``, ``tensor_shape.proto``, ``tensor_slice.proto`` and
``versions.proto`` of tensorflow 2.20, and protobuf's "Encoding" page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from converter.formats.files import MAX_RANK

MAX_SLICES = 10_000
"""Pieces of one variable; TensorFlow's own partitioners make one for each parameter server."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that break the encoding; readers turn it into a `FormatError` that names the file."""


@dataclass(slots=True)
class BundleHeader:
    """What the entry without a name says of the whole bundle."""

    num_shards: int = 0
    big_endian: bool = False
    min_consumer: int = 0
    """The oldest version of the format's readers that may read it."""


@dataclass(slots=True)
class BundleEntry:
    """A tensor: what it is, and where its bytes lie."""

    dtype: int = 0
    """A number of TensorFlow's ``DataType``."""
    shape: list[int] = field(default_factory=list)
    unknown_rank: bool = False
    shard: int = 0
    offset: int = 0
    size: int = 0
    slices: list[bytes] = field(default_factory=list)
    """Of a partitioned variable, the pieces, each to be read with `parse_slice`."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at `at`, and the place behind it.

    Raises:
        WireError: if `data` ends first or the number takes more than 64 bits.

    """
    if at < len(data) and data[at] < 0x80:  # most are short
        return data[at], at + 1
    number = shift = 0
    while True:
        if at >= len(data):
            raise WireError(f"a number at byte {at} passes the end")
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
    """Read a ``BundleHeaderProto``.

    Raises:
        WireError: if it is none.

    """
    header = BundleHeader()
    for number, value in _fields(data):
        if number == 1:
            header.num_shards = _integer(value)
        elif number == 2:
            header.big_endian = bool(_integer(value))
        elif number == 3:
            for inner, version in _fields(_message(value)):
                if inner == 2:
                    header.min_consumer = _integer(version)
    return header


def parse_entry(data: bytes) -> BundleEntry:
    """Read a ``BundleEntryProto``.

    Raises:
        WireError: if it is none.

    """
    entry = BundleEntry()
    for number, value in _fields(data):
        if number == 1:
            entry.dtype = _integer(value)
        elif number == 2:
            for inner, part in _fields(_message(value)):
                if inner == 2:
                    entry.shape.append(_length(_message(part)))
                elif inner == 3:
                    entry.unknown_rank = bool(_integer(part))
        elif number == 3:
            entry.shard = _integer(value)
        elif number == 4:
            entry.offset = _integer(value)
        elif number == 5:
            entry.size = _integer(value)
        elif number == 7:
            entry.slices.append(_message(value))
        if len(entry.shape) > MAX_RANK or len(entry.slices) > MAX_SLICES:
            raise WireError(f"more than {MAX_RANK} axes or {MAX_SLICES} pieces")
    return entry


def parse_slice(data: bytes) -> list[tuple[int, int]]:
    """Read a ``TensorSliceProto``: for each axis start and length, -1 being the whole axis.

    Raises:
        WireError: if it is none.

    """
    extents = []
    for number, value in _fields(data):
        if number == 1:
            extents.append(_extent(_message(value)))
        if len(extents) > MAX_RANK:
            raise WireError(f"a piece of more than {MAX_RANK} axes")
    return extents


def _length(data: bytes) -> int:
    """The length of an axis, which proto3 leaves out where it is 0."""
    return next((_integer(value) for number, value in _fields(data) if number == 1), 0)


def _extent(data: bytes) -> tuple[int, int]:
    start, length = 0, -1
    for number, value in _fields(data):
        if number == 1:
            start = _integer(value)
        elif number == 2:
            length = _integer(value)
    return start, length


def _integer(value: int | bytes) -> int:
    """A field as ``int64``."""
    if isinstance(value, bytes):
        raise WireError("a field is no number")
    return value - (1 << 64) if value >> 63 else value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise WireError("a field is no message")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field; the fixed-size ones as numbers, too."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise WireError(f"there is no field {number}")
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
            raise WireError(f"field {number} of {size} bytes passes the end")
        raw = data[at : at + size]
        at += size
        yield number, raw if kind == _BYTES else int.from_bytes(raw, "little")
