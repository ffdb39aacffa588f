"""Resuming an interrupted run: a journal of finished tensors, verified against the files.

The journal is JSON lines, append-only: the first holds the hash of the plan; each further one a
tensor that is in all files of the plan, and the SHA-256 of its values. It is not trusted: resuming
reads the bytes again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from converter._version import __version__
from converter.execution.file_writer import FileWriter, reporting_write_errors
from converter.execution.rows import (
    BufferPool,
    Check,
    StoredTensorReader,
    blocks,
    cast,
    little_endian,
    squeeze_shape,
)
from converter.execution.tensor_copy import TensorResult
from converter.formats.base import Array, PreallocatedFile, read_exactly
from converter.formats.file_handle import LocalFile
from converter.formats.stored_tensors import ContiguousTensor
from converter.initializers import Initializer
from converter.plan import FileEntry, Origin, Plan, ResizedTensor, SourceTensor, TargetTensor
from converter.storage.local import FileState
from converter.system import open_for_update, write_at
from converter.tensors import numpy_dtype

_MAX_LINE = 1 << 16
"""Bytes; longer than any line that `Journal.record` writes."""


class Journal:
    """The journal of one run, at `path`; one of another plan is emptied.

    `record` may be called from any thread. Raises `OutputError` if it cannot be read or written.
    """

    def __init__(self, path: Path, plan_hash: str) -> None:
        self._path = path
        self.finished: dict[str, TensorResult] = {}
        """Canonical name → the result of an earlier run."""
        with reporting_write_errors(path, _MAX_LINE):
            self._fd = open_for_update(path, create=True, append=True)
        try:
            self._begin({"plan_hash": plan_hash})
        except BaseException:
            self.close()
            raise

    def record(self, name: str, result: TensorResult) -> None:
        """Append a tensor that is in every file, unless it has problems."""
        if result.problems:
            return
        counts = {"non_finite": result.non_finite, "overflowed": result.overflowed}
        self._append({"tensor": name, "sha256": result.sha256, **counts})

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, head: Mapping[str, str]) -> None:
        """Read the journal, and truncate it at an incomplete line, or if it is of another plan."""
        kept, lines = _complete_lines(self._fd)
        if not lines or lines[0] != head:
            kept, lines = 0, []
        for line in lines[1:]:
            self.finished.update(_parsed(line))
        os.ftruncate(self._fd, kept)
        if not kept:
            self._append(head)

    def _append(self, line: Mapping[str, Any]) -> None:
        # One call: lines of several threads do not mix, and only the last can be incomplete.
        text = json.dumps(line).encode() + b"\n"
        with reporting_write_errors(self._path, len(text)):
            if os.write(self._fd, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _complete_lines(fd: int) -> tuple[int, list[Any]]:
    """Return the bytes and the values of the lines before the first incomplete or invalid one."""
    kept, lines = 0, []
    with open(fd, "rb", closefd=False) as file:
        while (text := file.readline(_MAX_LINE)).endswith(b"\n"):
            try:
                lines.append(json.loads(text))
            except (ValueError, RecursionError):
                break
            kept += len(text)
    return kept, lines


def _parsed(line: Any) -> dict[str, TensorResult]:
    """Return the tensor of a line, if it is valid."""
    match line:
        case {"tensor": str(name), "sha256": str(sha256), "non_finite": n, "overflowed": o}:
            if type(n) is int and type(o) is int and min(n, o) >= 0:
                return {name: TensorResult(sha256, n, o)}
    return {}


def plan_hash(plan: Plan, sources: Mapping[Path, FileState]) -> str:
    """Return the SHA-256 of everything that determines the tensors' bytes and positions.

    `sources` are all files that the plan reads. Documents are omitted: every run writes them again.
    """
    decisive = {
        "version": __version__,
        "command": plan.command,
        "tensors": [
            [tensor.spec.name, tensor.spec.dtype, tensor.spec.shape, _origin(tensor.origin)]
            + [_origin(copy) for copy in tensor.duplicates]
            for tensor in plan.tensors
        ],
        "files": [
            {
                "path": file.path,
                "format": file.file_format,
                "entries": [
                    [e.tensor, e.spec.name, e.spec.dtype, e.spec.shape, str(e.rearrangement)]
                    for e in file.entries
                ],
                "aliases": dict(file.aliases),
                "metadata": dict(file.metadata),
                "repeated": {layer: list(names) for layer, names in file.repeated.items()},
            }
            for file in plan.files
        ],
        "sources": sorted(
            [os.path.realpath(path), state.nbytes, state.mtime_ns]
            for path, state in sources.items()
        ),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _origin(origin: Origin) -> list[object]:
    """Return what determines a tensor's values."""
    if isinstance(origin, SourceTensor):
        tensor = origin.tensor
        rearrangement = str(origin.rearrangement)
        added = _initializer(origin.initializer) if isinstance(origin, ResizedTensor) else []
        return [str(tensor.path), tensor.spec.name, str(tensor.location), rearrangement, *added]
    return _initializer(origin.initializer)


