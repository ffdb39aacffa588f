"""What holds after an interrupt: cleanup is complete, and no thread still works.

Python raises KeyboardInterrupt between any two steps of the main thread. These parts are correct
for one interrupt at any step; after that, the caller of a Python function may do as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any


def complete(cleanup: Callable[[], object]) -> None:
    """Call `cleanup`, and again if an interrupt ended it. It must be idempotent."""
    try:
        cleanup()
    except Exception:
        raise
    except BaseException:
        cleanup()
        raise


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
