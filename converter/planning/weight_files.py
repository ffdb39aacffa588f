"""The weight files of an output: whole ones, or shards with their index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from converter.architectures.model_spec import ModelSpec
from converter.file_names import (
    FLAX_WEIGHTS,
    INDEX_SUFFIX,
    PYTORCH_WEIGHTS,
    SAFETENSORS_WEIGHTS,
    TENSORFLOW_WEIGHTS,
)
from converter.formats.registry import get_format
from converter.plan import FileEntry, OutputFile, TargetTensor
from converter.safe_json import to_json
from converter.tensors import Rearrangement, TensorSpec

_WIDER = {"bfloat16": "float32", "float8_e4m3fn": "float32", "float8_e5m2": "float32"}
"""The narrowest common dtype that holds every value of one that a container lacks."""


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of an output."""

    files: tuple[OutputFile, ...]
    indexes: Mapping[str, bytes]
    """The indexes of sharded formats, by file name."""
    notes: tuple[str, ...]
    """What the user should know of them."""


def plan_files(
    target: ModelSpec,
    tensors: Iterable[TargetTensor],
    classes: Mapping[str, str],
    frameworks: Sequence[str],
    pytorch_format: str,
    max_shard_size: int | None = None,
) -> WeightFiles:
    """Lay out the weight files of an output.

    Args:
        target: the model to be written.
        tensors: its planned tensors.
        classes: framework → the class that will load the file.
        frameworks: what to write for.
        pytorch_format: ``safetensors``, ``bin`` or ``both``.
        max_shard_size: bytes of tensors from which on a format is written in shards; a tensor
            that is larger has a shard of its own.

    """
    dtypes = {tensor.spec.name: tensor.spec.dtype for tensor in tensors}
    files: list[OutputFile] = []
    indexes: dict[str, bytes] = {}
    notes = []
    for framework in frameworks:
        for name, file_format in _formats(framework, pytorch_format):
            entries, widened = _entries(target, dtypes, framework, file_format)
            if widened:
                notes.append(
                    f"{name}: {', '.join(sorted(widened))} is written as float32, without loss"
                )
            whole = OutputFile(
                path=name,
                framework=framework,
                file_format=file_format,
                entries=entries,
                aliases=_aliases(target) if file_format == "torch" else {},
                metadata=_metadata(target, framework, file_format, classes),
            )
            if max_shard_size is None or whole.nbytes <= max_shard_size:
                files.append(whole)
                continue
            shards = list(_shards(whole, max_shard_size))
            files += shards
            indexes[name + INDEX_SUFFIX] = _index(whole, shards)
    return WeightFiles(tuple(files), indexes, tuple(notes))


def _metadata(
    target: ModelSpec, framework: str, file_format: str, classes: Mapping[str, str]
) -> dict[str, str]:
    """What a file says of itself, so that its framework's loader takes it."""
    if file_format == "safetensors":
        return {"format": "pt"}
    if file_format != "keras-hdf5":
        return {}
    metadata = {"scope": _snake_case(classes[framework])}
    if target.repeated.get(framework):
        metadata["shared"] = json.dumps(target.repeated[framework])
    return metadata


def _shards(whole: OutputFile, limit: int) -> Iterator[OutputFile]:
    """The file in pieces of at most `limit` bytes, or of one larger tensor, named as usual."""
    groups: list[list[FileEntry]] = [[]]
    filled = 0
    for entry in whole.entries:
        if groups[-1] and filled + entry.spec.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += entry.spec.nbytes
    stem, dot, suffix = whole.path.rpartition(".")
    metadata = dict(whole.metadata)
    if whole.file_format == "keras-hdf5":
        metadata = {"scope": metadata["scope"], "layout": "flat"}
    for number, entries in enumerate(groups, 1):
        names = {entry.spec.name for entry in entries}
        yield OutputFile(
            path=f"{stem}-{number:05d}-of-{len(groups):05d}{dot}{suffix}",
            framework=whole.framework,
            file_format=whole.file_format,
            entries=entries,
            aliases={alias: name for alias, name in whole.aliases.items() if name in names},
            metadata=metadata,
        )


def _index(whole: OutputFile, shards: Iterable[OutputFile]) -> bytes:
    """The index of sharded files: which name lies in which shard."""
    scope = whole.metadata.get("scope")
    lead = f"{scope}/" if scope else ""
    weight_map = {
        lead + name: shard.path
        for shard in shards
        for name in (*(entry.spec.name for entry in shard.entries), *shard.aliases)
    }
    return to_json({"metadata": {"total_size": whole.nbytes}, "weight_map": weight_map})


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
    target: ModelSpec, dtypes: Mapping[str, str], dialect: str, file_format: str
) -> tuple[list[FileEntry], set[str]]:
    """The entries of one file, and the dtypes that its container made wider."""
    holds = get_format(file_format).dtypes
    entries, widened = [], set()
    for param in target.params:
        if (param.tied_to and dialect not in param.stored_in) or dialect not in param.stored_as:
            continue
        if param.part in target.missing_parts.get(dialect, ()):
            continue
        origin = target.resolve(param)
        dtype = dtypes[origin.name]
        if dtype not in holds:
            widened.add(dtype)
            dtype = _WIDER[dtype]
        spelling = param.stored_as[dialect]
        entries.append(
            FileEntry(
                tensor=origin.name,
                spec=TensorSpec(spelling.name, dtype, spelling.shape),
                rearrangement=Rearrangement(param.canonical.axes, spelling.axes),
            )
        )
    return entries, widened


def _aliases(target: ModelSpec) -> dict[str, str]:
    """PyTorch names of tied tensors → the names whose bytes they share, as in ``torch.save``."""
    return {
        param.canonical.name: target.resolve(param).canonical.name
        for param in target.params
        if param.tied_to and "pytorch" not in param.stored_in  # which have an entry of their own
    }


def _snake_case(name: str) -> str:
    """The scope that Keras gives a model of this class: ``TFBertModel`` → ``tf_bert_model``."""
    text = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()
