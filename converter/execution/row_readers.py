"""Reading of planned tensors by blocks of canonical rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converter.errors import CheckpointError, Problem
from converter.execution.row_blocks import (
    Check,
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
