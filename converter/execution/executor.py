"""The one pass over a plan: a small pool of threads, each copying one tensor after another."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from converter.cleanup import Stopped, thread_pool
from converter.errors import MatchError
from converter.execution.file_writer import FileWriter, reporting_write_errors
from converter.execution.resume import (
    Journal,
    digest_in_file,
    remove_other_files,
    reuse_partial_file,
)
from converter.execution.tensor_copy import TensorCopier, TensorResult
from converter.formats.base import PreallocatedFile
from converter.formats.registry import get_format
from converter.plan import (
    FileEntry,
    InitializedTensor,
    OutputFile,
    Plan,
    SourceTensor,
    TargetTensor,
)
from converter.progress import ProgressOption
from converter.safe_json import open_regular
from converter.system import processors

Output: TypeAlias = tuple[FileWriter, FileEntry]
"""A file, and a tensor's entry in it."""
Arrivals: TypeAlias = Mapping[str, Callable[[], int]]
"""Path of a file that is being downloaded → how many bytes from its start can be read."""
_NOTHING: Arrivals = {}


class Worker:
    """The work of one thread."""

    def __init__(
        self,
        number: int,
        outputs: Mapping[str, Sequence[Output]],
        block: int,
        stop: threading.Event,
        hashed: bool = True,
        journal: Journal | None = None,
    ) -> None:
        self.results: dict[str, TensorResult] = {}
        self._outputs = outputs
        self._stop = stop
        self._journal = journal
        self.copier = TensorCopier(outputs, block, self._check, number, hashed)

    def run(self, tensors: Iterator[TargetTensor]) -> None:
        """Copy tensors until none are left; raise Stopped if another thread failed."""
        try:
            for tensor in tensors:
                result = self._recovered(tensor)
                if result is None:
                    result = self.copier.copy(tensor)
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
        """Return the result of an earlier run, if the files still hold the tensor."""
        name = tensor.spec.name
        result = self._journal.finished.get(name) if self._journal else None
        outputs = self._outputs[name]
        scratch = self.copier.scratch
        if result is None or not all(
            digest_in_file(tensor, writer, entry, scratch, self._check) == result.sha256
            for writer, entry in outputs
        ):
            return None
        for writer, entry in outputs:
            writer.accept_existing(entry.spec.name, self._check)
            self.copier.bytes_done += entry.spec.nbytes
        return result


_log = logging.getLogger(__name__)

_MAX_JOBS = 4
"""Threads; more only wait for the disk and the interpreter."""
_BUFFERS = 4
"""Block-sized buffers of a thread: as stored, canonical, cast, as written."""
_MIN_BLOCK, _MAX_BLOCK = 1 << 20, 16 << 20
"""Bytes of a block. Most tensors fit the larger and are written in one piece."""
_WORKING = 160 << 20
"""Bytes of all buffers; more bring no speed, only a larger process."""
_BIG = 1 / 16
"""Share of all bytes above which a tensor is copied first, so that no thread ends with it alone."""


@dataclass(frozen=True, slots=True)
class Execution:
    """The result of `execute`."""

    sha256: Mapping[str, str]
    """Canonical name → SHA-256 of the little-endian bytes in PyTorch layout and planned dtype."""
    non_finite: Mapping[str, int]
    """Canonical name → number of infinite or NaN elements in the source, if any."""
    overflowed: Mapping[str, int]
    """Canonical name → number of finite elements that overflow the planned dtype, if any."""
    bytes_written: int
    """Bytes of tensors in all files."""
    seconds: float


