"""Partitioned variables: one tensor that a TensorFlow bundle keeps in pieces along an axis.

The entry under the variable's name lists the pieces; each piece is an entry of its own, under a
key that spells name, starts and lengths in an order-preserving code. Source:
``saved_tensor_slice_util.cc`` and ``ordered_code.cc`` of tensorflow 2.20.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.formats.base import Array, StoredTensor
from converter.formats.lazy_tensors import check_target
from converter.tensors import TensorSpec, numpy_dtype

PIECE = b"\0"
"""What the key of every piece starts with."""

_HEADERS = (0, 0x80, 0xC0, 0xE0, 0xF0, 0xF8, 0xFC, 0xFE, 0xFF, 0xFF80, 0xFFC0)
"""What marks a signed number of 1, 2, … bytes; from 9 bytes on, in two bytes."""

Extent = tuple[int, int]
"""Start and length along an axis; a length of -1 is the whole axis."""


def slice_key(name: str, extents: Sequence[Extent]) -> bytes:
    """The key under which the piece of variable `name` with these extents is stored."""
    text = name.encode().replace(b"\0", b"\0\xff")  # UTF-8 has no 0xff to mark as well
    key = PIECE + text + b"\0\1" + _unsigned(len(extents))
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
    """Along which axis the pieces follow one another, and their places in that order.

    Args:
        shape: of the whole variable.
        slices: the extents of each piece.

    Raises:
        ValueError: if they do not tile the variable along one axis.

    """
    if any(len(extents) != len(shape) for extents in slices):
        raise ValueError(f"pieces of other than {len(shape)} axes")
    axes = {
        axis
        for extents in slices
        for axis, extent in enumerate(extents)
        if extent not in ((0, -1), (0, shape[axis]))
    }
    if len(axes) > 1:
        raise ValueError("pieces along more than one axis")
    axis = min(axes, default=0)
    order = sorted(range(len(slices)), key=lambda index: tuple(slices[index][axis : axis + 1]))
    behind = 0
    for index in order if shape else ():
        start, length = slices[index][axis]
        if start != behind:
            raise ValueError(f"a piece begins at {start} of axis {axis} instead of {behind}")
        behind = start + (shape[axis] if length == -1 else length)
    if shape and behind != shape[axis]:
        raise ValueError(f"the pieces end at {behind} of {shape[axis]} along axis {axis}")
    return axis, order


class PartitionedTensor(StoredTensor):
    """A tensor whose values lie in pieces that follow one another along an axis.

    Args:
        spec: of the whole.
        pieces: in order; together as long as the whole along `axis`, and of its shape elsewhere.
        axis: along which they follow one another.

    """

    def __init__(self, spec: TensorSpec, pieces: Sequence[StoredTensor], axis: int) -> None:
        self.spec = spec
        self.path = pieces[0].path
        self.pieces = tuple(pieces)
        self.axis = axis

    @property
    def location(self) -> tuple[object, ...]:
        """Where the first piece lies, then all of them."""
        places = tuple(piece.location for piece in self.pieces)
        return (*places[0][:2], places, self.axis, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read a part along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        stop = start + out.shape[axis]
        behind = 0
        for piece in self.pieces:
            begin, behind = behind, behind + piece.spec.shape[self.axis]
            place = [slice(None)] * out.ndim
            first, last = start, stop
            if axis == self.axis:
                first, last = max(start, begin), min(stop, behind)
                if first >= last:
                    continue
                place[axis] = slice(first - start, last - start)
                first, last = first - begin, last - begin
            else:
                place[self.axis] = slice(begin, behind)
            target = out[tuple(place)]
            if target.flags.c_contiguous:
                piece.read_into(target, axis, first)
            else:
                part = np.empty(target.shape, numpy_dtype(self.spec.dtype))
                piece.read_into(part, axis, first)
                target[...] = part
