"""What is left behind: nothing, after an interrupt, a signal, or the next run after a kill.

Python raises KeyboardInterrupt between any two steps of the main thread. These parts are correct
for one interrupt at any step; after that, the caller of a Python function may do as it likes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Self

from converter.system import ENDING_SIGNALS, is_own, lock, open_for_update, remove_lock


def complete(cleanup: Callable[[], object]) -> None:
    """Call `cleanup`, and again if an interrupt ended it. It must be idempotent."""
    try:
        cleanup()
    except Exception:
        raise
    except BaseException:
        cleanup()
        raise


class Stopped(Exception):  # noqa: N818 - not an error: another thread failed
    """A request to end the work of a thread, for a reason in another one."""


POOL = "converter"
"""Prefix of the names of threads."""


class _Pool(ThreadPoolExecutor):
    """A pool that knows what was submitted.

    After an interrupted ``Thread.join``, Python 3.11 takes a running thread for ended (its issue
    90882); waiting for the calls is safe.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs, thread_name_prefix=POOL)
        self.futures: list[Future[Any]] = []

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call; see `concurrent.futures.Executor.submit`."""
        future: Future[Any] = super().submit(*args, **kwargs)
        self.futures.append(future)
        return future


@contextmanager
def thread_pool(
    jobs: int, stop: Callable[[], object] | None = lambda: None
) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of `jobs` threads, none of which works when the block has been left.

    If the block fails, calls that have not begun are cancelled, and `stop` is called, which asks
    running calls to end. If it is ``None``, they cannot be stopped and are not waited for then.
    """
    pool = _Pool(jobs)

    def end() -> None:
        wait([each for each in pool.futures if not each.cancelled()])
        pool.shutdown()

    def cancel() -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        if stop is not None:
            stop()
            end()

    try:
        yield pool
        end()
    except BaseException:
        complete(cancel)
        raise


_REPEAT_SECONDS = 1.0
"""`timeout` sends its signal twice, and a terminal that is closed sends more than one."""


class EndingSignals:
    """Handlers that raise KeyboardInterrupt in the main thread for the first signal.

    Later signals do not interrupt the cleanup; but after a second, Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first signal."""
        self.deferred = False
        """If true, the first signal is only noted, and Ctrl-C a second later interrupts."""
        self._interrupted = False
        self._time = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """The exit code of a command that was interrupted: 128 and the number of the signal."""
        return 128 + (self.received or signal.SIGINT)

    @property
    def message(self) -> str:
        """What is printed when a command was interrupted."""
        named = self.received not in (None, signal.SIGINT)
        by = f" by {self.received.name}" if self.received and named else ""
        return f"Interrupted{by}: partial output was removed."

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in ENDING_SIGNALS:
                if signal.getsignal(each) not in (signal.SIG_IGN, None):
                    self._previous[each] = signal.signal(each, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def leave_running_threads(self, code: int) -> None:
        """End the process if an interrupted download from the Hub still runs.

        It cannot be stopped, and Python would wait for it; it left nothing but a file in the Hub's
        cache, with which the next download continues.
        """
        if self.received and any(each.name.startswith(POOL) for each in threading.enumerate()):
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(code)

    def _handle(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._time = signal.Signals(number), now
            if self.deferred:
                return
        elif number != signal.SIGINT or now - self._time < _REPEAT_SECONDS:
            return
        elif self._interrupted:
            text = b"Interrupted again: hidden files may remain, which the next run removes.\n"
            os.write(2, text)
            os._exit(self.exit_code)
        self._interrupted, self._time = True, now
        raise KeyboardInterrupt


class LockFile:
    """A file that is locked while it is in use, and removed afterwards.

    The system releases the lock when the process ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._held = False

    def acquire(self) -> bool:
        """Create and lock the file, and return whether the file system has locks.

        The parents are created. Raise BlockingIOError if another run holds the lock; OSError if
        the file cannot be created.
        """
        while True:
            # Here, since another run that created them may just have removed them.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(open_for_update(self._path, create=True), "r+")
            locked = lock(self._file.fileno())
            if not locked or _is_same(self._file, self._path):
                self._held = True
                return locked
            self._file.close()  # its last holder removed it before we got the lock: try again

    def release(self) -> None:
        """Remove the file unless another run holds the lock."""
        file = self._file
        with suppress(OSError):
            if file is None:  # an interrupt may come between the opening and the assignment
                file = FileIO(open_for_update(self._path), "r+") if is_own(self._path) else None
            if file is None or file.closed:
                return
            if not self._held:
                lock(file.fileno())
            if _is_same(file, self._path):
                remove_lock(file, self._path)
        if file is not None:
            file.close()


def _is_same(file: FileIO, path: Path) -> bool:
    """Return whether `path` is still the open `file`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a directory or a file, ignoring errors."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # not needed to start

        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


_NAME = "converter-{}"
_LOCK_NAME = re.compile(r"converter-[0-9a-f]{16}\.lock")


class TemporaryDirectory:
    """A directory below ``TMPDIR`` that is removed by `close`, at the latest by the next run.

    Next to it is a lock file that is locked as long as the process lives. Only the process that
    created the directory removes it, and not one that was forked. Raise OSError if it cannot be
    created.
    """

    def __init__(self) -> None:
        import tempfile  # not needed to start

        parent = Path(tempfile.gettempdir())
        _remove_leftovers(parent)
        self.path = parent / _NAME.format(os.urandom(8).hex())
        lock_file = LockFile(parent / f"{self.path.name}.lock")
        self._remove = partial(_remove, self.path, lock_file, os.getpid())
        self._finalizer = weakref.finalize(self, complete, self._remove)
        lock_file.acquire()
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove it."""
        complete(self._remove)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _remove(directory: Path, lock_file: LockFile, pid: int) -> None:
    """Remove a temporary directory and its lock file."""
    if os.getpid() == pid:
        remove(directory)
        lock_file.release()


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary directories of runs that were killed, which their locks prove."""
    with suppress(OSError):
        for path in [each for each in parent.iterdir() if _LOCK_NAME.fullmatch(each.name)]:
            _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    """Remove the temporary directory of a lock file, unless its run is alive."""
    with suppress(OSError):
        if is_own(path) and path.is_file():
            with FileIO(open_for_update(path), "r+") as file:
                if lock(file.fileno()) and _is_same(file, path):
                    remove(path.with_suffix(""))
                    remove_lock(file, path)
