"""Blocks of rows, their permutation, and casting between dtypes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.formats.base import Array
from converter.tensors import Rearrangement
from converter.tensors.spec import FLOATING

Permutation = tuple[int, ...]
Check = Callable[[], None]
"""What is called between reads and writes, and stops the work by raising."""


def squeeze_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length one."""
    return tuple(length for length in shape if length != 1)


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


def blocks(shape: tuple[int, ...], width: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield even ranges of rows of at most `limit` bytes (or one row) of `width`-byte elements."""
    rows = shape[0] if shape else 1
    most = max(1, limit // max(1, math.prod(shape[1:]) * width))
    count = max(1, -(-rows // most))
    step = -(-rows // count)
    for start in range(0, max(rows, 1), max(step, 1)):
        yield start, min(start + step, rows)


_EXPONENT_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""Exponent bits; all ones mean infinite or NaN."""
_CHUNK = 1 << 16
"""Elements processed at once, so that intermediate results stay in the cache."""


def count_non_finite(values: Array) -> int:
    """Return the number of infinite or NaN elements; 0 for integer dtypes.

    The usual case, none, takes one pass: a sum is finite only if all its terms are.
    """
    name = values.dtype.name
    if name not in FLOATING or not values.size:
        return 0
    flat = values.reshape(-1)
    if name in ("float32", "float64"):
        with np.errstate(all="ignore"):
            if np.isfinite(np.add.reduce(flat)):
                return 0
    bits = _EXPONENT_BITS.get(name)
    count = 0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if bits is None:
            count += part.size - int(np.count_nonzero(np.isfinite(part)))
        else:
            count += int(np.count_nonzero((part.view(np.uint16) & bits) == bits))
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
