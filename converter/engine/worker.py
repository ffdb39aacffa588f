"""What one thread does with one tensor after another."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from converter.containers.base import Array
from converter.engine.geometry import Permutation, Runs, blocks, core, core_permutation
from converter.engine.journal import Journal
from converter.engine.numbers import cast, count_non_finite, little_endian
from converter.engine.proof import is_written
from converter.engine.result import TensorResult
from converter.engine.rows import copy_checks, rows_of
from converter.engine.scratch import Scratch
from converter.engine.sink import Sink
from converter.plan import PlannedEntry, PlannedTensor
from converter.tensors import itemsize, numpy_dtype
from converter.tensors.rearrange import permute

Output: TypeAlias = tuple[Sink, PlannedEntry]
"""A file, and a tensor's place in it."""


class Stopped(Exception):  # noqa: N818 - no error: the work ends because another thread failed
    """The work is to end, for a reason that lies elsewhere."""


@dataclass(slots=True)
class _Group:
    """Outputs that take the very same bytes: rearranged and cast once, written to each."""

    permutation: Permutation
    dtype: str
    runs: Runs
    outputs: list[Output] = field(default_factory=list)


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
        self.bytes_done = 0
        self._number = number
        self._outputs = outputs
        self._block = block
        self._stop = stop
        self._journal = journal
        self._scratch = Scratch(block)

    def run(self, tensors: Iterator[PlannedTensor]) -> None:
        """Carry over tensors until there are none left.

        Raises:
            Stopped: if another thread failed or the user interrupted.
        """
        try:
            for tensor in tensors:
                self.results[tensor.spec.name] = self._recovered(tensor) or self._carry(tensor)
        except BaseException:
            self._stop.set()
            raise

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _recovered(self, tensor: PlannedTensor) -> TensorResult | None:
        """What an earlier run found, if that has written the tensor, which is proven."""
        name = tensor.spec.name
        result = self._journal.finished.get(name) if self._journal else None
        outputs = self._outputs[name]
        if result is None or not is_written(
            tensor, outputs, result.sha256, self._block, self._scratch, self._check
        ):
            return None
        for sink, entry in outputs:
            sink.keep(entry.spec.name, self._check)
            self.bytes_done += entry.spec.nbytes
        return result

    def _carry(self, tensor: PlannedTensor) -> TensorResult:
        """Read, prove, hash and write one tensor, block by block."""
        result = TensorResult()
        shape = core(tensor.spec.shape)
        source = rows_of(tensor)
        planned = numpy_dtype(tensor.spec.dtype)
        groups = self._groups(tensor, shape)
        checks = copy_checks(tensor)
        digest = hashlib.sha256()
        widest = max([source.dtype.itemsize, *(itemsize(group.dtype) for group in groups)])
        for start, stop in blocks(shape, widest, self._block):
            self._check()
            raw, stored = source.read(start, stop, self._scratch, "raw")
            for check in checks:
                check.compare(stored, start, stop, self._scratch, self._check)
            infinite = count_non_finite(stored)
            result.non_finite += infinite
            values = stored
            if planned != stored.dtype:
                values = self._scratch.array("cast", planned, stored.shape)
                cast(stored, values)
                result.overflowed += count_non_finite(values) - infinite
            digest.update(little_endian(values))
            part = (stop - start, *shape[1:]) if shape else ()
            for group in groups:
                laid_out = values
                if group.permutation == source.layout and values is stored:
                    laid_out = raw
                elif group.permutation != tuple(range(len(part))):
                    laid_out = self._scratch.array("layout", planned, part)
                    permute(values, part, group.permutation, laid_out)
                self._write(group, laid_out, start, stop)
        result.sha256 = digest.hexdigest()
        result.problems = [found for check in checks if (found := check.problem())]
        if self._journal:
            self._journal.record(tensor.spec.name, result)
        return result

    def _groups(self, tensor: PlannedTensor, shape: tuple[int, ...]) -> list[_Group]:
        """The outputs of `tensor`, by layout and dtype.

        Each thread begins with another file, so that they seldom wait for the same one's lock.
        """
        groups: dict[tuple[Permutation, str], _Group] = {}
        outputs = self._outputs[tensor.spec.name]
        turn = self._number % len(outputs) if outputs else 0
        for sink, entry in (*outputs[turn:], *outputs[:turn]):
            permutation = core_permutation(entry.rearrangement, tensor.spec.shape)
            key = permutation, entry.spec.dtype
            if key not in groups:
                groups[key] = _Group(*key, Runs.of(shape, permutation))
            groups[key].outputs.append((sink, entry))
        return list(groups.values())

    def _write(self, group: _Group, values: Array, start: int, stop: int) -> None:
        """Write rows that lie in the group's layout to each of its files."""
        wanted = numpy_dtype(group.dtype)
        if wanted != values.dtype:
            narrow, values = values, self._scratch.array("entry", wanted, values.shape)
            cast(narrow, values)
        content = little_endian(values)
        for sink, entry in group.outputs:
            sink.write_rows(entry.spec.name, content, group.runs, start, stop, self._check)
            self.bytes_done += len(content)
