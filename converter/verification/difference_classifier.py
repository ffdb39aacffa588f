"""What happened to a tensor that is not what it should be, told from its values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from threading import Lock

import numpy as np

from converter.execution.row_blocks import cast, count_non_finite
from converter.execution.row_readers import BufferPool
from converter.formats.base import Array
from converter.plan import SourceTensor
from converter.tensors import numpy_dtype
from converter.verification.comparison import Difference, blocks, canonical_shape, values

UNRELATED = "has nothing to do with it: drawn anew, or from another checkpoint"
"""The verdict on a tensor of other values altogether."""

_FEW_ULP = 8
"""Differences of so many units in the last place are rounding, no other weights."""

_UNRELATED = 0.3
"""Vectors with a smaller cosine have nothing to do with each other."""

_CHANCE = 4.0
"""Standard deviations, 1/sqrt(n) each, by which the cosine of unrelated vectors may be off."""

_LARGE = 1 << 26
"""Elements above which a tensor is judged by its sums alone, to bound the memory."""


def tensor_sha256(stored: SourceTensor, dtype: str) -> bytes:
    """SHA-256 of the canonical values as `dtype`, little-endian, as the manifest states it."""
    digest = hashlib.sha256()
    scratch = BufferPool(0)
    target = numpy_dtype(dtype)
    for block in blocks(stored, scratch, "block"):
        if block.dtype != target:
            narrow = scratch.array("narrow", target, block.shape)
            cast(block, narrow)
            block = narrow
        digest.update(block.reshape(-1).view(np.uint8).data)
    return digest.digest()


class Diagnosis:
    """Names what happened.

    Args:
        truth: every tensor as it should be, by canonical name. Read only when something is wrong.

    """

    def __init__(self, truth: Mapping[str, SourceTensor]) -> None:
        self._truth = truth
        self._known: dict[tuple[int, ...], dict[bytes, str]] = {}
        self._lock = Lock()

    @cached_property
    def _by_shape(self) -> dict[tuple[int, ...], list[str]]:
        found: dict[tuple[int, ...], list[str]] = {}
        for name, stored in self._truth.items():
            found.setdefault(canonical_shape(stored), []).append(name)
        return found

    def _holder(self, name: str, stored: SourceTensor) -> str | None:
        """The other tensor whose values `stored` holds; constant ones tell nothing."""
        shape = canonical_shape(stored)
        with self._lock:
            if shape not in self._known:
                self._known[shape] = {}
                for other in self._by_shape.get(shape, ()):
                    print_ = tensor_sha256(self._truth[other], "float64")
                    self._known[shape].setdefault(print_, other)
        holder = self._known[shape].get(tensor_sha256(stored, "float64"))
        if holder is None or holder == name:
            return None
        place = self._truth[holder].tensor.location
        return None if place == stored.tensor.location else holder  # it is that very tensor

    def verdict(self, name: str, stored: SourceTensor, difference: Difference | None = None) -> str:
        """What happened to `stored`, which should hold the values of ``truth[name]``.

        Args:
            name: canonical.
            stored: what is wrong.
            difference: between the two, where they are of one shape.

        Raises:
            CheckpointError: if one cannot be read.

        """
        truth = self._truth[name]
        if difference is None:
            return _reshaped(stored, truth)
        if difference.elements <= _LARGE:
            if (other := self._holder(name, stored)) is not None:
                return f"holds the values of {other}"
            if found := _recognised(values(stored), values(truth)):
                return found
        return describe_difference(difference)


def describe_difference(difference: Difference) -> str:
    """How two tensors of one shape differ, as far as numbers tell."""
    cosine, count = difference.cosine, difference.differing
    if math.isfinite(difference.max_abs) and not cosine > max(
        _UNRELATED, min(0.9, _CHANCE / math.sqrt(difference.elements))
    ):
        return UNRELATED
    share = count / difference.elements
    return (
        f"differs in {count:,} value(s) ({share:.1%}),"
        f" by up to {difference.max_abs:.3g} (cosine {cosine:.4f})"
    )


def _reshaped(stored: SourceTensor, truth: SourceTensor) -> str:
    mine, theirs = canonical_shape(stored), canonical_shape(truth)
    text = f"has shape {list(mine)} instead of {list(theirs)}"
    small = math.prod(mine) + math.prod(theirs) <= _LARGE
    if mine == theirs[::-1] and small and _same(values(stored), values(truth).T):
        return f"{text}: it is transposed"
    if mine[1:] == theirs[1:] and mine and small:
        rows = min(mine[0], theirs[0])
        if _same(values(stored)[:rows], values(truth)[:rows]):
            return f"{text}; the first {rows} rows are the same"
    return text


def _recognised(mine: Array, theirs: Array) -> str | None:
    """A well-known way to damage a tensor, if it is one."""
    if not mine.any():
        return "is all zeros"
    if mine.size > 1 and (mine == mine.flat[0]).all() and not (theirs == theirs.flat[0]).all():
        return f"is {float(mine.flat[0]):g} everywhere"
    if bad := count_non_finite(mine) - count_non_finite(theirs):
        if bad > 0:
            return f"holds {bad:,} value(s) that are infinite or not a number"
        return f"lost {-bad:,} value(s) that were infinite or not a number"
    if mine.ndim == 2 and mine.shape[0] == mine.shape[1] and _same(mine, theirs.T):
        return "is transposed"
    if mine.ndim == 2 and (
        _same(mine, np.ascontiguousarray(theirs.T).reshape(mine.shape))
        or _same(mine.T, theirs.reshape(mine.T.shape))  # in a file that keeps it the other way
    ):
        return "is transposed, its shape kept"
    if step := _shift(mine, theirs):
        return step
    for dtype in ("float16", "bfloat16"):
        with np.errstate(over="ignore", under="ignore"):
            rounded = theirs.astype(numpy_dtype(dtype))
        if _same(mine.astype(np.float64), rounded.astype(np.float64)):
            return f"was rounded to {dtype}"
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    if np.array_equal(a, -b):
        return "has the opposite sign"
    coarse = mine if mine.itemsize <= theirs.itemsize else theirs
    with np.errstate(all="ignore"):
        step_size = np.abs(_spacing(coarse))
        if np.all(np.abs(a - b) <= _FEW_ULP * step_size):
            count = int(np.count_nonzero(a != b))
            return f"is off by a few units in the last place in {count:,} value(s)"
        norm = float(np.vdot(b, b))
        factor = float(np.vdot(a, b)) / norm if norm else 0.0
        if np.all(np.abs(a - factor * b) <= 4 * _FEW_ULP * step_size):
            return f"is scaled by {factor:.6g}"
    return None


def _spacing(array: Array) -> Array:
    """The distance from each value to the next of its dtype, as float64."""
    if array.dtype.kind == "f":
        return np.asarray(np.spacing(np.abs(array)).astype(np.float64))
    return np.asarray(np.abs(array.astype(np.float64)) * 2.0**-7)  # bfloat16


def _shift(mine: Array, theirs: Array) -> str | None:
    """By which step along which axis `mine` is `theirs` moved on, all values kept."""
    for axis in range(mine.ndim):
        for step in (1, -1, 2, -2):
            if abs(step) < mine.shape[axis] and _same(mine, np.roll(theirs, step, axis)):
                return f"is shifted by {step} along axis {axis}"
    for step in (1, -1):
        if _same(mine, np.roll(theirs, step)):
            return f"is shifted by {step} value"
    return None


def _same(first: Array, second: Array) -> bool:
    return first.shape == second.shape and bool(np.array_equal(first, second))
