"""Running jobs: all are planned before any is started, and what is done is not done again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.composition.production import Result
from converter.errors import ConverterError
from converter.hub.push import push
from converter.jsonfile import read_json_object, to_json
from converter.manifest import MANIFEST
from converter.recipes.reading import Job, read_recipes
from converter.recipes.schema import MAKERS

DONE, SKIPPED, FAILED, LEFT = "done", "skipped", "failed", "not started"


@dataclass
class Outcome:
    """How a job ended."""

    job: Job
    status: str
    seconds: float = 0.0
    error: ConverterError | None = None
    pushed: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the summary has it."""
        found: dict[str, Any] = {
            "command": self.job.command,
            "output": self.job.output,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        if self.pushed:
            found["pushed"] = dict(self.pushed)
        return {**found, **(self.error.to_dict() if self.error else {})}


@dataclass
class Summary:
    """How all jobs ended."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def succeeded(self) -> bool:
        """Whether every job is done."""
        return all(outcome.status in (DONE, SKIPPED) for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "command": "run",
            "counts": {status: self.count(status) for status in (DONE, SKIPPED, FAILED, LEFT)},
            "jobs": {outcome.job.name: outcome.to_dict() for outcome in self.outcomes},
        }


def run(
    *recipes: str | Path,
    jobs: int = 1,
    keep_going: bool = False,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Run the jobs of recipes; what is there, whole and as it would be made, is skipped.

    Args:
        recipes: YAML or JSON files.
        jobs: how many jobs to run at the same time.
        keep_going: whether the other jobs run where some fail. Else nothing is started if any of
            them cannot be planned, and nothing more once one has failed.
        told: called with every outcome, by one thread at a time.

    Raises:
        UsageError: if a recipe is wrong; nothing was started then.
    """
    todo = read_recipes([Path(recipe) for recipe in recipes])
    return _Run(todo, keep_going, told).all(jobs)


class _Run:
    def __init__(
        self, todo: Sequence[Job], keep_going: bool, told: Callable[[Outcome], None]
    ) -> None:
        self.todo, self.keep_going, self.told = todo, keep_going, told
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def all(self, jobs: int) -> Summary:
        needed = {
            number: [earlier for earlier in range(number) if job.needs(self.todo[earlier])]
            for number, job in enumerate(self.todo)
        }
        impossible = {}
        for number, job in enumerate(self.todo):
            if not needed[number]:  # else its sources are still to be made
                try:
                    _make(job, dry_run=True)
                except ConverterError as error:
                    impossible[number] = Outcome(job, FAILED, error=error)
        if impossible and not self.keep_going:
            self.stopped.set()
        futures: list[Future[Outcome]] = []
        with ThreadPoolExecutor(jobs) as pool:
            for number, job in enumerate(self.todo):
                before = [futures[earlier] for earlier in needed[number]]
                known = impossible.get(number)
                futures.append(pool.submit(self.one, job, known, before))
            return Summary([future.result() for future in futures])

    def one(self, job: Job, known: Outcome | None, before: Sequence[Future[Outcome]]) -> Outcome:
        # Jobs start in their order, so those that are waited for have been started.
        failed = [o.job.name for o in (f.result() for f in before) if o.status in (FAILED, LEFT)]
        if known is None and failed and not self.stopped.is_set():
            error = ConverterError(f"{job.name}: needs {', '.join(failed)}, which failed")
            known = Outcome(job, FAILED, error=error)
        outcome = known or (Outcome(job, LEFT) if self.stopped.is_set() else _carry_out(job))
        if outcome.status == FAILED and not self.keep_going:
            self.stopped.set()
        with self.lock:
            self.told(outcome)
        return outcome


def _carry_out(job: Job) -> Outcome:
    start = time.monotonic()
    try:
        status = SKIPPED if is_done(_make(job, dry_run=True)) else DONE
        if status == DONE:
            # What lies there may be replaced if it was made here; anything else is refused.
            _make(job, overwrite=(Path(job.output) / MANIFEST).is_file())
        pushed = push(job.output, **job.push).to_dict() if job.push else None
    except ConverterError as error:
        return Outcome(job, FAILED, time.monotonic() - start, error)
    except (OSError, MemoryError) as error:
        told = ConverterError(f"{job.name}: {error or type(error).__name__}")
        return Outcome(job, FAILED, time.monotonic() - start, told)
    return Outcome(job, status, time.monotonic() - start, pushed=pushed)


def _make(job: Job, **more: bool) -> Result:
    made: Result = MAKERS[job.command](**job.options, **more)
    return made


def is_done(planned: Result) -> bool:
    """Whether what is planned lies there already, as its manifest tells.

    Args:
        planned: the result of a dry run.
    """
    home = planned.output
    try:
        manifest = read_json_object(home / MANIFEST)
        made = (home / MANIFEST).stat().st_mtime_ns
        files = manifest.pop("files")
        whole = all((home / name).stat().st_size == each["bytes"] for name, each in files.items())
        documents = planned.plan.documents
        same = all((home / name).read_bytes() == data for name, data in documents.items())
    except (ConverterError, OSError, LookupError, TypeError, AttributeError):
        return False
    names = {*documents, *planned.plan.copied_files, *(file.path for file in planned.plan.files)}
    read = [
        path
        for source in planned.sources
        if source.checkpoint.hub is None  # of those, the commit tells
        for path in source.checkpoint.stamps
    ]
    manifest.pop("warnings", None)
    return (
        whole
        and same
        and names <= files.keys()
        and all(path.stat().st_mtime_ns <= made for path in read)
        and _bare(manifest) == _bare(json.loads(to_json(dict(planned.provenance))))
    )


def _bare(value: Any) -> Any:
    """A manifest without hashes, which are known only once everything was read."""
    if not isinstance(value, dict):
        return value
    return {key: _bare(each) for key, each in value.items() if key != "sha256"}
