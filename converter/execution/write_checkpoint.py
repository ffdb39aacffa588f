"""From a plan to a finished directory, and the report of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.architectures.schema import Architecture, Composite
from converter.execution.executor import execute
from converter.execution.file_writer import write_error
from converter.execution.resume import Journal, plan_hash
from converter.file_names import MANIFEST, MODEL_CARD
from converter.models.source_model import MatchedCheckpoint
from converter.options import OutputOptions
from converter.plan import InitializedTensor, Plan
from converter.planning.manifest import manifest_bytes, planned_manifest, provenance_entry
from converter.planning.model_card import make_model_card
from converter.storage.atomic_directory import journal_path, require_space
from converter.storage.file_state import check_unchanged, file_states
from converter.storage.output_targets import output_target
from converter.storage.url import Url

_log = logging.getLogger(__name__)

_SLACK = 16 << 20
"""Room beyond the tensors' own bytes: headers, directories, documents."""


@dataclass(frozen=True)
class WriteResult:
    """What a command wrote, or with ``dry_run`` would write."""

    output: Path | Url
    """The directory, or its URL."""
    plan: Plan
    """Where every tensor comes from, and what every file holds."""
    written: bool
    """Whether it is there; not after a dry run."""
    seconds: float = 0.0
    """How long the engine took."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the files that are copied, and of the weight files once they are written."""
    non_finite: Mapping[str, int] = field(default_factory=dict)
    """Canonical name → values that are infinite or not a number, where there are any."""
    overflowed: Mapping[str, int] = field(default_factory=dict)
    """Canonical name → values that the dtype cannot hold, where there are any."""
    sources: Sequence[MatchedCheckpoint] = ()
    """What was read, each with what was found and left out."""
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Directory below `output` (``""`` for itself) → framework → the class that loads its file."""
    planned_manifest: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says that is known before anything is written."""

    @property
    def frameworks(self) -> tuple[str, ...]:
        """The frameworks that there are files for."""
        return tuple(dict.fromkeys(file.framework for file in self.plan.files))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know."""
        found = list(self.plan.warnings)
        for name, count in self.non_finite.items():
            found.append(f"{name}: {count} value(s) are infinite or not a number")
        for name, count in self.overflowed.items():
            found.append(
                f"{name}: {count} value(s) are too large for the dtype and became infinite"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
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
                    "container": file.file_format,
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
            "dropped": {source.label: source.report.dropped for source in self.sources},
            "fresh": [
                tensor.spec.name
                for tensor in self.plan.tensors
                if isinstance(tensor.origin, InitializedTensor)
            ],
            "warnings": list(self.warnings),
        }


def write_checkpoint(
    plan: Plan,
    output: str | Path,
    options: OutputOptions,
    *,
    sources: Sequence[MatchedCheckpoint],
    tables: Sequence[Architecture | Composite],
    settings: Mapping[str, Any],
    classes: Mapping[str, Mapping[str, str]],
) -> WriteResult:
    """Carry out `plan` so that `output`, a path or a URL, appears whole, or not at all.

    Raises:
        OutputError: if it cannot be written.
        CheckpointError: if a source cannot be read, or was changed meanwhile.
        MatchError: if copies of a tensor in the sources differ.

    """
    target = output_target(output)
    shown = target.display_name
    if "" in classes:
        card = make_model_card(
            plan,
            target.read(MODEL_CARD),
            options,
            sources=sources,
            tables=tables,
            settings=settings,
            classes=classes[""],
        )
        plan = replace(plan, documents={**plan.documents, MODEL_CARD: card})
    origin = planned_manifest(
        plan,
        sources=[(source.label, source.checkpoint) for source in sources],
        tables=tables,
        settings=settings,
    )
    files = file_states(plan.copied_files.values())
    sizes = {name: files[path].nbytes for name, path in plan.copied_files.items()}
    if options.dry_run:
        return WriteResult(
            shown,
            plan,
            written=False,
            sizes=sizes,
            sources=sources,
            classes=classes,
            planned_manifest=origin,
        )
    for source in sources:
        files |= source.checkpoint.file_states
    remote = [source.checkpoint.remote for source in sources]
    target.check_not_a_source(files, [each.url for each in remote if each])
    known = plan_hash(plan, files) if options.resume else None
    with target.open_for_writing(options.overwrite, known) as directory, ExitStack() as stack:
        require_space(directory, plan.nbytes + _SLACK)
        done = execute(
            plan,
            directory,
            jobs=options.jobs,
            memory=options.memory_bytes,
            progress=options.progress,
            journal=stack.enter_context(Journal(journal_path(directory), known)) if known else None,
        )
        result = WriteResult(
            shown,
            plan,
            True,
            done.seconds,
            sizes | {file.path: (directory / file.path).stat().st_size for file in plan.files},
            done.non_finite,
            done.overflowed,
            sources,
            classes,
            origin,
        )
        check_unchanged(files)
        text = manifest_bytes(
            origin,
            {file.path for file in plan.files},
            directory,
            done.sha256,
            sources=[(source.label, source.checkpoint) for source in sources],
            warnings=result.warnings,
            checksums=options.checksums,
        )
        try:
            (directory / MANIFEST).write_bytes(text)
        except OSError as error:
            raise write_error(directory / MANIFEST, len(text), error) from error
    _log.info("%s: in place after %.1f s", output, done.seconds)
    return result
