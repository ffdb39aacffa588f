"""Tensor specifications, and the dtype names of every format: those of numpy and ``ml_dtypes``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

_ML_DTYPES = (
    "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
).split()
_NUMPY = (
    "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "complex64 complex128"
).split()

NAMES: tuple[str, ...] = (*_NUMPY, *_ML_DTYPES)
FLOATING: frozenset[str] = frozenset({"float64", "float32", "float16", *_ML_DTYPES})


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the native-endian numpy dtype called `name`; raise KeyError if not in `NAMES`."""
    if name in _ML_DTYPES:
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
    """A tensor's name, dtype name (see `converter.tensors.spec.NAMES`) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values in C order."""
        return self.size * itemsize(self.dtype)

    def describe(self) -> str:
        """Return ``float32 [768, 3072]``, for messages."""
        return f"{self.dtype} {list(self.shape)}"
