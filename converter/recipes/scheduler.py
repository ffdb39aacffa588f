"""Running the jobs of recipes: all are planned before any starts, and finished ones are skipped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

from converter.cleanup import thread_pool
from converter.errors import CheckpointError, ConverterError, UsageError
from converter.option_declaration import did_you_mean
from converter.options import RunOptions
from converter.progress import callback
from converter.python_calls import takes
from converter.recipes.job import (
    DONE,
    FAILED,
    NOT_STARTED,
    PLANNED,
    SKIPPED,
    Interrupted,
    JobResult,
    RunSummary,
    check_output,
    plan_job,
    run_job,
)
from converter.recipes.parser import Job, read_recipes
from converter.recipes.schema import SOURCES
from converter.storage.references import local_path, location_key

if TYPE_CHECKING:
    from converter.recipes.dask_executor import DaskExecutor

_POLL_SECONDS = 0.25
"""Time between two checks for free capacity or an interrupt."""

_MAX_COMPARED = 200
"""Outputs that a source is compared with, as each job may have to be."""

_STOP_SECONDS = 60.0
"""Time that running jobs have to stop cleanly after an interrupt."""


class ThreadExecutor:
    """Runs jobs in threads of this process; a context manager like `DaskExecutor`.

    Which jobs may start, and when, is decided by the scheduler.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._stopped = threading.Event()
        self._futures: dict[int, Future[JobResult]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._pool = self._stack.enter_context(thread_pool(self._jobs, self._stopped.set))
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)

    def capacity(self) -> int:
        """Return how many jobs may run at the same time, as of now."""
        return self._jobs

    def start(self, number: int, job: Job, write: bool) -> None:
        """Start a job, see `run_job`; return at once."""
        self._futures[number] = self._pool.submit(run_job, job, write, self._stopped.is_set)

    def ended(self, numbers: Iterable[int], timeout: float) -> dict[int, JobResult]:
        """Return the results of the jobs that ended; wait that many seconds for the first."""
        numbers_by_future = {self._futures[number]: number for number in numbers}
        done, _ = wait(numbers_by_future, timeout, FIRST_COMPLETED)
        return {numbers_by_future[future]: future.result() for future in done}

    def stop(self) -> None:
        """Ask every running job to stop; `ended` returns their results."""
        self._stopped.set()


@takes(RunOptions)
def run(options: RunOptions) -> RunSummary:
    """Run the jobs of recipes, skipping those whose output is up to date.

    Both `progress` and `on_result` are called in the thread that calls `run`. Unless `keep_going`,
    no job starts if one of them cannot be planned, and none after one has failed.

    Raises:
        UsageError: if a recipe is wrong; nothing was started then.
        UnsupportedError: if the executor's library is not installed.
        Interrupted: with the summary, when the run is interrupted, by `stopped` or Ctrl-C.

    """
    if options.scheduler and options.engine != "dask":
        raise UsageError("scheduler: requires the engine dask")
    if options.scheduler and options.jobs:
        raise UsageError("jobs: the scheduler's own workers decide how many run at once")
    jobs = read_recipes(options.paths, options.variables)
    scheduler = _Scheduler(*_select(jobs, options), options)
    return scheduler.plan_all() if options.dry_run else scheduler.run()


def _select(jobs: Sequence[Job], options: RunOptions) -> tuple[list[Job], set[str]]:
    """Return the jobs of the run, those that others need included, and the names of forced ones."""
    named = _matching(jobs, options.only or ["*"], "only")
    needed = _needed(jobs)
    selected = {number for number, job in enumerate(jobs) if job.name in named}
    for number in reversed(range(len(jobs))):  # a job needs earlier ones
        selected.update(needed[number] if number in selected else ())
    chosen = [
        replace(job, follows_another=bool(needed[number]))
        for number, job in enumerate(jobs)
        if number in selected
    ]
    forced = _matching(chosen, [each for each in options.force if each != "*"], "force")
    return chosen, forced | (named if "*" in options.force else set())


def _matching(jobs: Sequence[Job], patterns: Iterable[str], option: str) -> set[str]:
    """Return the names of the jobs that match one of the patterns; raise UsageError if none does.

    Each pattern must match one.
    """
    names = [job.name for job in jobs]
    matching: set[str] = set()
    for pattern in patterns:
        match = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not match and pattern != "*":
            remedy = did_you_mean(pattern, names)
            raise UsageError(f"{option}: no job is called {pattern!r}", remedy=remedy)
        matching |= match
    return matching


def _needed(jobs: Sequence[Job]) -> list[list[int]]:
    """Return for each job the earlier ones that write its sources."""
    outputs: dict[str, int] = {}
    needed = []
    for number, job in enumerate(jobs):
        needed.append(job.needed(outputs))
        outputs[location_key(job.output)] = number
    return needed


def _executor(options: RunOptions) -> ThreadExecutor | DaskExecutor:
    if options.engine == "local":
        return ThreadExecutor(options.jobs or 1)
    from converter.recipes.dask_executor import DaskExecutor

    return DaskExecutor(options.jobs, options.scheduler)


