"""One job, on any machine: plan it, write its output, push it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.commands.verify import verify
from converter.display import Displayed, calls_from
from converter.errors import ConverterError, OutputError, resource_error
from converter.execution.write_checkpoint import WriteResult
from converter.file_names import MANIFEST
from converter.planning.manifest import NO_HASH
from converter.progress import Progress
from converter.recipes.parser import Job
from converter.recipes.schema import COMMANDS, recipe_options
from converter.safe_json import parse_json, to_json
from converter.storage.base import OutputTarget
from converter.storage.references import display_name, location_text
from converter.storage.resolve import output_target
from converter.verified_push import verify_for_push

DONE = "done"
SKIPPED = "skipped"
"""Its output is up to date."""
FAILED = "failed"
NOT_STARTED = "not started"
INTERRUPTED = "interrupted"
"""It was running when the run was interrupted; its partial output was removed."""
PLANNED = "planned"
"""It would run if this were not a dry run."""
STATUSES = (DONE, SKIPPED, FAILED, NOT_STARTED, INTERRUPTED, PLANNED)


@dataclass(frozen=True, repr=False)
class JobResult(Displayed):
    """How a job ended."""

    job: Job
    status: str
    seconds: float = 0.0
    error: ConverterError | None = None
    reason: str = ""
    """Why its existing output is not up to date."""
    warnings: Sequence[str] = ()
    """What the user should know about the output, also about one that is up to date."""
    pushed: Mapping[str, Any] | None = None
    files: Mapping[str, int] | None = None
    """In a dry run: the weight files that it would write → bytes of their tensors."""
    after: Sequence[str] = ()
    """In a dry run: the jobs that must run before it can be planned."""
    number: int = 0
    """Its position in the run, from 1; 0 if it has not ended."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the summary."""
        entry: dict[str, Any] = {
            "command": self.job.command,
            "output": display_name(self.job.output),
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        for key in ("pushed", "files"):
            if (value := getattr(self, key)) is not None:
                entry[key] = dict(value)
        if self.reason:
            entry["reason"] = self.reason
        if self.after:
            entry["after"] = list(self.after)
        if self.warnings:
            entry["warnings"] = list(self.warnings)
        return {**entry, **(self.error.to_dict() if self.error else {})}


@dataclass(frozen=True, repr=False)
class RunSummary(Displayed):
    """How all jobs ended."""

    results: Sequence[JobResult] = ()

    def count(self, status: str) -> int:
        """Return how many jobs ended with this status."""
        return sum(result.status == status for result in self.results)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all jobs, each after the name of its job."""
        return tuple(f"{each.job.name}: {text}" for each in self.results for text in each.warnings)

    @property
    def succeeded(self) -> bool:
        """If every job is done, or in a dry run can be planned."""
        return all(result.status in (DONE, SKIPPED, PLANNED) for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""
        return {
            "command": "run",
            "counts": {status: self.count(status) for status in STATUSES},
            "jobs": {result.job.name: result.to_dict() for result in self.results},
        }


class Interrupted(KeyboardInterrupt):
    """The run was interrupted.

    Args:
        summary: the results so far. Running jobs were stopped cleanly, finished ones are kept.

    """

    def __init__(self, summary: RunSummary) -> None:
        super().__init__("the run was interrupted")
        self.summary = summary


class _Stopped(BaseException):
    """Stops a running job; like an interrupt, not an error."""


def plan_job(job: Job) -> WriteResult | ConverterError:
    """Return what a job would write, or why it cannot run."""
    try:
        return _run_command(job, dry_run=True)
    except Exception as error:
        return _converted(job, error)


def run_job(job: Job, write: bool, stopped: Callable[[], bool]) -> JobResult:
    """Write the output of a job unless it is up to date, and push it; in any thread or process.

    `stopped` is called at most ten times a second; the job stops once it returns true.
    """
    start = time.monotonic()

    def watch(*progress: object) -> None:
        if stopped():
            raise _Stopped

    result = pushed = None
    try:
        if write:
            # Existing output is replaced only if converter wrote it.
            ours = output_target(job.output).read(MANIFEST) is not None
            options = {"overwrite": ours, "unchanged_sources": job.follows_another}
            result = _run_command(job, progress=watch, **options)
        if job.push:
            result = result or _run_command(job, dry_run=True)
            mapping = job.options.get("mapping", ())
            with calls_from("recipe"):
                pushed = verify_for_push(result, mapping=mapping, **job.push).send().to_dict()
    except _Stopped:
        return JobResult(job, INTERRUPTED, time.monotonic() - start)
    except Exception as error:
        return JobResult(job, FAILED, time.monotonic() - start, _converted(job, error))
    warnings = result.warnings if result else ()
    return JobResult(job, DONE, time.monotonic() - start, pushed=pushed, warnings=warnings)


def _run_command(job: Job, **more: Any) -> WriteResult:
    with calls_from("recipe"):
        result: WriteResult = COMMANDS[job.command](**job.options, **more)
        return result


def _converted(job: Job, error: Exception) -> ConverterError:
    """Return any error as a `ConverterError`, so that it ends this job only."""
    if isinstance(error, ConverterError):
        if isinstance(error, OutputError) and "--overwrite" in (error.remedy or ""):
            error.remedy = "An earlier run did not write it: remove it, or choose another output."
        return error
    text, remedy = " ".join(str(error).split())[:300], None
    if lacking := resource_error(error):
        text, remedy = lacking.message, "Try fewer --jobs, or a smaller `memory` in the recipe."
    elif isinstance(error, OSError):
        text = text or type(error).__name__
    else:
        text = f"this is a bug in converter: {type(error).__name__}: {text}"
        remedy = "Please report it."
    return ConverterError(f"{job.name}: {text}", remedy=remedy)


def check_output(job: Job, planned: WriteResult, progress: Progress) -> JobResult:
    """Return that a job is up to date, or why it is to run, given the result of a dry run.

    Weights whose times show that they may have been changed are compared with the manifest.
    """
    output = output_target(location_text(planned.output))
    warnings: Sequence[str] = ()
    reason = ""
    try:
        if (text := output.read(MANIFEST)) is not None:
            manifest = parse_json(text)
            warnings = tuple(map(str, manifest.pop("warnings", ())))
            reason = _outdated(planned, output, manifest) or _changed(
                job, planned, output, progress
            )
            if not reason:
                return JobResult(job, SKIPPED, warnings=warnings)
    except (ConverterError, OSError, LookupError, TypeError, AttributeError, ValueError):
        reason = f"its {MANIFEST} is damaged"
    files = {file.path: file.nbytes for file in planned.plan.files}
    return JobResult(job, PLANNED, reason=reason, files=files, warnings=planned.warnings)


def up_to_date_result(
    command: str, options: Mapping[str, Any], progress: Progress
) -> WriteResult | None:
    """Return the result of a dry run of a command if its output exists and is up to date."""
    given = {name: options[name] for name in recipe_options(command) if name in options}
    job = Job("", command, given, None)
    if output_target(job.output).read(MANIFEST) is None:
        return None
    planned = plan_job(job)
    if isinstance(planned, ConverterError):
        return None
    return planned if check_output(job, planned, progress).status == SKIPPED else None


_REASONS = {
    "converter_version": "another version of converter made its output",
    "sources": "its sources have changed",
    "mappings": "a mapping table has changed",
    "tensors": "its options have changed",
}
"""Key of the manifest → why a difference there means that the output is not up to date."""


def _outdated(planned: WriteResult, output: OutputTarget, manifest: dict[str, Any]) -> str:
    """Return why an output is not what would be written, ``""`` if sizes and texts do not show it.

    Raise an error of any kind if `manifest`, without its warnings, is not one.
    """
    files, sizes = manifest.pop("files"), output.files()
    would_be = json.loads(to_json(dict(planned.planned_manifest)))
    for key in dict.fromkeys((*would_be, *manifest)):
        if _without_hashes(manifest.get(key)) != _without_hashes(would_be.get(key)):
            return _REASONS.get(key, f"its option {key} has changed")
    if {*planned.plan.documents, *_large_files(planned)} - files.keys():
        return "its options or sources have changed"
    for name, entry in files.items():
        if name not in sizes:
            return f"{name} is missing in its output"
        if sizes[name] != entry["bytes"]:
            return f"{name} was changed since it was written"
    for name, data in planned.plan.documents.items():
        if output.read(name) != data:
            return f"{name} is not as it would be written"
    written = output.modified(MANIFEST)
    if written is None or any(each.checkpoint.modified_since(written) for each in planned.sources):
        return "a source may have been modified since"
    return ""


def _changed(job: Job, planned: WriteResult, output: OutputTarget, progress: Progress) -> str:
    """Return which files no longer hold what was written, ``""`` if all do.

    Those that may have been changed by their times are compared with the manifest.
    """
    names = output.may_have_changed(_large_files(planned))
    if not names:
        return ""
    if planned.planned_manifest.get(NO_HASH):
        return f"{', '.join(names)} may have been changed, and its {MANIFEST} states no hashes"
    mapping = job.options.get("mapping", ())
    problems = verify(job.output, mapping=mapping, progress=progress).problems
    wrong = [name for name in names if any(name in str(each) for each in problems)] or names
    verb = "was" if len(wrong) == 1 else "were"
    return f"{', '.join(wrong)} {verb} changed since it was written" if problems else ""


def _large_files(planned: WriteResult) -> list[str]:
    """Return the files of the output whose content no plan states."""
    return [*planned.plan.copied_files, *(file.path for file in planned.plan.files)]


def _without_hashes(value: Any) -> Any:
    """Return a manifest without its hashes, which are unknown before all values are read."""
    if not isinstance(value, dict):
        return value
    return {key: _without_hashes(each) for key, each in value.items() if key != "sha256"}
