"""Planned tensors in blocks of canonical rows: read, permuted, cast to another dtype."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from converter.errors import CheckpointError, Problem
from converter.formats.base import Array, StoredTensor
from converter.plan import InitializedTensor, ResizedTensor, SourceTensor, TargetTensor
from converter.tensors import FLOATING, Rearrangement, numpy_dtype, permute

Permutation = tuple[int, ...]
Check = Callable[[], None]
"""What is called between reads and writes, and stops the work by raising."""


def squeeze_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length one."""
    return tuple(length for length in shape if length != 1)


@lru_cache(4096)
def squeezed_permutation(
    rearrangement: Rearrangement, source_shape: tuple[int, ...]
) -> Permutation:
    """Return the squeezed source axis of each squeezed target axis; raise ValueError if unfit."""
    rearrangement.shape(source_shape)
    sizes = dict(zip(rearrangement.source.order, source_shape, strict=True))
    axes = [axis for axis in rearrangement.source.names if sizes[axis] != 1]
    return tuple(axes.index(axis) for axis in rearrangement.target.names if sizes[axis] != 1)


def inverse(permutation: Permutation) -> Permutation:
    """Return the permutation that undoes `permutation`."""
    return tuple(permutation.index(axis) for axis in range(len(permutation)))


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The canonical rows of a tensor in some layout, seen as (outer, rows, inner).

    Rows are indices of the first squeezed axis of the canonical layout; each occurs `outer` times,
    `inner` elements long.
    """

    outer: int
    rows: int
    inner: int

    @classmethod
    def of(cls, shape: tuple[int, ...], permutation: Permutation) -> RowLayout:
        """Return the layout of the squeezed canonical `shape` with its axes permuted."""
        if not shape:
            return cls(1, 1, 1)
        lengths = [shape[axis] for axis in permutation]
        axis = permutation.index(0)
        return cls(math.prod(lengths[:axis]), shape[0], math.prod(lengths[axis + 1 :]))

    def is_contiguous(self, start: int, stop: int) -> bool:
        """Return whether the rows ``start .. stop`` are contiguous."""
        return self.outer == 1 or stop - start == self.rows


def blocks(
    shape: tuple[int, ...], width: int, limit: int, least: int = 1
) -> Iterator[tuple[int, int]]:
    """Yield even ranges of rows of at most `limit` bytes (or one row) of `width`-byte elements.

    Each but the last is a multiple of `least` rows.
    """
    rows = shape[0] if shape else 1
    most = max(1, limit // max(1, math.prod(shape[1:]) * width))
    count = max(1, -(-rows // most))
    step = -(-rows // count // least) * least
    for start in range(0, max(rows, 1), max(step, 1)):
        yield start, min(start + step, rows)


_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of infinity, all of the exponent; larger ones without the sign are NaN."""
_SIGN = 0x8000
_CHUNK = 1 << 16
"""Elements processed at once, so that intermediate results stay in the cache."""


def count_non_finite(values: Array) -> int:
    """Return the number of infinite or NaN elements; 0 for integer dtypes.

    The usual case, none, takes no other memory: a sum is finite only if all its terms are. Of two
    bytes, integers of the same bits are compared: the largest signed one is the largest positive
    number, the largest unsigned one the negative number of largest magnitude.
    """
    name = values.dtype.name
    if name not in FLOATING or not values.size:
        return 0
    flat = values.reshape(-1)
    if name in ("float32", "float64"):
        with np.errstate(all="ignore"):
            if np.isfinite(np.add.reduce(flat)):
                return 0
    infinity = _INFINITY.get(name)
    count = 0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if infinity is None:
            count += part.size - int(np.count_nonzero(np.isfinite(part)))
            continue
        bits = part.view(np.uint16)
        if bits.view(np.int16).max() >= infinity or bits.max() >= infinity | _SIGN:
            count += int(np.count_nonzero((bits & infinity) == infinity))
    return count


def cast(values: Array, out: Array) -> None:
    """Convert `values` into `out`, to nearest, ties to even; overflow becomes infinite.

    numpy and ml_dtypes round so themselves, except from float64 to the ml_dtypes types: those go
    through float32 and round twice, unless the first rounding is to odd.
    """
    if values.dtype == np.float64 and out.dtype.kind == "V":
        wide, narrow = values.reshape(-1), out.reshape(-1)
        for start in range(0, wide.size, _CHUNK):
            odd = _round_to_odd(wide[start : start + _CHUNK])
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                np.copyto(narrow[start : start + _CHUNK], odd, casting="unsafe")
        return
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        np.copyto(out, values, casting="unsafe")


