"""The one pass over a plan: a small pool of threads, each taking one tensor after another."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from converter.errors import CheckpointError, MatchError, Problem
from converter.execution.file_writer import FileWriter, write_error
from converter.execution.resume import (
    Journal,
    is_already_written,
    remove_other_files,
    reuse_partial_file,
)
from converter.execution.tensor_copy import TensorCopier, TensorResult
from converter.formats.base import PreallocatedFile
from converter.formats.registry import get_format
from converter.plan import FileEntry, OutputFile, Plan, SourceTensor, TargetTensor
from converter.progress import Progress

Output: TypeAlias = tuple[FileWriter, FileEntry]
"""A file, and a tensor's place in it."""


class Stopped(Exception):  # noqa: N818 - no error: the work ends because another thread failed
    """The work is to end, for a reason that lies elsewhere."""


class Worker:
    """One thread's buffers and tallies."""

    def __init__(
        self,
        number: int,
        outputs: Mapping[str, Sequence[Output]],
        block: int,
        stop: threading.Event,
        journal: Journal | None = None,
    ) -> None:
        self.results: dict[str, TensorResult] = {}
        self._outputs = outputs
        self._block = block
        self._stop = stop
        self._journal = journal
        self._carrier = TensorCopier(outputs, block, self._check, number)

    @property
    def bytes_done(self) -> int:
        """Bytes written so far."""
        return self._carrier.bytes_done

    def run(self, tensors: Iterator[TargetTensor]) -> None:
        """Carry over tensors until there are none left.

        Raises:
            Stopped: if another thread failed or the user interrupted.

        """
        try:
            for tensor in tensors:
                result = self._recovered(tensor)
                if result is None:
                    result = self._carrier.copy(tensor)
                    if self._journal:
                        self._journal.record(tensor.spec.name, result)
                self.results[tensor.spec.name] = result
        except BaseException:
            self._stop.set()
            raise

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _recovered(self, tensor: TargetTensor) -> TensorResult | None:
        """What an earlier run found, if that has written the tensor, which is proven."""
        name = tensor.spec.name
        result = self._journal.finished.get(name) if self._journal else None
        outputs = self._outputs[name]
        if result is None or not is_already_written(
            tensor, outputs, result.sha256, self._block, self._carrier.scratch, self._check
        ):
            return None
        for sink, entry in outputs:
            sink.keep(entry.spec.name, self._check)
            self._carrier.bytes_done += entry.spec.nbytes
        return result


_log = logging.getLogger(__name__)

_MAX_JOBS = 4
"""More threads than this only wait for the disk and the interpreter."""

_BUFFERS = 4
"""Block-sized buffers that a thread usually needs: as stored, canonical, cast, as written."""

_MIN_BLOCK, _MAX_BLOCK = 1 << 20, 16 << 20
"""Bytes of a block. Most tensors fit the larger and are written in one piece."""

_WORKING = 160 << 20
"""Bytes of buffers beyond which a larger budget brings no speed, only a larger process."""

_BIG = 1 / 16
"""Share of all bytes from which on a tensor is taken first, lest one thread end with it alone."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What carrying out a plan found and did."""

    sha256: Mapping[str, str]
    """Canonical name → SHA-256 of the little-endian bytes in PyTorch layout and planned dtype."""
    non_finite: Mapping[str, int]
    """Canonical name → infinite or NaN elements in the source, where there are any."""
    overflowed: Mapping[str, int]
    """Canonical name → finite elements that the planned dtype cannot hold, where there are any."""
    bytes_written: int
    """Bytes of tensors in all files."""
    seconds: float


