"""Writing a checkpoint: from a plan to a complete directory, and the result."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.display import Displayed
from converter.errors import CheckpointError, Problem
from converter.execution.executor import Execution, execute
from converter.execution.file_writer import reporting_write_errors
from converter.execution.resume import Journal, plan_hash
from converter.file_names import MANIFEST, MODEL_CARD
from converter.models.model import InputModel
from converter.options import OutputOptions
from converter.plan import InitializedTensor, Plan
from converter.planning.manifest import (
    changed_source_tensors,
    manifest_bytes,
    planned_manifest,
    provenance_entry,
)
from converter.planning.model_card import make_model_card
from converter.storage.atomic_directory import journal_path, require_space
from converter.storage.local import check_unchanged, file_states, set_equal_times
from converter.storage.references import Url
from converter.storage.resolve import output_target
from converter.storage.streaming import downloading

_log = logging.getLogger(__name__)

_OVERHEAD, _TENSOR_OVERHEAD = 1 << 20, 4 << 10
"""Bytes beyond those of tensors and copied files: directories; header and manifest of a tensor."""


@dataclass(frozen=True, repr=False)
class WriteResult(Displayed):
    """What a command wrote, or with ``dry_run`` would write."""

    output: Path | Url
    """The directory, or its URL."""
    plan: Plan
    """The origin of every tensor, and the content of every file."""
    written: bool
    """Whether it was written; false after a dry run."""
    seconds: float = 0.0
    """Duration of the execution."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the files that are copied, and of the weight files once they are written."""
    non_finite: Mapping[str, int] = field(default_factory=dict)
    """Canonical name → number of values that are infinite or not a number, if any."""
    overflowed: Mapping[str, int] = field(default_factory=dict)
    """Canonical name → number of values that the dtype cannot hold, if any."""
    changed: Sequence[Problem] = ()
    """Source tensors with other values than the manifest of their checkpoint states."""
    sources: Sequence[InputModel] = ()
    """The sources, closed again."""
    planned_manifest: Mapping[str, Any] = field(default_factory=dict)
    """The part of the manifest that is known before anything is written."""

    @property
    def frameworks(self) -> tuple[str, ...]:
        """The frameworks that the output has files for."""
        return tuple(dict.fromkeys(file.framework for file in self.plan.files))

    @property
    def classes(self) -> Mapping[str, Mapping[str, str]]:
        """Directory in the output (``""`` for itself) → framework → class that loads its file."""
        return self.plan.classes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know."""
        return (
            *self.plan.warnings,
            *(
                f"{name}: {count} value(s) are infinite or not a number"
                for name, count in self.non_finite.items()
            ),
            *(
                f"{name}: {count} value(s) are too large for the dtype and became infinite"
                for name, count in self.overflowed.items()
            ),
            *(
                f"{file}: {len(names)} tensor(s) have other values than {MANIFEST} states, such as "
                f"{names[0]}: the file is damaged, or was changed since it was written"
                for file, names in _by_file(self.changed).items()
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "command": self.plan.command,
            "output": str(self.output),
            "written": self.written,
            "seconds": round(self.seconds, 3),
            "frameworks": list(self.frameworks),
            "classes": {
                directory: {name: classes[name] for name in self.frameworks if name in classes}
                for directory, classes in self.classes.items()
            },
            "files": {
                file.path: {
                    "format": file.file_format,
                    "tensors": len(file.entries),
                    "bytes": file.nbytes,
                }
                for file in self.plan.files
            },
            "documents": sorted([*self.plan.documents, *self.plan.copied_files]),
            "tensors": {
                tensor.spec.name: {
                    "shape": list(tensor.spec.shape),
                    "dtype": tensor.spec.dtype,
                    **provenance_entry(tensor),
                }
                for tensor in self.plan.tensors
            },
            "prefixes": dict(self.plan.prefixes),
            "ignored": {label: dict(reasons) for label, reasons in self.plan.ignored.items()},
            "initialized": [
                tensor.spec.name
                for tensor in self.plan.tensors
                if isinstance(tensor.origin, InitializedTensor)
            ],
            "warnings": list(self.warnings),
        }


def write_checkpoint(
    plan: Plan, output: str | Path, options: OutputOptions, sources: Sequence[InputModel]
) -> WriteResult:
    """Carry out `plan` so that `output`, a path or a URL, is complete, or does not exist.

    Raise OutputError if it cannot be written; CheckpointError if a source cannot be read, or was
    changed meanwhile; MatchError if duplicates of a tensor in the sources differ.
    """
    target = output_target(output)
    cards = {
        name: make_model_card(plan, target.read(name), options, sources, directory)
        for directory in plan.classes
        for name in (f"{directory}/{MODEL_CARD}" if directory else MODEL_CARD,)
    }
    plan = replace(plan, documents={**plan.documents, **cards})
    files = file_states(plan.copied_files.values())
    result = WriteResult(
        target.location,
        plan,
        written=False,
        sizes={name: files[path].nbytes for name, path in plan.copied_files.items()},
        sources=sources,
        planned_manifest=planned_manifest(plan, sources, options.no_hash),
    )
    if options.dry_run:
        return result
    for source in sources:
        files |= source.checkpoint.file_states
    target.check_not_a_source(files, [source.checkpoint.reference for source in sources])
    plan_id = plan_hash(plan, files) if options.resume else None
    with (
        target.open_for_writing(options.overwrite, plan_id, options.sync) as directory,
        ExitStack() as stack,
    ):
        entries = sum(len(file.entries) for file in plan.files)
        # Each file once: encoder and decoder may be the same repository.
        downloaded = {
            each.path: each.size
            for source in sources
            for each in source.checkpoint.source.downloads
            if each.is_stored_next_to(directory)
        }
        others = sum(result.sizes.values()) + sum(downloaded.values())
        require_space(directory, plan.nbytes + others + _OVERHEAD + entries * _TENSOR_OVERHEAD)
        hashed = not options.no_hash or options.unchanged_sources or options.resume
        journal = (
            stack.enter_context(Journal(journal_path(directory), plan_id)) if plan_id else None
        )
        executed = _execute(plan, directory, options, sources, hashed, journal)
        written = {file.path: (directory / file.path).stat().st_size for file in plan.files}
        result = replace(
            result,
            written=True,
            seconds=executed.seconds,
            sizes={**result.sizes, **written},
            non_finite=executed.non_finite,
            overflowed=executed.overflowed,
            changed=[*changed_source_tensors(plan, sources, executed.sha256)] if hashed else [],
        )
        check_unchanged(files)
        if result.changed and options.unchanged_sources:
            raise CheckpointError(
                "A source does not hold the values that were written to it; nothing is written.",
                result.changed,
                remedy="Write it again; in recipes by converter run --force JOB.",
            )
        text = manifest_bytes(
            result.planned_manifest,
            written,
            directory,
            executed.sha256,
            sources=sources,
            warnings=result.warnings,
            checksums=options.checksums,
        )
        with reporting_write_errors(directory / MANIFEST, len(text)):
            (directory / MANIFEST).write_bytes(text)
            set_equal_times(directory)
    _log.info("%s: complete after %.1f s", output, executed.seconds)
    return result


def _execute(
    plan: Plan,
    directory: Path,
    options: OutputOptions,
    sources: Sequence[InputModel],
    hashed: bool,
    journal: Journal | None,
) -> Execution:
    """Carry out the plan, while sources that are not local are downloaded."""
    opened = {id(source.checkpoint.source): source.checkpoint.source for source in sources}
    downloads = [each for source in opened.values() for each in source.downloads]
    stop = threading.Event()
    quiet = callable(options.progress)
    with downloading(downloads, stop, quiet) if downloads else nullcontext():
        return execute(
            plan,
            directory,
            jobs=options.jobs,
            memory=options.memory_bytes,
            progress=options.progress,
            hashed=hashed,
            journal=journal,
            arrived={str(download.path): download.arrived for download in downloads},
            stop=stop,
        )


def _by_file(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Return file → the tensors in it that have a problem."""
    names: dict[str, list[str]] = {}
    for problem in problems:
        file = "/".join(Path(str(problem.file)).parts[-2:])  # the manifest has no local paths
        names.setdefault(file, []).append(str(problem.tensor))
    return names
