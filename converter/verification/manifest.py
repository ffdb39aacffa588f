"""The manifest of a checkpoint: checking its files, and the sources it states."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.errors import ConverterError, Problem
from converter.file_names import MANIFEST, MODEL_CARD, user_tables_directory
from converter.initializers import Initializer
from converter.plan import ResizedTensor, SourceTensor
from converter.planning.manifest import Manifest, dictionary, find_manifest
from converter.planning.tokenizer_files import non_negative_int
from converter.text import summarize_names
from converter.verification.result import Findings

Sources = Mapping[str, tuple[str, SourceTensor]]
"""Canonical name → reference of the source, and the stored tensor."""


def load_manifest(home: Path) -> tuple[Manifest | None, Findings]:
    """Read the manifest of the checkpoint at `home` and check the files that it lists."""
    try:
        manifest = find_manifest(home)
    except ConverterError as error:
        return None, Findings([Problem(error.message)])
    if manifest is None:
        return None, Findings(notes=[f"no {MANIFEST}: the checkpoint was made by another tool"])
    return manifest, check_manifest_files(home, manifest, "files that the manifest lists")


def check_manifest_files(home: Path, manifest: Manifest, title: str) -> Findings:
    """Compare the files in `home` with their sizes and hashes in the manifest, as check `title`."""
    entries = dictionary(manifest.get("files"))
    problems = [
        problem
        for name, entry in entries.items()
        if name != MODEL_CARD  # which users are expected to edit
        and (problem := _check_file(home, name, dictionary(entry)))
    ]
    return Findings(problems, checks={title: f"{len(entries) - len(problems)} of {len(entries)}"})


def check_tables(
    manifest: Manifest | None, registry: ArchitectureRegistry, doubt: bool
) -> Findings:
    """Compare the mapping tables that the manifest states with those that verify it.

    Missing ones are noted, with what to do. Others are noted if they differ: a user's own, and in
    `doubt` the bundled ones, which change with the version of converter.
    """
    stated = dictionary(manifest.get("mappings")) if manifest else {}
    notes = []
    if missing := [name for name in stated if name not in registry.names]:
        notes.append(
            f"the manifest names mapping tables that were not found ({summarize_names(missing)}): "
            f"give them with --mapping FILE, or put them in {user_tables_directory()}"
        )
    for name in sorted(stated.keys() - {*missing}):
        own = registry.own_file(name)
        if not own and not doubt:
            continue
        with suppress(ConverterError):  # the table is wrong, which is among the problems
            is_composite = registry.is_composite(name)
            table = registry.composite(name) if is_composite else registry.architecture(name)
            if table.sha256 != stated[name]:
                notes.append(
                    f"the manifest states another mapping table for {name} than "
                    f"{own or 'the bundled one'}: if it is yours, give it with --mapping FILE"
                )
    return Findings(notes=notes)


def _check_file(home: Path, name: str, entry: Mapping[str, Any]) -> Problem | None:
    path = home / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
        return Problem("listed in the manifest, but the file is missing", str(path))
    size = path.stat().st_size
    if entry.get("bytes") != size:
        what, expected = "its size has changed since it was written", f"{entry.get('bytes')} bytes"
        return Problem(what, str(path), None, expected, f"{size} bytes")
    if "sha256" not in entry:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == entry["sha256"]:
        return None
    what, expected = "its bytes have changed since it was written", f"SHA-256 {entry['sha256']}"
    return Problem(what, str(path), None, expected, digest)


@dataclass(frozen=True)
class ExpectedSources:
    """The source tensors that a finished checkpoint is compared with."""

    sources: Sources
    initialized: frozenset[str] = frozenset()
    """Names that a source has too, but that were initialized on request."""


def expected_sources(sources: Sources, manifest: Manifest | None) -> ExpectedSources:
    """Return `sources`, named as if all were copied, as the manifest says that they were used.

    The manifest decides only which source tensor each tensor is compared with (selected layers,
    copies, resized rows, random submodels); the values are always read from the files.
    """
    if manifest is None:
        return ExpectedSources(sources)
    by_key = {
        (_submodel(name), stored.tensor.spec.name): (reference, stored)
        for name, (reference, stored) in sources.items()
    }
    random = manifest.get("random")
    random = random if isinstance(random, list) else ()
    expected, initialized = dict(sources), set()
    for name, entry in tensor_entries(manifest).items():
        if not isinstance(entry, dict):
            continue
        if is_initialized(entry) and _submodel(name) in random:
            initialized |= {name} & expected.keys()
            expected.pop(name, None)
        submodel, key = str(entry.get("source")), str(entry.get("key"))
        match = by_key.get((submodel, key))
        if match is None and manifest.get("share") is True:
            match = next((by_key[pair] for pair in by_key if pair[1] == key), None)
        if match is not None:
            expected[name] = (match[0], _resized(name, match[1], entry.get("resized")))
    return ExpectedSources(expected, frozenset(initialized))


def tensor_entries(manifest: Manifest | None) -> Mapping[str, Any]:
    """Return the manifest's entries by canonical name; empty if there are none."""
    return dictionary(manifest.get("tensors")) if manifest else {}


def is_initialized(entry: Mapping[str, Any]) -> bool:
    """Return whether a tensor's manifest entry says that its values were initialized."""
    return entry.get("origin") == "initialized"


def _submodel(name: str) -> str:
    return name.partition(".")[0]


def _resized(name: str, stored: SourceTensor, entry: object) -> SourceTensor:
    """Return a source tensor with the number of rows that the manifest states."""
    if not isinstance(entry, dict):
        return stored
    rows, rule = entry.get("rows"), None
    if isinstance(rows, dict) and non_negative_int(rows.get("seed")) is not None:
        try:
            rule = Initializer(str(rows["rule"]), float(rows["scale"]), int(rows["seed"]), name)
        except (KeyError, TypeError, ValueError, OverflowError):
            return stored
    return ResizedTensor(stored.source, stored.tensor, stored.rearrangement, rule)
