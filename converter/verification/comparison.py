"""Comparison of stored tensors value by value, across formats, dialects and dtypes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from converter.cleanup import thread_pool
from converter.execution.rows import BufferPool, ResizedTensorReader, StoredTensorReader, cast
from converter.formats.base import Array
from converter.plan import SourceTensor
from converter.system import processors
from converter.verification.result import Difference

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 10 << 20
"""Bytes read at once: the largest matrix of a base-sized model, since reading some rows of a
transposed matrix costs as much as reading all of them."""

_BYTES = 1 << 18
"""Bytes compared at once."""

_CHUNK = 1 << 16
"""Elements cast to float64 at once."""


_AHEAD = 256 << 20
"""Bytes that the system reads ahead of the threads."""


class ReadAhead:
    """Announces the tensors that threads will soon read: disks are slow if they hear of it late.

    `items` holds the tensors of each item, in the order in which threads take them.
    """

    def __init__(self, items: Iterable[Sequence[SourceTensor]]) -> None:
        self._items = iter(items)
        self._ahead = 0
        self._lock = threading.Lock()

    def begin(self, item: Sequence[SourceTensor]) -> None:
        """Announce what follows, as a thread begins to read `item`."""
        due: list[SourceTensor] = []
        with self._lock:
            while self._ahead < _AHEAD and (following := next(self._items, None)) is not None:
                self._ahead += _nbytes(following)
                due += following
            self._ahead -= _nbytes(item)
        for stored in due:
            stored.tensor.read_ahead(0, _AHEAD)

    @staticmethod
    def advance(stored: SourceTensor, done: int, nbytes: int) -> None:
        """Announce what follows in a tensor of which `done` bytes were read, and `nbytes` next."""
        if stored.tensor.spec.nbytes > _AHEAD:
            stored.tensor.read_ahead(done + _AHEAD, nbytes)


def _nbytes(item: Iterable[SourceTensor]) -> int:
    return sum(stored.tensor.spec.nbytes for stored in item)


def ranges(
    stored: SourceTensor, within: tuple[int, int] | None = None, block: int | None = None
) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each block of canonical rows, all or those `within` a range.

    They are equal for all copies of a tensor.
    """
    core = [length for length in canonical_shape(stored) if length != 1]
    count = core[0] if core else 1
    width = max(1, stored.tensor.spec.nbytes // max(1, count))
    step = max(1, (BLOCK if block is None else block) // width)
    first, last = within or (0, count)
    for start in range(first, last, step):
        yield start, min(last, start + step)


def blocks(stored: SourceTensor, scratch: BufferPool, param: str) -> Iterator[Array]:
    """Yield the values in canonical layout, block by block; each is valid until the next one."""
    rows = StoredTensorReader(stored)
    for start, stop in ranges(stored):
        yield rows.read(start, stop, scratch, param)[1]


def canonical_shape(stored: SourceTensor) -> tuple[int, ...]:
    """Return the shape in canonical layout."""
    return stored.rearrangement.shape(stored.tensor.spec.shape)


def values(stored: SourceTensor) -> Array:
    """Return all values in canonical layout, as a new array."""
    parts = [block.copy().reshape(-1) for block in blocks(stored, BufferPool(0), "values")]
    joined = np.concatenate(parts) if parts else np.empty(0)
    return joined.reshape(canonical_shape(stored))


def compare(
    name: str, first: SourceTensor, second: SourceTensor, rows: ResizedTensorReader | None = None
) -> Difference:
    """Measure the difference between two stored tensors of the same canonical shape.

    If given, `rows` reads the second tensor after resizing. Raise CheckpointError if one cannot be
    read; raise ValueError if their shapes differ.
    """
    if rows is None and canonical_shape(first) != canonical_shape(second):
        raise ValueError(f"{name}: {canonical_shape(first)} is not {canonical_shape(second)}")
    scratch = thread_buffers()
    one, two = StoredTensorReader(first), rows or StoredTensorReader(second)
    for thorough in (False, True):
        tally = _Tally(thorough)
        for start, stop in ranges(first):
            mine = one.read(start, stop, scratch, "first")[1]
            tally.add(mine, two.read(start, stop, scratch, "second")[1])
        if not tally.differing:
            break
    return tally.difference(name, (first.tensor.spec.dtype, second.tensor.spec.dtype))


def same_bits(mine: Array, theirs: Array) -> bool:
    """Return whether two contiguous arrays of one dtype and size hold the same bytes."""
    one, two = mine.reshape(-1).view(np.uint8), theirs.reshape(-1).view(np.uint8)
    aligned = one.size - one.size % 8
    for start in range(0, aligned, _BYTES):  # chunks that stay in the cache
        part = slice(start, min(aligned, start + _BYTES))
        if not np.array_equal(one[part].view(np.uint64), two[part].view(np.uint64)):
            return False
    return bool(np.array_equal(one[aligned:], two[aligned:]))


class _Tally:
    """Sums over the blocks of two tensors.

    Only the cosine of differing tensors needs the equal blocks too, so only then is it thorough.
    """

    def __init__(self, thorough: bool) -> None:
        self.thorough = thorough
        self.elements = self.differing = 0
        self.largest = self.total = 0.0
        self.dot = self.first = self.second = 0.0

    def add(self, mine: Array, theirs: Array) -> None:
        mine, theirs = mine.reshape(-1), theirs.reshape(-1)
        self.elements += mine.size
        if not self.thorough and mine.dtype == theirs.dtype and same_bits(mine, theirs):
            return
        for start in range(0, mine.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            a, b = as_float64(mine[part]), as_float64(theirs[part])
            unequal = _unequal(mine[part], theirs[part], a, b)
            self.differing += int(np.count_nonzero(unequal))
            with np.errstate(all="ignore"):
                distances = np.abs(a - b)[unequal]
                self.dot += float(a @ b)
                self.first += float(a @ a)
                self.second += float(b @ b)
            if distances.size:
                distances[np.isnan(distances)] = math.inf
                self.largest = max(self.largest, float(np.max(distances)))
                self.total += float(np.sum(distances))

    def difference(self, name: str, dtypes: tuple[str, str]) -> Difference:
        cosine = 1.0
        if self.differing:
            norm = math.sqrt(self.first) * math.sqrt(self.second)
            cosine = self.dot / norm if norm else math.nan
        mean = self.total / self.elements if self.elements else 0.0
        return Difference(name, self.elements, self.differing, self.largest, mean, cosine, dtypes)


def _unequal(mine: Array, theirs: Array, a: Array, b: Array) -> Array:
    """Return which elements differ in any bit; of different dtypes, in any bit as float64."""
    if mine.dtype == theirs.dtype and mine.dtype.kind != "c":
        bits = np.dtype(f"u{mine.itemsize}")
        return np.asarray(mine.view(bits) != theirs.view(bits))
    return np.asarray((a.view(np.uint64) != b.view(np.uint64)) & ~(np.isnan(a) & np.isnan(b)))


def as_float64(array: Array) -> Array:
    """Return the values as float64; of complex numbers, both parts."""
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array).view(array.real.dtype).astype(np.float64)
    wide = np.empty(array.shape, np.float64)
    cast(array, wide)
    return wide


_local = threading.local()


def thread_buffers() -> BufferPool:
    """Return the buffers of this thread, which live until it ends (with `thread_map`).

    Allocating new pages for each tensor would cost as much as reading it.
    """
    if not hasattr(_local, "buffers"):
        _local.buffers = BufferPool(BLOCK)
    buffers: BufferPool = _local.buffers
    return buffers


def thread_map(
    function: Callable[[T], R],
    items: Sequence[T],
    jobs: int | None = None,
    after: Callable[[T], object] = lambda item: None,
    reads: Callable[[T], Sequence[SourceTensor]] = lambda item: (),
) -> list[R]:
    """Return `function` of every item, in order, computed by a thread pool.

    There are `jobs` threads, by default one per CPU, at most 4. The calling thread calls `after`
    with each finished item, in order. What an item `reads` is announced before its turn.
    """
    jobs = max(1, jobs or min(processors(), 4))
    ahead = ReadAhead(map(reads, items))

    def call(item: T) -> R:
        ahead.begin(reads(item))
        return function(item)

    with thread_pool(jobs) as pool:
        futures = [pool.submit(call, item) for item in items]
        results = []
        for item, future in zip(items, futures, strict=True):
            results.append(future.result())
            after(item)
        return results
