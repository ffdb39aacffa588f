"""Reading a planned tensor piece by piece, in canonical layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from converter.errors import CheckpointError, Problem
from converter.execution.row_blocks import (
    Permutation,
    cast,
    inverse,
    squeeze_shape,
    squeezed_permutation,
)
from converter.formats.base import Array, StoredTensor
from converter.plan import InitializedTensor, ResizedTensor, SourceTensor, TargetTensor
from converter.tensors import numpy_dtype
from converter.tensors.rearrangement import permute


class BufferPool:
    """Named buffers, each of the size of a block or of the largest array asked of it."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._buffers: dict[str, Array] = {}

    def array(self, param: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """An uninitialized C-contiguous array, valid until the slot is asked for again."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(param)
        if buffer is None or buffer.nbytes < nbytes:
            self._buffers.pop(param, None)
            buffer = self._buffers[param] = np.empty(max(nbytes, self._block), np.uint8)
        return buffer[:nbytes].view(dtype).reshape(shape)


_CHUNK = 1 << 16
"""Elements compared at once, so that intermediate results stay in the cache."""

_MEAN_ROWS = 1024
"""Rows that are summed at once."""


class StoredTensorReader:
    """A stored tensor, read by canonical rows."""

    def __init__(self, stored: SourceTensor) -> None:
        self.stored = stored
        tensor: StoredTensor = stored.tensor
        way = stored.rearrangement
        self.dtype = numpy_dtype(tensor.spec.dtype)
        self.to_canonical: Permutation = squeezed_permutation(way, tensor.spec.shape)
        self.layout: Permutation = inverse(self.to_canonical)
        """For each core axis as stored, its place among the canonical ones."""
        sizes = dict(zip(way.source.order, tensor.spec.shape, strict=True))
        long = [axis for axis in way.target.names if sizes[axis] != 1]
        self._axis = way.source.order.index(long[0]) if long else 0

    def read(self, start: int, stop: int, scratch: BufferPool, param: str) -> tuple[Array, Array]:
        """The rows as they are stored, and the same in canonical layout.

        Both are valid until `param` is read again; where the layouts agree they are one array.

        Raises:
            CheckpointError: if the system cannot read the file.
            FormatError: if the file ends early or its bytes cannot be decoded.

        """
        tensor = self.stored.tensor
        shape = list(tensor.spec.shape)
        if squeeze_shape(tensor.spec.shape):
            shape[self._axis] = stop - start
        raw = scratch.array(param, self.dtype, tuple(shape))
        try:
            tensor.read_into(raw, self._axis, start)
        except OSError as error:
            raise CheckpointError(f"{tensor.path}: cannot be read: {error.strerror}") from error
        lengths = [shape[axis] for axis, whole in enumerate(tensor.spec.shape) if whole != 1]
        if self.to_canonical == tuple(range(len(lengths))):
            return raw, raw
        canonical = scratch.array(f"{param} canonical", self.dtype, raw.shape)
        permute(raw, lengths, self.to_canonical, canonical)
        return raw, canonical


class ResizedTensorReader:
    """A stored tensor with fewer or with further rows, by canonical rows."""

    def __init__(self, tensor: TargetTensor, origin: ResizedTensor) -> None:
        self._stored = StoredTensorReader(origin)
        self._initializer = origin.initializer
        self.dtype = self._stored.dtype
        shape = squeeze_shape(tensor.spec.shape)
        self.layout: Permutation = tuple(range(len(shape)))
        self._tail = shape[1:]
        self._there = squeeze_shape(origin.rearrangement.shape(origin.tensor.spec.shape))[0]
        self._mean: Array | None = None

    def read(self, start: int, stop: int, scratch: BufferPool, param: str) -> tuple[Array, Array]:
        """As `StoredRows.read`; the two arrays are one."""
        rows = scratch.array(f"{param} resized", self.dtype, (stop - start, *self._tail))
        kept = max(min(stop, self._there) - start, 0)
        if kept:
            _, known = self._stored.read(start, start + kept, scratch, param)
            rows[:kept] = known.reshape(rows[:kept].shape)
        if kept < len(rows):
            self._fill(rows[kept:], start + kept, scratch, param)
        return rows, rows

    def _fill(self, rows: Array, start: int, scratch: BufferPool, param: str) -> None:
        if self._initializer is not None:
            self._initializer.fill(rows, start * rows[0].size)
            return
        if self._mean is None:
            total = np.zeros(self._tail, np.float64)
            # Blocks of one size, so that the sum does not depend on the memory there is.
            for first in range(0, self._there, _MEAN_ROWS):
                last = min(first + _MEAN_ROWS, self._there)
                _, known = self._stored.read(first, last, scratch, param)
                total += _as_float64(known).reshape(last - first, *self._tail).sum(axis=0)
            self._mean = total / self._there
        cast(np.ascontiguousarray(np.broadcast_to(self._mean, rows.shape)), rows)


class InitializedTensorReader:
    """A tensor that is drawn anew, by canonical rows."""

    def __init__(self, tensor: TargetTensor, origin: InitializedTensor) -> None:
        self._initializer = origin.initializer
        self.dtype = numpy_dtype(tensor.spec.dtype)
        shape = squeeze_shape(tensor.spec.shape)
        self.layout: Permutation = tuple(range(len(shape)))
        self._tail = shape[1:]

    def read(self, start: int, stop: int, scratch: BufferPool, param: str) -> tuple[Array, Array]:
        """As `StoredRows.read`; the two arrays are one."""
        rows = scratch.array(param, self.dtype, (stop - start, *self._tail))
        self._initializer.fill(rows, start * (rows[0].size if len(rows) else 0))
        return rows, rows


Rows = StoredTensorReader | ResizedTensorReader | InitializedTensorReader


def reader_for(tensor: TargetTensor) -> Rows:
    """Where the rows of `tensor` come from."""
    if isinstance(tensor.origin, ResizedTensor):
        return ResizedTensorReader(tensor, tensor.origin)
    if isinstance(tensor.origin, SourceTensor):
        return StoredTensorReader(tensor.origin)
    return InitializedTensorReader(tensor, tensor.origin)


class DuplicateCheck:
    """Compares another stored copy of a tensor with the one that is written, bit for bit."""

    def __init__(self, name: str, first: SourceTensor, other: SourceTensor) -> None:
        self._name = name
        self._first = first
        self._rows = StoredTensorReader(other)
        self._differing = 0
        self._largest = 0.0

    def compare(
        self,
        canonical: Array,
        start: int,
        stop: int,
        scratch: BufferPool,
        check: Callable[[], None],
    ) -> None:
        """Compare the canonical rows ``start .. stop``.

        Copies of unequal dtypes are compared by value, in float64.
        """
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
            apart = np.abs(_as_float64(mine[unequal]) - _as_float64(theirs[unequal]))
            self._largest = max(self._largest, float(np.max(apart)))

    def problem(self) -> Problem | None:
        """What is wrong, once every row has been compared."""
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
        )


def _as_float64(values: Array) -> Array:
    if values.dtype.kind == "c":
        return np.abs(values)
    wide = np.empty(values.shape, np.float64)
    cast(values, wide)
    return wide


def copy_checks(tensor: TargetTensor) -> list[DuplicateCheck]:
    """The copies of `tensor` that need comparing: not those that are the very same bytes."""
    origin = tensor.origin
    if not isinstance(origin, SourceTensor):
        return []
    place = (
        origin.tensor.location,
        origin.tensor.spec.dtype,
        StoredTensorReader(origin).to_canonical,
    )
    return [
        DuplicateCheck(tensor.spec.name, origin, copy)
        for copy in tensor.copies
        if (copy.tensor.location, copy.tensor.spec.dtype, StoredTensorReader(copy).to_canonical)
        != place
    ]
