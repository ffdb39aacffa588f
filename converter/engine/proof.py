"""Proving that an output file holds a tensor already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from converter.containers.base import Array
from converter.containers.contiguous import ContiguousTensor
from converter.containers.files import LocalFile
from converter.engine.geometry import blocks, core
from converter.engine.numbers import cast, little_endian
from converter.engine.rows import StoredRows
from converter.engine.scratch import Scratch
from converter.engine.sink import Sink
from converter.plan import PlannedEntry, PlannedTensor, Stored
from converter.tensors import numpy_dtype


def is_written(
    tensor: PlannedTensor,
    outputs: Sequence[tuple[Sink, PlannedEntry]],
    sha256: str,
    block: int,
    scratch: Scratch,
    check: Callable[[], None],
) -> bool:
    """Whether every output of `tensor` holds the values whose SHA-256 is given.

    The bytes are read again and brought back to the canonical layout and the planned dtype.

    Args:
        tensor: the tensor.
        outputs: each file that it belongs in, and its place there.
        sha256: of its little-endian bytes in canonical layout and planned dtype.
        block: bytes that are read at once.
        scratch: working memory.
        check: called for every block; stops the work by raising.

    Raises:
        CheckpointError: if the system cannot read a file.
    """
    return all(
        _digest(tensor, sink, entry, block, scratch, check) == sha256 for sink, entry in outputs
    )


def _digest(
    tensor: PlannedTensor,
    sink: Sink,
    entry: PlannedEntry,
    block: int,
    scratch: Scratch,
    check: Callable[[], None],
) -> str | None:
    """SHA-256 of what lies in the file; ``None`` if that was not cast from the planned dtype."""
    digest = hashlib.sha256()
    planned = numpy_dtype(tensor.spec.dtype)
    shape = core(tensor.spec.shape)
    with closing(LocalFile(sink.path)) as handle:
        written = ContiguousTensor(entry.spec, handle, sink.segments(entry.spec.name))
        rows = StoredRows(Stored("", written, entry.rearrangement.inverse))
        width = max(rows.dtype.itemsize, planned.itemsize)
        for start, stop in blocks(shape, width, block):
            check()
            _, values = rows.read(start, stop, scratch, "raw")
            if values.dtype != planned:
                narrow = scratch.array("cast", planned, values.shape)
                cast(values, narrow)
                if not _widens_to(narrow, values, scratch):
                    return None
                values = narrow
            digest.update(little_endian(values))
    return digest.hexdigest()


def _widens_to(narrow: Array, wide: Array, scratch: Scratch) -> bool:
    """Whether `wide` is what casting `narrow` gives, bit for bit."""
    again = scratch.array("entry", wide.dtype, wide.shape)
    cast(narrow, again)
    return np.array_equal(again.reshape(-1).view(np.uint8), wide.reshape(-1).view(np.uint8))
