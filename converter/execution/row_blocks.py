"""Blocks of rows, their permutation, and casting between dtypes."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.formats.base import Array
from converter.tensors import Rearrangement
from converter.tensors.spec import FLOATING

Permutation = tuple[int, ...]


def squeeze_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths of the axes that matter: those longer than one."""
    return tuple(length for length in shape if length != 1)


def squeezed_permutation(way: Rearrangement, source_shape: tuple[int, ...]) -> Permutation:
    """For each core axis of the target, its place among the core axes of the source.

    Raises:
        ValueError: if `source_shape` does not fit the source layout.

    """
    way.shape(source_shape)
    sizes = dict(zip(way.source.order, source_shape, strict=True))
    places = [axis for axis in way.source.names if sizes[axis] != 1]
    return tuple(places.index(axis) for axis in way.target.names if sizes[axis] != 1)


def inverse(permutation: Permutation) -> Permutation:
    """The permutation that undoes `permutation`."""
    return tuple(permutation.index(place) for place in range(len(permutation)))


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The canonical rows of a tensor as they lie in a layout, seen as (outer, rows, inner).

    Rows are indices of the first core axis of the canonical layout; each is found once in each of
    `outer` places, `inner` elements long.
    """

    outer: int
    rows: int
    inner: int

    @classmethod
    def of(cls, shape: tuple[int, ...], permutation: Permutation) -> RowLayout:
        """Args: the canonical core shape, and for each axis of the layout its canonical axis."""
        if not shape:
            return cls(1, 1, 1)
        lengths = [shape[axis] for axis in permutation]
        place = permutation.index(0)
        return cls(math.prod(lengths[:place]), shape[0], math.prod(lengths[place + 1 :]))

    def is_contiguous(self, start: int, stop: int) -> bool:
        """Whether the rows ``start .. stop`` lie in one piece."""
        return self.outer == 1 or stop - start == self.rows


def blocks(shape: tuple[int, ...], width: int, limit: int) -> Iterator[tuple[int, int]]:
    """Even ranges of rows, each at most `limit` bytes (or one row) at `width` bytes an element."""
    rows = shape[0] if shape else 1
    most = max(1, limit // max(1, math.prod(shape[1:]) * width))
    count = max(1, -(-rows // most))
    step = -(-rows // count)
    for start in range(0, max(rows, 1), max(step, 1)):
        yield start, min(start + step, rows)


_EXPONENT_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""All ones there means infinite or not a number."""

_CHUNK = 1 << 16
"""Elements looked at once, so that intermediate results stay in the cache."""


def count_non_finite(values: Array) -> int:
    """How many elements are infinite or not a number; 0 for dtypes that have no such.

    The usual answer, none, costs one pass: a sum is finite only if all its terms are.
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
    """Convert `values` into `out`, to the nearest number, ties to even; too large becomes infinite.

    numpy and ml_dtypes round so themselves, but for float64 to the ml_dtypes types: those go by
    way of float32 and round twice, unless the first rounding is to odd.
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
    """float64 to float32 such that a second rounding errs no more than a single one would.

    What float32 cannot hold is truncated and its last bit set: a narrower type then sees on which
    side of a tie the value lay (S. Boldo, G. Melquiond, "When double rounding is odd", 2005).
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
    """The bytes of `values`, which must be C-contiguous, as they lie in files."""
    if sys.byteorder == "big":
        values = values.byteswap()
    return values.reshape(-1).view(np.uint8).data


_log = logging.getLogger(__name__)