class _Scheduler:
    """One run: which jobs wait, are running and have ended."""

    def __init__(self, jobs: Sequence[Job], forced: set[str], options: RunOptions) -> None:
        self.jobs, self.forced, self.options = jobs, forced, options
        self.needed = _needed(jobs)
        self.planned: dict[int, JobResult] = {}
        """Job → what planning found: that it is up to date, cannot run, or is to run."""
        self.results: dict[int, JobResult] = {}
        self.running: dict[int, JobResult] = {}

    @property
    def summary(self) -> RunSummary:
        """The results so far."""
        return RunSummary(
            [self.results.get(n) or JobResult(job, NOT_STARTED) for n, job in enumerate(self.jobs)]
        )

    @property
    def halted(self) -> bool:
        """If no further job is to be started."""
        failed = any(each.status == FAILED for each in self.results.values())
        return failed and not self.options.keep_going

    def plan_all(self) -> RunSummary:
        """Plan every job, and write nothing."""
        for number, job in enumerate(self.jobs):
            before = [self.results[earlier] for earlier in self.needed[number]]
            waits = [each.job.name for each in before if each.status == PLANNED]
            # If it waits, its sources do not exist yet.
            self.end(number, JobResult(job, PLANNED, after=waits) if waits else self.plan(number))
        return self.summary

    def run(self) -> RunSummary:
        """Plan every job whose sources exist, then run what is not up to date."""
        try:
            for number, needed in enumerate(self.needed):
                if all(self.is_done(earlier) for earlier in needed):
                    self.planned[number] = self.plan(number)
            for number, planned in self.planned.items():
                if planned.status == FAILED or self.is_done(number):
                    self.end(number, planned)
            if len(self.results) < len(self.jobs) and not self.halted:
                with _executor(self.options) as executor:
                    self.execute(executor)
        except KeyboardInterrupt:
            raise Interrupted(self.summary) from None
        for number, result in enumerate(self.summary.results):
            if number not in self.results:
                self.end(number, result)
        return self.summary

    def is_done(self, number: int) -> bool:
        """Return whether planning found that there is nothing to do."""
        planned = self.planned.get(number)
        return planned is not None and planned.status == SKIPPED and not self.jobs[number].push

    def check_stop(self) -> None:
        """Raise KeyboardInterrupt if the run is to stop."""
        if self.options.stopped and self.options.stopped():
            raise KeyboardInterrupt

    def plan(self, number: int) -> JobResult:
        """Plan a job after those that it needs have ended."""
        self.check_stop()
        job = self.jobs[number]
        before = [self.results[n] for n in self.needed[number] if n in self.results]
        failed = [each.job.name for each in before if each.status in (FAILED, NOT_STARTED)]
        if failed:
            error = ConverterError(f"{job.name}: needs {', '.join(failed)}, which failed")
            return JobResult(job, FAILED, error=error)
        planned = plan_job(job)
        if isinstance(planned, ConverterError):
            if isinstance(planned, CheckpointError) and (hint := self.meant_output(job)):
                planned.remedy = "\n".join(filter(None, (hint, planned.remedy)))
            return JobResult(job, FAILED, error=planned)
        result = check_output(job, planned, lambda *_: self.check_stop())
        if result.status == SKIPPED and job.name in self.forced:
            return replace(result, status=PLANNED, reason="forced")
        made = ", ".join(each.job.name for each in before if each.status == DONE)
        return replace(result, reason=f"{made} ran again") if made and result.reason else result

    def meant_output(self, job: Job) -> str | None:
        """Return a remedy for a source that is missing, if another job writes it, or a like one."""
        outputs = {each.output: each.name for each in self.jobs if each is not job}
        for source in (str(job.options[name]) for name in SOURCES[job.command]):
            if local_path(source).exists():
                continue
            if source in outputs:
                return f"{outputs[source]} writes {source}: list that job before this one."
            names = [*outputs] if len(outputs) <= _MAX_COMPARED else []
            for output in get_close_matches(source, names, 1, 0.8):
                return f"Did you mean {output}, the output of {outputs[output]}?"
        return None

    def execute(self, executor: ThreadExecutor | DaskExecutor) -> None:
        """Give the executor every job that can start, until all have ended."""
        try:
            while self.start(executor) or self.running:
                self.collect(executor)
                self.check_stop()
        except KeyboardInterrupt:
            executor.stop()
            deadline = time.monotonic() + _STOP_SECONDS
            while self.running and time.monotonic() < deadline:
                self.collect(executor)
            raise

    def start(self, executor: ThreadExecutor | DaskExecutor) -> bool:
        """Start the jobs that can start; return whether anything changed."""
        changed = False
        room = executor.capacity() - len(self.running)
        for number, job in enumerate(self.jobs):
            if room <= 0 or self.halted:
                break
            if number in self.results or number in self.running:
                continue
            if not self.results.keys() >= set(self.needed[number]):
                continue
            planned = self.planned.get(number) or self.plan(number)
            changed = True
            if planned.status == PLANNED or (planned.status == SKIPPED and job.push):
                executor.start(number, job, planned.status == PLANNED)
                self.running[number] = planned
                self.show()
                room -= 1
            else:
                self.end(number, planned)
        return changed

    def collect(self, executor: ThreadExecutor | DaskExecutor) -> None:
        """Record the jobs that ended."""
        if not self.running:
            return
        for number, result in executor.ended(self.running, _POLL_SECONDS).items():
            planned = self.running.pop(number)
            pushed_only = result.status != FAILED and planned.status == SKIPPED
            status = SKIPPED if pushed_only else result.status
            job = self.jobs[number]
            self.end(number, replace(result, job=job, status=status, reason=planned.reason))

    def end(self, number: int, result: JobResult) -> None:
        """Record the result of a job."""
        self.results[number] = result = replace(result, number=number + 1)
        self.show()
        if self.options.on_result:
            self.options.on_result(result)

    def show(self) -> None:
        """Report the progress of the run."""
        if progress := callback(self.options.progress):
            names = ", ".join(self.jobs[number].name for number in sorted(self.running))
            progress(len(self.results), len(self.jobs), names)
