"""What is known of a tensor without reading its values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from converter.tensors.dtypes import itemsize


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, dtype name (see `converter.tensors.dtypes.NAMES`) and shape."""

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
        """``float32 [768, 3072]``, as messages show it."""
        return f"{self.dtype} {list(self.shape)}"
