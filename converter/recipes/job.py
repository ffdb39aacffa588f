"""What is done with one job, on whatever machine: plan it, make it, push it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converter.checkpoint.opening import Checkpoint
from converter.errors import ConverterError
from converter.execution.write_checkpoint import WriteResult
from converter.file_names import MANIFEST
from converter.recipes.parser import Job
from converter.recipes.schema import MAKERS
from converter.safe_json import to_json
from converter.storage.output_targets import output_target
from converter.verified_push import verify_for_push

DONE = "done"


SKIPPED = "skipped"
"""It lay there already, as it would be made."""


FAILED = "failed"


LEFT = "not started"


INTERRUPTED = "interrupted"
"""It was running when the run was interrupted; nothing of it is left."""


PLANNED = "planned"
"""It would be made, were this no dry run."""


STATUSES = (DONE, SKIPPED, FAILED, LEFT, INTERRUPTED, PLANNED)


@dataclass
class JobResult:
    """How a job ended."""

    job: Job
    status: str
    seconds: float = 0.0
    error: ConverterError | None = None
    pushed: Mapping[str, Any] | None = None
    files: Mapping[str, int] | None = None
    """Of a dry run: the weight files that it would write → bytes of their tensors."""
    after: Sequence[str] = ()
    """Of a dry run: the jobs that have to be made before it can be planned."""

    def to_dict(self) -> dict[str, Any]:
        """As the summary has it."""
        found: dict[str, Any] = {
            "command": self.job.command,
            "output": self.job.output,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        for key in ("pushed", "files"):
            if (value := getattr(self, key)) is not None:
                found[key] = dict(value)
        if self.after:
            found["after"] = list(self.after)
        return {**found, **(self.error.to_dict() if self.error else {})}


@dataclass
class RunSummary:
    """How all jobs ended."""

    outcomes: list[JobResult] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def succeeded(self) -> bool:
        """Whether every job is done, or in a dry run could be."""
        return all(outcome.status in (DONE, SKIPPED, PLANNED) for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "command": "run",
            "counts": {status: self.count(status) for status in STATUSES},
            "jobs": {outcome.job.name: outcome.to_dict() for outcome in self.outcomes},
        }


class Interrupted(KeyboardInterrupt):
    """The run was interrupted.

    Args:
        summary: how the jobs stand. What was running was ended cleanly, what is done stays.

    """

    def __init__(self, summary: RunSummary) -> None:
        super().__init__("the run was interrupted")
        self.summary = summary


class _Stopped(BaseException):
    """Ends a job that is being made; like an interrupt, it is no error."""


def plan_job(job: Job) -> WriteResult | ConverterError:
    """What a job would write, or why it cannot be made."""
    try:
        return _make(job, dry_run=True)
    except Exception as error:
        return _told(job, error)


def run_job(job: Job, make: bool, stopped: Callable[[], bool]) -> JobResult:
    """Make what a job asks for, and push it.

    May run in any thread of any process.

    Args:
        job: what to do.
        make: whether to make the checkpoint; else it is there, and is only pushed.
        stopped: asked at most ten times a second whether to give up.

    """
    start = time.monotonic()

    def watch(*progress: object) -> None:
        if stopped():
            raise _Stopped

    result = pushed = None
    try:
        if make:
            # What lies there may be replaced if it was made here; anything else is refused.
            ours = output_target(job.output).read(MANIFEST) is not None
            result = _make(job, overwrite=ours, progress=watch)
        if job.push:
            result = result or _make(job, dry_run=True)
            mapping = job.options.get("mapping", ())
            pushed = verify_for_push(result, mapping=mapping, **job.push).send().to_dict()
    except _Stopped:
        return JobResult(job, INTERRUPTED, time.monotonic() - start)
    except Exception as error:
        return JobResult(job, FAILED, time.monotonic() - start, _told(job, error))
    return JobResult(job, DONE, time.monotonic() - start, pushed=pushed)


def _make(job: Job, **more: Any) -> WriteResult:
    made: WriteResult = MAKERS[job.command](**job.options, **more)
    return made


def _told(job: Job, error: Exception) -> ConverterError:
    """Any error as one of ours: that of one job must not end the others."""
    if isinstance(error, ConverterError):
        return error
    if isinstance(error, MemoryError):
        return ConverterError(
            f"{job.name}: there is not enough memory",
            remedy="Try fewer --jobs, or a smaller `memory` in the recipe.",
        )
    text = " ".join(str(error).split())[:300]
    if isinstance(error, OSError):
        return ConverterError(f"{job.name}: {text or type(error).__name__}")
    return ConverterError(
        f"{job.name}: this is a bug in converter: {type(error).__name__}: {text}",
        remedy="Please report it.",
    )


def is_done(planned: WriteResult) -> bool:
    """Whether what is planned lies there already, as its manifest tells.

    Args:
        planned: the result of a dry run.

    """
    output = output_target(str(planned.output))
    try:
        manifest = json.loads(output.read(MANIFEST) or b"")
        made = output.modified(MANIFEST)
        held = output.files()
        files = manifest.pop("files")
        whole = all(held[name] == each["bytes"] for name, each in files.items())
        documents = planned.plan.documents
        same = all(output.read(name) == data for name, data in documents.items())
    except (ConverterError, OSError, LookupError, TypeError, AttributeError, ValueError):
        return False
    names = {*documents, *planned.plan.copied_files, *(file.path for file in planned.plan.files)}
    manifest.pop("warnings", None)
    return (
        whole
        and same
        and names <= files.keys()
        and made is not None
        and all(_is_older(source.checkpoint, made) for source in planned.sources)
        and _bare(manifest) == _bare(json.loads(to_json(dict(planned.planned_manifest))))
    )


def _is_older(source: Checkpoint, made: float) -> bool:
    """Whether nothing of a source was written since then, in seconds since 1970."""
    if source.hub:  # the commit tells
        return True
    if source.remote:
        return source.remote.modified is not None and source.remote.modified <= made
    return all(path.stat().st_mtime <= made for path in source.file_states)


def _bare(value: Any) -> Any:
    """A manifest without hashes, which are known only once everything was read."""
    if not isinstance(value, dict):
        return value
    return {key: _bare(each) for key, each in value.items() if key != "sha256"}
