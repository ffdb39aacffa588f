"""The manifest, ``converter-manifest.json``: the origin of every tensor of an output.

The same inputs give the same manifest, byte for byte: no machine paths, no times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from converter._version import __version__
from converter.errors import ConverterError, Problem
from converter.file_names import CONFIG, MANIFEST
from converter.models.source_model import MatchedCheckpoint
from converter.plan import Plan, ResizedTensor, SourceTensor, TargetTensor
from converter.safe_json import read_json_object, to_json
from converter.text import redact, redact_values

Manifest: TypeAlias = Mapping[str, Any]

_MAX_SOURCES, _MAX_TEXT = 20, 300
"""What of a manifest is repeated in that of a model that is made of its own."""


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


NO_HASH = "no_hash"
"""The key that says that no tensors were hashed."""


def planned_manifest(
    plan: Plan, sources: Sequence[MatchedCheckpoint], no_hash: bool = False
) -> dict[str, Any]:
    """Return the part of the manifest that is known before anything is written."""
    return {
        "converter_version": __version__,
        "command": plan.command,
        **redact_values(plan.settings),
        **({NO_HASH: True} if no_hash else {}),
        "sources": {
            source.label: {
                **source.checkpoint.source.describe(),
                **({"prefix": prefix} if (prefix := plan.prefixes.get(source.label)) else {}),
                **({"made_by": made} if (made := lineage(source.checkpoint.directory)) else {}),
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
    name, unless that is without hashes. The files `weights` are hashed only with `checksums`,
    small files always.
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
                name: entry if planned.get(NO_HASH) else {**entry, "sha256": sha256[name]}
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


def lineage(home: Path, depth: int = 5) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says of how it was made, and of what, if anything.

    The result has ``command``, ``converter_version`` and ``sources``: label → ``reference``,
    ``revision`` and, again, its own ``made_by``, in `depth` steps at most.
    """
    try:
        return _steps(find_manifest(home) or {}, depth)
    except ConverterError:
        return {}  # a damaged one says nothing


def _steps(manifest: Mapping[str, Any], depth: int) -> dict[str, Any]:
    sources = {}
    entries = [*dictionary(manifest.get("sources")).items()] if depth else []
    for label, entry in entries[:_MAX_SOURCES]:
        stated = dictionary(entry)
        made = _steps(dictionary(stated.get("made_by")), depth - 1)
        sources[label[:_MAX_TEXT]] = {
            **_texts(stated, "reference", "revision"),
            **({"made_by": made} if made else {}),
        }
    if not sources:
        return {}
    return {**_texts(manifest, "command", "converter_version"), "sources": sources}


def _texts(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return the values of `keys` that are texts, shortened."""
    texts = {key: value for key in keys if isinstance(value := values.get(key), str)}
    return {key: redact(value[:_MAX_TEXT]) for key, value in texts.items()}


def find_manifest(home: Path) -> Manifest | None:
    """Return the manifest of `home`: its own, or its part of the one that `split` wrote above."""
    if (home / MANIFEST).is_file():
        return read_json_object(home / MANIFEST)
    directory = home.resolve()
    if directory.name not in split_submodels(directory.parent):
        return None
    manifest = read_json_object(directory.parent / MANIFEST)
    return {
        **manifest,
        "tensors": _without_prefix(manifest.get("tensors"), f"{directory.name}."),
        "files": _without_prefix(manifest.get("files"), f"{directory.name}/"),
    }


def split_submodels(home: Path) -> tuple[str, ...]:
    """Return the submodels that `split` wrote to `home`, by its manifest; empty if it did not.

    Raise ConverterError if the manifest cannot be read.
    """
    manifest = read_json_object(home / MANIFEST) if (home / MANIFEST).is_file() else {}
    paths = dictionary(manifest.get("files")) if manifest.get("command") == "split" else ()
    parents = [path.removesuffix(f"/{CONFIG}") for path in paths if path.endswith(f"/{CONFIG}")]
    return tuple(name for name in parents if name not in ("", ".", "..") and "/" not in name)


def _without_prefix(entries: Any, prefix: str) -> dict[str, Any]:
    """Return the entries whose names start with `prefix`, without it."""
    items = dictionary(entries).items()
    return {name.removeprefix(prefix): entry for name, entry in items if name.startswith(prefix)}


def dictionary(value: Any) -> Mapping[str, Any]:
    """Return a value of a manifest if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def changed_source_tensors(
    plan: Plan, sources: Sequence[MatchedCheckpoint], sha256: Mapping[str, str]
) -> Iterator[Problem]:
    """Yield a problem for each source tensor with other values than its manifest states.

    `sha256` has the hash of each planned tensor; those that are cast or resized are not compared.
    """
    stated = {source.label: _stated_hashes(source) for source in sources}
    for tensor in plan.tensors:
        origin = tensor.origin
        if type(origin) is not SourceTensor or origin.tensor.spec.dtype != tensor.spec.dtype:
            continue
        shape = list(tensor.spec.shape)
        entry = stated.get(origin.source, {}).get((*origin.tensor.location, tensor.spec.dtype))
        if entry and entry.get("shape") == shape and entry["sha256"] != sha256[tensor.spec.name]:
            yield Problem(
                f"its values are not those that {MANIFEST} states",
                str(origin.tensor.path),
                origin.tensor.spec.name,
            )


def _stated_hashes(source: MatchedCheckpoint) -> dict[tuple[object, ...], Mapping[str, Any]]:
    """Return location and dtype of the tensors of a source → their entries in its own manifest.

    The result is empty if the checkpoint was saved again since, by training for instance, which
    shows in its configuration.
    """
    home, match = source.checkpoint.directory, source.key_match
    manifest: Manifest = {}
    with suppress(ConverterError):
        manifest = find_manifest(home) or {}
    files, entries = dictionary(manifest.get("files")), dictionary(manifest.get("tensors"))
    config = source.checkpoint.config_path
    listed = all(path.name in files for path in (home / CONFIG, *source.checkpoint.files))
    if not listed or config != home / CONFIG or not config.is_file():
        return {}
    if dictionary(files[CONFIG]).get("sha256") != _file_entry(config, checksum=True)["sha256"]:
        return {}
    hashes = {}
    for name, stored in match.matched.items():
        names = (stored.tensor.spec.name, match.prefix + name, name)
        entry = next((dictionary(entries[each]) for each in names if each in entries), {})
        if isinstance(entry.get("sha256"), str) and entry.get("dtype") == stored.tensor.spec.dtype:
            hashes[(*stored.tensor.location, stored.tensor.spec.dtype)] = entry
    return hashes
