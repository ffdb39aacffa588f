"""What an unfinished run has done already, kept so that another run can go on from there.

JSON lines, only ever appended: the first says by a fingerprint which plan they are about; each
further one that a tensor lies in all files of the plan, and the SHA-256 of its values. A journal is
no proof. Whoever goes on from it reads the bytes again (`converter.execution.resume`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from converter._version import __version__
from converter.execution.file_writer import FileWriter, write_error
from converter.execution.row_blocks import blocks, cast, little_endian, squeeze_shape
from converter.execution.row_readers import BufferPool, StoredTensorReader
from converter.execution.tensor_copy import TensorResult
from converter.formats.base import Array, PreallocatedFile, read_exactly
from converter.formats.file_handle import LocalFile
from converter.formats.stored_tensors import ContiguousTensor
from converter.initializers import Initializer
from converter.plan import FileEntry, Origin, Plan, SourceTensor, TargetTensor
from converter.storage.file_state import FileState
from converter.tensors import numpy_dtype

_MAX_LINE = 1 << 16
"""Longer than any line that `Journal.record` writes."""


class Journal:
    """The journal of one run; `record` may be called from any thread.

    Args:
        path: the file, which is created where there is none.
        fingerprint: of the plan. A journal about another one is emptied.

    Raises:
        OutputError: if the file cannot be read or written.

    """

    def __init__(self, path: Path, plan_hash: str) -> None:
        self._path = path
        self.finished: dict[str, TensorResult] = {}
        """Canonical name → what an earlier run found, if it says so."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise write_error(path, _MAX_LINE, error) from error
        try:
            self._begin({"fingerprint": plan_hash})
        except BaseException:
            self.close()
            raise

    def record(self, name: str, result: TensorResult) -> None:
        """Note that a tensor lies in every file. One with problems is not noted: it is not right.

        Raises:
            OutputError: if the system refuses.

        """
        if result.problems:
            return
        counts = {"non_finite": result.non_finite, "overflowed": result.overflowed}
        self._append({"tensor": name, "sha256": result.sha256, **counts})

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, head: Mapping[str, str]) -> None:
        """Read what is there, and cut off what is torn or about another plan."""
        kept, lines = _whole_lines(self._fd)
        if not lines or lines[0] != head:
            kept, lines = 0, []
        for line in lines[1:]:
            self.finished.update(_parsed(line))
        os.ftruncate(self._fd, kept)
        if not kept:
            self._append(head)

    def _append(self, line: Mapping[str, Any]) -> None:
        # One call: lines of several threads do not mix, and only the last can be torn.
        text = json.dumps(line).encode() + b"\n"
        try:
            if os.write(self._fd, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise write_error(self._path, len(text), error) from error


def _whole_lines(fd: int) -> tuple[int, list[Any]]:
    """The lines up to the first that is torn or no JSON, and the bytes that they take."""
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
    """The tensor that a line tells of; none if it is of another form."""
    match line:
        case {"tensor": str(name), "sha256": str(sha256), "non_finite": n, "overflowed": o}:
            if type(n) is int and type(o) is int:
                return {name: TensorResult(sha256, n, o)}
    return {}


def plan_hash(plan: Plan, sources: Mapping[Path, FileState]) -> str:
    """SHA-256 over everything that decides the tensors' bytes and where they go.

    Documents are left out: they are written again by every run.

    Args:
        plan: what is to be written.
        sources: every file that it reads, and what tells whether that is still the same file.

    """
    decisive = {
        "version": __version__,
        "command": plan.command,
        "tensors": [
            [tensor.spec.name, tensor.spec.dtype, tensor.spec.shape, _origin(tensor.origin)]
            + [_origin(copy) for copy in tensor.copies]
            for tensor in plan.tensors
        ],
        "files": [
            {
                "path": file.path,
                "container": file.file_format,
                "entries": [
                    [e.tensor, e.spec.name, e.spec.dtype, e.spec.shape, str(e.rearrangement)]
                    for e in file.entries
                ],
                "aliases": dict(file.aliases),
                "metadata": dict(file.metadata),
            }
            for file in plan.files
        ],
        "sources": sorted(
            [os.path.realpath(path), stamp.nbytes, stamp.mtime_ns]
            for path, stamp in sources.items()
        ),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _origin(origin: Origin) -> list[object]:
    """What decides a tensor's values."""
    if isinstance(origin, SourceTensor):
        tensor, way = origin.tensor, origin.rearrangement
        return [str(tensor.path), tensor.spec.name, str(tensor.location), str(way)]
    how: Initializer = origin.initializer
    return [how.rule, how.scale, how.seed, how.name]


def is_already_written(
    tensor: TargetTensor,
    outputs: Sequence[tuple[FileWriter, FileEntry]],
    sha256: str,
    block: int,
    scratch: BufferPool,
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
    tensor: TargetTensor,
    sink: FileWriter,
    entry: FileEntry,
    block: int,
    scratch: BufferPool,
    check: Callable[[], None],
) -> str | None:
    """SHA-256 of what lies in the file; ``None`` if that was not cast from the planned dtype."""
    digest = hashlib.sha256()
    planned = numpy_dtype(tensor.spec.dtype)
    shape = squeeze_shape(tensor.spec.shape)
    with closing(LocalFile(sink.path)) as handle:
        written = ContiguousTensor(entry.spec, handle, sink.segments(entry.spec.name))
        rows = StoredTensorReader(SourceTensor("", written, entry.rearrangement.inverse))
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


def _widens_to(narrow: Array, wide: Array, scratch: BufferPool) -> bool:
    """Whether `wide` is what casting `narrow` gives, bit for bit."""
    again = scratch.array("entry", wide.dtype, wide.shape)
    cast(narrow, again)
    return np.array_equal(again.reshape(-1).view(np.uint8), wide.reshape(-1).view(np.uint8))


_PIECE = 1 << 20


def reuse_partial_file(path: Path, create: Callable[[Path], PreallocatedFile]) -> PreallocatedFile:
    """Lay out the file at `path` anew, but keep the tensors' bytes of the one that is there.

    Whatever lies between the tensors is written again, so that all of it is as in a new file: the
    earlier run may have been killed in the middle of that, or have sealed the file already.

    Args:
        path: the unfinished file.
        create: lays out the file that is wanted at a path.

    Raises:
        OSError: if the system refuses.

    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    output = create(beside)
    size = beside.stat().st_size
    if path.is_symlink() or path.stat().st_size != size:
        beside.replace(path)
    else:
        _copy_between(beside, path, output, size)
        beside.unlink()
    output.path = path
    return output


def remove_other_files(directory: Path, wanted: set[Path]) -> None:
    """Remove everything from `directory` but the files in `wanted`, which nothing else shares.

    Raises:
        OSError: if the system refuses.

    """
    for path in list(directory.rglob("*")):
        if path.is_symlink() or (path.is_file() and path not in wanted):
            path.unlink()


def _copy_between(source: Path, target: Path, output: PreallocatedFile, size: int) -> None:
    """Copy what lies before, between and behind the tensors."""
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
                os.pwrite(new.fileno(), buffer, done)
                done += len(buffer)
            done = max(done, end)
