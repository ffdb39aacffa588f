"""The small files of a finished checkpoint: do they agree with each other and with the weights?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.composition.generation import GENERATION_CONFIG
from converter.composition.model import Model
from converter.errors import ConverterError, Problem
from converter.jsonfile import read_json_object
from converter.locating import CONFIG

TOKEN_FIELDS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
_NEEDED = ("decoder_start_token_id", "pad_token_id")
"""Without these a combined model can neither be trained nor generate."""

_FREE = ("README.md",)
"""Files that are meant to be edited."""


def check_documents(home: Path, model: Model) -> list[Problem]:
    """Token ids lie inside the vocabularies, and all configurations say the same."""
    problems = []
    config_file = str(home / CONFIG)
    generation: Mapping[str, Any] = {}
    if (home / GENERATION_CONFIG).is_file():
        try:
            generation = read_json_object(home / GENERATION_CONFIG)
        except ConverterError as error:
            problems.append(Problem(error.message))
    vocabulary = _vocabulary(model)
    for field in TOKEN_FIELDS:
        for file, raw in ((config_file, model.raw), (str(home / GENERATION_CONFIG), generation)):
            for number in _ids(raw.get(field)):
                if vocabulary is not None and not 0 <= number < vocabulary:
                    problems.append(
                        Problem(
                            "the token lies outside the vocabulary",
                            file,
                            field,
                            expected=f"an id below {vocabulary}",
                            found=str(number),
                        )
                    )
        ours, theirs = model.raw.get(field), generation.get(field)
        if ours is not None and theirs is not None and _ids(ours) != _ids(theirs):
            problems.append(
                Problem(
                    "configuration and generation configuration disagree",
                    str(home / GENERATION_CONFIG),
                    field,
                    expected=f"{ours} as in {CONFIG}",
                    found=str(theirs),
                )
            )
    if model.halves:
        problems += [
            Problem(
                "is not set, without which generate() fails",
                config_file,
                field,
                remedy="set it with `converter convert --set FIELD=ID`",
            )
            for field in _NEEDED
            if model.raw.get(field) is None and generation.get(field) is None
        ]
    return problems


def check_manifest_files(home: Path, manifest: Mapping[str, Any]) -> tuple[list[Problem], str]:
    """The files are those that the manifest lists, with the sizes and hashes it states.

    Returns:
        What is wrong, and how many files are right.
    """
    problems = []
    listed = manifest.get("files")
    entries = listed if isinstance(listed, dict) else {}
    for name, entry in entries.items():
        if name in _FREE:
            continue
        path = home / name
        stated = entry if isinstance(entry, dict) else {}
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            problems.append(Problem("the manifest lists it, but it is not there", str(path)))
            continue
        size = path.stat().st_size
        if stated.get("bytes") != size:
            problems.append(
                Problem(
                    "has another size than when it was made",
                    str(path),
                    expected=f"{stated.get('bytes')} bytes",
                    found=f"{size} bytes",
                )
            )
        elif "sha256" in stated:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != stated["sha256"]:
                problems.append(
                    Problem(
                        "has other bytes than when it was made",
                        str(path),
                        expected=f"SHA-256 {stated['sha256']}",
                        found=digest,
                    )
                )
    return problems, f"{len(entries) - len(problems)} of {len(entries)}"


def _vocabulary(model: Model) -> int | None:
    """The number of tokens of the half that generates."""
    config = model.configs.get(model.halves[1] if model.halves else "")
    size = config.measure("vocabulary") if config else None
    return size if isinstance(size, int) else None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
