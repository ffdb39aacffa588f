"""The planner that all commands share: the origin of each tensor, weight files, and the `Plan`.

A tensor is copied, resized, or newly initialized by a rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.schema import (
    CROSS_ATTENTION,
    Architecture,
    Composite,
    CrossAttentionInitRules,
)
from converter.errors import Problem, UnsupportedError
from converter.file_names import (
    CONFIG,
    FLAX_WEIGHTS,
    INDEX_SUFFIX,
    PYTORCH_WEIGHTS,
    SAFETENSORS_WEIGHTS,
    TENSORFLOW_WEIGHTS,
)
from converter.formats.registry import get_format
from converter.initializers import COMPUTED, RULES, Initializer
from converter.models.source_model import MatchedCheckpoint
from converter.options import InitRule, OutputOptions
from converter.plan import (
    FileEntry,
    InitializedTensor,
    OutputFile,
    Plan,
    ResizedTensor,
    SourceTensor,
    TargetTensor,
)
from converter.safe_json import to_json
from converter.tensors import FLOATING, NAMES, Rearrangement, TensorSpec

RANDOM_RULES = tuple(rule for rule in RULES if rule not in ("constant", *COMPUTED))

COMPUTED_REASON = "a constant, which is computed"


@dataclass(frozen=True)
class InitOverride:
    """How one tensor is newly initialized, if not by the rule of its mapping table."""

    rule: str
    scale: float
    reason: str | None = None
    """Why, in addition to why it is newly initialized."""


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

    `matched`, `duplicates` and `overrides` are by canonical name, `reasons` by part. With the
    `dtype` ``keep``, new tensors have that of `init_dtype`. New rows of a resized tensor are the
    ``mean`` of the others, or follow the rule of its mapping table (``normal``).
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


@dataclass(frozen=True)
class CrossAttentionInit:
    """How new tensors of cross-attention are initialized, if not by their mapping table."""

    rule: InitRule
    overrides: Mapping[str, InitOverride] = field(default_factory=dict)
    """Canonical name → how it is initialized."""
    copied: Mapping[str, SourceTensor] = field(default_factory=dict)
    """Canonical name → the tensor that it is a copy of."""
    notes: tuple[str, ...] = ()


def init_cross_attention(
    init: InitRule | None,
    spec: ModelSpec,
    decoder: Architecture,
    matched: Mapping[str, SourceTensor],
) -> CrossAttentionInit:
    """Return how new cross-attention is initialized by the rule `init`, ``normal`` as in the table.

    ``None`` is the default of the table, or ``normal`` where something that has a counterpart can
    not be a copy of it. The `matched` tensors of the complete model are by canonical name. Raise
    UnsupportedError if the mapping table of the decoder lacks what the rule needs.
    """
    new = [
        param
        for param in spec.params
        if param.part == CROSS_ATTENTION and not param.tied_to and param.name not in matched
    ]
    rules = decoder.cross_attention_init
    if init is None:
        if new and rules and rules.default == "copy-self-attention":
            copy = _self_attention_copy(new, spec, matched, rules)
            if not any(rules.counterpart(name) for name in copy.overrides):
                notes = (
                    f"{note}; --init normal starts as transformers does" for note in copy.notes
                )
                return replace(copy, notes=tuple(notes))
        return CrossAttentionInit("normal")
    if init == "normal":
        return CrossAttentionInit(init)
    if not new:
        note = f"init {init} has no effect: no cross-attention is new"
        return CrossAttentionInit(init, notes=(note,))
    random = [param for param in new if param.rule in RANDOM_RULES]
    if init == "truncated-normal":
        return CrossAttentionInit(init, {p.name: InitOverride(init, p.scale) for p in random})
    if init == "xavier":
        return CrossAttentionInit(init, {p.name: _xavier(p) for p in random})
    if rules is None:
        raise UnsupportedError(
            f"{decoder.name}: its mapping table has no [cross_attention_init], for --init {init}",
            remedy="Write it, see docs/mapping-tables.md, or choose another --init.",
        )
    if init == "zero-output":
        return _zero_output(new, decoder, rules)
    return _self_attention_copy(new, spec, matched, rules)


def _xavier(param: ParamSpec) -> InitOverride:
    """Return uniform within ±√(6 / (fan in + fan out)), for matrices (Glorot and Bengio 2010)."""
    shape = param.canonical.shape
    if len(shape) < 2:
        return InitOverride(param.rule, param.scale)
    field_size = math.prod(shape[2:])
    return InitOverride("uniform", math.sqrt(6 / ((shape[0] + shape[1]) * field_size)))


def _zero_output(
    new: list[ParamSpec], decoder: Architecture, table: CrossAttentionInitRules
) -> CrossAttentionInit:
    """Return zeros for the last module of the branch, so that the branch adds nothing at first."""
    zero = InitOverride("constant", 0.0)
    overrides = {param.name: zero for param in new if table.is_output(param.name)}
    if table.norm == "pre":
        return CrossAttentionInit("zero-output", overrides)
    return CrossAttentionInit(
        "zero-output",
        overrides,
        notes=(
            f"zero-output: {decoder.name} normalizes the sum again after cross-attention, so that "
            "the decoder starts close to the language model it was, but not equal to it",
        ),
    )


def _self_attention_copy(
    new: list[ParamSpec],
    spec: ModelSpec,
    matched: Mapping[str, SourceTensor],
    table: CrossAttentionInitRules,
) -> CrossAttentionInit:
    """Return a copy of the self-attention's tensor for each; the reason where shapes differ."""
    overrides, copied = {}, {}
    for param in new:
        name = table.counterpart(param.name)
        twin = spec.resolve(spec.by_name[name]) if name in spec.by_name else None
        stored = matched.get(twin.name) if twin else None
        if stored is None or twin is None:
            why = "has no counterpart" if twin is None else "its counterpart is newly initialized"
        elif twin.canonical.shape != param.canonical.shape:
            shapes = (list(each.canonical.shape) for each in (param, twin))
            why = "its shape {} is not its counterpart's {}".format(*shapes)
        else:
            copied[param.name] = stored
            continue
        overrides[param.name] = InitOverride(
            param.rule, param.scale, f"cannot copy the self-attention: {why}"
        )
    notes = (
        f"copy-self-attention: {len(copied)} tensors of cross-attention are copies"
        + (f", {len(overrides)} are newly initialized" if overrides else ""),
    )
    return CrossAttentionInit("copy-self-attention", overrides, copied, notes)


