"""Reading the small files of a checkpoint, which may be hostile, and writing JSON."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError, ConverterError
from converter.recognition import HEAD_BYTES, recognize_file, recognize_pointer
from converter.system import open_for_reading

_MAX_BYTES = 32 << 20
"""Larger than any real index, manifest or tokenizer file that is parsed here."""
_MAX_MEMORY = 64 << 20
"""What the values of a file may take; those of a manifest of 30,000 tensors take less."""
_BYTES = {"{": 200, "[": 64, ":": 100, ",": 36, '"': 30}
"""What a dictionary, a list, an item of a dictionary, another value and a string take, at most but
for the characters of a string. Each has one such character, a string two."""
_MAX_CONFIG_BYTES = 4 << 20
"""Larger than any real configuration, those with names of 21,000 classes included."""
_MAX_DEPTH = 50
"""The reports and `to_json` recurse into values."""
_MAX_COPIED = 256 << 20
"""Larger than any real tokenizer; a sparse file may state any size, and would fill the disk."""


def open_regular(path: str | Path, error: type[ConverterError] = CheckpointError) -> int:
    """Return a descriptor of the file at `path`; raise `error` if it is not a regular file."""
    try:
        return open_for_reading(path)
    except (OSError, ValueError) as caught:  # ValueError: a null byte or a surrogate in the name
        reason = caught.strerror if isinstance(caught, OSError) else caught
        raise error(f"{path}: cannot be read: {reason}") from caught


def read_start(path: Path, nbytes: int, error: type[ConverterError] = CheckpointError) -> bytes:
    """Return up to `nbytes` of a regular file; raise `error` if it cannot be read."""
    with os.fdopen(open_regular(path, error), "rb") as file:
        try:
            return file.read(nbytes) or b""
        except OSError as caught:  # some files of /proc
            raise error(f"{path}: cannot be read: {caught.strerror}") from caught


def read_small_file(
    path: str | Path, limit: int = _MAX_BYTES, error: type[ConverterError] = CheckpointError
) -> bytes:
    """Read a file; raise `error` if it is not a regular one of at most `limit` bytes.

    The files of ``/proc`` state the size 0, whatever they hold, and are refused too.
    """
    with os.fdopen(open_regular(path, error), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = file.read(min(size, limit) + 1) or b""
        except OSError as caught:
            raise error(f"{path}: cannot be read: {caught.strerror}") from caught
    if len(data) > limit:
        raise error(f"{path}: cannot be read: larger than {limit} bytes")
    if len(data) > size:
        raise error(f"{path}: cannot be read: it grows, or is not a regular file")
    return data


def file_to_copy(
    directory: Path, name: str, error: type[ConverterError] = CheckpointError
) -> Path | None:
    """Return the path of a file that may be copied out of a checkpoint, ``None`` if not found.

    Raise `error` if it is a link to a file that is neither in `directory` nor in the ``blobs`` of
    the Hub's cache (next to ``snapshots/REVISION``), is not a regular file, is larger than any
    tokenizer's, or a pointer of Git LFS or the like is in its place.
    """
    path = directory / name
    if not os.path.lexists(path) or path.is_dir():
        return None
    root, target = Path(os.path.realpath(directory)), Path(os.path.realpath(path))
    snapshots = [each for each in root.parents if each.name == "snapshots"]
    blobs = [each.parent / "blobs" for each in snapshots]
    if not target.is_relative_to(root) and target.parent not in blobs:
        raise error(
            f"{path}: is a link to {target}, which is outside the checkpoint and is not copied",
            remedy="If it belongs to the checkpoint, copy that with files in place of its links: "
            f"cp -rL {shlex.quote(str(directory))} COPY",
        )
    check_fetched(path, error)
    if path.stat().st_size > _MAX_COPIED:
        raise error(f"{path}: is not copied: larger than {_MAX_COPIED} bytes")
    return path


def check_fetched(path: Path, error: type[ConverterError] = CheckpointError) -> None:
    """Raise `error` if a pointer or a web page is in place of the file at `path`."""
    if pointer := recognize_pointer(path, read_start(path, HEAD_BYTES, error)):
        raise error(f"{path}: {pointer.what}", remedy=pointer.step)


def parse_json(data: bytes | str, memory: int = _MAX_MEMORY) -> Any:
    """Return the value of a JSON document.

    Raise ValueError if it is not JSON, has values that may take more than that many bytes of
    `memory` (which is checked before it is parsed), a nesting that is too deep, a number of too
    many digits, or a key with two different values; json.JSONDecodeError, a ValueError, is raised
    only if it is not JSON.
    """
    encoded = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if sum(each * encoded.count(char.encode()) for char, each in _BYTES.items()) > memory:
        raise ValueError(f"values that may take more than {memory:,} bytes of memory")
    too_deep = f"values nested more than {_MAX_DEPTH} levels deep"
    try:
        value = json.loads(data, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
    if level:
        raise ValueError(too_deep)
    return value


def read_json(path: Path, limit: int = _MAX_BYTES, memory: int = _MAX_MEMORY) -> Any:
    """Read the JSON file at `path`.

    Raise `CheckpointError` if the file cannot be read or is larger than `limit` bytes,
    `ConfigError` if `parse_json` refuses it.
    """
    data = read_small_file(path, limit)
    try:
        return parse_json(data, memory)
    except ValueError as error:
        other = recognize_file(path, data[:HEAD_BYTES], len(data))
        if other and not data.lstrip().startswith((b"{", b"[")):
            raise ConfigError(f"{path}: {other.what}", remedy=other.step) from None
        raise ConfigError(f"{path}: not a JSON file: {str(error)[:200]}") from error


def json_reader(directory: Path) -> Callable[[str], Any]:
    """Return a function that reads a JSON file in `directory`, ``None`` for one that it cannot."""

    def read(name: str) -> Any:
        try:
            return read_json(directory / name)
        except ConverterError:
            return None

    return read


def read_json_object(
    path: Path, limit: int = _MAX_BYTES, memory: int = _MAX_MEMORY
) -> dict[str, Any]:
    """Read the JSON object in the file at `path`; raise as `read_json`."""
    value = read_json(path, limit, memory)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """Read the JSON object at `path`, a configuration."""
    return read_json_object(path, _MAX_CONFIG_BYTES)


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
