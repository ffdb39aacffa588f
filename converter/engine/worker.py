"""What one thread does with one tensor after another."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from converter.engine.carrier import Carrier
from converter.engine.journal import Journal
from converter.engine.proof import is_written
from converter.engine.result import TensorResult
from converter.engine.sink import Sink
from converter.plan import PlannedEntry, PlannedTensor

Output: TypeAlias = tuple[Sink, PlannedEntry]
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
        self._carrier = Carrier(outputs, block, self._check, number)

    @property
    def bytes_done(self) -> int:
        """Bytes written so far."""
        return self._carrier.bytes_done

    def run(self, tensors: Iterator[PlannedTensor]) -> None:
        """Carry over tensors until there are none left.

        Raises:
            Stopped: if another thread failed or the user interrupted.
        """
        try:
            for tensor in tensors:
                result = self._recovered(tensor)
                if result is None:
                    result = self._carrier.carry(tensor)
                    if self._journal:
                        self._journal.record(tensor.spec.name, result)
                self.results[tensor.spec.name] = result
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
            tensor, outputs, result.sha256, self._block, self._carrier.scratch, self._check
        ):
            return None
        for sink, entry in outputs:
            sink.keep(entry.spec.name, self._check)
            self._carrier.bytes_done += entry.spec.nbytes
        return result