NOT_WRITTEN = "no class of the output has it"


@dataclass(frozen=True)
class OutputModel:
    """One model of an output."""

    spec: ModelSpec
    classes: Mapping[str, str]
    """Framework → class that loads its file."""
    frameworks: Sequence[str]
    config: Mapping[str, Any]
    submodel: str = ""
    """Prefix of its tensors in the plan, and its directory in the output."""


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

    Tensors that no file holds are not planned; those of the sources are ignored. `settings` are the
    options that decide what is written, for the manifest; `copied_files` are target path → source
    path; `documents` are small files in addition to configurations and shard indexes, and
    `other_files` weight files that belong to no model.
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
        warnings=(*warnings, *notes, *_table_notes(tables)),
        ignored=ignored,
        prefixes={
            source.label: prefix for source in sources if (prefix := source.key_match.prefix)
        },
        classes={model.submodel: model.classes for model in models},
        tables=tables,
        settings=settings,
    )


def _table_notes(tables: Sequence[Architecture | Composite]) -> list[str]:
    """Return what the tables note about their models, each once."""
    architectures = {table.name: table for table in tables if isinstance(table, Architecture)}
    return [f"{name}: {table.note}" for name, table in architectures.items() if table.note]


_WIDER = {name: "float32" for name in NAMES if name == "bfloat16" or name.startswith("float8_")}
"""The narrowest common dtype that holds every value of one that a file format lacks."""


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of an output."""

    files: tuple[OutputFile, ...]
    indexes: Mapping[str, bytes]
    """The indexes of sharded formats, by file name."""
    notes: tuple[str, ...]


def plan_files(
    spec: ModelSpec,
    dtypes: Mapping[str, str],
    classes: Mapping[str, str],
    frameworks: Sequence[str],
    pytorch_format: str,
    max_shard_size: int | None = None,
) -> WeightFiles:
    """Return the weight files of a model, with the name, dtype and layout of every tensor.

    `dtypes` are by canonical name, `classes` by framework, and `pytorch_format` is ``safetensors``,
    ``bin`` or ``both``. Files of more than `max_shard_size` bytes are written in shards; a tensor
    that is larger has a shard of its own.
    """
    files: list[OutputFile] = []
    indexes: dict[str, bytes] = {}
    notes = []
    for framework in frameworks:
        for name, file_format in _formats(framework, pytorch_format):
            entries, widened = _entries(spec, dtypes, framework, file_format)
            if widened:
                notes.append(
                    f"{name}: {', '.join(sorted(widened))} is written as float32, without loss"
                )
            file = OutputFile(
                path=name,
                framework=framework,
                file_format=file_format,
                entries=entries,
                aliases=_aliases(spec) if file_format == "torch" else {},
                repeated=spec.repeated.get(framework, {}),
                metadata=_metadata(framework, file_format, classes),
            )
            if max_shard_size is None or file.nbytes <= max_shard_size:
                files.append(file)
                continue
            shards = list(_shards(file, max_shard_size))
            files += shards
            indexes[name + INDEX_SUFFIX] = _index(file, shards)
    return WeightFiles(tuple(files), indexes, tuple(notes))


def _metadata(framework: str, file_format: str, classes: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that the framework's loader expects in a file."""
    if file_format == "safetensors":
        return {"format": "pt"}
    if file_format != "keras-hdf5":
        return {}
    return {"scope": _snake_case(classes[framework])}


