"""Bounds on processor time in units of a reference workload, so that slow machines pass."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_is_frozen = False


@contextmanager
def without_old_objects() -> Iterator[None]:
    """Keep the garbage collector from the objects that exist already.

    A process that has imported the frameworks holds millions of them: a full collection takes
    longer than what is bounded, and depends on what ran before. Around many bounded blocks, this
    is done once: each time costs the callbacks of the frameworks, a fifth of a second.
    """
    global _is_frozen
    if _is_frozen:
        yield
        return
    gc.freeze()
    _is_frozen = True
    try:
        yield
    finally:
        _is_frozen = False
        gc.collect()  # what the block made: it would count as old from now on
        gc.unfreeze()


def run_reference() -> float:
    """Return the processor seconds of the reference workload: 300,000 small operations."""
    began = time.process_time()
    stack: list[object] = []
    table: dict[int, int] = {}
    for number in range(100_000):
        stack.append((number, stack[-1:]))
        table[number & 1023] = int.from_bytes(number.to_bytes(4, "little"), "big")
        stack.pop()
    return time.process_time() - began


@cache
def _unit() -> float:
    return run_reference()


def check_work(seconds: float, units: float) -> None:
    """Assert that processor `seconds` are at most `units` runs of the reference workload.

    The workload is measured once a process, and again where the limit seems exceeded: the machine
    may have slowed down in between.
    """
    if seconds > units * _unit():
        unit = max(_unit(), run_reference(), run_reference())
        assert seconds <= units * unit, f"took {seconds / unit:.1f} units of {unit:.3f} s"


@contextmanager
def work_at_most(units: float) -> Iterator[None]:
    """Assert that the block takes at most `units` times the work of the reference workload."""
    with without_old_objects():
        began = time.process_time()
        yield
        seconds = time.process_time() - began
    check_work(seconds, units)