def _initializer(initializer: Initializer | None) -> list[object]:
    if initializer is None:
        return []
    return [initializer.rule, initializer.scale, initializer.seed, initializer.name]


def digest_in_file(
    tensor: TargetTensor, writer: FileWriter, entry: FileEntry, scratch: BufferPool, check: Check
) -> str | None:
    """Return the SHA-256 of the values in a file; ``None`` if the planned dtype differs.

    They are read again, in canonical layout and planned dtype. Raise CheckpointError if the file
    cannot be read.
    """
    digest = hashlib.sha256()
    planned = numpy_dtype(tensor.spec.dtype)
    shape = squeeze_shape(tensor.spec.shape)
    with closing(LocalFile(writer.path)) as handle:
        written = ContiguousTensor(entry.spec, handle, writer.segments(entry.spec.name))
        rows = StoredTensorReader(SourceTensor("", written, entry.rearrangement.inverse))
        width = max(rows.dtype.itemsize, planned.itemsize)
        for start, stop in blocks(shape, width, scratch.block):
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


def _widens_to(narrow: Array, wide: Array, scratch: BufferPool) -> bool:
    """Return whether casting `narrow` gives `wide`, bit for bit."""
    again = scratch.array("entry", wide.dtype, wide.shape)
    cast(narrow, again)
    return np.array_equal(again.reshape(-1).view(np.uint8), wide.reshape(-1).view(np.uint8))


_PIECE = 1 << 20
"""Bytes copied at once."""


def reuse_partial_file(path: Path, create: Callable[[Path], PreallocatedFile]) -> PreallocatedFile:
    """Create the file at `path` again, but keep the tensors' bytes of the existing one.

    Everything between the tensors is written again: the earlier run may have been killed while
    creating the file, or have finalized it already.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    output = create(new)
    size = new.stat().st_size
    if path.is_symlink() or path.stat().st_size != size:
        new.replace(path)
    else:
        _copy_framing(new, path, output, size)
        new.unlink()
    output.path = path
    return output


def remove_other_files(directory: Path, keep: set[Path]) -> None:
    """Remove every file from `directory` except for `keep`."""
    for path in list(directory.rglob("*")):
        if path.is_symlink() or (path.is_file() and path not in keep):
            path.unlink()


def _copy_framing(source: Path, target: Path, output: PreallocatedFile, size: int) -> None:
    """Copy the bytes before, between and after the tensors."""
    runs = sorted(
        (segment.file_offset, segment.file_offset + segment.nbytes)
        for segments in output.segments.values()
        for segment in segments
        if segment.nbytes
    )
    with source.open("rb") as old, target.open("r+b") as new:
        done = 0
        for start, end in (*runs, (size, size)):
            while done < start:
                buffer = bytearray(min(_PIECE, start - done))
                read_exactly(old.fileno(), memoryview(buffer), done)
                write_at(new.fileno(), buffer, done)
                done += len(buffer)
            done = max(done, end)
