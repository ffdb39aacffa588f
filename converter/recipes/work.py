"""What is done with one job, on whatever machine: plan it, make it, push it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from converter.checkpoint import Checkpoint
from converter.composition.production import Result
from converter.delivery import prepare
from converter.errors import ConverterError
from converter.jsonfile import to_json
from converter.manifest import MANIFEST
from converter.places import place
from converter.recipes.outcome import DONE, FAILED, INTERRUPTED, Outcome
from converter.recipes.reading import Job
from converter.recipes.schema import MAKERS


class _Stopped(BaseException):
    """Ends a job that is being made; like an interrupt, it is no error."""


def plan(job: Job) -> Result | ConverterError:
    """What a job would write, or why it cannot be made."""
    try:
        return _make(job, dry_run=True)
    except Exception as error:
        return _told(job, error)


def carry_out(job: Job, make: bool, stopped: Callable[[], bool]) -> Outcome:
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
            ours = place(job.output).read(MANIFEST) is not None
            result = _make(job, overwrite=ours, progress=watch)
        if job.push:
            result = result or _make(job, dry_run=True)
            mapping = job.options.get("mapping", ())
            pushed = prepare(result, mapping=mapping, **job.push).send().to_dict()
    except _Stopped:
        return Outcome(job, INTERRUPTED, time.monotonic() - start)
    except Exception as error:
        return Outcome(job, FAILED, time.monotonic() - start, _told(job, error))
    return Outcome(job, DONE, time.monotonic() - start, pushed=pushed)


def _make(job: Job, **more: Any) -> Result:
    made: Result = MAKERS[job.command](**job.options, **more)
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


def is_done(planned: Result) -> bool:
    """Whether what is planned lies there already, as its manifest tells.

    Args:
        planned: the result of a dry run.
    """
    output = place(str(planned.output))
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
        and _bare(manifest) == _bare(json.loads(to_json(dict(planned.provenance))))
    )


def _is_older(source: Checkpoint, made: float) -> bool:
    """Whether nothing of a source was written since then, in seconds since 1970."""
    if source.hub:  # the commit tells
        return True
    if source.remote:
        return source.remote.modified is not None and source.remote.modified <= made
    return all(path.stat().st_mtime <= made for path in source.stamps)


def _bare(value: Any) -> Any:
    """A manifest without hashes, which are known only once everything was read."""
    if not isinstance(value, dict):
        return value
    return {key: _bare(each) for key, each in value.items() if key != "sha256"}
