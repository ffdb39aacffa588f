"""A tensor of an opened checkpoint that is read when its values are asked for."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converter.execution.row_blocks import blocks
from converter.execution.row_readers import BufferPool, StoredTensorReader
from converter.formats.base import Array
from converter.plan import SourceTensor
from converter.tensors import numpy_dtype

_BLOCK = 16 << 20
"""Bytes that are read and rearranged at once."""


class LazyTensor:
    """One tensor by its canonical name, in PyTorch's layout, whatever file it lies in.

    Its shape and dtype are known; its values are read when `numpy`, an index or ``numpy.asarray``
    asks for them, and never kept. Safe to read from several threads at once, until the checkpoint
    is closed.
    """

    __slots__ = ("_require_open", "_stored", "name", "shape")

    name: str
    """Canonical name."""
    shape: tuple[int, ...]
    """Lengths of the axes, in PyTorch's order."""

    def __init__(self, name: str, stored: SourceTensor, require_open: Callable[[], None]) -> None:
        self.name = name
        self.shape = stored.rearrangement.shape(stored.tensor.spec.shape)
        self._stored = stored
        self._require_open = require_open

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values; ``bfloat16`` and the float8 types are those of ``ml_dtypes``."""
        return numpy_dtype(self._stored.tensor.spec.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._stored.tensor.spec.size

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self._stored.tensor.spec.nbytes

    @property
    def stored_name(self) -> str:
        """Its name in the file."""
        return self._stored.tensor.spec.name

    @property
    def path(self) -> Path:
        """The file that it lies in."""
        return self._stored.tensor.path

    def numpy(self) -> Array:
        """All values, as an array of your own.

        Raises:
            CheckpointError: if the checkpoint is closed, or its file cannot be read.

        """
        self._require_open()
        rows = _long(self.shape)
        return self._read(0, rows).reshape(self.shape)

    def __getitem__(self, index: Any) -> Array:
        """What ``numpy()[index]`` would be; of the first axis only the range in question is read.

        Raises:
            IndexError: if the index lies outside the shape.
            CheckpointError: as `numpy`.

        """
        self._require_open()
        first, *rest = index if isinstance(index, tuple) else (index,)
        found = self._rows(first)
        if found is None or _long(self.shape) != self.shape[0]:
            return np.asarray(self.numpy()[index])
        start, stop, within = found
        part = self._read(start, stop).reshape(stop - start, *self.shape[1:])
        return np.asarray(part[(within, *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All values for numpy.

        Raises:
            ValueError: if a view is asked for: there is nothing that it could show.

        """
        if copy is False:
            raise ValueError(f"{self.name}: reading it makes a copy")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name}: has no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyTensor {self.name} {self._stored.tensor.spec.dtype} {list(self.shape)}>"

    def _rows(self, index: Any) -> tuple[int, int, Any] | None:
        """First row, row after the last, and the index within them; ``None`` for other indices."""
        if not self.shape:
            return None
        rows = self.shape[0]
        if isinstance(index, slice):
            chosen = range(*index.indices(rows))
            if not chosen:
                return 0, 0, slice(0, 0)
            low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
            return low, high + 1, slice(None, None, chosen.step)
        try:
            row = operator.index(index) if not isinstance(index, bool | np.bool_) else None
        except TypeError:
            return None
        if row is None:
            return None
        if not -rows <= row < rows:
            raise IndexError(f"{self.name}: {row} is outside the first axis of {list(self.shape)}")
        return row % rows, row % rows + 1, 0

    def _read(self, start: int, stop: int) -> Array:
        """Values with index ``start .. stop`` along the first axis that is longer than one."""
        source = StoredTensorReader(self._stored)
        rows = _long(self.shape)
        width = self.size // rows if rows else 0
        out = np.empty((stop - start, width), self.dtype)
        if not out.size:
            return out
        scratch = BufferPool(0)
        for first, last in blocks(out.shape, out.itemsize, _BLOCK):
            values = source.read(start + first, start + last, scratch, "rows")[1]
            out[first:last] = values.reshape(last - first, width)
        return out


def _long(shape: tuple[int, ...]) -> int:
    """Length of the first axis that is longer than one, by which files are read."""
    return next((length for length in shape if length != 1), 1)
