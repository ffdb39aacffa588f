"""Writing of tensors into a preallocated file."""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from converter.errors import OutputError, Problem
from converter.execution.rows import Check, RowLayout
from converter.formats.base import PreallocatedFile, Segment, read_exactly
from converter.formats.stored_tensors import pack
from converter.system import open_for_update, reserve_space, write_at

_READ_BACK = 1 << 20
"""Bytes read at once for a CRC-32 over bytes already in the file."""
_RUNS_BETWEEN_CHECKS = 256

_PIECE = 1 << 20
"""Bytes written at once. Larger writes make the kernel look for larger pages, which can take three
times as long as the copy itself (Linux 6.18, ext4)."""


class FileWriter:
    """Writes tensors' bytes by offset, from any thread, and computes their CRC-32 where needed."""

    def __init__(self, output: PreallocatedFile, nbytes: int) -> None:
        self.lock = threading.Lock()
        self._output = output
        self._nbytes = nbytes
        self._crc32: dict[str, int] = {}
        self._fd = -1
        try:
            self._fd = open_for_update(output.path)
            reserve_space(self._fd)
        except OSError as error:
            self.close()
            raise write_error(output.path, nbytes, error) from error

    def write_rows(
        self, name: str, values: memoryview, rows: RowLayout, start: int, stop: int, check: Check
    ) -> None:
        """Write the canonical rows ``start .. stop`` of a tensor.

        `values` are the rows' little-endian bytes in the file's layout, where `rows` gives their
        position. `check` is called every few hundred writes; it stops the work by raising. Raise
        OutputError if the file cannot be written.
        """
        segments = self._output.segments[name]
        if name in self._output.packed:
            values = pack(values, self._output.packed[name])
            with self._reporting():
                self._write(segments, len(values) * start // max(1, stop - start), values)
            return
        row_bytes = len(values) // ((stop - start) * rows.outer) if len(values) else 0
        length = row_bytes * (stop - start)
        with self._reporting():
            if rows.is_contiguous(start, stop):
                self._write(segments, row_bytes * start, values)
                if self._output.needs_crc32:
                    self._crc32[name] = zlib.crc32(values, self._crc32.get(name, 0) if start else 0)
                return
            for outer in range(rows.outer):
                if outer % _RUNS_BETWEEN_CHECKS == 0:
                    check()
                first = outer * length
                offset = (outer * rows.rows + start) * row_bytes
                self._write(segments, offset, values[first : first + length])
            if self._output.needs_crc32 and stop == rows.rows:
                self._crc32[name] = self._crc32_in_file(segments, check)

    @property
    def path(self) -> Path:
        """The file."""
        return self._output.path

    def segments(self, name: str) -> tuple[Segment, ...]:
        """Return the segments of the tensor called `name`."""
        return self._output.segments[name]

    def accept_existing(self, name: str, check: Check) -> None:
        """Accept the bytes of a tensor that are already in the file."""
        if self._output.needs_crc32:
            with self._reporting():
                self._crc32[name] = self._crc32_in_file(self._output.segments[name], check)

    def finalize(self) -> None:
        """Finish the file; see `PreallocatedFile.finalize`."""
        self.close()
        with self._reporting():
            self._output.finalize(self._crc32)

    def close(self) -> None:
        """Close the file, if it is open."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _reporting(self) -> AbstractContextManager[None]:
        return reporting_write_errors(self._output.path, self._nbytes)

    def _write(self, segments: tuple[Segment, ...], offset: int, values: memoryview) -> None:
        """Write at `offset` of a tensor, across its segments."""
        if len(segments) == 1:
            _pwrite_all(self._fd, values, segments[0].file_offset + offset)
            return
        for segment in segments:
            skip = offset - segment.tensor_offset
            if 0 <= skip < segment.nbytes and len(values):
                part = values[: segment.nbytes - skip]
                _pwrite_all(self._fd, part, segment.file_offset + skip)
                values, offset = values[len(part) :], offset + len(part)

    def _crc32_in_file(self, segments: tuple[Segment, ...], check: Check) -> int:
        crc = 0
        buffer = memoryview(bytearray(_READ_BACK))
        for segment in segments:
            for done in range(0, segment.nbytes, _READ_BACK):
                check()
                part = buffer[: min(_READ_BACK, segment.nbytes - done)]
                read_exactly(self._fd, part, segment.file_offset + done)
                crc = zlib.crc32(part, crc)
        return crc


def _pwrite_all(fd: int, values: memoryview, offset: int) -> None:
    """Write all of `values` from `offset` of the file."""
    while len(values):
        count = write_at(fd, values[:_PIECE], offset)
        values, offset = values[count:], offset + count


@contextmanager
def reporting_write_errors(path: Path, needed: int) -> Iterator[None]:
    """Turn an OSError in the ``with`` block into `write_error`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, needed, error) from error


def write_error(path: Path, needed: int, error: OSError) -> OutputError:
    """Return the error for `path` that cannot be written, with the space needed and free."""
    expected = f"{needed:,} bytes of space"
    try:
        found = f"{shutil.disk_usage(path.parent).free:,} bytes free"
    except OSError:
        found = None
    what = error.strerror or str(error)
    return OutputError(
        f"{path.name} cannot be written: {what}",
        [Problem(what, file=str(path), expected=expected, found=found)],
    )
