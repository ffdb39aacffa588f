"""Comparing stored tensors value by value, whatever their containers, dialects and dtypes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from converter.containers.base import Array
from converter.engine.numbers import cast
from converter.engine.rows import StoredRows
from converter.engine.scratch import Scratch
from converter.plan import Stored

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 4 << 20
"""Bytes of a tensor that are looked at together."""

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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def blocks(stored: Stored, scratch: Scratch, slot: str) -> Iterator[Array]:
    """The values in canonical layout, some whole rows at a time; each valid until the next."""
    rows = StoredRows(stored)
    shape = canonical_shape(stored)
    core = [length for length in shape if length != 1]
    count = core[0] if core else 1
    width = max(1, stored.tensor.spec.nbytes // max(1, count))
    step = max(1, BLOCK // width)
    for start in range(0, count, step):
        yield rows.read(start, min(count, start + step), scratch, slot)[1]


def canonical_shape(stored: Stored) -> tuple[int, ...]:
    """The shape in canonical layout."""
    return stored.rearrangement.shape(stored.tensor.spec.shape)


def values(stored: Stored) -> Array:
    """All values in canonical layout, as an array of one's own."""
    scratch = Scratch(0)
    whole = [block.copy().reshape(-1) for block in blocks(stored, scratch, "values")]
    joined = np.concatenate(whole) if whole else np.empty(0)
    return joined.reshape(canonical_shape(stored))


def compare(name: str, first: Stored, second: Stored) -> Difference:
    """How two stored tensors of the same canonical shape differ.

    Raises:
        CheckpointError: if one cannot be read.
        ValueError: if their shapes differ.
    """
    if canonical_shape(first) != canonical_shape(second):
        raise ValueError(f"{name}: {canonical_shape(first)} is not {canonical_shape(second)}")
    one, two = Scratch(BLOCK), Scratch(BLOCK)
    tally = _Tally()
    rows = (first, second)
    if first.tensor.spec.dtype == second.tensor.spec.dtype:
        pairs: Iterable[tuple[Array, Array]] = zip(
            blocks(first, one, "first"), blocks(second, two, "second"), strict=True
        )
    else:  # blocks of unequal dtypes hold unequal numbers of rows
        pairs = [(values(first), values(second))]
    for mine, theirs in pairs:
        tally.add(mine.reshape(-1), theirs.reshape(-1))
    return tally.difference(name, (rows[0].tensor.spec.dtype, rows[1].tensor.spec.dtype))


class _Tally:
    """Sums over the blocks of two tensors."""

    def __init__(self) -> None:
        self.elements = self.differing = 0
        self.largest = self.total = 0.0
        self.dot = self.first = self.second = 0.0

    def add(self, mine: Array, theirs: Array) -> None:
        self.elements += mine.size
        if mine.dtype == theirs.dtype and np.array_equal(
            mine.view(np.uint8), theirs.view(np.uint8)
        ):
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


def in_threads(function: Callable[[T], R], items: Sequence[T], jobs: int | None = None) -> list[R]:
    """`function` of every item, in order, worked out by a few threads."""
    jobs = max(1, jobs or min(os.cpu_count() or 1, 4))
    with ThreadPoolExecutor(jobs, thread_name_prefix="converter") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
