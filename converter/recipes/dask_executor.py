"""The engine of ``dask.distributed``: processes of this machine, or of a cluster.

A worker that dies is replaced, and its job begun again elsewhere; what it had half-written is
cleared away by that, as after any killed run. Workers have to see the same files: a shared disk,
or URLs.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from converter._version import __version__
from converter.errors import ConverterError, UnsupportedError
from converter.recipes.job import FAILED, JobResult, run_job
from converter.recipes.parser import Job
from converter.recipes.schema import paths
from converter.storage.hub_client import parse_repo_id
from converter.storage.url import path_of, url_of

_PATIENCE = 30
"""Seconds to wait for a scheduler, and for its first worker."""

_ASK = 1.0
"""Seconds between two questions of a job whether it is to stop; each goes over the network."""


class DaskExecutor:
    """Jobs on the workers of a cluster.

    Args:
        jobs: processes of a cluster on this machine; one a processor unless given.
        scheduler: address of another cluster's scheduler.

    Raises:
        UnsupportedError: if ``distributed`` is not installed.

    """

    def __init__(self, jobs: int | None, scheduler: str | None) -> None:
        try:
            import distributed
        except ImportError as error:
            raise UnsupportedError(
                "engine: dask needs the packages dask and distributed",
                remedy='Install them: pip install "encdec-converter[dask]"',
            ) from error
        self._dask = distributed
        self._jobs, self._scheduler = jobs, scheduler
        self._futures: dict[int, Any] = {}
        self._started: dict[int, Job] = {}
        self._outcomes: dict[int, JobResult] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            address = self._scheduler or stack.enter_context(
                self._dask.LocalCluster(
                    n_workers=self._jobs or os.cpu_count() or 1,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    preload=[__name__],
                    silence_logs=logging.CRITICAL,
                )
            )
            self._client = stack.enter_context(self._connect(address))
            self._stopped = self._dask.Event(f"converter-{uuid4()}", client=self._client)
            if self._scheduler:
                self._check_workers()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.cancel(list(self._futures.values()))
        self._stack.close()

    def capacity(self) -> int:
        """One job for every thread of every worker that there is now."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def start(self, number: int, job: Job, make: bool) -> None:
        """Begin a job."""
        self._started[number] = job
        self._futures[number] = self._client.submit(
            _carry_out,
            with_absolute_paths(job),
            make,
            self._stopped.name,
            key=f"{job.name}-{uuid4()}",
            pure=False,
        )

    def ended(self, numbers: Iterable[int], timeout: float) -> dict[int, JobResult]:
        """Those of the started jobs that have ended."""
        wanted = set(numbers)
        asked = {self._futures[number]: number for number in wanted & self._futures.keys()}
        try:
            with self._client.as_current():
                done, _ = self._dask.wait(
                    list(asked), timeout=timeout, return_when="FIRST_COMPLETED"
                )
        except TimeoutError:
            done = set()
        for future in done:
            number = asked[future]
            self._outcomes[number] = self._outcome(self._started[number], future)
            # Were it kept, the job would be done again if the worker that holds this result died.
            del self._futures[number]
        return {number: self._outcomes[number] for number in wanted & self._outcomes.keys()}

    def stop(self) -> None:
        """Let every job that is running end soon."""
        self._stopped.set()

    def _outcome(self, job: Job, future: Any) -> JobResult:
        """How a job ended, if only by the death of its workers."""
        if future.status == "finished":
            outcome: JobResult = future.result()
            return outcome
        error = future.exception() if future.status == "error" else None
        if isinstance(error, self._dask.KilledWorker):
            told = ConverterError(
                f"{job.name}: every worker that had it died, the last at {error.last_worker}",
                remedy="Often there was too little memory: try fewer --jobs, or a smaller `memory` "
                "in the recipe.",
            )
        else:
            told = ConverterError(f"{job.name}: the cluster lost it: {error or future.status}")
        return JobResult(job, FAILED, error=told)

    def _connect(self, address: Any) -> Any:
        try:
            return self._dask.Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            told = " ".join(str(error).split())[:300]
            raise ConverterError(
                f"scheduler {address}: cannot be reached: {told}",
                remedy="Start one with `dask scheduler`, and workers with `dask worker ADDRESS`.",
            ) from error

    def _check_workers(self) -> None:
        """Make sure that there are workers, with the same version, so that results are the same.

        Raises:
            ConverterError: if not.

        """
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            raise ConverterError(
                f"scheduler {self._scheduler}: has no workers",
                remedy=f"Start some with `dask worker {self._scheduler}`.",
            ) from error
        versions = self._client.run(_version)
        wrong = {worker: found for worker, found in versions.items() if found != __version__}
        if wrong:
            raise ConverterError(
                f"scheduler {self._scheduler}: its workers need encdec-converter {__version__}: "
                + ", ".join(f"{worker} has {found or 'none'}" for worker, found in wrong.items())
            )


def dask_setup(worker: object) -> None:
    """Let a worker on this machine outlive Ctrl-C; `distributed` calls this when it starts.

    A terminal sends that to all processes. Only the first may decide how the run ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def with_absolute_paths(job: Job) -> Job:
    """A job with absolute paths, for a process that may have another working directory."""
    options = dict(job.options)
    for name in paths(job.command) & options.keys():
        value = options[name]
        if isinstance(value, list):
            options[name] = [_absolute(item, name) for item in value]
        else:
            options[name] = _absolute(value, name)
    return replace(job, options=options)


def _absolute(path: str, option: str) -> str:
    if url_of(path) or (option != "output" and parse_repo_id(path)):
        return path
    return str(Path.cwd() / path_of(path))


def _version() -> str | None:
    try:
        from converter._version import __version__ as found
    except ImportError:
        return None
    return found


def _carry_out(job: Job, make: bool, stopped: str) -> JobResult:
    """What a worker does with a job."""
    from distributed import Event

    event = Event(stopped)
    asked = time.monotonic()

    def stop() -> bool:
        nonlocal asked
        if time.monotonic() - asked < _ASK:
            return False
        asked = time.monotonic()
        return bool(event.is_set())

    return run_job(job, make, stop)
