"""Tensors whose elements are stored uncompressed in a file: contiguous or strided."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from converter.formats.base import Array, Segment, StoredTensor
from converter.formats.file_handle import FileHandle
from converter.tensors import PACKED_BITS, TensorSpec, itemsize, numpy_dtype

_GAP = 16 << 10
"""Bytes that take about as long to read as one read call; smaller gaps are read, too."""
_SCRATCH = 1 << 20
"""Bytes read at once from a contiguous tensor if there are gaps between the rows."""
_STRIDED_SCRATCH = 256 << 10
"""Bytes read at once from a strided tensor and gathered from, while they are in the cache."""

_PACKED_CHUNK = 64 << 10
"""Elements that are packed or unpacked at once; a multiple of 8."""


class ContiguousTensor(StoredTensor):
    """A tensor whose C-order bytes are in a file in runs.

    The segments ascend by `tensor_offset` and cover the tensor without gaps; otherwise the format's
    reader is wrong, and this raises `ValueError`.
    """

    def __init__(
        self,
        spec: TensorSpec,
        handle: FileHandle,
        segments: Sequence[Segment],
        byteorder: str = "little",
    ) -> None:
        self.spec = spec
        self.path = handle.path
        self.segments = tuple(segments)
        self.byteorder = byteorder
        self._handle = handle
        self._starts = [segment.tensor_offset for segment in self.segments]
        ends = [0, *(segment.tensor_offset + segment.nbytes for segment in self.segments)]
        if self._starts != ends[:-1] or ends[-1] != spec.nbytes:
            raise ValueError(f"{spec.name}: segments do not cover {spec.nbytes} bytes")

    @property
    def location(self) -> tuple[object, ...]:
        """File and offset, then the interpretation of the bytes."""
        first = self.segments[0].file_offset if self.segments else 0
        rest = tuple((segment.file_offset, segment.nbytes) for segment in self.segments)
        return (str(self.path), first, rest, self.byteorder, self.spec.dtype, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if out.size == 0:
            return
        shape, item = self.spec.shape, itemsize(self.spec.dtype)
        before = math.prod(shape[:axis])
        below = math.prod(shape[axis + 1 :]) * item
        stride = below * (shape[axis] if shape else 1)
        run = below * (out.shape[axis] if shape else 1)
        target = byte_view(out)
        if run == stride or before == 1:
            self._fill(target, start * below)
        elif max(run, stride - run) > _GAP:
            for index in range(before):
                piece = target[index * run : (index + 1) * run]
                self._fill(piece, index * stride + start * below)
        else:
            self._fill_across(target.reshape(before, run), stride, start * below)
        if self.byteorder != sys.byteorder:
            swap_bytes(out)

    def read_ahead(self, offset: int, nbytes: int) -> None:
        """Announce that bytes will soon be read; see `FileHandle.read_ahead`."""
        for segment in self.segments:
            first = max(0, offset - segment.tensor_offset)
            length = min(segment.nbytes, offset + nbytes - segment.tensor_offset) - first
            if length > 0:
                self._handle.read_ahead(segment.file_offset + first, length)

    def _fill_across(self, rows: Array, stride: int, first: int) -> None:
        """Fill each row of bytes from `first + row * stride`, reading over the gaps between."""
        count, run = rows.shape
        step = max(1, _SCRATCH // stride)
        scratch = np.empty(min(step, count) * stride, np.uint8)
        for row in range(0, count, step):
            part = min(step, count - row)
            length = (part - 1) * stride + run  # stops at the last byte of the last row
            self._fill(scratch[:length], row * stride + first)
            rows[row : row + part] = scratch[: part * stride].reshape(part, stride)[:, :run]

    def _fill(self, target: Array, offset: int) -> None:
        """Fill bytes from `offset` of the tensor, across the segments that hold them."""
        view = target.data
        index = bisect_right(self._starts, offset) - 1
        while view:
            segment = self.segments[index]
            skipped = offset - segment.tensor_offset
            part = view[: segment.nbytes - skipped]
            self._handle.fill(part, segment.file_offset + skipped, self.spec.name)
            view, offset, index = view[len(part) :], offset + len(part), index + 1


class PackedTensor(StoredTensor):
    """A contiguous tensor of elements of less than a byte, the first in the lowest bits."""

    def __init__(self, spec: TensorSpec, handle: FileHandle, offset: int) -> None:
        self.spec = spec
        self.path = handle.path
        self.offset = offset
        self._handle = handle

    @property
    def location(self) -> tuple[object, ...]:
        """File and offset, then the interpretation of the bytes."""
        return (str(self.path), self.offset, self.spec.dtype, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if out.size == 0:
            return
        shape = self.spec.shape
        below = math.prod(shape[axis + 1 :])
        stride = below * (shape[axis] if shape else 1)
        runs = byte_view(out).reshape(math.prod(shape[:axis]), -1)
        for index, run in enumerate(runs):
            for first in range(0, run.size, _PACKED_CHUNK):
                self._unpack(
                    run[first : first + _PACKED_CHUNK], index * stride + start * below + first
                )

    def _unpack(self, target: Array, first: int) -> None:
        """Fill bytes with the elements from number `first`."""
        width = PACKED_BITS[self.spec.dtype]
        begin, end = first * width, (first + target.size) * width
        data = np.empty(-(-end // 8) - begin // 8, np.uint8)
        self._handle.fill(data.data, self.offset + begin // 8, self.spec.name)
        bits = np.unpackbits(data, bitorder="little")[begin % 8 :][: end - begin]
        target[:] = np.packbits(bits.reshape(-1, width), 1, bitorder="little")[:, 0]


def pack(values: memoryview, width: int) -> memoryview:
    """Return elements of a byte each, of which `width` bits count, without the other bits."""
    elements = np.frombuffer(values, np.uint8)
    packed = np.empty(-(-elements.size * width // 8), np.uint8)
    for first in range(0, elements.size, _PACKED_CHUNK):
        part = elements[first : first + _PACKED_CHUNK]
        bits = np.unpackbits(part.reshape(-1, 1), 1, width, bitorder="little")
        data = np.packbits(bits, bitorder="little")
        packed[first * width // 8 :][: data.size] = data
    return packed.data


def check_target(spec: TensorSpec, out: Array, axis: int, start: int) -> None:
    """Raise `ValueError` unless `out` fits the requested part of the tensor."""
    shape = list(spec.shape)
    if shape:
        if not 0 <= axis < len(shape) or out.ndim != len(shape):
            raise ValueError(f"{spec.name}: no axis {axis} of {shape} for {list(out.shape)}")
        shape[axis] = out.shape[axis]
        if not 0 <= start <= start + shape[axis] <= spec.shape[axis]:
            raise ValueError(f"{spec.name}: {start} + {shape[axis]} is outside {list(spec.shape)}")
    if list(out.shape) != shape or out.dtype != numpy_dtype(spec.dtype):
        raise ValueError(f"{spec.name}: {out.dtype} {list(out.shape)} for {spec.describe()}")
    if not out.flags.c_contiguous:
        raise ValueError(f"{spec.name}: target is not C-contiguous")


def byte_view(array: Array) -> Array:
    """Return the bytes of a C-contiguous array, one-dimensional, without a copy."""
    return array.reshape(-1).view(np.uint8)


def swap_bytes(array: Array) -> None:
    """Reverse the bytes of each number in place; of a complex number, of each part."""
    unit = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    if unit > 1:
        byte_view(array).view(f"u{unit}").byteswap(inplace=True)


class StridedTensor(StoredTensor):
    """A tensor whose elements are at regular distances in a file.

    `offset` is that of the first element, in bytes from the start of the file; `strides` are the
    distances between neighbors along each axis, in elements, not negative.
    """

    def __init__(
        self,
        spec: TensorSpec,
        handle: FileHandle,
        offset: int,
        strides: Sequence[int],
        byteorder: str = "little",
    ) -> None:
        self.spec = spec
        self.path = handle.path
        self.offset = offset
        self.strides = tuple(strides)
        self.byteorder = byteorder
        self._handle = handle

    @property
    def location(self) -> tuple[object, ...]:
        """File and offset, then the interpretation of the bytes."""
        view = (self.spec.dtype, self.spec.shape, self.strides, self.byteorder)
        return (str(self.path), self.offset, *view)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if out.size == 0:
            return
        skipped = start * self.strides[axis] if out.ndim else 0
        self._gather(out, self.offset + skipped * itemsize(self.spec.dtype))
        if self.byteorder != sys.byteorder:
            swap_bytes(out)

    def _gather(self, out: Array, offset: int) -> None:
        """Fill `out`, whose axes have the view's strides, from file offset `offset`."""
        item = out.dtype.itemsize
        reach = [(n - 1) * stride for n, stride in zip(out.shape, self.strides, strict=True)]
        extent = (sum(reach) + 1) * item
        widest = max(range(out.ndim), key=lambda k: (out.shape[k] > 1, self.strides[k]), default=0)
        single = not out.ndim or out.shape[widest] == 1
        step = 0 if single else self.strides[widest] * item
        inner = 0 if single else extent - reach[widest] * item
        # A part that fits the scratch and has no gaps worth skipping is read at once.
        if single or (extent <= _STRIDED_SCRATCH and step - inner <= _GAP):
            buffer = np.empty(extent, np.uint8)
            self._handle.fill(buffer.data, offset, self.spec.name)
            strides = [stride * item for stride in self.strides]
            out[...] = np.ndarray(out.shape, numpy_dtype(self.spec.dtype), buffer, 0, strides)
            return
        count = 1 if step - inner > _GAP else max(1, (_STRIDED_SCRATCH - inner) // step + 1)
        for first in range(0, out.shape[widest], count):
            part = [slice(None)] * out.ndim
            part[widest] = slice(first, first + count)
            self._gather(out[tuple(part)], offset + first * step)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-contiguous array of `shape`."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether elements are in C order; axes of length one may have any stride."""
    if 0 in shape:
        return True
    expected = contiguous_strides(shape)
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, expected, strict=True))
