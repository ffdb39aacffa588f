"""The text of a recipe, YAML or JSON, read strictly: a key that stands twice is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converter.errors import UsageError

_MAX_BYTES = 4 << 20


def load(path: Path) -> Any:
    """What a file says: JSON if its name ends in ``.json``, YAML otherwise.

    Raises:
        UsageError: if it cannot be read, or is neither.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: over {_MAX_BYTES} bytes, which no recipe has")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        return _json(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        told = " ".join(str(error).split())[:300]
        raise UsageError(f"{path}: is no recipe in {kind}: {told}") from error


def _json(text: str) -> Any:
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{twice!r} stands twice")
        return found

    return json.loads(text, object_pairs_hook=table)


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value != "<<" and (name := str(key.value)) in seen:
                    line = key.start_mark.line + 1
                    raise ValueError(f"{name!r} stands twice, the second time in line {line}")
                seen.add(str(key.value))
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        return yaml.load(text, Loader)  # which is a safe one
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
