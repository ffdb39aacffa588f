"""Comparing stored tensors value by value, whatever their containers, dialects and dtypes."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from converter.execution.row_blocks import cast
from converter.execution.row_readers import BufferPool, ResizedTensorReader, StoredTensorReader
from converter.formats.base import Array
from converter.plan import SourceTensor

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 10 << 20
"""Bytes of a tensor that are looked at together: the largest matrix of a base-sized model, since
some rows of what lies transposed are as dear to read as all of them."""

_BYTES = 1 << 18
"""Bytes compared at once."""

_CHUNK = 1 << 16
"""Elements turned into float64 at once."""


@dataclass(frozen=True)
class Difference:
    """How two tensors of one canonical name and shape differ."""

    name: str
    elements: int
    differing: int
    """Elements that are not the same number, bit for bit once both are in the wider dtype."""
    max_abs: float
    mean_abs: float
    cosine: float
    """Of the two as vectors; 1 for equal ones, not a number where one of them is zero."""
    dtypes: tuple[str, str]

    @property
    def exact(self) -> bool:
        """Whether all values are the same."""
        return self.differing == 0

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it; numbers that are none are null."""
        return {
            "elements": self.elements,
            "differing": self.differing,
            "max_abs": _finite(self.max_abs),
            "mean_abs": _finite(self.mean_abs),
            "cosine": _finite(self.cosine),
            "dtypes": list(self.dtypes),
        }


