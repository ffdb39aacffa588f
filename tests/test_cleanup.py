"""An interrupt at any step of a Python function leaves no file and no working thread."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import converter
from converter.cleanup import POOL, complete, thread_pool
from converter.storage.atomic_directory import atomic_directory
from converter.system import lock, open_for_update
from tests import factories
from tests.hostile.reliability import digests

PLACES = ("atomic_directory", "converter/cleanup", "contextlib")
"""Parts of the paths of the code that has to be correct at every step."""
_POINTS = ("CALL", "RESUME", "JUMP_BACKWARD")
"""Prefixes of the instructions after which Python looks for signals (``ceval.c``)."""


class Interrupt:
    """Raises KeyboardInterrupt at one of the points of the main thread where Python may.

    Those in files whose path contains one of `places` are counted.
    """

    def __init__(self, step: int, places: tuple[str, ...]) -> None:
        self.step, self.places = step, places
        self.count = 0
        self._last: dict[int, str] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count, and raise, in the block.

        Python 3.12 and 3.13 trace the instructions of a function only from its second run on;
        `sys.monitoring` reports all of them.
        """
        if sys.version_info >= (3, 12):
            tool, events = 4, sys.monitoring.events
            sys.monitoring.use_tool_id(tool, __name__)
            sys.monitoring.register_callback(tool, events.INSTRUCTION, self._instruction)
            sys.monitoring.restart_events()
            sys.monitoring.set_events(tool, events.INSTRUCTION)
            try:
                yield
            finally:
                sys.monitoring.set_events(tool, 0)
                sys.monitoring.register_callback(tool, events.INSTRUCTION, None)
                sys.monitoring.free_tool_id(tool)
        else:
            before = sys.gettrace()
            sys.settrace(self._call)
            try:
                yield
            finally:
                sys.settrace(before)

    def _instruction(self, code: CodeType, offset: int) -> Any:
        if not self._counts(code):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined]
        if threading.current_thread() is threading.main_thread():
            self._execute(sys._getframe(1), offset)
        return None

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        if not self._counts(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self._execute(frame, frame.f_lasti)
        elif event == "return":
            self._last.pop(id(frame), None)
        return self._opcode

    def _counts(self, code: CodeType) -> bool:
        return any(place in code.co_filename for place in self.places)

    def _execute(self, frame: FrameType, offset: int) -> None:
        """Note the instruction that follows; raise if the last one is the point of the step."""
        last = self._last.get(id(frame), "")
        self._last[id(frame)] = dis.opname[frame.f_code.co_code[offset]]
        if last.startswith(_POINTS):
            self.count += 1
            if self.count == self.step:
                raise KeyboardInterrupt


def interrupted(step: int, run: Callable[[], object], *places: str) -> bool:
    """Interrupt `run` at a step; return false if it ended before."""
    interrupt = Interrupt(step, places)
    try:
        with interrupt.watching():
            run()
    except KeyboardInterrupt:
        return True
    return interrupt.count >= step  # during the work of a finalizer


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("way", ["new", "exchange", "two renames"])
def test_an_output_directory_at_every_step(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite = way != "new"
    if way == "two renames":
        name = "converter.storage.atomic_directory.exchange"
        monkeypatch.setattr(name, lambda first, second: False)
    home, outcomes = tmp_path / "new" / "home", set()
    output = home / "model"

    def write(text: str = "new") -> None:
        with atomic_directory(output, overwrite) as partial:
            (partial / "config.json").write_text(text)

    for step in range(1, 2000):
        if overwrite:
            write("old")
        going = interrupted(step, write, *PLACES)
        left = (output / "config.json").read_text() if output.exists() else None
        assert left in ("new", "old" if overwrite else None), step
        outcomes.add(left)
        if left is None:
            assert names(tmp_path) == [], step
        else:
            assert names(home) == ["model"], step
            (output / "config.json").unlink()
            output.rmdir()
            home.rmdir()
            home.parent.rmdir()
        if not going:
            break
    assert len(outcomes) == 2
    assert 100 < step < 1999


def test_an_interrupt_does_not_remove_the_lock_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / ".model.lock"

    def write() -> None:
        with atomic_directory(tmp_path / "model"):
            raise AssertionError("is locked")

    for step in range(1, 1000):
        fd = open_for_update(path, create=True)
        with open(fd, "rb"):  # noqa: PTH123 - a descriptor
            assert lock(fd)
            try:
                going = interrupted(step, write, *PLACES)
            except converter.OutputError:
                going = False
            assert names(tmp_path) == [".model.lock"], step
        if not going:
            break
    assert 20 < step < 999


@pytest.mark.slow
@pytest.mark.parametrize("where", range(12))
def test_a_command_at_many_steps(tmp_path: Path, where: int) -> None:
    made = factories.make(tmp_path / "bert", "bert")
    converter.convert(made.directory, tmp_path / "out", to=["flax"], seed=1)
    old = digests(tmp_path / "out")

    def write() -> None:
        converter.convert(made.directory, tmp_path / "out", overwrite=True)

    counter = Interrupt(-1, ("/converter/",))
    with counter.watching():
        write()
    new = digests(tmp_path / "out")
    converter.convert(made.directory, tmp_path / "out", to=["flax"], seed=1, overwrite=True)
    # Most of the steps are of planning; a third of the cases is of the end, which writes.
    share = 0.75 + where / 48 if where % 3 == 0 else where / 12
    interrupted(1 + int(share * counter.count), write, "/converter/")
    assert digests(tmp_path / "out") in (old, new)
    assert names(tmp_path) == ["bert", "out"]
    assert not working_threads()


def working_threads() -> list[str]:
    """Return the names of the threads of this package."""
    return [each.name for each in threading.enumerate() if each.name.startswith(POOL)]


def test_no_thread_of_a_pool_works_after_an_interrupt() -> None:
    states = []
    for step in range(1, 400):
        stop = threading.Event()
        running = threading.Semaphore(0)

        def work(stop: threading.Event = stop, running: threading.Semaphore = running) -> None:
            running.release()
            stop.wait(5)

        def run(stop: threading.Event = stop, running: threading.Semaphore = running) -> None:
            with thread_pool(2, stop.set) as pool:
                for _ in range(4):
                    pool.submit(work)
                running.acquire()
                stop.set()

        going = interrupted(step, run, "converter/cleanup.py", "contextlib.py", __file__)
        assert stop.is_set() or not going or not working_threads()
        states.append(working_threads())
        if not going:
            break
    assert not any(states)
    assert 20 < step < 399


def test_a_pool_cancels_what_has_not_begun_when_the_block_fails() -> None:
    stop, calls = threading.Event(), []

    def work(number: int) -> None:
        calls.append(number)
        stop.wait(5)

    with pytest.raises(ZeroDivisionError), thread_pool(1, stop.set) as pool:
        futures = [pool.submit(work, number) for number in range(9)]
        raise ZeroDivisionError
    assert len(calls) <= 1
    assert all(each.done() for each in futures)


def test_an_interrupted_cleanup_is_repeated_and_a_failed_one_is_not() -> None:
    errors: list[BaseException] = [KeyboardInterrupt(), OSError()]
    calls = []

    def cleanup() -> None:
        calls.append(1)
        if len(calls) % 2:
            raise errors.pop(0)

    with pytest.raises(KeyboardInterrupt):
        complete(cleanup)
    assert len(calls) == 2
    with pytest.raises(OSError):
        complete(cleanup)
    assert len(calls) == 3