def _round_to_odd(values: Array) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Round float64 to float32 such that a second rounding gives the same as a single one.

    Inexact values are truncated and their last bit is set, which preserves the side of a tie for
    the narrower type (S. Boldo, G. Melquiond, "When double rounding is odd", 2005).
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        nearest = values.astype(np.float32)
        back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    inexact = (back != values) & np.isfinite(values)
    bits -= inexact & (np.abs(back) > np.abs(values))
    bits |= inexact
    return nearest


def little_endian(values: Array) -> memoryview:
    """Return the little-endian bytes of `values`, which must be C-contiguous."""
    if sys.byteorder == "big":
        values = values.byteswap()
    return values.reshape(-1).view(np.uint8).data


class BufferPool:
    """Named buffers of reused memory, each as large as a block or its largest array."""

    def __init__(self, block: int) -> None:
        self.block = block
        self._buffers: dict[str, Array] = {}

    def array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Return an uninitialized C-contiguous array, valid until `name` is requested again."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = np.empty(max(nbytes, self.block), np.uint8)
        return buffer[:nbytes].view(dtype).reshape(shape)


_CHUNK = 1 << 16
"""Elements compared at once, so that intermediate results stay in the cache."""
_MEAN_ROWS = 1024
"""Rows summed at once."""


class StoredTensorReader:
    """Reads a stored tensor by canonical rows."""

    def __init__(self, stored: SourceTensor) -> None:
        self.stored = stored
        tensor: StoredTensor = stored.tensor
        rearrangement = stored.rearrangement
        self.dtype = numpy_dtype(tensor.spec.dtype)
        self.to_canonical: Permutation = squeezed_permutation(rearrangement, tensor.spec.shape)
        self.layout: Permutation = inverse(self.to_canonical)
        """The canonical axis of each squeezed axis as stored."""
        sizes = dict(zip(rearrangement.source.order, tensor.spec.shape, strict=True))
        axes = [axis for axis in rearrangement.target.names if sizes[axis] != 1]
        self._axis = rearrangement.source.order.index(axes[0]) if axes else 0

    def read(self, start: int, stop: int, scratch: BufferPool, name: str) -> tuple[Array, Array]:
        """Return the rows in the stored layout, and in canonical layout.

        Both are valid until the buffer `name` is used again; equal layouts give one array. Raise
        CheckpointError if the file cannot be read.
        """
        tensor = self.stored.tensor
        shape = list(tensor.spec.shape)
        if squeeze_shape(tensor.spec.shape):
            shape[self._axis] = stop - start
        raw = scratch.array(name, self.dtype, tuple(shape))
        try:
            tensor.read_into(raw, self._axis, start)
        except OSError as error:
            raise CheckpointError(f"{tensor.path}: cannot be read: {error.strerror}") from error
        lengths = [shape[axis] for axis, full in enumerate(tensor.spec.shape) if full != 1]
        if self.to_canonical == tuple(range(len(lengths))):
            return raw, raw
        canonical = scratch.array(f"{name} canonical", self.dtype, raw.shape)
        permute(raw, lengths, self.to_canonical, canonical)
        return raw, canonical


class ResizedTensorReader:
    """Reads a stored tensor with fewer or additional rows, by canonical rows."""

    def __init__(self, tensor: TargetTensor, origin: ResizedTensor) -> None:
        self._stored = StoredTensorReader(origin)
        self._initializer = origin.initializer
        self.dtype = self._stored.dtype
        shape = squeeze_shape(tensor.spec.shape)
        self.layout: Permutation = tuple(range(len(shape)))
        self._tail = shape[1:]
        self._stored_rows = squeeze_shape(origin.rearrangement.shape(origin.tensor.spec.shape))[0]
        self._mean: Array | None = None

    def read(self, start: int, stop: int, scratch: BufferPool, name: str) -> tuple[Array, Array]:
        """Return the rows, twice; see `StoredTensorReader.read`."""
        rows = scratch.array(f"{name} resized", self.dtype, (stop - start, *self._tail))
        kept = max(min(stop, self._stored_rows) - start, 0)
        if kept:
            _, stored = self._stored.read(start, start + kept, scratch, name)
            rows[:kept] = stored.reshape(rows[:kept].shape)
        if kept < len(rows):
            self._fill(rows[kept:], start + kept, scratch, name)
        return rows, rows

    def _fill(self, rows: Array, start: int, scratch: BufferPool, name: str) -> None:
        if self._initializer is not None:
            self._initializer.fill(rows, start * rows[0].size)
            return
        if self._mean is None:
            total = np.zeros(self._tail, np.float64)
            # Blocks of one size, so that the sum does not depend on the memory budget.
            for first in range(0, self._stored_rows, _MEAN_ROWS):
                last = min(first + _MEAN_ROWS, self._stored_rows)
                _, stored = self._stored.read(first, last, scratch, name)
                total += _as_float64(stored).reshape(last - first, *self._tail).sum(axis=0)
            self._mean = total / self._stored_rows
        cast(np.ascontiguousarray(np.broadcast_to(self._mean, rows.shape)), rows)