def _shards(file: OutputFile, limit: int) -> Iterator[OutputFile]:
    """Yield the shards of a file, each of at most `limit` bytes or of one larger tensor."""
    groups: list[list[FileEntry]] = [[]]
    filled = 0
    for entry in file.entries:
        if groups[-1] and filled + entry.spec.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += entry.spec.nbytes
    stem, dot, suffix = file.path.rpartition(".")
    metadata = dict(file.metadata)
    if file.file_format == "keras-hdf5":
        metadata = {"scope": metadata["scope"], "layout": "flat"}
    for number, entries in enumerate(groups, 1):
        names = {entry.spec.name for entry in entries}
        yield replace(
            file,
            path=f"{stem}-{number:05d}-of-{len(groups):05d}{dot}{suffix}",
            entries=entries,
            repeated={},
            aliases={alias: name for alias, name in file.aliases.items() if name in names},
            metadata=metadata,
        )


def _index(file: OutputFile, shards: Iterable[OutputFile]) -> bytes:
    """Return the index of a sharded file: which name is in which shard."""
    scope = file.metadata.get("scope")
    prefix = f"{scope}/" if scope else ""
    weight_map = {
        prefix + name: shard.path
        for shard in shards
        for name in (*(entry.spec.name for entry in shard.entries), *shard.aliases)
    }
    return to_json({"metadata": {"total_size": file.nbytes}, "weight_map": weight_map})


def _formats(framework: str, pytorch_format: str) -> list[tuple[str, str]]:
    if framework == "tensorflow":
        return [(TENSORFLOW_WEIGHTS, "keras-hdf5")]
    if framework == "flax":
        return [(FLAX_WEIGHTS, "flax-msgpack")]
    formats = []
    if pytorch_format != "bin":
        formats.append((SAFETENSORS_WEIGHTS, "safetensors"))
    if pytorch_format != "safetensors":
        formats.append((PYTORCH_WEIGHTS, "torch"))
    return formats


def _entries(
    spec: ModelSpec, dtypes: Mapping[str, str], dialect: str, file_format: str
) -> tuple[list[FileEntry], set[str]]:
    """Return the entries of one file, and the dtypes that its format does not support."""
    supported = get_format(file_format).dtypes | get_format(file_format).packed_dtypes
    entries, widened = [], set()
    for param in spec.params:
        if (param.tied_to and dialect not in param.stored_in) or dialect not in param.stored_as:
            continue
        if param.part in spec.missing_parts.get(dialect, ()):
            continue
        origin = spec.resolve(param)
        dtype = dtypes[origin.name]
        if dtype not in supported:
            if dtype not in _WIDER:
                raise UnsupportedError(
                    f"{file_format} files cannot hold {dtype}",
                    [Problem(f"is {dtype} in the source", tensor=origin.name)],
                    remedy="Convert to a format that can: safetensors holds every dtype but "
                    "complex128.",
                )
            widened.add(dtype)
            dtype = _WIDER[dtype]
        layout = param.stored_as[dialect]
        entries.append(
            FileEntry(
                tensor=origin.name,
                spec=TensorSpec(layout.name, dtype, layout.shape),
                rearrangement=Rearrangement(param.canonical.axes, layout.axes),
            )
        )
    return entries, widened


def _aliases(spec: ModelSpec) -> dict[str, str]:
    """Return PyTorch names of tied tensors → the names whose bytes they share in ``torch.save``."""
    return {
        param.canonical.name: spec.resolve(param).canonical.name
        for param in spec.params
        if param.tied_to and "pytorch" not in param.stored_in  # which have an entry of their own
    }


def _snake_case(name: str) -> str:
    """Return the scope that Keras gives a class: ``TFBertModel`` → ``tf_bert_model``."""
    text = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()