def execute(
    plan: Plan,
    directory: Path,
    *,
    jobs: int | None = None,
    memory: int = 512 << 20,
    progress: ProgressOption = None,
    hashed: bool = True,
    journal: Journal | None = None,
    arrived: Arrivals = _NOTHING,
    stop: threading.Event | None = None,
) -> Execution:
    """Write everything that `plan` describes into `directory`, which exists.

    The result is the same, byte for byte, for any number of threads (`jobs`; default one per
    processor, at most 4) and any `memory` (bytes of all buffers together; at most 160 MB are used,
    at least one row of a tensor), and whether or not an earlier run has done a part. `progress` is
    called at most ten times a second with the bytes written. Unless `hashed`, the hashes are empty.
    With a `journal`, which needs them, `directory` may hold the files of the earlier run. `arrived`
    has the source files that are still being downloaded; `stop` is set to end all threads.

    Raise CheckpointError if a source cannot be read; MatchError if copies of a tensor differ;
    OutputError if a file cannot be written.
    """
    began = time.perf_counter()
    jobs = jobs or min(processors(), _MAX_JOBS)
    jobs = max(1, min(jobs, len(plan.tensors), memory // (_BUFFERS * _MIN_BLOCK)))
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
        with reporting_write_errors(directory, plan.nbytes):
            remove_other_files(directory, {directory / file.path for file in plan.files})
    _write_documents(plan, directory)
    with ExitStack() as stack:
        writers = []
        for file in plan.files:
            writers.append(_create(directory, file, journal is not None))
            stack.callback(writers[-1].close)
        outputs: dict[str, list[Output]] = {tensor.spec.name: [] for tensor in plan.tensors}
        for writer, file in zip(writers, plan.files, strict=True):
            for entry in file.entries:
                outputs[entry.tensor].append((writer, entry))
        stop = stop or threading.Event()
        workers = [Worker(n, outputs, block, stop, hashed, journal) for n in range(jobs)]
        results = _run(plan, workers, stop, progress, arrived)
        if problems := [problem for result in results.values() for problem in result.problems]:
            raise MatchError("The sources contain contradictory copies of tensors.", problems)
        for writer in writers:
            writer.finalize()
    return Execution(
        sha256={name: result.sha256 for name, result in results.items()},
        non_finite={name: r.non_finite for name, r in results.items() if r.non_finite},
        overflowed={name: r.overflowed for name, r in results.items() if r.overflowed},
        bytes_written=plan.nbytes,
        seconds=time.perf_counter() - began,
    )


def _create(directory: Path, file: OutputFile, resuming: bool) -> FileWriter:
    """Create a file, or continue the one of an earlier run."""
    path = directory / file.path

    def create(path: Path) -> PreallocatedFile:
        return get_format(file.file_format).create(
            path,
            [entry.spec for entry in file.entries],
            metadata=file.metadata,
            aliases=file.aliases,
            repeated=file.repeated,
        )

    with reporting_write_errors(path, file.nbytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        output = reuse_partial_file(path, create) if resuming and path.is_file() else create(path)
    return FileWriter(output, file.nbytes)


def _run(
    plan: Plan,
    workers: Sequence[Worker],
    stop: threading.Event,
    progress: ProgressOption,
    arrived: Arrivals,
) -> dict[str, TensorResult]:
    """Copy the tensors, one thread a worker; return their results in plan order."""
    queue = _Queue(_reading_order(plan.tensors, arrived), arrived)
    with thread_pool(len(workers), stop.set) as pool:
        first, *others = workers
        pending = {pool.submit(worker.run, queue) for worker in others}
        pending.add(pool.submit(first.run, queue.from_end() if others else queue))
        while pending:
            done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
            for error in (future.exception() for future in done):
                if error is not None and not isinstance(error, Stopped):
                    raise error
            if callable(progress):
                progress(sum(w.copier.bytes_done for w in workers), plan.nbytes, queue.current)
    unordered = {name: result for worker in workers for name, result in worker.results.items()}
    return {tensor.spec.name: unordered[tensor.spec.name] for tensor in plan.tensors}


class _Queue(Iterator[TargetTensor]):
    """An iterator that several threads may share; first come tensors that have arrived."""

    def __init__(self, tensors: Sequence[TargetTensor], arrived: Arrivals) -> None:
        self._queues: dict[str, deque[TargetTensor]] = {}
        for tensor in tensors:
            file = _position(tensor)[0]
            self._queues.setdefault(file if file in arrived else "", deque()).append(tensor)
        self._arrived = arrived
        self._lock = threading.Lock()
        self.current = ""
        """Canonical name of the last tensor."""

    def __next__(self) -> TargetTensor:
        tensor = self._take(from_end=False)
        if tensor is None:
            raise StopIteration
        return tensor

    def from_end(self) -> Iterator[TargetTensor]:
        """Return an iterator for one of the threads, which begins with newly initialized tensors.

        They take many short steps, for which two threads would wait in turns.
        """
        return iter(lambda: self._take(from_end=True), None)

    def _take(self, *, from_end: bool) -> TargetTensor | None:
        with self._lock:
            queues = [file for file, tensors in self._queues.items() if tensors]
            if not queues:
                return None
            file = min(queues, key=self._bytes_to_arrive)
            tensors = self._queues[file]
            new = isinstance(tensors[-1].origin, InitializedTensor)
            tensor = tensors.pop() if from_end and new else tensors.popleft()
        self.current = tensor.spec.name
        return tensor

    def _bytes_to_arrive(self, file: str) -> int:
        """Return how many bytes of a file must arrive before its next tensor can be read."""
        if not file:
            return 0
        tensor = self._queues[file][0]
        return max(_position(tensor)[1] + tensor.spec.nbytes - self._arrived[file](), 0)


def _position(tensor: TargetTensor) -> tuple[str, int]:
    """Return the file and the offset that a tensor is read from, if it is."""
    if not isinstance(tensor.origin, SourceTensor):
        return "", 0
    file, offset = tensor.origin.tensor.location[:2]
    return str(file), offset if isinstance(offset, int) else 0


def _reading_order(tensors: Sequence[TargetTensor], arrived: Arrivals) -> list[TargetTensor]:
    """Return big tensors first, then the others in file order, then newly initialized ones.

    Those of a file that is being downloaded are in file order, big or not.
    """
    big = sum(tensor.spec.nbytes for tensor in tensors) * _BIG

    def order(tensor: TargetTensor) -> tuple[bool, bool, str, str]:
        if isinstance(tensor.origin, SourceTensor):
            file, offset = tensor.origin.tensor.location[:2]
            position = f"{offset:020d}" if isinstance(offset, int) else str(offset)
            small = tensor.spec.nbytes < big or str(file) in arrived
            return small, False, str(file), position
        return tensor.spec.nbytes < big, True, "", ""

    return sorted(tensors, key=order)


def _write_documents(plan: Plan, directory: Path) -> None:
    """Write the plan's documents, and copy its copied files."""
    for name, content in plan.documents.items():
        path = directory / name
        with reporting_write_errors(path, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for name, origin in plan.copied_files.items():
        path = directory / name
        with (
            os.fdopen(open_regular(origin), "rb") as source,
            reporting_write_errors(path, os.fstat(source.fileno()).st_size),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
