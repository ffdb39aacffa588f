"""A tensor that is a view of its storage: with strides, overlapping, or transposed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np

from converter.containers.base import Array, StoredTensor
from converter.containers.contiguous import check_target, swap_bytes
from converter.containers.files import FileHandle
from converter.tensors import TensorSpec, itemsize, numpy_dtype

_SCRATCH = 256 << 10
"""Bytes that are read at once and then gathered from, while they are in the cache."""
_GAP = 16 << 10
"""Unwanted bytes that cost about as much to read as a read call."""


class StridedTensor(StoredTensor):
    """A tensor whose elements lie at regular distances in a file.

    Args:
        spec: name, dtype and shape of the view.
        handle: the file, open as long as the tensor is read.
        offset: of the first element, in bytes from the start of the file.
        strides: for each axis the distance between neighbours, in elements, not negative.
        byteorder: of the stored values, ``"little"`` or ``"big"``.
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
        """File and offset, then all that makes two views of the same bytes equal."""
        view = (self.spec.dtype, self.spec.shape, self.strides, self.byteorder)
        return (str(self.path), self.offset, *view)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read a part along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if out.size == 0:
            return
        skipped = start * self.strides[axis] if out.ndim else 0
        self._gather(out, self.offset + skipped * itemsize(self.spec.dtype))
        if self.byteorder != sys.byteorder:
            swap_bytes(out)

    def _gather(self, out: Array, offset: int) -> None:
        """Fill `out`, whose axes have the view's strides, with what starts at byte `offset`."""
        item = out.dtype.itemsize
        reach = [(n - 1) * stride for n, stride in zip(out.shape, self.strides, strict=True)]
        extent = (sum(reach) + 1) * item
        widest = max(range(out.ndim), key=lambda k: (out.shape[k] > 1, self.strides[k]), default=0)
        if not out.ndim or out.shape[widest] == 1 or self._is_dense(extent, reach, widest, item):
            buffer = np.empty(extent, np.uint8)
            self._handle.fill(buffer.data, offset, self.spec.name)
            strides = [stride * item for stride in self.strides]
            out[...] = np.ndarray(out.shape, numpy_dtype(self.spec.dtype), buffer, 0, strides)
            return
        step = self.strides[widest] * item
        inner = extent - reach[widest] * item
        count = 1 if step - inner > _GAP else max(1, (_SCRATCH - inner) // step + 1)
        for first in range(0, out.shape[widest], count):
            part = [slice(None)] * out.ndim
            part[widest] = slice(first, first + count)
            self._gather(out[tuple(part)], offset + first * step)

    def _is_dense(self, extent: int, reach: list[int], widest: int, item: int) -> bool:
        """Whether `extent` bytes fit the scratch and hold no gaps worth jumping over."""
        inner = extent - reach[widest] * item
        return extent <= _SCRATCH and self.strides[widest] * item - inner <= _GAP


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous array of `shape`."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements lie in C order; axes of length one may have any stride."""
    if 0 in shape:
        return True
    expected = contiguous_strides(shape)
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, expected, strict=True))
