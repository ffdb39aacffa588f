"""The manifest, ``converter-manifest.json``: the origin of every tensor of an output.

The same inputs give the same manifest, byte for byte: no machine paths, no times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.models.source_model import MatchedCheckpoint
from converter.plan import Plan, ResizedTensor, SourceTensor, TargetTensor
from converter.safe_json import to_json
from converter.text import redact_values


def provenance_entry(tensor: TargetTensor) -> dict[str, Any]:
    """Return the origin of a tensor as JSON values."""
    origin = tensor.origin
    if isinstance(origin, SourceTensor):
        spec = origin.tensor.spec
        how = "copied" if origin.rearrangement.keeps_bytes else "transposed"
        entry: dict[str, Any] = {
            "origin": how if spec.dtype == tensor.spec.dtype else f"{how}, cast from {spec.dtype}",
            "source": origin.source,
            "file": origin.tensor.path.name,
            "key": spec.name,
        }
        if isinstance(origin, ResizedTensor):
            rows = origin.initializer
            entry["resized"] = {
                "from": list(origin.rearrangement.shape(spec.shape)),
                "rows": {"rule": rows.rule, "scale": rows.scale, "seed": rows.seed}
                if rows
                else "mean",
            }
        if not origin.rearrangement.keeps_bytes:
            entry["axes"] = str(origin.rearrangement)
        return entry
    initializer = origin.initializer
    return {
        "origin": "initialized",
        "rule": initializer.rule,
        "scale": initializer.scale,
        "seed": initializer.seed,
        "reason": origin.reason,
    }


def planned_manifest(plan: Plan, sources: Sequence[MatchedCheckpoint]) -> dict[str, Any]:
    """Return the part of the manifest that is known before anything is written."""
    return {
        "converter_version": __version__,
        "command": plan.command,
        **redact_values(plan.settings),
        "sources": {
            source.label: {
                **source.checkpoint.source.describe(),
                **({"prefix": prefix} if (prefix := plan.prefixes.get(source.label)) else {}),
                "files": {path.name: {"bytes": n} for path, n in source.checkpoint.sizes.items()},
            }
            for source in sources
        },
        "mappings": {table.name: table.sha256 for table in plan.tables},
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
    planned: Mapping[str, Any],
    weights: Collection[str],
    directory: Path,
    sha256: Mapping[str, str],
    *,
    sources: Sequence[MatchedCheckpoint],
    warnings: Sequence[str],
    checksums: bool,
) -> bytes:
    """Return the content of the manifest of the finished files in `directory`.

    It repeats `planned_manifest`, with the SHA-256 of each tensor in PyTorch layout by canonical
    name. The files `weights` are hashed only with `checksums`, small files always.
    """
    names = sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
    return to_json(
        {
            **planned,
            "sources": {
                source.label: {
                    **planned["sources"][source.label],
                    "files": {
                        path.name: _file_entry(path, checksums) for path in source.checkpoint.files
                    },
                }
                for source in sources
            },
            "tensors": {
                name: {**entry, "sha256": sha256[name]}
                for name, entry in planned["tensors"].items()
            },
            "files": {
                name: _file_entry(directory / name, checksums or name not in weights)
                for name in names
            },
            "warnings": redact_values(warnings),
        }
    )


def _file_entry(path: Path, checksum: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"bytes": path.stat().st_size}
    if checksum:
        with path.open("rb") as file:
            entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return entry
