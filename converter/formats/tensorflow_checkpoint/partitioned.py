"""Partitioned variables: one tensor that a TensorFlow checkpoint stores in parts.

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


def grid_order(shape: Sequence[int], slices: Sequence[Sequence[Extent]]) -> list[int]:
    """Return the order of the parts of a variable by the values they hold.

    `slices` are the extents of each part. Raise ValueError if they are not a grid over `shape`:
    each axis cut into consecutive ranges, and one part for each combination of them.
    """
    if any(len(extents) != len(shape) for extents in slices):
        raise ValueError(f"parts of other than {len(shape)} axes")
    full = [
        tuple(
            (start, size if length == -1 else length)
            for (start, length), size in zip(extents, shape, strict=True)
        )
        for extents in slices
    ]
    cells = 1
    for axis, size in enumerate(shape):
        ranges = sorted({extents[axis] for extents in full})
        end = 0
        for start, length in ranges:
            if start != end or length < 0:
                raise ValueError(f"a part begins at {start} of axis {axis} instead of {end}")
            end = start + length
        if end != size:
            raise ValueError(f"the parts end at {end} of {size} along axis {axis}")
        cells *= len(ranges)
    if not cells == len(full) == len(set(full)):
        raise ValueError(f"{len(set(full))} different parts where a grid has {cells}")
    return sorted(range(len(full)), key=full.__getitem__)


class PartitionedTensor(StoredTensor):
    """A tensor stored in parts that are a grid, each with the indexes where it begins."""

    def __init__(self, spec: TensorSpec, parts: Sequence[tuple[Sequence[int], StoredTensor]]):
        self.spec = spec
        self.parts = parts
        self.path = parts[0][1].path

    @property
    def location(self) -> tuple[object, ...]:
        """Location of the first part, then of all parts."""
        locations = tuple((tuple(begin), part.location) for begin, part in self.parts)
        return (*locations[0][1][:2], locations, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        stop = start + out.shape[axis]
        for begin, part in self.parts:
            first = max(start, begin[axis])
            last = min(stop, begin[axis] + part.spec.shape[axis])
            if first >= last or not part.spec.size:
                continue
            index = [
                slice(at, at + length) for at, length in zip(begin, part.spec.shape, strict=True)
            ]
            index[axis] = slice(first - start, last - start)
            target = out[tuple(index)]
            if target.flags.c_contiguous:
                part.read_into(target, axis, first - begin[axis])
            else:
                values = np.empty(target.shape, numpy_dtype(self.spec.dtype))
                part.read_into(values, axis, first - begin[axis])
                target[...] = values
