"""Planned tensors in memory instead of in a file, made by the same code that writes files."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from converter.errors import MatchError
from converter.execution.rows import Check, RowLayout
from converter.execution.tensor_copy import TensorCopier
from converter.formats.base import Array
from converter.formats.stored_tensors import byte_view, swap_bytes
from converter.plan import FileEntry, OutputFile, Plan
from converter.tensors import TensorSpec, numpy_dtype

_BLOCK = 16 << 20
"""Bytes read and rearranged at once."""


class InMemoryOutput(Mapping[str, Array]):
    """The tensors of one file of `plan` by their names in it, each made on access.

    Nothing is cached. Safe to use from several threads at once. `check` is called before every
    read, and prevents it by raising.
    """

    def __init__(self, plan: Plan, file: OutputFile, check: Check = lambda: None) -> None:
        self._check = check
        self._origins = {tensor.spec.name: tensor for tensor in plan.tensors}
        self._entries = {entry.spec.name: entry for entry in file.entries}
        self.aliases = file.aliases
        """Further names → the names whose values they share."""

    def __getitem__(self, name: str) -> Array:
        """Return the values in the file's layout and dtype.

        Raise CheckpointError if the source cannot be read; MatchError if copies in it differ.
        """
        entry = self._entries[name]
        self._check()
        output = _ArrayOutput(entry)
        block = min(_BLOCK, max(entry.spec.nbytes, 1))
        copier = TensorCopier({entry.tensor: [(output, entry)]}, block, hashed=False)
        result = copier.copy(self._origins[entry.tensor])
        if result.problems:
            message = "The source contains contradictory copies of tensors."
            raise MatchError(message, result.problems)
        return output.array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def spec(self, name: str) -> TensorSpec:
        """Return the specification of a tensor in the file, without reading it."""
        return self._entries[name].spec


class _ArrayOutput:
    """An array with the interface of `RowWriter`."""

    def __init__(self, entry: FileEntry) -> None:
        self.lock = threading.Lock()
        self.array = np.empty(entry.spec.shape, numpy_dtype(entry.spec.dtype))

    def write_rows(
        self, name: str, values: memoryview, rows: RowLayout, start: int, stop: int, check: Check
    ) -> None:
        """Store the canonical rows ``start .. stop``."""
        if not self.array.size:
            return
        part = np.frombuffer(values, np.uint8).reshape(rows.outer, stop - start, -1)
        byte_view(self.array).reshape(rows.outer, rows.rows, -1)[:, start:stop] = part
        if sys.byteorder == "big" and stop == rows.rows:
            swap_bytes(self.array)
