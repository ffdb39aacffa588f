"""Tables that extend others: what they state must change something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converter.errors import Problem
from converter.tables.library import MERGED, MERGED_DEEPLY, OWN


def idle_overrides(
    parent: Mapping[str, Any], child: Mapping[str, Any], file: str
) -> Iterator[Problem]:
    """Whatever `child` states although `parent` says the very same.

    Args:
        parent: the content of the extended table, its own parents resolved.
        child: the content of the table itself.
        file: what messages call it.
    """
    for key, value in child.items():
        if key not in parent or key in OWN:
            continue
        if key in (*MERGED, *MERGED_DEEPLY) and isinstance(value, dict):
            yield from _same(parent[key], value, key, key in MERGED_DEEPLY, file)
        elif value == parent[key]:
            yield _idle(key, file)


def _same(parent: Any, child: Mapping[str, Any], place: str, deeply: bool, file: str) -> Any:
    if not isinstance(parent, dict):
        return
    for key, value in child.items():
        if key not in parent:
            continue
        if deeply and isinstance(value, dict):
            yield from _same(parent[key], value, f"{place}.{key}", False, file)
        elif type(value) is type(parent[key]) and value == parent[key]:
            yield _idle(f"{place}.{key}", file)


def _idle(place: str, file: str) -> Problem:
    return Problem(
        "changes nothing",
        file,
        place,
        expected="something else than in the table that is extended",
        found="the same",
        remedy="Take it out.",
    )
