"""``converter-manifest.json``: where every number of an output came from.

The same inputs give the same manifest, byte for byte: no machine paths, no times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.architectures.schema import Architecture, Composite
from converter.checkpoint.opening import Checkpoint
from converter.plan import Plan, ResizedTensor, SourceTensor, TargetTensor
from converter.safe_json import to_json


def provenance_entry(tensor: TargetTensor) -> dict[str, Any]:
    """Where a tensor's values come from, as plain data."""
    origin = tensor.origin
    if isinstance(origin, SourceTensor):
        spec = origin.tensor.spec
        how = "copied" if origin.rearrangement.keeps_bytes else "rearranged"
        described: dict[str, Any] = {
            "origin": how if spec.dtype == tensor.spec.dtype else f"{how}, cast from {spec.dtype}",
            "source": origin.source,
            "file": origin.tensor.path.name,
            "key": spec.name,
        }
        if isinstance(origin, ResizedTensor):
            rows = origin.initializer
            described["resized"] = {
                "from": list(origin.rearrangement.shape(spec.shape)),
                "rows": {"rule": rows.rule, "scale": rows.scale, "seed": rows.seed}
                if rows
                else "mean",
            }
        if not origin.rearrangement.keeps_bytes:
            described["axes"] = str(origin.rearrangement)
        return described
    initializer = origin.initializer
    return {
        "origin": "initialised",
        "rule": initializer.rule,
        "scale": initializer.scale,
        "seed": initializer.seed,
        "reason": origin.reason,
    }


def planned_manifest(
    plan: Plan,
    *,
    sources: Sequence[tuple[str, Checkpoint]],
    tables: Sequence[Architecture | Composite],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What of the manifest is known before anything is written.

    Args:
        plan: what will be written.
        sources: label and opened checkpoint of each source.
        tables: the mapping tables in use.
        settings: the options that decide what is written.

    """
    return {
        "converter_version": __version__,
        "command": plan.command,
        **settings,
        "sources": {
            label: {
                **_reference(checkpoint),
                "files": {path.name: {"bytes": n} for path, n in checkpoint.sizes.items()},
            }
            for label, checkpoint in sources
        },
        "mappings": {table.name: table.sha256 for table in tables},
        "tensors": {
            tensor.spec.name: {
                "dtype": tensor.spec.dtype,
                "shape": list(tensor.spec.shape),
                **provenance_entry(tensor),
            }
            for tensor in plan.tensors
        },
    }


def manifest_bytes(
    known: Mapping[str, Any],
    weights: Collection[str],
    directory: Path,
    sha256: Mapping[str, str],
    *,
    sources: Sequence[tuple[str, Checkpoint]],
    warnings: Sequence[str],
    checksums: bool,
) -> bytes:
    """The text of the manifest.

    Args:
        known: what `planned_manifest` gave.
        weights: the weight files, relative to `directory`.
        directory: where the finished files lie.
        sha256: canonical name → SHA-256 of the tensor's bytes in PyTorch layout.
        sources: label and opened checkpoint of each source.
        warnings: what the user was told.
        checksums: whether to hash whole weight files as well; the small files always are.

    """
    names = sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
    hashed = {
        label: {
            **known["sources"][label],
            "files": {path.name: _file(path, checksums) for path in checkpoint.files},
        }
        for label, checkpoint in sources
    }
    return to_json(
        {
            **known,
            "sources": hashed,
            "tensors": {
                name: {**described, "sha256": sha256[name]}
                for name, described in known["tensors"].items()
            },
            "files": {
                name: _file(directory / name, checksums or name not in weights) for name in names
            },
            "warnings": list(warnings),
        }
    )


def _reference(checkpoint: Checkpoint) -> dict[str, str]:
    """What a source is called: its id and commit on the Hub, or its URL, or the name of its
    directory.
    """
    if checkpoint.remote:
        return {"reference": checkpoint.remote.url.bare}
    if checkpoint.hub:
        return {"reference": checkpoint.hub.id.repo_id, "revision": checkpoint.hub.commit}
    return {"reference": checkpoint.directory.resolve().name}


def _file(path: Path, checksums: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"bytes": path.stat().st_size}
    if checksums:
        with path.open("rb") as file:
            described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return described
