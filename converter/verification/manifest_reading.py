"""The manifest that speaks of a directory: its own, or that of the split which made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.errors import ConverterError, Problem
from converter.file_names import MANIFEST
from converter.options import SUBMODELS
from converter.safe_json import read_json_object
from converter.verification.loadability import check_manifest_files
from converter.verification.result import Verification


def load_manifest(home: Path, found: Verification) -> Mapping[str, Any] | None:
    """The content of the manifest, its list of files checked.

    Args:
        home: the checkpoint.
        found: the verification in progress; takes what is wrong.

    """
    try:
        manifest = find_manifest(home)
    except ConverterError as error:
        found.problems.append(Problem(error.message))
        return None
    if manifest is None:
        found.notes.append(f"there is no {MANIFEST}: the checkpoint was made by another tool")
        return None
    problems, held = check_manifest_files(home, manifest)
    found.problems += problems
    found.checks["files that the manifest lists"] = held
    return manifest


def find_manifest(home: Path) -> Mapping[str, Any] | None:
    """The manifest that speaks of `home`, if there is any.

    Raises:
        ConfigError: if it is no JSON object.
        CheckpointError: if it cannot be read.

    """
    if (home / MANIFEST).is_file():
        return read_json_object(home / MANIFEST)
    place = home.resolve()
    above = place.parent / MANIFEST
    if place.name not in SUBMODELS or not above.is_file():
        return None
    manifest = read_json_object(above)
    if manifest.get("command") != "split":
        return None
    return {
        **manifest,
        "tensors": _below(manifest.get("tensors"), f"{place.name}."),
        "files": _below(manifest.get("files"), f"{place.name}/"),
    }


def _below(entries: Any, lead: str) -> dict[str, Any]:
    """The entries whose names begin with `lead`, without it."""
    known = entries.items() if isinstance(entries, dict) else ()
    return {name.removeprefix(lead): entry for name, entry in known if name.startswith(lead)}
