"""Running jobs: all are planned before any is started, and what is done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from converter.errors import ConverterError, UsageError
from converter.option_declaration import takes
from converter.options import RunOptions
from converter.recipes.executors import JobExecutor, ThreadExecutor
from converter.recipes.job import (
    FAILED,
    LEFT,
    PLANNED,
    SKIPPED,
    Interrupted,
    JobResult,
    RunSummary,
    is_done,
    plan_job,
)
from converter.recipes.parser import Job, read_recipes

_TICK = 0.25
"""Seconds after which one looks again whether there is room, or an interrupt."""

_GRACE = 60.0
"""Seconds that jobs have to end cleanly once the run was interrupted."""


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
    course = _Scheduler(
        jobs,
        options.keep_going,
        options.stopped or (lambda: False),
        options.progress or (lambda ended, total, names: None),
        options.on_result or (lambda result: None),
    )
    if options.dry_run:
        return course.dry()
    return course.all(lambda: _engine(options.engine, options.jobs, options.scheduler))


def _engine(name: str, jobs: int | None, scheduler: str | None) -> JobExecutor:
    if name == "local":
        return ThreadExecutor(jobs or 1)
    from converter.recipes.dask_executor import DaskExecutor

    return DaskExecutor(jobs, scheduler)


class _Scheduler:
    """One run: which jobs wait, run and have ended."""

    def __init__(
        self,
        todo: Sequence[Job],
        keep_going: bool,
        stopped: Callable[[], bool],
        progress: Callable[[int, int, str], None],
        told: Callable[[JobResult], None],
    ) -> None:
        self.todo, self.keep_going = todo, keep_going
        self.stopped, self.progress, self.told = stopped, progress, told
        self.planned: dict[int, JobResult] = {}
        """What planning said of a job: that it is done, cannot be made, or is to be made."""
        self.outcomes: dict[int, JobResult] = {}
        self.running: dict[int, JobResult] = {}
        self.needed = [
            [earlier for earlier in range(number) if job.needs(todo[earlier])]
            for number, job in enumerate(todo)
        ]

    @property
    def summary(self) -> RunSummary:
        """How the jobs stand."""
        return RunSummary(
            [self.outcomes.get(n) or JobResult(job, LEFT) for n, job in enumerate(self.todo)]
        )

    @property
    def halted(self) -> bool:
        """Whether nothing more is to be started."""
        return not self.keep_going and any(o.status == FAILED for o in self.outcomes.values())

    def dry(self) -> RunSummary:
        """Plan every job, and write nothing."""
        for number, job in enumerate(self.todo):
            before = [self.outcomes[earlier] for earlier in self.needed[number]]
            waits = [each.job.name for each in before if each.status == PLANNED]
            if waits:  # its sources are still to be made
                self.end(number, JobResult(job, PLANNED, after=waits))
            else:
                self.end(number, self.look(number))
        return self.summary

    def all(self, engine: Callable[[], JobExecutor]) -> RunSummary:
        """Plan every job whose sources are there, then carry out what there is to do."""
        try:
            for number, needed in enumerate(self.needed):
                if all(self.is_done(earlier) for earlier in needed):
                    self.planned[number] = self.look(number)
            for number, found in self.planned.items():
                if found.status == FAILED or self.is_done(number):
                    self.end(number, found)
            if len(self.outcomes) < len(self.todo) and not self.halted:
                with engine() as opened:
                    self.carry_out(opened)
        except KeyboardInterrupt:
            raise Interrupted(self.summary) from None
        for number, outcome in enumerate(self.summary.outcomes):
            if number not in self.outcomes:
                self.end(number, outcome)
        return self.summary

    def is_done(self, number: int) -> bool:
        """Whether planning found that there is nothing to do."""
        found = self.planned.get(number)
        return found is not None and found.status == SKIPPED and not self.todo[number].push

    def look(self, number: int) -> JobResult:
        """What is to be done with a job now that those before it have ended."""
        if self.stopped():
            raise KeyboardInterrupt
        job = self.todo[number]
        before = [self.outcomes[n] for n in self.needed[number] if n in self.outcomes]
        failed = [each.job.name for each in before if each.status in (FAILED, LEFT)]
        if failed:
            error = ConverterError(f"{job.name}: needs {', '.join(failed)}, which failed")
            return JobResult(job, FAILED, error=error)
        found = plan_job(job)
        if isinstance(found, ConverterError):
            return JobResult(job, FAILED, error=found)
        if is_done(found):
            return JobResult(job, SKIPPED)
        return JobResult(job, PLANNED, files={file.path: file.nbytes for file in found.plan.files})

    def carry_out(self, engine: JobExecutor) -> None:
        """Give the engine every job whose turn it is, until all have ended."""
        try:
            while self.begin(engine) or self.running:
                self.collect(engine)
                if self.stopped():
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            engine.stop()
            deadline = time.monotonic() + _GRACE
            while self.running and time.monotonic() < deadline:
                self.collect(engine)
            raise

    def begin(self, engine: JobExecutor) -> bool:
        """Start what can be started; gives whether anything has changed by that."""
        changed = False
        room = engine.capacity() - len(self.running)
        for number, job in enumerate(self.todo):
            if room <= 0 or self.halted:
                break
            if number in self.outcomes or number in self.running:
                continue
            if not all(earlier in self.outcomes for earlier in self.needed[number]):
                continue
            found = self.planned.get(number) or self.look(number)
            changed = True
            if found.status == PLANNED or (found.status == SKIPPED and job.push):
                engine.start(number, job, found.status == PLANNED)
                self.running[number] = found
                self.show()
                room -= 1
            else:
                self.end(number, found)
        return changed

    def collect(self, engine: JobExecutor) -> None:
        """Note what has ended."""
        if not self.running:
            return
        for number, outcome in engine.ended(self.running, _TICK).items():
            found = self.running.pop(number)
            kept = outcome.status != FAILED and found.status == SKIPPED
            status = SKIPPED if kept else outcome.status
            self.end(number, replace(outcome, job=self.todo[number], status=status))

    def end(self, number: int, outcome: JobResult) -> None:
        """Note how a job ended."""
        self.outcomes[number] = outcome
        self.show()
        self.told(outcome)

    def show(self) -> None:
        """Tell how far the run is."""
        names = ", ".join(self.todo[number].name for number in sorted(self.running))
        self.progress(len(self.outcomes), len(self.todo), names)
