"""A file on another machine, of which parts are asked for: to list tensors takes a few of them.

`RangeSource` is all that is known of where a file lies; `RangedFile` makes a `FileHandle` of it
that every container can read: it keeps what it has asked for, asks for neighbours together, reads
ahead where reading goes on in order, and takes bounded memory.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from converter.formats.files import FileHandle

BLOCK = 4 << 10
"""Bytes that are kept or forgotten together. What describes a tensor is short and may lie
anywhere in the file; the bytes around it are of no use."""
_FIRST = 32 << 10
"""Bytes asked for at the start of a file, where most formats have their headers."""
_AHEAD = 512 << 10
"""The most bytes that are read ahead."""
_KEPT = 64 << 20
"""Bytes that are kept of a file."""
_PIECE = 8 << 20
"""Bytes of one request; larger parts are asked for in several."""
_AT_ONCE = 8
"""Requests that run at the same time."""


class RangeSource(Protocol):
    """The bytes of a file that lies elsewhere. Safe to read from several threads at once."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """The bytes from `offset`, which the file holds: exactly so many.

        Raises:
            CheckpointError: if they cannot be had; whatever can be tried again was tried again.

        """


class RangedFile(FileHandle):
    """A file that is read through `RangeSource`.

    Args:
        path: what to call it in messages.
        ranges: gives its bytes.
        beside: opens a file of the same directory by its name, ``None`` if there is none.

    """

    def __init__(
        self,
        path: Path,
        ranges: RangeSource,
        beside: Callable[[str], FileHandle | None] = lambda name: None,
    ) -> None:
        self.path = path
        self.size = ranges.size
        self.bytes_fetched = 0
        """Bytes that were asked for so far."""
        self._ranges: RangeSource | None = ranges
        self._beside = beside
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Forget what was asked for; further reads raise `ValueError`."""
        self._ranges = None
        with self._lock:
            self._blocks.clear()

    def beside(self, name: str) -> FileHandle | None:
        """The file called `name` in the same directory, opened; ``None`` if there is none."""
        return self._beside(name)

    def as_file_argument(self) -> BinaryIO:
        """An object that h5py and others read from."""
        return cast("BinaryIO", _Stream(self))

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """Ask for all of `places` at once; see `FileHandle.expect`."""
        wanted: set[int] = set()
        for offset, nbytes in places:
            if 0 <= offset < offset + nbytes <= self.size:
                wanted.update(_blocks_of(offset, offset + nbytes))
            if len(wanted) * BLOCK > _KEPT // 2:
                break  # the rest would push out what came first
        runs = list(_runs(self._missing(wanted)))
        if len(runs) > 1:
            with ThreadPoolExecutor(min(_AT_ONCE, len(runs))) as threads:
                list(threads.map(lambda run: self._fetch(*run), runs))

    def _fill(self, buffer: memoryview, offset: int) -> None:
        end = offset + len(buffer)
        if self._ranges is None:
            raise ValueError(f"{self.path} is closed")
        if end > self.size:
            raise EOFError(self.size)
        if len(buffer) > _KEPT // 8:  # values: nobody asks for them twice
            for start in range(0, len(buffer), _PIECE):
                stop = min(start + _PIECE, len(buffer))
                buffer[start:stop] = self._ask(offset + start, stop - start)
            return
        here = self._take(_blocks_of(offset, end))
        for index, block in here.items():
            start = index * BLOCK
            first, last = max(offset, start), min(end, start + len(block))
            buffer[first - offset : last - offset] = block[first - start : last - start]

    def _take(self, wanted: range) -> dict[int, bytes]:
        """The blocks that are `wanted`, those that are missing fetched."""
        with self._lock:
            here = {index: self._blocks[index] for index in wanted if index in self._blocks}
            for index in here:
                self._blocks.move_to_end(index)
        for first, stop in _runs([index for index in wanted if index not in here]):
            fetched = self._fetch(first, self._ahead(first, stop))
            here |= {index: fetched[index] for index in range(first, stop)}
        return here

    def _ahead(self, first: int, stop: int) -> int:
        """Where to stop that is to read from block `first` to `stop`.

        As much again as was read before it in one piece: a header of any length takes few
        requests, and at most as much is read in vain as is read.
        """
        longest = _AHEAD // BLOCK
        with self._lock:
            before = 0
            while before < longest and first - before - 1 in self._blocks:
                before += 1
            ahead = _FIRST // BLOCK if first == 0 else before + (stop - first if before else 0)
            limit = min(max(stop, first + min(ahead, longest)), -(-self.size // BLOCK))
            while stop < limit and stop not in self._blocks:
                stop += 1
        return stop

    def _missing(self, wanted: Collection[int]) -> list[int]:
        with self._lock:
            return sorted(index for index in wanted if index not in self._blocks)

    def _fetch(self, first: int, stop: int) -> dict[int, bytes]:
        """Ask for the blocks from `first` to `stop`, and keep them."""
        found: dict[int, bytes] = {}
        step = _PIECE // BLOCK
        for start in range(first, stop, step):
            offset = start * BLOCK
            end = min(min(start + step, stop) * BLOCK, self.size)
            data = self._ask(offset, end - offset)
            found |= {
                start + at // BLOCK: data[at : at + BLOCK] for at in range(0, len(data), BLOCK)
            }
        with self._lock:
            self._blocks.update(found)
            while len(self._blocks) * BLOCK > _KEPT:
                self._blocks.popitem(last=False)
        return found

    def _ask(self, offset: int, nbytes: int) -> bytes:
        ranges = self._ranges
        if ranges is None:
            raise ValueError(f"{self.path} is closed")
        data = ranges.read(offset, nbytes)
        if len(data) != nbytes:
            raise EOFError(offset + len(data))
        with self._lock:
            self.bytes_fetched += nbytes
        return data


def _blocks_of(offset: int, end: int) -> range:
    """The numbers of the blocks that hold the bytes from `offset` to `end`."""
    return range(offset // BLOCK, -(-end // BLOCK)) if end > offset else range(0)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs without gaps: first, and one behind the last."""
    for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        yield members[0], members[-1] + 1


class _Stream(io.RawIOBase):
    """A file handle as Python's own files are read."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._handle.size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._handle.size - self._place))
        self._handle.fill(view[:count], self._place)
        view[count:] = bytes(len(view) - count)  # the caller may not look at the count
        self._place += count
        return count
