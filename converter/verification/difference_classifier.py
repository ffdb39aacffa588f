"""Classification of a difference between tensors: transposed, shifted, rounded, unrelated, ..."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from threading import Lock

import numpy as np

from converter.execution.rows import BufferPool, cast, count_non_finite
from converter.formats.base import Array
from converter.plan import SourceTensor
from converter.tensors import numpy_dtype
from converter.verification.comparison import blocks, canonical_shape, values
from converter.verification.result import Difference

UNRELATED = "is unrelated: newly initialized, or from another checkpoint"

_FEW_ULP = 8
"""Units in the last place up to which a difference is rounding."""

_UNRELATED = 0.3
"""Vectors with a smaller cosine are unrelated."""

_CHANCE = 4.0
"""Standard deviations, 1/sqrt(n) each, within which the cosine of unrelated vectors is."""

_LARGE = 1 << 26
"""Elements above which a tensor is classified by its sums alone, to bound the memory."""


def tensor_sha256(stored: SourceTensor, dtype: str) -> bytes:
    """Return the SHA-256 of the canonical values, cast to `dtype`, as the manifest states it."""
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


class DifferenceClassifier:
    """Names what happened to tensors that differ from the expected ones, which it reads lazily."""

    def __init__(self, expected: Mapping[str, SourceTensor]) -> None:
        self._expected = expected
        self._by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, stored in expected.items():
            self._by_shape.setdefault(canonical_shape(stored), []).append(name)
        self._by_hash: dict[tuple[int, ...], dict[bytes, str]] = {}
        self._lock = Lock()

    def _other_name(self, name: str, stored: SourceTensor) -> str | None:
        """Return the name of another expected tensor that has the values of `stored`."""
        shape = canonical_shape(stored)
        with self._lock:
            if shape not in self._by_hash:
                self._by_hash[shape] = {}
                for other in self._by_shape.get(shape, ()):
                    digest = tensor_sha256(self._expected[other], "float64")
                    self._by_hash[shape].setdefault(digest, other)
        match = self._by_hash[shape].get(tensor_sha256(stored, "float64"))
        if match is None or match == name:
            return None
        same_bytes = self._expected[match].tensor.location == stored.tensor.location
        return None if same_bytes else match

    def classify(
        self, name: str, stored: SourceTensor, difference: Difference | None = None
    ) -> str:
        """Describe what happened to `stored`, which should hold the expected values of `name`.

        The difference between the two is given if they have the same shape. Raise CheckpointError
        if one cannot be read.
        """
        expected = self._expected[name]
        if difference is None:
            return _describe_shapes(stored, expected)
        if difference.elements <= _LARGE:
            if (other := self._other_name(name, stored)) is not None:
                return f"holds the values of {other}"
            if damage := _known_damage(values(stored), values(expected)):
                return damage
        return describe_difference(difference)


def describe_difference(difference: Difference) -> str:
    """Describe the difference between two tensors of one shape in numbers."""
    cosine, count = difference.cosine, difference.differing
    if math.isfinite(difference.max_abs) and not cosine > max(
        _UNRELATED, min(0.9, _CHANCE / math.sqrt(difference.elements))
    ):
        return UNRELATED
    counts = f"{count:,} value(s) ({count / difference.elements:.1%})"
    return f"differs in {counts}, by up to {difference.max_abs:.3g} (cosine {cosine:.4f})"


def _describe_shapes(stored: SourceTensor, expected: SourceTensor) -> str:
    mine, theirs = canonical_shape(stored), canonical_shape(expected)
    text = f"has shape {list(mine)} instead of {list(theirs)}"
    small = math.prod(mine) + math.prod(theirs) <= _LARGE
    if mine == theirs[::-1] and small and _same(values(stored), values(expected).T):
        return f"{text}: it is transposed"
    if mine[1:] == theirs[1:] and mine and small:
        rows = min(mine[0], theirs[0])
        if _same(values(stored)[:rows], values(expected)[:rows]):
            return f"{text}; the first {rows} rows are the same"
    return text


def _known_damage(mine: Array, theirs: Array) -> str | None:
    """Describe `mine` as a common way to damage `theirs`, if it is one."""
    if not mine.any():
        return "is all zeros"
    if mine.size > 1 and (mine == mine.flat[0]).all() and not (theirs == theirs.flat[0]).all():
        return f"is constant: {float(mine.flat[0]):g}"
    if bad := count_non_finite(mine) - count_non_finite(theirs):
        if bad > 0:
            return f"holds {bad:,} value(s) that are infinite or not a number"
        return f"lost {-bad:,} value(s) that were infinite or not a number"
    if mine.ndim == 2 and mine.shape[0] == mine.shape[1] and _same(mine, theirs.T):
        return "is transposed"
    if mine.ndim == 2 and (
        _same(mine, np.ascontiguousarray(theirs.T).reshape(mine.shape))
        or _same(mine.T, theirs.reshape(mine.T.shape))  # in a file that stores it transposed
    ):
        return "is transposed, its shape kept"
    if shift := _shift(mine, theirs):
        return shift
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
    """Return the distance from each value to the next one of its dtype, as float64."""
    if array.dtype.kind == "f":
        return np.asarray(np.spacing(np.abs(array)).astype(np.float64))
    return np.asarray(np.abs(array.astype(np.float64)) * 2.0**-7)  # bfloat16


def _shift(mine: Array, theirs: Array) -> str | None:
    """Describe `mine` as `theirs` rolled along an axis, if it is that."""
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