@dataclass(frozen=True)
class Provenance:
    """Where the values of one tensor come from."""

    source: str | None
    """The source, or ``None`` of a fresh tensor."""
    verdict: str
    """``equal``, ``fresh``, or what is wrong."""
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        described: dict[str, Any] = {"source": self.source, "verdict": self.verdict}
        if self.difference and not self.difference.exact:
            described["difference"] = self.difference.to_dict()
        return described


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ranges(stored: SourceTensor) -> Iterator[tuple[int, int]]:
    """First and last-but-one canonical row of each block, for any copy of the same tensor."""
    core = [length for length in canonical_shape(stored) if length != 1]
    count = core[0] if core else 1
    width = max(1, stored.tensor.spec.nbytes // max(1, count))
    step = max(1, BLOCK // width)
    for start in range(0, count, step):
        yield start, min(count, start + step)


def blocks(stored: SourceTensor, scratch: BufferPool, param: str) -> Iterator[Array]:
    """The values in canonical layout, some whole rows at a time; each valid until the next."""
    rows = StoredTensorReader(stored)
    for start, stop in ranges(stored):
        yield rows.read(start, stop, scratch, param)[1]


def canonical_shape(stored: SourceTensor) -> tuple[int, ...]:
    """The shape in canonical layout."""
    return stored.rearrangement.shape(stored.tensor.spec.shape)


def values(stored: SourceTensor) -> Array:
    """All values in canonical layout, as an array of one's own."""
    scratch = BufferPool(0)
    whole = [block.copy().reshape(-1) for block in blocks(stored, scratch, "values")]
    joined = np.concatenate(whole) if whole else np.empty(0)
    return joined.reshape(canonical_shape(stored))


def compare(
    name: str, first: SourceTensor, second: SourceTensor, rows: ResizedTensorReader | None = None
) -> Difference:
    """How two stored tensors of the same canonical shape differ.

    Args:
        name: canonical.
        first: the one.
        second: the other.
        rows: its rows, where it is to be measured in another size than it has.

    Raises:
        CheckpointError: if one cannot be read.
        ValueError: if their shapes differ.

    """
    if rows is None and canonical_shape(first) != canonical_shape(second):
        raise ValueError(f"{name}: {canonical_shape(first)} is not {canonical_shape(second)}")
    dtypes = (first.tensor.spec.dtype, second.tensor.spec.dtype)
    scratch = scratch_of_thread()
    one, two = StoredTensorReader(first), rows or StoredTensorReader(second)
    for thorough in (False, True):
        tally = _Tally(thorough)
        for start, stop in ranges(first):
            mine = one.read(start, stop, scratch, "first")[1]
            tally.add(mine, two.read(start, stop, scratch, "second")[1])
        if not tally.differing:
            break
    return tally.difference(name, dtypes)


def same_bits(mine: Array, theirs: Array) -> bool:
    """Whether two contiguous arrays of one dtype and size hold the same bytes."""
    one, two = mine.reshape(-1).view(np.uint8), theirs.reshape(-1).view(np.uint8)
    whole = one.size - one.size % 8
    for start in range(0, whole, _BYTES):  # what is compared at once stays in the cache
        part = slice(start, min(whole, start + _BYTES))
        if not np.array_equal(one[part].view(np.uint64), two[part].view(np.uint64)):
            return False
    return bool(np.array_equal(one[whole:], two[whole:]))


class _Tally:
    """Sums over the blocks of two tensors.

    Args:
        thorough: whether equal blocks are summed as well, as the cosine needs it; told only once
            it is known that the tensors differ, since most do not.

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
            a = _wide(mine[start : start + _CHUNK])
            b = _wide(theirs[start : start + _CHUNK])
            unequal = _unequal(mine[start : start + _CHUNK], theirs[start : start + _CHUNK], a, b)
            self.differing += int(np.count_nonzero(unequal))
            with np.errstate(all="ignore"):
                apart = np.abs(a - b)[unequal]
                self.dot += float(a @ b)
                self.first += float(a @ a)
                self.second += float(b @ b)
            if apart.size:
                apart[np.isnan(apart)] = math.inf
                self.largest = max(self.largest, float(np.max(apart)))
                self.total += float(np.sum(apart))

    def difference(self, name: str, dtypes: tuple[str, str]) -> Difference:
        cosine = 1.0
        if self.differing:
            norm = math.sqrt(self.first) * math.sqrt(self.second)
            cosine = self.dot / norm if norm else math.nan
        mean = self.total / self.elements if self.elements else 0.0
        return Difference(name, self.elements, self.differing, self.largest, mean, cosine, dtypes)


def _unequal(mine: Array, theirs: Array, a: Array, b: Array) -> Array:
    """Which elements differ in any bit; where dtypes differ, in any bit of their float64."""
    if mine.dtype == theirs.dtype and mine.dtype.kind != "c":
        bits = np.dtype(f"u{mine.itemsize}")
        return np.asarray(mine.view(bits) != theirs.view(bits))
    return np.asarray((a.view(np.uint64) != b.view(np.uint64)) & ~(np.isnan(a) & np.isnan(b)))


def _wide(array: Array) -> Array:
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array).view(array.real.dtype).astype(np.float64)
    wide = np.empty(array.shape, np.float64)
    cast(array, wide)
    return wide


_own = threading.local()


def scratch_of_thread() -> BufferPool:
    """The working memory of this thread: fresh pages for each tensor would cost as much as
    reading it does. Ends with the thread, so with `thread_map`.
    """
    if not hasattr(_own, "scratch"):
        _own.scratch = BufferPool(BLOCK)
    found: BufferPool = _own.scratch
    return found


def thread_map(
    function: Callable[[T], R],
    items: Sequence[T],
    jobs: int | None = None,
    after: Callable[[T], object] = lambda item: None,
) -> list[R]:
    """`function` of every item, in order, worked out by a few threads.

    Args:
        function: what to do.
        items: with what.
        jobs: threads; as many as processors, at most 4, unless given.
        after: called with each item once it is done, in order, by the calling thread.

    """
    jobs = max(1, jobs or min(os.cpu_count() or 1, 4))
    with ThreadPoolExecutor(jobs, thread_name_prefix="converter") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            results = []
            for item, future in zip(items, futures, strict=True):
                results.append(future.result())
                after(item)
            return results
        except BaseException:
            for future in futures:
                future.cancel()
            raise
