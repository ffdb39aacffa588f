"""Copying of one tensor: read, compared, hashed, rearranged, cast and written."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from converter.errors import Problem
from converter.execution.rows import (
    BufferPool,
    Check,
    Permutation,
    RowLayout,
    blocks,
    cast,
    copy_checks,
    count_non_finite,
    little_endian,
    reader_for,
    squeeze_shape,
    squeezed_permutation,
)
from converter.formats.base import Array
from converter.plan import FileEntry, SourceTensor, TargetTensor
from converter.tensors import PACKED_BITS, itemsize, numpy_dtype, permute

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class TensorResult:
    """What was measured while copying one tensor."""

    sha256: str = ""
    """Of the little-endian bytes in PyTorch layout and planned dtype."""
    non_finite: int = 0
    overflowed: int = 0
    problems: list[Problem] = field(default_factory=list)


class RowWriter(Protocol):
    """A destination of tensor rows: a `FileWriter` or memory."""

    lock: threading.Lock
    """Held while rows are written."""

    def write_rows(
        self, name: str, values: memoryview, rows: RowLayout, start: int, stop: int, check: Check
    ) -> None:
        """Write the canonical rows ``start .. stop``; see `FileWriter.write_rows`."""


@dataclass(slots=True)
class _Group:
    """Outputs of the very same bytes: rearranged and cast once, written to each."""

    permutation: Permutation
    dtype: str
    rows: RowLayout
    outputs: list[tuple[RowWriter, FileEntry]] = field(default_factory=list)


class _Digest:
    """The SHA-256 of a tensor; a block of it can wait until there is time."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._waiting: memoryview | None = None

    def add(self, values: memoryview) -> None:
        """Add a block, which is read later, but before the next one is added."""
        self.catch_up()
        self._waiting = values

    def catch_up(self) -> bool:
        """Read the block that waits; return whether there was one."""
        values, self._waiting = self._waiting, None
        if values is not None:
            self._sha256.update(values)
        return values is not None

    def hexdigest(self) -> str:
        """Return the digest of all blocks."""
        self.catch_up()
        return self._sha256.hexdigest()


class TensorCopier:
    """Copies tensors one after another, `block` bytes at once; one instance per thread.

    `outputs` holds each destination of a tensor, and its entry there, by canonical name; `number`
    is the output to begin with, so that threads rarely wait for the same one.
    """

    def __init__(
        self,
        outputs: Mapping[str, Sequence[tuple[RowWriter, FileEntry]]],
        block: int,
        check: Check = lambda: None,
        number: int = 0,
        hashed: bool = True,
    ) -> None:
        self.bytes_done = 0
        self.scratch = BufferPool(block)
        self._outputs = outputs
        self._check = check
        self._number = number
        self._hashed = hashed

    def copy(self, tensor: TargetTensor) -> TensorResult:
        """Read, compare, hash and write one tensor, block by block; raise as `execute`."""
        result = TensorResult()
        shape = squeeze_shape(tensor.spec.shape)
        source = reader_for(tensor)
        planned = numpy_dtype(tensor.spec.dtype)
        groups = self._groups(tensor, shape)
        checks = copy_checks(tensor)
        digest = _Digest()
        widest = max([source.dtype.itemsize, *(itemsize(group.dtype) for group in groups)])
        least = 8 if tensor.spec.dtype in PACKED_BITS else 1  # rows that end with a byte
        for start, stop in blocks(shape, widest, self.scratch.block, least):
            self._check()
            raw, stored = source.read(start, stop, self.scratch, "raw")
            for check in checks:
                check.compare(stored, start, stop, self.scratch, self._check)
            infinite = count_non_finite(stored)
            result.non_finite += infinite
            values = stored
            if planned != stored.dtype:
                values = self.scratch.array("cast", planned, stored.shape)
                cast(stored, values)
                result.overflowed += count_non_finite(values) - infinite
            if self._hashed:
                digest.add(little_endian(values))
            part = (stop - start, *shape[1:]) if shape else ()
            for group in groups:
                permuted = values
                if group.permutation == source.layout and values is stored:
                    permuted = raw
                elif group.permutation != tuple(range(len(part))):
                    permuted = self.scratch.array("layout", planned, part)
                    permute(values, part, group.permutation, permuted)
                self._write(group, permuted, start, stop, digest)
            digest.catch_up()  # before the buffer is used again
        result.sha256 = digest.hexdigest() if self._hashed else ""
        spec = tensor.spec
        _log.debug("%s: %s, %s", spec.name, spec.describe(), _describe_origin(tensor))
        result.problems = [problem for check in checks if (problem := check.problem())]
        return result

    def _groups(self, tensor: TargetTensor, shape: tuple[int, ...]) -> list[_Group]:
        """Return the outputs of `tensor`, grouped by layout and dtype."""
        groups: dict[tuple[Permutation, str], _Group] = {}
        outputs = self._outputs[tensor.spec.name]
        first = self._number % len(outputs) if outputs else 0
        for writer, entry in (*outputs[first:], *outputs[:first]):
            permutation = squeezed_permutation(entry.rearrangement, tensor.spec.shape)
            key = permutation, entry.spec.dtype
            if key not in groups:
                groups[key] = _Group(*key, RowLayout.of(shape, permutation))
            groups[key].outputs.append((writer, entry))
        return list(groups.values())

    def _write(self, group: _Group, values: Array, start: int, stop: int, digest: _Digest) -> None:
        """Write rows in the group's layout to each of its files, a free one first.

        The kernel lets one thread write to a file at a time; instead of waiting, hash.
        """
        dtype = numpy_dtype(group.dtype)
        if dtype != values.dtype:
            uncast, values = values, self.scratch.array("entry", dtype, values.shape)
            cast(uncast, values)
        content = little_endian(values)
        waiting = list(group.outputs)
        while waiting:
            free = (each for each in waiting if each[0].lock.acquire(blocking=False))
            output = next(free, None)
            if output is None:
                if digest.catch_up():
                    continue
                output = waiting[0]
                output[0].lock.acquire()
            writer, entry = output
            try:
                writer.write_rows(entry.spec.name, content, group.rows, start, stop, self._check)
            finally:
                writer.lock.release()
            waiting.remove(output)
            self.bytes_done += len(content)


def _describe_origin(tensor: TargetTensor) -> str:
    """Return where the values come from, for the log."""
    origin = tensor.origin
    if isinstance(origin, SourceTensor):
        return f"from {origin.tensor.spec.name} in {origin.tensor.path}"
    return f"newly initialized: {origin.reason}"
