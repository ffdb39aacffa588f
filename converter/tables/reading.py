"""The TOML files that tables are, read with bounds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from converter.errors import TableError

_MAX_BYTES = 1 << 20


def read_table(path: Path) -> bytes:
    """The bytes of a table's file, not many more than a table may have.

    Raises:
        TableError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise TableError(f"{path}: cannot be read: {error}") from error


def parse_toml(text: bytes, file: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        TableError: if it is too large, not UTF-8, not TOML (duplicate keys included), or holds a
            number of more than 64 bits.
    """
    if len(text) > _MAX_BYTES:
        raise TableError(f"{file}: a mapping table of more than {_MAX_BYTES} bytes")
    try:
        data = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML, huge number
        raise TableError(f"{file}: not a TOML file: {error}") from error
    values: list[Any] = [data]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise TableError(f"{file}: not a TOML file: a number of more than 64 bits")
    return data
