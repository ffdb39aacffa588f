"""The executor of ``dask.distributed``: processes of this machine, or of a cluster.

A worker that dies is replaced, and its job restarted on another, which removes the partial output
as after any killed run. Workers must see the same files: on a shared disk, or by URL.
"""

from __future__ import annotations

import logging
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
from converter.recipes.schema import recipe_options
from converter.storage.references import local_path, parse_repo_id, parse_url
from converter.system import ENDING_SIGNALS, processors

_CONNECT_SECONDS = 30
"""Time to wait for a scheduler, and for its first worker."""

_STOP_CHECK_SECONDS = 1.0
"""Time between two checks of a job for a stop request; each is a network call."""


class DaskExecutor:
    """Runs jobs on the workers of a cluster: that of `scheduler`, or one on this machine."""

    def __init__(self, jobs: int | None, scheduler: str | None) -> None:
        try:
            import distributed
        except ImportError as error:
            raise UnsupportedError(
                "engine: dask requires the packages dask and distributed",
                remedy='Install them: pip install "encdec-converter[dask]"',
            ) from error
        self._dask = distributed
        self._jobs, self._scheduler = jobs, scheduler
        self._futures: dict[int, Any] = {}
        self._started: dict[int, Job] = {}
        self._results: dict[int, JobResult] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            address = self._scheduler or stack.enter_context(
                self._dask.LocalCluster(
                    n_workers=self._jobs or processors(),
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
        """Return the number of threads of all current workers."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def start(self, number: int, job: Job, write: bool) -> None:
        """Start a job."""
        self._started[number] = job
        self._futures[number] = self._client.submit(
            _run,
            with_absolute_paths(job),
            write,
            self._stopped.name,
            key=f"{job.name}-{uuid4()}",
            pure=False,
        )

    def ended(self, numbers: Iterable[int], timeout: float) -> dict[int, JobResult]:
        """Return the results of the jobs that ended."""
        started = set(numbers)
        pending = {self._futures[number]: number for number in started & self._futures.keys()}
        try:
            with self._client.as_current():
                done, _ = self._dask.wait(
                    list(pending), timeout=timeout, return_when="FIRST_COMPLETED"
                )
        except TimeoutError:
            done = set()
        for future in done:
            number = pending[future]
            self._results[number] = self._result(self._started[number], future)
            # If it were kept, dask would rerun the job if the worker that holds this result died.
            del self._futures[number]
        return {number: self._results[number] for number in started & self._results.keys()}

    def stop(self) -> None:
        """Ask every running job to stop."""
        self._stopped.set()

    def _result(self, job: Job, future: Any) -> JobResult:
        """Return the result of a job, also if its workers died."""
        if future.status == "finished":
            result: JobResult = future.result()
            return result
        error = future.exception() if future.status == "error" else None
        remedy = None
        if isinstance(error, self._dask.KilledWorker):
            text = f"every worker that ran it died, the last at {error.last_worker}"
            remedy = "Probably out of memory: try fewer --jobs, or a smaller `memory` option."
        else:
            text = f"was lost by the cluster: {error or future.status}"
        return JobResult(job, FAILED, error=ConverterError(f"{job.name}: {text}", remedy=remedy))

    def _connect(self, address: Any) -> Any:
        try:
            return self._dask.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConverterError(
                f"scheduler {address}: cannot be reached: {reason}",
                remedy="Start one with `dask scheduler`, and workers with `dask worker ADDRESS`.",
            ) from error

    def _check_workers(self) -> None:
        """Check that there are workers with the same version, so that results are the same."""
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError as error:
            raise ConverterError(
                f"scheduler {self._scheduler}: has no workers",
                remedy=f"Start some with `dask worker {self._scheduler}`.",
            ) from error
        versions = self._client.run(_version)
        wrong = {worker: other for worker, other in versions.items() if other != __version__}
        if wrong:
            raise ConverterError(
                f"scheduler {self._scheduler}: its workers need encdec-converter {__version__}: "
                + ", ".join(f"{worker} has {other or 'none'}" for worker, other in wrong.items())
            )


def dask_setup(worker: object) -> None:
    """Make a worker on this machine ignore ending signals; `distributed` calls this at its start.

    Terminals and `timeout` send them to all processes; only the first decides how the run ends.
    """
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def with_absolute_paths(job: Job) -> Job:
    """Return a job with absolute paths, for a process with another working directory."""
    options = dict(job.options)
    for name, option in recipe_options(job.command).items():
        if name in options and Path in option.items:
            options[name] = _absolute(options[name], name)
    return replace(job, options=options)


def _absolute(path: Any, option: str) -> Any:
    """Return a path or list of paths made absolute, but for URLs and Hub ids."""
    if isinstance(path, list):
        return [_absolute(each, option) for each in path]
    if parse_url(path) or (option != "output" and parse_repo_id(path)):
        return path
    return str(Path.cwd() / local_path(path))


def _version() -> str | None:
    try:
        from converter._version import __version__ as version
    except ImportError:
        return None
    return version


def _run(job: Job, write: bool, stopped: str) -> JobResult:
    """Run a job on a worker."""
    from distributed import Event

    event = Event(stopped)
    checked = time.monotonic()

    def stop() -> bool:
        nonlocal checked
        if time.monotonic() - checked < _STOP_CHECK_SECONDS:
            return False
        checked = time.monotonic()
        return bool(event.is_set())

    return run_job(job, write, stop)
