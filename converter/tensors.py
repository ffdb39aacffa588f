"""Tensors independent of files and models: dtypes, layouts with named axes, rearrangement.

``np.ascontiguousarray(w.T)`` uses one element of every cache line that it loads; copying as many
source rows at a time as fit a cache line is 3 to 6 times faster (``benchmarks/``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np

ML_DTYPES = (
    "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
).split()
_NUMPY = (
    "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "complex64 complex128"
).split()

NAMES: tuple[str, ...] = (*_NUMPY, *ML_DTYPES)
FLOATING: frozenset[str] = frozenset({"float64", "float32", "float16", *ML_DTYPES})

PACKED_BITS = {"float6_e3m2fn": 6, "float6_e2m3fn": 6, "float4_e2m1fn": 4}
"""Further dtypes → bits of one element in files; in memory it takes a byte."""


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the native-endian numpy dtype called `name`.

    Raise KeyError if it is in neither `NAMES` nor `PACKED_BITS`.
    """
    if name in ML_DTYPES or name in PACKED_BITS:
        import ml_dtypes  # takes 10 ms, which float32 files do not need

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended
    if name not in _NUMPY:
        raise KeyError(name)
    return np.dtype(name)


@cache
def itemsize(name: str) -> int:
    """Return the bytes of one element of the dtype called `name`."""
    return int(numpy_dtype(name).itemsize)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, dtype name (see `converter.tensors.NAMES`) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values in C order, in a file."""
        if self.dtype in PACKED_BITS:
            return -(-self.size * PACKED_BITS[self.dtype] // 8)
        return self.size * itemsize(self.dtype)

    def describe(self) -> str:
        """Return ``float32 [768, 3072]``, for messages."""
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor in storage order, outermost first."""

    order: tuple[str, ...]

    def __post_init__(self) -> None:
        named = self.names
        if len(set(named)) != len(named):
            raise ValueError(f"axes {' '.join(self.order)!r} repeat an axis")
        for axis in self.order:
            if axis != "1" and not axis.isidentifier():
                raise ValueError(f"{axis!r} is neither an axis name nor 1")

    @classmethod
    def parse(cls, text: str) -> Axes:
        """Parse ``"out in"``; the empty string is a scalar."""
        return cls(tuple(text.split()))

    def __str__(self) -> str:
        return " ".join(self.order)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes, without the literal ones."""
        return tuple(axis for axis in self.order if axis != "1")

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Return the shape in this layout, given each named axis' length."""
        return tuple(1 if axis == "1" else sizes[axis] for axis in self.order)


@dataclass(frozen=True)
class Rearrangement:
    """The exact, invertible rearrangement from one layout to another of the same named axes."""

    source: Axes
    target: Axes

    def __post_init__(self) -> None:
        if set(self.source.names) != set(self.target.names):
            raise ValueError(f"axes '{self.source}' and '{self.target}' have different names")

    @cached_property
    def permutation(self) -> tuple[int, ...]:
        """Named source axis of each named target axis, as indices."""
        return tuple(self.source.names.index(axis) for axis in self.target.names)

    @property
    def keeps_bytes(self) -> bool:
        """Whether the values are in the same order in both layouts."""
        return self.permutation == tuple(range(len(self.permutation)))

    @property
    def inverse(self) -> Rearrangement:
        """The rearrangement from target to source."""
        return Rearrangement(self.target, self.source)

    def shape(self, source_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the target shape of a tensor of shape `source_shape` in the source layout.

        Raise ValueError if `source_shape` does not fit the source layout.
        """
        order = self.source.order
        if len(source_shape) != len(order) or any(
            axis == "1" and length != 1 for axis, length in zip(order, source_shape, strict=True)
        ):
            raise ValueError(f"shape {list(source_shape)} does not fit axes '{self.source}'")
        return self.target.shape(dict(zip(order, source_shape, strict=True)))

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_CACHE_LINE = 64
"""Bytes; the rows of a block fill one line of each target row exactly."""
_MATRIX = 16384
"""Elements of a two-dimensional slice below which a loop over slices is slower than one copy."""


def rearrange(values: Array, rearrangement: Rearrangement, out: Array) -> Array:
    """Write `values`, in the source layout, into `out` in the target layout; return `out`.

    Both are C-contiguous, of the same dtype, and do not overlap. Raise ValueError if a shape does
    not fit.
    """
    expected = rearrangement.shape(values.shape)
    if out.shape != expected:
        raise ValueError(f"{rearrangement} of {list(values.shape)} is {list(expected)}")
    axes = zip(rearrangement.source.order, values.shape, strict=True)
    named = [length for axis, length in axes if axis != "1"]
    permute(values, named, rearrangement.permutation, out)
    return out


def permute(values: Array, shape: Sequence[int], permutation: Sequence[int], out: Array) -> None:
    """Write `values`, seen as C-contiguous of `shape`, into `out` with its axes permuted.

    `permutation` gives the axis of `shape` for each axis of `out`, as for ``np.transpose``; `out`
    is C-contiguous, with as many elements of the same dtype, of any shape.
    """
    shape, permutation = simplify(shape, permutation)
    if not math.prod(shape):
        return
    source = values.reshape(shape).transpose(permutation)
    target = out.reshape(source.shape)
    if len(shape) < 2 or permutation[-1] == len(shape) - 1:
        np.copyto(target, source)
        return
    # The innermost axes of the two sides span matrices to transpose; loop over all other axes.
    inner = permutation.index(len(shape) - 1)
    rows, columns = target.shape[-1], target.shape[inner]
    others = [axis for axis in range(len(shape) - 1) if axis != inner]
    if others and rows * columns < _MATRIX:
        np.copyto(target, source)
        return
    for index in itertools.product(*(range(target.shape[axis]) for axis in others)):
        matrix: list[int | slice] = [slice(None)] * len(shape)
        for axis, position in zip(others, index, strict=True):
            matrix[axis] = position
        _transpose(source[tuple(matrix)], target[tuple(matrix)])


def _transpose(source: Array, target: Array) -> None:
    """Copy a matrix whose first axis is contiguous in `source` and whose second is in `target`."""
    step = max(1, _CACHE_LINE // source.itemsize)
    for start in range(0, source.shape[1], step):
        target[:, start : start + step] = source[:, start : start + step]


def simplify(
    shape: Sequence[int], permutation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the same permutation of values with the fewest axes.

    Axes of length one are removed, and axes adjacent on both sides are merged.
    """
    kept = [axis for axis in permutation if shape[axis] != 1]
    rank = {axis: index for index, axis in enumerate(sorted(kept))}
    lengths = [shape[axis] for axis in sorted(kept)]
    groups: list[list[int]] = []
    for axis in (rank[axis] for axis in kept):
        if groups and groups[-1][-1] + 1 == axis:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    in_source_order = sorted(groups)
    merged = tuple(math.prod(lengths[axis] for axis in group) for group in in_source_order)
    return merged, tuple(in_source_order.index(group) for group in groups)
