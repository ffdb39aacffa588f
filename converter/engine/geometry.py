"""Where a block of canonical rows lies in another layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from converter.tensors import Rearrangement

Permutation = tuple[int, ...]


def core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths of the axes that matter: those longer than one."""
    return tuple(length for length in shape if length != 1)


def core_permutation(way: Rearrangement, source_shape: tuple[int, ...]) -> Permutation:
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
class Runs:
    """The canonical rows of a tensor as they lie in a layout, seen as (outer, rows, inner).

    Rows are indices of the first core axis of the canonical layout; each is found once in each of
    `outer` places, `inner` elements long.
    """

    outer: int
    rows: int
    inner: int

    @classmethod
    def of(cls, shape: tuple[int, ...], permutation: Permutation) -> Runs:
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