def execute(
    plan: Plan,
    directory: Path,
    *,
    jobs: int | None = None,
    memory: int = 512 << 20,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Execution:
    """Write everything that `plan` describes into `directory`.

    The result is the same, byte for byte, for any `jobs` and `memory`, and whether or not an
    earlier run has done a part.

    Args:
        plan: what to write.
        directory: an existing directory that none of the plan's paths exists in; with a journal,
            that which the earlier run has worked in.
        jobs: threads; as many as processors, at most 4, unless given.
        memory: bytes that working buffers may take together; no more than 160 MB are used. One
            row of a tensor is the least that is held at a time.
        progress: told at most ten times a second how many bytes are written.
        journal: is told of every tensor that is done, and says what an earlier run has done.

    Raises:
        CheckpointError: if a source cannot be read (`FormatError`: or decoded).
        MatchError: if copies of a tensor differ.
        OutputError: if the system refuses to write.

    """
    began = time.perf_counter()
    jobs = max(1, jobs or min(os.cpu_count() or 1, _MAX_JOBS))
    block = min(max(min(memory, _WORKING) // (jobs * _BUFFERS), _MIN_BLOCK), _MAX_BLOCK)
    _log.info(
        "writing %d tensors, %s bytes in %d file(s), with %d thread(s) in blocks of %s bytes",
        len(plan.tensors),
        f"{plan.nbytes:,}",
        len(plan.files),
        jobs,
        f"{block:,}",
    )
    if journal is not None:
        _clear(plan, directory)
    _write_documents(plan, directory)
    with ExitStack() as stack:
        sinks = [
            stack.enter_context(_create(directory, file, journal is not None))
            for file in plan.files
        ]
        outputs: dict[str, list[Output]] = {tensor.spec.name: [] for tensor in plan.tensors}
        for sink, file in zip(sinks, plan.files, strict=True):
            for entry in file.entries:
                outputs[entry.tensor].append((sink, entry))
        results, problems = _run(plan, outputs, jobs, block, progress, journal)
        if problems:
            raise MatchError("The sources contradict themselves.", problems)
        for sink in sinks:
            sink.finalize()
    return Execution(
        sha256={name: result.sha256 for name, result in results.items()},
        non_finite={name: r.non_finite for name, r in results.items() if r.non_finite},
        overflowed={name: r.overflowed for name, r in results.items() if r.overflowed},
        bytes_written=plan.nbytes,
        seconds=time.perf_counter() - began,
    )


def _clear(plan: Plan, directory: Path) -> None:
    """Remove what an earlier run has left, but for the weight files."""
    try:
        remove_other_files(directory, {directory / file.path for file in plan.files})
    except OSError as error:
        raise write_error(directory, plan.nbytes, error) from error


def _create(directory: Path, file: OutputFile, resuming: bool) -> FileWriter:
    """Lay out a file, or take over the one that an earlier run has left."""
    path = directory / file.path

    def create(path: Path) -> PreallocatedFile:
        return get_format(file.file_format).create(
            path,
            [entry.spec for entry in file.entries],
            metadata=file.metadata,
            aliases=file.aliases,
        )

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        output = reuse_partial_file(path, create) if resuming and path.is_file() else create(path)
    except OSError as error:
        raise write_error(path, file.nbytes, error) from error
    return FileWriter(output, file.nbytes)


def _run(
    plan: Plan,
    outputs: Mapping[str, Sequence[Output]],
    jobs: int,
    block: int,
    progress: Progress | None,
    journal: Journal | None,
) -> tuple[dict[str, TensorResult], list[Problem]]:
    """Let `jobs` threads work through the tensors.

    Returns:
        The tensors' results by canonical name, and the contradictions found, both in plan order.

    """
    stop = threading.Event()
    queue = _Queue(_in_reading_order(plan.tensors))
    workers = [Worker(number, outputs, block, stop, journal) for number in range(jobs)]
    with ThreadPoolExecutor(jobs, thread_name_prefix="converter") as pool:
        try:
            pending = {pool.submit(worker.run, queue) for worker in workers}
            while pending:
                done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
                failures = [error for future in done if (error := future.exception())]
                for error in failures:
                    if not isinstance(error, Stopped):
                        raise error
                if progress is not None:
                    progress(sum(w.bytes_done for w in workers), plan.nbytes, queue.current)
        finally:
            stop.set()
    found = {name: result for worker in workers for name, result in worker.results.items()}
    results = {t.spec.name: found[t.spec.name] for t in plan.tensors}
    return results, [problem for result in results.values() for problem in result.problems]


class _Queue(Iterator[TargetTensor]):
    """An iterator that several threads may share."""

    def __init__(self, tensors: Sequence[TargetTensor]) -> None:
        self._tensors = iter(tensors)
        self._lock = threading.Lock()
        self.current = ""
        """Canonical name of the tensor taken last."""

    def __next__(self) -> TargetTensor:
        with self._lock:
            tensor = next(self._tensors)
        self.current = tensor.spec.name
        return tensor


def _in_reading_order(tensors: Sequence[TargetTensor]) -> list[TargetTensor]:
    """Big tensors first, then as the source files lie on disk, then what is drawn anew."""
    big = sum(tensor.spec.nbytes for tensor in tensors) * _BIG

    def order(tensor: TargetTensor) -> tuple[bool, bool, str, str]:
        if isinstance(tensor.origin, SourceTensor):
            file, offset = tensor.origin.tensor.location[:2]
            place = f"{offset:020d}" if isinstance(offset, int) else str(offset)
            return tensor.spec.nbytes < big, False, str(file), place
        return tensor.spec.nbytes < big, True, "", ""

    return sorted(tensors, key=order)


def _write_documents(plan: Plan, directory: Path) -> None:
    """Write the plan's small files, and copy those that are copied unchanged."""
    for name, content in plan.documents.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise write_error(path, len(content), error) from error
    for name, origin in plan.copied_files.items():
        path = directory / name
        try:
            source = origin.open("rb")
        except OSError as error:
            raise CheckpointError(f"{origin}: cannot be read: {error.strerror}") from error
        with source:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except OSError as error:
                raise write_error(path, os.fstat(source.fileno()).st_size, error) from error
