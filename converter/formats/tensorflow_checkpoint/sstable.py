"""LevelDB's sorted string table (SSTable), the form of a TensorFlow checkpoint's index.

The file is blocks, each followed by its compression type (one byte) and a masked CRC-32C, then a
footer of 48 bytes with the offset of the index block. A block is entries whose keys omit the prefix
shared with the previous key, then the offsets of the entries that share nothing. Source:
``table_format.txt`` of google/leveldb and ``lib/io`` of tensorflow 2.20.
"""

from __future__ import annotations

from collections.abc import Iterator

import google_crc32c

from converter.formats.file_handle import FETCH_AGAIN, FileHandle
from converter.formats.tensorflow_checkpoint.protobuf import WireError, read_varint

FOOTER = 48
"""Bytes of the footer."""
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
"""The last bytes of the file."""
MAX_FILE = 64 << 20
"""Bytes; an index takes about 100 a tensor."""
MAX_KEY = 4096
"""Bytes of one key; TensorFlow's own names are far shorter."""
_MAX_KEYS = 64 << 20
"""Bytes of all keys together, which shared prefixes could multiply."""
_UNCOMPRESSED, _SNAPPY = 0, 1


def read_table(handle: FileHandle) -> Iterator[tuple[bytes, bytes]]:
    """Yield every key with its value, by ascending key.

    Raise FormatError if the file is compressed, damaged, truncated, inconsistent or hostile.
    """
    if not FOOTER <= handle.size <= MAX_FILE:
        expected, found = f"{FOOTER} to {MAX_FILE} bytes", handle.size
        raise handle.error("impossible size of a checkpoint index", expected=expected, found=found)
    data = handle.read(0, handle.size)
    if not data.endswith(MAGIC):
        raise handle.error(
            "does not end like a checkpoint index",
            expected=MAGIC.hex(" "),
            found=data[-8:].hex(" "),
            remedy=FETCH_AGAIN,
        )
    try:
        yield from _Table(handle, data).items()
    except WireError as error:
        raise handle.error("malformed index", found=error, remedy=FETCH_AGAIN) from None


class _Table:
    """A table whose parts are checked as they are reached."""

    def __init__(self, handle: FileHandle, data: bytes) -> None:
        self._handle = handle
        self._data = data
        self._end = len(data) - FOOTER

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key with its value."""
        footer = self._data[self._end :]
        _, at = _handle(footer, 0)  # of the metaindex, which TensorFlow leaves empty
        index, _ = _handle(footer, at)
        last, next_offset, total = None, 0, 0
        for _, value in _entries(self._block(*index)):
            (offset, size), _ = _handle(value, 0)
            if offset < next_offset:
                raise WireError(f"the block at {offset} overlaps the one before {next_offset}")
            next_offset = offset + size
            for key, content in _entries(self._block(offset, size)):
                if last is not None and key <= last:
                    raise WireError(f"key {key[:80]!r} does not follow {last[:80]!r}")
                total += len(key)
                if total > _MAX_KEYS:
                    raise WireError(f"keys of more than {_MAX_KEYS} bytes together")
                last = key
                yield key, content

    def _block(self, offset: int, size: int) -> bytes:
        """Return the content of the block at `offset`."""
        end = offset + size
        if end + 5 > self._end:
            raise WireError(
                f"a block from {offset} to {end + 5} exceeds the data up to {self._end}"
            )
        content, kind = self._data[offset:end], self._data[end]
        stored = int.from_bytes(self._data[end + 1 : end + 5], "little")
        if masked_crc32c(self._data[offset : end + 1]) != stored:
            raise WireError(f"the block at {offset} does not have the checksum {stored:#010x}")
        if kind == _SNAPPY:
            raise self._handle.error(
                "the index is compressed with Snappy, which is not supported: TensorFlow has "
                "written uncompressed indexes since version 1.2",
                expected="an uncompressed index",
                remedy="restore the checkpoint with TensorFlow 1.2 or later and save it again with "
                "tf.compat.v1.train.Saver().save",
            )
        if kind != _UNCOMPRESSED:
            raise WireError(f"the block at {offset} has the unknown compression type {kind}")
        return content


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return offset and size of a block, and the position after them."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of one block."""
    if len(block) < 4:
        raise WireError(f"a block of {len(block)} bytes")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise WireError(f"a block of {len(block)} bytes claims {restarts} restarts")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        own, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or shared + own > MAX_KEY or at + own + size > end:
            raise WireError(f"an entry of {shared} + {own} and {size} bytes does not fit at {at}")
        key = key[:shared] + block[at : at + own]
        at += own + size
        yield key, block[at - size : at]


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`, masked as LevelDB stores it."""
    return mask(google_crc32c.value(data))


def mask(crc: int) -> int:
    """Return a CRC-32C in the form that LevelDB stores."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
