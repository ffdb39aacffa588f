"""Partitioned variables: one tensor that a TensorFlow checkpoint stores in parts along an axis.

The entry under the variable's name lists the parts; each part is an entry of its own, under a key
that encodes name, starts and lengths in an order-preserving code. Source:
``saved_tensor_slice_util.cc`` and ``ordered_code.cc`` of tensorflow 2.20.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.formats.base import Array, StoredTensor
from converter.formats.stored_tensors import check_target
from converter.tensors import TensorSpec, numpy_dtype

PART_KEY_PREFIX = b"\0"
"""First byte of the key of every part."""
_HEADERS = (0, 0x80, 0xC0, 0xE0, 0xF0, 0xF8, 0xFC, 0xFE, 0xFF, 0xFF80, 0xFFC0)
"""Prefixes of a signed number of 1, 2, … bytes; from 9 bytes on, two bytes long."""

Extent = tuple[int, int]
"""Start and length along an axis; a length of -1 is the complete axis."""


def slice_key(name: str, extents: Sequence[Extent]) -> bytes:
    """Return the key of the part of variable `name` with these extents."""
    text = name.encode().replace(b"\0", b"\0\xff")  # UTF-8 has no 0xff to mark as well
    key = PART_KEY_PREFIX + text + b"\0\1" + _unsigned(len(extents))
    return key + b"".join(_signed(number) for extent in extents for number in extent)


def _unsigned(number: int) -> bytes:
    size = (number.bit_length() + 7) // 8
    return bytes([size]) + number.to_bytes(size, "big")


def _signed(number: int) -> bytes:
    bits = (~number if number < 0 else number).bit_length()
    size = bits // 7 + 1
    header = _HEADERS[size] << 8 * (size - (2 if size > 8 else 1))
    code = number & (1 << 8 * size) - 1
    return (code ^ header).to_bytes(size, "big")


def partition(shape: Sequence[int], slices: Sequence[Sequence[Extent]]) -> tuple[int, list[int]]:
    """Return the axis along which a variable is partitioned, and the order of its parts along it.

    `slices` are the extents of each part; raise ValueError if they do not tile `shape`.
    """
    if any(len(extents) != len(shape) for extents in slices):
        raise ValueError(f"parts of other than {len(shape)} axes")
    axes = {
        axis
        for extents in slices
        for axis, extent in enumerate(extents)
        if extent not in ((0, -1), (0, shape[axis]))
    }
    if len(axes) > 1:
        raise ValueError("parts along more than one axis")
    axis = min(axes, default=0)
    order = sorted(range(len(slices)), key=lambda index: tuple(slices[index][axis : axis + 1]))
    end = 0
    for index in order if shape else ():
        start, length = slices[index][axis]
        if start != end:
            raise ValueError(f"a part begins at {start} of axis {axis} instead of {end}")
        end = start + (shape[axis] if length == -1 else length)
    if shape and end != shape[axis]:
        raise ValueError(f"the parts end at {end} of {shape[axis]} along axis {axis}")
    return axis, order


class PartitionedTensor(StoredTensor):
    """A tensor stored in consecutive parts along `axis`, together as long as the tensor."""

    def __init__(self, spec: TensorSpec, parts: Sequence[StoredTensor], axis: int) -> None:
        self.spec = spec
        self.path = parts[0].path
        self.parts = tuple(parts)
        self.axis = axis

    @property
    def location(self) -> tuple[object, ...]:
        """Location of the first part, then of all parts."""
        locations = tuple(part.location for part in self.parts)
        return (*locations[0][:2], locations, self.axis, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        stop = start + out.shape[axis]
        end = 0
        for part in self.parts:
            begin, end = end, end + part.spec.shape[self.axis]
            index = [slice(None)] * out.ndim
            first, last = start, stop
            if axis == self.axis:
                first, last = max(start, begin), min(stop, end)
                if first >= last:
                    continue
                index[axis] = slice(first - start, last - start)
                first, last = first - begin, last - begin
            else:
                index[self.axis] = slice(begin, end)
            target = out[tuple(index)]
            if target.flags.c_contiguous:
                part.read_into(target, axis, first)
            else:
                values = np.empty(target.shape, numpy_dtype(self.spec.dtype))
                part.read_into(values, axis, first)
                target[...] = values
