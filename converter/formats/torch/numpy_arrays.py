"""numpy arrays in a torch file, whose values are in the pickle itself.

``torch.save`` of arrays calls ``_reconstruct``, then sets the state: version, shape, dtype, Fortran
order, bytes. Pickles of protocol 2 have the bytes as text in Latin-1. Source: ``__reduce__`` of
``ndarray`` and ``dtype`` of numpy 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.formats.base import Array, StoredTensor
from converter.formats.file_handle import FETCH_AGAIN, checked_spec, format_error
from converter.formats.stored_tensors import check_target
from converter.formats.torch.unpickler import Global, Opaque
from converter.tensors import ML_DTYPES, NAMES, numpy_dtype

_MODULES = ("numpy.core", "numpy._core")
"""Before numpy 2, and since."""
_RECONSTRUCT = frozenset(f"{module}.multiarray._reconstruct" for module in _MODULES)
_FROM_BUFFER = frozenset(f"{module}.numeric._frombuffer" for module in _MODULES)
"""What pickles of protocol 5 call."""
_CODES = {np.dtype(name).str[1:]: name for name in NAMES if name not in ML_DTYPES}
_EXTENDED = {f"ml_dtypes.{name}": name for name in ML_DTYPES}


@dataclass(frozen=True, slots=True, eq=False)
class NumpyArray:
    """An array as the pickle describes it."""

    dtype: str
    """That of the values, which may be cast from `stored`."""
    stored: np.dtype[Any]
    """With byte order."""
    shape: tuple[object, ...]
    fortran: bool
    data: str | bytes
    """Bytes, or text in Latin-1."""


def parse_array(value: object) -> NumpyArray | None:
    """Return the array that `value` describes; ``None`` if it is not an array of numbers."""
    if not isinstance(value, Opaque):
        return None
    if value.kind in _RECONSTRUCT:
        match value.parts:
            case [*_, (1, tuple(shape), dtype, bool(fortran), data)]:
                pass
            case _:
                return None
    elif value.kind in _FROM_BUFFER:
        match value.parts:
            case [data, dtype, tuple(shape), "C" | "F" as order]:
                fortran = order == "F"
            case _:
                return None
    else:
        return None
    match data:
        case Opaque(kind="_codecs.encode", parts=[str(data), "latin1"]):
            pass
        case Opaque(kind="__builtin__.bytes", parts=[]):  # of no values
            data = b""
    stored = _dtype(dtype)
    if stored is None or not isinstance(data, str | bytes):
        return None
    return NumpyArray(stored.name, stored, shape, fortran, data)


def _dtype(value: object) -> np.dtype[Any] | None:
    """Return the dtype that a pickle describes; ``None`` for one that is not of plain numbers."""
    if not isinstance(value, Opaque) or value.kind != "numpy.dtype" or not value.parts:
        return None
    code, order = value.parts[0], "<"
    match value.parts[-1]:
        case (int(), "<" | ">" | "|" as stated, None, None, None, *_):
            order = stated.replace("|", "<")
    if isinstance(code, Global):
        return numpy_dtype(_EXTENDED[code.name]) if code.name in _EXTENDED else None
    name = _CODES.get(code) if isinstance(code, str) else None
    return numpy_dtype(name).newbyteorder(">" if order == ">" else "<") if name else None


class NumpyTensor(StoredTensor):
    """A tensor whose values are in a pickle; `number` is equal for those with the same bytes."""

    def __init__(self, path: Path, name: str, array: NumpyArray, number: int) -> None:
        self.path = path
        self.spec = checked_spec(path, name, array.dtype, array.shape)
        self._array = array
        self._number = number
        expected, size = self.spec.size * array.stored.itemsize, len(array.data)
        if size != expected:
            raise self._error("an array of another length", f"{expected} bytes", size)

    @property
    def location(self) -> tuple[object, ...]:
        """File and number, then the interpretation of the bytes."""
        array = self._array
        view = (self.spec.dtype, self.spec.shape, array.stored.str, array.fortran)
        return (str(self.path), self._number, *view)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Copy values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if not out.size:
            return
        array, data = self._array, self._array.data
        if isinstance(data, str):
            try:
                data = data.encode("latin-1")
            except UnicodeEncodeError:
                raise self._error("an array whose bytes are not Latin-1") from None
        values: Array = np.frombuffer(data, array.stored)
        values = values.reshape(self.spec.shape, order="F" if array.fortran else "C")
        if out.ndim:
            index = [slice(None)] * out.ndim
            index[axis] = slice(start, start + out.shape[axis])
            values = values[tuple(index)]
        np.copyto(out, values, casting="unsafe")

    def _error(self, what: str, expected: object = None, found: object = None) -> Exception:
        return format_error(self.path, what, self.spec.name, expected, found, FETCH_AGAIN)
