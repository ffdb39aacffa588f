"""Reading the small JSON files of a checkpoint, which may be hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError

MAX_BYTES = 64 << 20
"""Larger than any real configuration, index or tokenizer file that is parsed here."""


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises:
        CheckpointError: if the file cannot be read.
        ConfigError: if it is too large or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: {size} bytes, at most {MAX_BYTES} are read")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def to_json(value: Any) -> bytes:
    """`value` as the JSON text that all documents are written in: stable, readable, UTF-8."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
