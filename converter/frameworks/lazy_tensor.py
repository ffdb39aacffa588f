"""A tensor of an opened checkpoint that is read on access."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converter.execution.rows import BufferPool, StoredTensorReader, blocks
from converter.formats.base import Array
from converter.plan import SourceTensor
from converter.tensors import numpy_dtype

_BLOCK = 16 << 20
"""Bytes that are read and transposed at once."""


class LazyTensor:
    """One tensor by its canonical name, in PyTorch's layout, whatever its file format.

    Its values are read by `numpy`, an index or ``numpy.asarray``, and not cached. Several threads
    may read it, until the checkpoint is closed.
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
        """The file that holds it."""
        return self._stored.tensor.path

    def numpy(self) -> Array:
        """Return all values as a new array.

        Raises:
            CheckpointError: if the checkpoint is closed, or its file cannot be read.

        """
        self._require_open()
        rows = _long(self.shape)
        return self._read(0, rows).reshape(self.shape)

    def __getitem__(self, index: Any) -> Array:
        """Return ``numpy()[index]``, reading only the necessary range of the first axis.

        Raises:
            IndexError: if the index is outside the shape.
            CheckpointError: as `numpy`.

        """
        self._require_open()
        first, *rest = index if isinstance(index, tuple) else (index,)
        rows = self._rows(first)
        if rows is None or _long(self.shape) != self.shape[0]:
            return np.asarray(self.numpy()[index])
        start, stop, within = rows
        part = self._read(start, stop).reshape(stop - start, *self.shape[1:])
        return np.asarray(part[(within, *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return all values for numpy.

        Raises:
            ValueError: if a view is requested, since the values are in a file.

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
        """Return first row, end row, and the index within them; ``None`` for other indices."""
        if not self.shape or isinstance(index, bool | np.bool_):
            return None
        try:
            chosen = range(self.shape[0])[index]
        except TypeError:
            return None
        except IndexError:
            message = f"{self.name}: {index} is outside the first axis of {list(self.shape)}"
            raise IndexError(message) from None
        if isinstance(chosen, int):
            return chosen, chosen + 1, 0
        if not chosen:
            return 0, 0, slice(0, 0)
        low, high = sorted((chosen[0], chosen[-1]))
        return low, high + 1, slice(None, None, chosen.step)

    def _read(self, start: int, stop: int) -> Array:
        """Return the values ``start .. stop`` along the first axis that is longer than one."""
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
    """Return the length of the first axis longer than one, along which files are read."""
    return next((length for length in shape if length != 1), 1)