class InitializedTensorReader:
    """Generates a newly initialized tensor by canonical rows."""

    def __init__(self, tensor: TargetTensor, origin: InitializedTensor) -> None:
        self._initializer = origin.initializer
        self.dtype = numpy_dtype(tensor.spec.dtype)
        shape = squeeze_shape(tensor.spec.shape)
        self.layout: Permutation = tuple(range(len(shape)))
        self._tail = shape[1:]

    def read(self, start: int, stop: int, scratch: BufferPool, name: str) -> tuple[Array, Array]:
        """Return the rows, twice; see `StoredTensorReader.read`."""
        rows = scratch.array(name, self.dtype, (stop - start, *self._tail))
        self._initializer.fill(rows, start * (rows[0].size if len(rows) else 0))
        return rows, rows


RowReader = StoredTensorReader | ResizedTensorReader | InitializedTensorReader


def reader_for(tensor: TargetTensor) -> RowReader:
    """Return the reader of the rows of `tensor`."""
    if isinstance(tensor.origin, ResizedTensor):
        return ResizedTensorReader(tensor, tensor.origin)
    if isinstance(tensor.origin, SourceTensor):
        return StoredTensorReader(tensor.origin)
    return InitializedTensorReader(tensor, tensor.origin)


UNTIE = (
    "to keep an output layer that is not the embeddings: --set tie_word_embeddings=false, "
    "in compose --set decoder.tie_word_embeddings=false"
)


class DuplicateCheck:
    """Compares another stored copy of a tensor with the written one, bit for bit."""

    def __init__(self, name: str, first: SourceTensor, other: SourceTensor) -> None:
        self._name = name
        self._first = first
        self._rows = StoredTensorReader(other)
        self._differing = 0
        self._largest = 0.0

    def compare(
        self, canonical: Array, start: int, stop: int, scratch: BufferPool, check: Check
    ) -> None:
        """Compare the canonical rows ``start .. stop``; unequal dtypes by value, in float64."""
        check()
        _, other = self._rows.read(start, stop, scratch, "copy")
        mine, theirs = canonical.reshape(-1), other.reshape(-1)
        for first in range(0, mine.size, _CHUNK):
            self._compare(mine[first : first + _CHUNK], theirs[first : first + _CHUNK])

    def _compare(self, mine: Array, theirs: Array) -> None:
        if mine.dtype == theirs.dtype:
            bits = np.dtype(f"V{mine.itemsize}" if mine.itemsize > 8 else f"u{mine.itemsize}")
            unequal = mine.view(bits) != theirs.view(bits)
        else:
            mine, theirs = _as_float64(mine), _as_float64(theirs)
            unequal = (mine != theirs) & ~(np.isnan(mine) & np.isnan(theirs))
        count = int(np.count_nonzero(unequal))
        if count:
            self._differing += count
            difference = np.abs(_as_float64(mine[unequal]) - _as_float64(theirs[unequal]))
            self._largest = max(self._largest, float(np.max(difference)))

    def problem(self) -> Problem | None:
        """Return the problem, if any, once every row has been compared."""
        if not self._differing:
            return None
        first, other = self._first, self._rows.stored
        return Problem(
            "copies of one tensor differ",
            file=str(other.tensor.path),
            tensor=other.tensor.spec.name,
            expected=f"the values of {first.tensor.spec.name} in {first.tensor.path}"
            f" ({self._name})",
            found=f"{self._differing:,} different elements, by up to {self._largest:.3g}",
            remedy=UNTIE if first.tensor.spec.name != other.tensor.spec.name else None,
        )


def _as_float64(values: Array) -> Array:
    if values.dtype.kind == "c":
        return np.abs(values)
    wide = np.empty(values.shape, np.float64)
    cast(values, wide)
    return wide


def copy_checks(tensor: TargetTensor) -> list[DuplicateCheck]:
    """Return the checks of the copies of `tensor` that are not the very same bytes."""
    origin = tensor.origin
    if not isinstance(origin, SourceTensor):
        return []

    def identity(stored: SourceTensor) -> tuple[object, ...]:
        tensor = stored.tensor
        return tensor.location, tensor.spec.dtype, StoredTensorReader(stored).to_canonical

    return [
        DuplicateCheck(tensor.spec.name, origin, copy)
        for copy in tensor.duplicates
        if identity(copy) != identity(origin)
    ]
