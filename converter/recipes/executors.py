"""Where jobs are carried out: an engine takes jobs, and tells how they ended.

Which jobs may start, and when, is not its business: see `converter.recipes.scheduler`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Protocol, Self

from converter.recipes.job import JobResult, run_job
from converter.recipes.parser import Job


class JobExecutor(Protocol):
    """A context manager that carries out jobs, several at a time."""

    def __enter__(self) -> Self:
        """Make ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything."""

    def capacity(self) -> int:
        """How many jobs may run at the same time, as things are now."""

    def start(self, number: int, job: Job, make: bool) -> None:
        """Begin a job, see `run_job`; returns at once."""

    def ended(self, numbers: Iterable[int], timeout: float) -> dict[int, JobResult]:
        """Those of the started jobs that have ended; waits that many seconds for the first."""

    def stop(self) -> None:
        """Let every job that is running end soon, cleanly; `ended` tells of them."""


class ThreadExecutor:
    """The local engine: threads of this process.

    Args:
        jobs: how many jobs to run at the same time.

    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._stopped = threading.Event()
        self._futures: dict[int, Future[JobResult]] = {}

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="job")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def capacity(self) -> int:
        """How many jobs may run at the same time."""
        return self._jobs

    def start(self, number: int, job: Job, make: bool) -> None:
        """Begin a job."""
        stopped: Callable[[], bool] = self._stopped.is_set
        self._futures[number] = self._pool.submit(run_job, job, make, stopped)

    def ended(self, numbers: Iterable[int], timeout: float) -> dict[int, JobResult]:
        """Those of the started jobs that have ended."""
        asked = {self._futures[number]: number for number in numbers}
        done, _ = wait(asked, timeout, FIRST_COMPLETED)
        return {asked[future]: future.result() for future in done}

    def stop(self) -> None:
        """Let every job that is running end soon."""
        self._stopped.set()
