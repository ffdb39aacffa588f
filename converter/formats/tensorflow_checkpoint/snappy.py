"""Decoding Snappy's raw format, in which tables may keep their blocks.

A stream is its decoded length as a varint, then elements: literals, and copies of what was decoded
before. Source: ``format_description.txt`` of google/snappy.
"""

from __future__ import annotations

from converter.formats.tensorflow_checkpoint.protobuf import WireError, read_varint

MAX_RATIO = 64
"""A copy element takes at least two bytes and gives at most 64: no honest stream grows faster."""


def decode(data: bytes, limit: int) -> bytes:
    """The bytes that `data` stands for, if they are not more than `limit`.

    Raises:
        WireError: if it is no complete stream, or claims more than it can hold.

    """
    length, at = read_varint(data, 0)
    if length > min(limit, MAX_RATIO * len(data)):
        raise WireError(f"{len(data)} compressed bytes claim to hold {length}")
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        kind = tag & 3
        if kind == 0:
            size, at = _literal_length(data, tag, at)
            if at + size > len(data):
                raise WireError(f"a literal of {size} bytes at {at} passes the end")
            out += data[at : at + size]
            at += size
        else:
            width = (1, 1, 2, 4)[kind]
            if at + width > len(data):
                raise WireError(f"a copy at {at} passes the end")
            offset = int.from_bytes(data[at : at + width], "little")
            at += width
            size = (tag >> 2) + 1
            if kind == 1:
                size = (tag >> 2 & 7) + 4
                offset |= tag >> 5 << 8
            _copy(out, offset, size)
        if len(out) > length:
            raise WireError(f"decodes to more than the {length} bytes it claims")
    if len(out) != length:
        raise WireError(f"decodes to {len(out)} of the {length} bytes it claims")
    return bytes(out)


def _literal_length(data: bytes, tag: int, at: int) -> tuple[int, int]:
    size = tag >> 2
    if size < 60:
        return size + 1, at
    width = size - 59
    if at + width > len(data):
        raise WireError(f"a literal's length at {at} passes the end")
    return int.from_bytes(data[at : at + width], "little") + 1, at + width


def _copy(out: bytearray, offset: int, size: int) -> None:
    """Repeat `size` bytes from `offset` before the end; they may reach into what is written."""
    if not 1 <= offset <= len(out):
        raise WireError(f"a copy from {offset} bytes back where only {len(out)} are decoded")
    start = len(out) - offset
    pattern = bytes(out[start : start + size])
    while size > 0:
        out += pattern[:size]
        size -= len(pattern)
