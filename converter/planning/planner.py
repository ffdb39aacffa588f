"""The planner that all commands share: from matched sources to a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.schema import Architecture, Composite
from converter.file_names import CONFIG
from converter.initializers import COMPUTED, RULES, Initializer
from converter.models.source_model import MatchedCheckpoint
from converter.options import OutputOptions
from converter.plan import (
    InitializedTensor,
    OutputFile,
    Plan,
    ResizedTensor,
    SourceTensor,
    TargetTensor,
)
from converter.planning.weight_files import plan_files
from converter.safe_json import to_json
from converter.tensors import TensorSpec
from converter.tensors.spec import FLOATING

RANDOM_RULES = tuple(rule for rule in RULES if rule not in ("constant", *COMPUTED))

COMPUTED_REASON = "a fixed table, which is computed"
NOT_WRITTEN = "no class of the output has it"


@dataclass(frozen=True)
class InitOverride:
    """How one tensor is newly initialized, if not by the rule of its mapping table."""

    rule: str
    scale: float
    reason: str | None = None
    """Why, in addition to why it is newly initialized."""


@dataclass(frozen=True)
class OutputModel:
    """One model of an output."""

    spec: ModelSpec
    classes: Mapping[str, str]
    """Framework → class that loads its file."""
    frameworks: Sequence[str]
    """The frameworks to write for."""
    config: Mapping[str, Any]
    """Its ``config.json``."""
    submodel: str = ""
    """Prefix of its tensors in the plan, and its directory in the output."""


def plan_tensors(
    spec: ModelSpec,
    matched: Mapping[str, SourceTensor],
    duplicates: Mapping[str, Sequence[SourceTensor]],
    *,
    reasons: Mapping[str, str],
    init_dtype: Callable[[ParamSpec], str],
    dtype: str,
    seed: int,
    overrides: Mapping[str, InitOverride] = MappingProxyType({}),
    new_rows: str = "mean",
) -> list[TargetTensor]:
    """Return every tensor of `spec` that has values of its own, with its origin.

    Args:
        spec: the model to be written.
        matched: canonical name → the tensor with its values.
        duplicates: canonical name → further tensors with the same values.
        reasons: part → why its tensors are newly initialized.
        init_dtype: returns the dtype of a newly initialized tensor, if `dtype` is ``keep``.
        dtype: ``keep``, or the dtype that floating-point tensors are cast to.
        seed: seed of newly initialized weights.
        overrides: canonical name → how it is initialized, if not by its mapping table.
        new_rows: how rows are initialized that a tensor is extended by: as the ``mean`` of the
            others, or by the rule of its mapping table (``normal``).

    """
    tensors = []
    for param in spec.params:
        if param.tied_to:
            continue
        stored = matched.get(param.name)
        original = stored.tensor.spec.dtype if stored else param.dtype or init_dtype(param)
        target = TensorSpec(
            param.name,
            original if dtype == "keep" or original not in FLOATING else dtype,
            param.canonical.shape,
        )
        default = Initializer(param.rule, param.scale, seed, param.name)
        if stored is None:
            override = overrides.get(param.name, InitOverride(param.rule, param.scale))
            initializer = replace(default, rule=override.rule, scale=override.scale)
            reason = COMPUTED_REASON if param.rule in COMPUTED else reasons[param.part]
            if override.reason:
                reason = f"{reason}; {override.reason}"
            tensors.append(TargetTensor(target, InitializedTensor(initializer, reason)))
        elif stored.rearrangement.shape(stored.tensor.spec.shape) == target.shape:
            tensors.append(TargetTensor(target, stored, tuple(duplicates.get(param.name, ()))))
        else:
            rows = default if new_rows == "normal" else None
            resized = ResizedTensor(stored.source, stored.tensor, stored.rearrangement, rows)
            tensors.append(TargetTensor(target, resized))
    return tensors


def build_plan(
    command: str,
    sources: Sequence[MatchedCheckpoint],
    tensors: Sequence[TargetTensor],
    models: Sequence[OutputModel],
    tables: Sequence[Architecture | Composite],
    options: OutputOptions,
    *,
    settings: Mapping[str, Any],
    copied_files: Mapping[str, Path],
    documents: Mapping[str, bytes] = MappingProxyType({}),
    other_files: Sequence[OutputFile] = (),
    warnings: Sequence[str] = (),
) -> Plan:
    """Return the plan of an output: the files of every model, and all else that is written.

    Tensors that no file holds are not planned; those of the sources are ignored.

    Args:
        command: the command whose plan it is.
        sources: what the tensors come from.
        tensors: the tensors of all models.
        models: the models of the output.
        tables: the mapping tables in use.
        options: frameworks, formats and shards.
        settings: the options that decide what is written, for the manifest.
        copied_files: files copied unchanged: target path → source path.
        documents: small files in addition to configurations and shard indexes.
        other_files: weight files that belong to no model.
        warnings: what the user should know.

    """
    files, notes = list[OutputFile](), list[str]()
    configs, indexes = {}, dict[str, bytes]()
    for model in models:
        prefix, directory = (f"{model.submodel}{end}" if model.submodel else "" for end in "./")
        weights = plan_files(
            model.spec,
            {
                tensor.spec.name.removeprefix(prefix): tensor.spec.dtype
                for tensor in tensors
                if tensor.spec.name.startswith(prefix)
            },
            model.classes,
            model.frameworks,
            options.pytorch_format,
            options.shard_bytes,
        )
        configs[f"{directory}{CONFIG}"] = to_json(model.config)
        indexes |= {f"{directory}{name}": content for name, content in weights.indexes.items()}
        notes += [f"{model.submodel}: {n}" if prefix else n for n in weights.notes]
        files += [
            replace(
                file,
                path=directory + file.path,
                entries=[replace(entry, tensor=prefix + entry.tensor) for entry in file.entries],
            )
            for file in weights.files
        ]
    files += other_files
    written = {entry.tensor for file in files for entry in file.entries}
    ignored = {source.label: dict(source.key_match.ignored) for source in sources}
    for tensor in tensors:
        if tensor.spec.name not in written and isinstance(tensor.origin, SourceTensor):
            for stored in (tensor.origin, *tensor.duplicates):
                ignored.setdefault(stored.source, {})[stored.tensor.spec.name] = NOT_WRITTEN
    return Plan(
        command=command,
        tensors=[tensor for tensor in tensors if tensor.spec.name in written],
        files=files,
        documents={**configs, **indexes, **documents},
        copied_files=copied_files,
        warnings=(*warnings, *notes),
        ignored=ignored,
        classes={model.submodel: model.classes for model in models},
        tables=tables,
        settings=settings,
    )
