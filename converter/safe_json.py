"""Reading the small JSON files of a checkpoint, which may be hostile, and writing JSON."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError

_MAX_BYTES = 64 << 20
"""Larger than any real configuration, index or tokenizer file that is parsed here."""
_MAX_CONFIG_BYTES = 4 << 20
"""Larger than any real configuration, those with names of 21,000 classes included."""
_MAX_CONFIG_DEPTH = 50


def read_json_object(path: Path, limit: int = _MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in the file at `path`.

    Raise `CheckpointError` if the file cannot be read, `ConfigError` if it is larger than `limit`
    bytes, is not a JSON object, or has a key with two different values.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise ConfigError(f"{path}: {size} bytes, at most {limit} are read")
        value = json.loads(path.read_bytes(), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """Read the JSON object at `path`, and refuse one nested too deeply to be written again."""
    value = read_json_object(path, _MAX_CONFIG_BYTES)
    level: list[Any] = [value]
    for _ in range(_MAX_CONFIG_DEPTH):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
    if level:
        raise ConfigError(f"{path}: nested more than {_MAX_CONFIG_DEPTH} levels deep")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of `pairs`, in which a key may be repeated only with the same value."""
    value = dict(pairs)
    for key, each in pairs if len(value) != len(pairs) else ():
        if value[key] != each:
            raise ValueError(f"{key[:80]!r} is given twice, with different values")
    return value


def to_json(value: Any) -> bytes:
    """Return `value` as stable, readable JSON in UTF-8, as all documents are written."""
    dumps = partial(json.dumps, value, indent=2, sort_keys=True)
    try:
        return f"{dumps(ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # an unpaired surrogate, which only an escape can represent
        return f"{dumps()}\n".encode()
