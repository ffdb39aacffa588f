"""Remote files, read by byte ranges: listing tensors takes a few requests.

`RangeSource` is the transport; `RangedFile` is a `FileHandle` on top of it that every format can
read. It caches blocks in bounded memory, joins requests for neighboring ranges, and reads ahead
where reads are sequential.

A request takes about as long as a megabyte. So a file with headers between its values
(`FileHandle.has_scattered_headers`) of up to `WHOLE` bytes is read by three requests, the last of
which fetches the rest of it; a larger one by many short ones.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from converter.cleanup import thread_pool
from converter.formats.file_handle import FileHandle

BLOCK = 4 << 10
"""Bytes of a cache block. A tensor's header is short and may be anywhere in the file; the bytes
around it are of no use."""
_FIRST = 32 << 10
"""Bytes requested at the start of a file, where most formats have their headers."""
_AHEAD = 1 << 20
"""The most bytes that are read ahead."""
_GAP = 64 << 10
"""The longest gap between two reads that is read as well; `_AHEAD` after the first request."""
_SECOND = 256 << 10
"""The least that is read ahead in a header at the start of the file that is longer than that."""
WHOLE = 64 << 20
"""The largest file with headers between its values that is read completely."""
_CACHE = 64 << 20
"""Cached bytes of a file."""
_REQUEST = 8 << 20
"""Bytes of one request; larger ranges take several."""
_CONCURRENT = 8
"""Requests at the same time."""


class RangeSource(Protocol):
    """The bytes of a remote file. Safe to read from several threads at once."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` from `offset`; raise CheckpointError if not available."""


class RangedFile(FileHandle):
    """A file, called `path` in messages, that is read through a `RangeSource`."""

    is_remote = True

    def __init__(
        self,
        path: Path,
        ranges: RangeSource,
        open_sibling: Callable[[str], FileHandle | None] = lambda name: None,
    ) -> None:
        self.path = path
        self.size = ranges.size
        self.bytes_fetched = 0
        """Bytes requested so far."""
        self._ranges: RangeSource | None = ranges
        self._open_sibling = open_sibling
        self._requests = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Empty the cache; further reads raise `ValueError`."""
        self._ranges = None
        with self._lock:
            self._blocks.clear()

    def open_sibling(self, name: str) -> FileHandle | None:
        """Open the file called `name` in the same directory; return ``None`` if not found."""
        return self._open_sibling(name)

    def as_file_argument(self) -> BinaryIO:
        """Return a file object for h5py and other libraries."""
        return cast("BinaryIO", _Stream(self))

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Request all of `ranges` concurrently; see `FileHandle.prefetch`."""
        blocks: set[int] = set()
        if self.has_scattered_headers and self.size <= WHOLE:
            return  # the third request reads all of it
        for offset, nbytes in ranges:
            if 0 <= offset < offset + nbytes <= self.size:
                blocks.update(_blocks_of(offset, offset + nbytes))
            if len(blocks) * BLOCK > _CACHE // 2:
                break  # the rest would evict the first
        runs = list(_runs(self._missing(blocks)))
        if runs:
            with thread_pool(min(_CONCURRENT, len(runs))) as threads:
                list(threads.map(lambda run: self._fetch(*run), runs))

    def _fill(self, buffer: memoryview, offset: int) -> None:
        end = offset + len(buffer)
        if self._ranges is None:
            raise ValueError(f"{self.path} is closed")
        if end > self.size:
            raise EOFError(self.size)
        if len(buffer) > _CACHE // 8:  # values, which are read only once
            for start in range(0, len(buffer), _REQUEST):
                stop = min(start + _REQUEST, len(buffer))
                buffer[start:stop] = self._request(offset + start, stop - start)
            return
        for index, block in self._take(_blocks_of(offset, end)).items():
            start = index * BLOCK
            first, last = max(offset, start), min(end, start + len(block))
            buffer[first - offset : last - offset] = block[first - start : last - start]

    def _take(self, indices: range) -> dict[int, bytes]:
        """Return blocks by index, fetching those that are not in the cache."""
        with self._lock:
            blocks = {index: self._blocks[index] for index in indices if index in self._blocks}
            for index in blocks:
                self._blocks.move_to_end(index)
        while missing := [index for index in indices if index not in blocks]:
            fetched = self._fetch(*self._extended(*next(_runs(missing))))
            blocks |= {index: fetched[index] for index in missing if index in fetched}
        return blocks

    def _extended(self, first: int, stop: int) -> tuple[int, int]:
        """Return the blocks to request where those from `first` to `stop` are missing.

        Reads ahead as much as was read before `first`, more at the start of the file, and closes
        short gaps: a header of any length takes few requests, and what is read in vain is in
        proportion to what is needed.
        """
        end, longest = -(-self.size // BLOCK), _AHEAD // BLOCK
        with self._lock:
            if self.has_scattered_headers and self.size <= WHOLE and self._requests >= 2:
                missing = [index for index in range(end) if index not in self._blocks]
                return missing[0], missing[-1] + 1
            begin = first
            gap = (_GAP if self._requests > 1 else _AHEAD) // BLOCK
            while begin > 0 and first - begin <= gap and begin - 1 not in self._blocks:
                begin -= 1
            before = 0
            while before < min(longest, begin) and begin - before - 1 in self._blocks:
                before += 1
            if not before:  # too far from what was read
                begin = first
            ahead = _FIRST // BLOCK if first == 0 else before + (stop - begin if before else 0)
            if before and before == begin:
                ahead = max(2 * before, _SECOND // BLOCK)
            limit = min(max(stop, begin + min(ahead, longest)), end)
            while stop < limit and stop not in self._blocks:
                stop += 1
        return begin, stop

    def _missing(self, indices: Collection[int]) -> list[int]:
        with self._lock:
            return sorted(index for index in indices if index not in self._blocks)

    def _fetch(self, first: int, stop: int) -> dict[int, bytes]:
        """Request the blocks from `first` to `stop`, and cache them."""
        blocks: dict[int, bytes] = {}
        step = (WHOLE if self.has_scattered_headers else _REQUEST) // BLOCK
        for start in range(first, stop, step):
            offset = start * BLOCK
            end = min(min(start + step, stop) * BLOCK, self.size)
            data = self._request(offset, end - offset)
            blocks |= {
                start + at // BLOCK: data[at : at + BLOCK] for at in range(0, len(data), BLOCK)
            }
        with self._lock:
            self._blocks.update(blocks)
            while len(self._blocks) * BLOCK > _CACHE:
                self._blocks.popitem(last=False)
        return blocks

    def _request(self, offset: int, nbytes: int) -> bytes:
        ranges = self._ranges
        if ranges is None:
            raise ValueError(f"{self.path} is closed")
        data = ranges.read(offset, nbytes)
        if len(data) != nbytes:
            raise EOFError(offset + len(data))
        with self._lock:
            self.bytes_fetched += nbytes
            self._requests += 1
        return data


def _blocks_of(offset: int, end: int) -> range:
    """Return the indices of the blocks that hold the bytes from `offset` to `end`."""
    return range(offset // BLOCK, -(-end // BLOCK)) if end > offset else range(0)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs without gaps of ascending numbers: first, and last plus one."""
    for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        yield members[0], members[-1] + 1


class _Stream(io.RawIOBase):
    """A file handle as a Python file object."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._handle.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._handle.size - self._position))
        self._handle.fill(view[:count], self._position)
        view[count:] = bytes(len(view) - count)  # the caller may not look at the count
        self._position += count
        return count
