"""The bytes of a pickle, read from a file a piece at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converter.containers.files import damaged

MAX_BYTES = 64 << 20
"""The longest pickle that is read; one of 100,000 tensors takes about 20 MB."""
_MAX_LINE = 4096
"""Bytes of the longest line in the operations that take text."""
_CHUNK = 64 << 10


class ByteSource:
    """Bytes ``start .. end`` of something, read in order and only as far as needed.

    Args:
        path: the file, for messages.
        fetch: gives so many bytes from an offset.
        start: the first byte's offset.
        end: the offset behind the last byte; at most `MAX_BYTES` are read.
    """

    def __init__(
        self, path: Path, fetch: Callable[[int, int], bytes], start: int, end: int
    ) -> None:
        self.path = path
        self._fetch = fetch
        self._buffer = b""
        self._base = start
        self._at = 0
        self._end = min(end, start + MAX_BYTES)

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            FormatError: if there are fewer.
        """
        end = self._at + count
        if end > len(self._buffer):
            self._refill(count)
            end = count
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def line(self) -> bytes:
        """The bytes up to the next line feed, which is read, too."""
        end = self._buffer.find(b"\n", self._at, self._at + _MAX_LINE)
        if end < 0:
            self._refill(min(_MAX_LINE, self._end - self.position))
            end = self._buffer.find(b"\n", 0, _MAX_LINE)
        if end < 0:
            raise damaged(self.path, f"malformed pickle at byte {self.position}: endless line")
        line = self._buffer[self._at : end]
        self._at = end + 1
        return line

    def _refill(self, count: int) -> None:
        """Make at least `count` bytes available."""
        start = self.position
        if count > self._end - start:
            raise damaged(
                self.path,
                "the pickle ends early",
                expected=f"{count} bytes at {start}",
                found=f"{self._end - start}",
                remedy="fetch or write the file again",
            )
        size = min(max(count, _CHUNK), self._end - start)
        self._buffer, self._base, self._at = self._fetch(start, size), start, 0
