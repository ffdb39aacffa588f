"""Which tables there are: the bundled ones and a user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from converter.architectures.conventions import load_conventions
from converter.architectures.loader import load_architecture, load_composite
from converter.architectures.schema import Architecture, Composite, Conventions
from converter.architectures.toml_section import parse_toml, read_table
from converter.errors import Problem, TableError, UnsupportedError

DIALECTS = "_dialects"
"""The table that holds what all others share."""

MERGED = ("config", "measures", "tokens", "modules", "warm_start")
"""Keys that a table which extends another changes entry by entry."""

MERGED_DEEPLY = ("parts", "drop")
"""Keys whose tables it changes entry by entry."""

OWN = ("original", "within", "languages", "tokenizer")
"""Keys that it does not inherit: where another family is found, or how its texts are read, is no
sign of this one."""


class ArchitectureRegistry:
    """All mapping tables, each loaded when it is first asked for.

    Args:
        extra: a user's own table files; they take precedence over bundled ones of the same name.

    """

    def __init__(self, extra: Iterable[Path] = ()) -> None:
        self._sources: dict[str, tuple[str, bytes | None]] = {
            entry.name.removesuffix(".toml"): (f"mappings/{entry.name}", None)
            for entry in sorted(files("converter.mappings").iterdir(), key=lambda entry: entry.name)
            if entry.name.endswith(".toml")
        }
        for path in extra:
            name, text = _read_own(path)
            self._sources[name] = (str(path), text)
        self._families: dict[str, Architecture] = {}
        self._composites: dict[str, Composite] = {}

    @cached_property
    def conventions(self) -> Conventions:
        """The dialects and kinds that all tables share."""
        data, file, _ = self._read(DIALECTS)
        return load_conventions(data, file)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tables: families and composites."""
        return tuple(name for name in self._sources if not name.startswith("_"))

    def with_table(self, path: Path) -> tuple[ArchitectureRegistry, str]:
        """These tables and a further one, which takes precedence; and the name of that one.

        Raises:
            TableError: if the file cannot be read or names neither a family nor a composite.

        """
        name, text = _read_own(path)
        registry = ArchitectureRegistry()
        registry._sources = {**self._sources, name: (str(path), text)}
        return registry, name

    def contents(self, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """What a table's file says, and what the table that it extends says, ``None`` without one.

        Raises:
            UnsupportedError: if there is no such table.
            TableError: if one of the files breaks a rule.

        """
        data, _, _ = self._read(name)
        if "extends" not in data:
            return data, None
        return data, self._read(str(data["extends"]), (name,))[0]

    def is_composite(self, name: str) -> bool:
        """Whether `name` is a composite's table."""
        return name in self._sources and "composite" in self._read(name)[0]

    def with_legacy_detection(self) -> list[Architecture]:
        """The families whose tables tell how their first releases are known.

        Raises:
            TableError: if one of their tables breaks a rule.

        """
        return [self.architecture(name) for name in self.names if "original" in self._read(name)[0]]

    def nested_in(self, whole: str) -> list[Architecture]:
        """The families whose models stand within larger ones of ``model_type`` `whole`.

        Raises:
            TableError: if one of their tables breaks a rule.

        """
        found = [self.architecture(name) for name in self.names if "within" in self._read(name)[0]]
        return [architecture for architecture in found if whole in architecture.nested_in]

    def architecture(self, name: str) -> Architecture:
        """The family called `name`, which is the ``model_type`` of its configurations.

        Raises:
            UnsupportedError: if there is none.
            TableError: if its table breaks a rule.

        """
        if name not in self._families:
            data, file, sha256 = self._read(name, chain=())
            self._families[name] = load_architecture(data, file, self.conventions, sha256)
        return self._families[name]

    def composite(self, name: str) -> Composite:
        """The composite called `name`, which is the ``model_type`` of its configurations.

        Raises:
            UnsupportedError: if there is none.
            TableError: if its table breaks a rule.

        """
        if name not in self._composites:
            data, file, sha256 = self._read(name)
            self._composites[name] = load_composite(data, file, self.conventions, sha256)
        return self._composites[name]

    def _read(self, name: str, chain: tuple[str, ...] | None = None) -> tuple[Any, str, str]:
        """The content of a table, its file and its SHA-256; with a chain, ``extends`` resolved.

        The SHA-256 covers the tables it extends as well, since they decide as much.
        """
        if name not in self._sources:
            close = get_close_matches(name, self._sources, 3)
            near = f"Did you mean {' or '.join(close)}? " if close else ""
            raise UnsupportedError(
                f"there is no mapping table for model_type {name!r}",
                remedy=f"{near}Known: {', '.join(sorted(self.names))}. A table of your own: "
                "--mapping FILE.",
            )
        file, text = self._sources[name]
        if text is None:
            text = files("converter.mappings").joinpath(f"{name}.toml").read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        data = parse_toml(text, file)
        if chain is None or "extends" not in data:
            return data, file, digest
        parent = str(data.pop("extends"))
        if parent not in self._sources:
            raise TableError(
                f"{file}: extends {parent!r}, which there is no table for",
                [
                    Problem(
                        "there is no such table",
                        file,
                        "extends",
                        expected=", ".join(self.names),
                        found=parent,
                        remedy="Correct the name.",
                    )
                ],
            )
        if parent in (*chain, name):
            raise TableError(f"{file}: extends itself by way of {' → '.join((*chain, name))}")
        inherited, _, parent_digest = self._read(parent, (*chain, name))
        problems: list[Problem] = []
        merged = _extend(inherited, data, file, problems)
        if problems:
            raise TableError(f"{file}: cannot extend {parent!r}", problems)
        return merged, file, hashlib.sha256((digest + parent_digest).encode()).hexdigest()


def _read_own(path: Path) -> tuple[str, bytes]:
    text = read_table(path)
    data = parse_toml(text, str(path))
    name = data.get("family", data.get("composite"))
    if not isinstance(name, str) or not name:
        raise TableError(f"{path}: names neither a family nor a composite")
    return name, text


def _extend(
    parent: Mapping[str, Any], child: Mapping[str, Any], file: str, problems: list[Problem]
) -> dict[str, Any]:
    """`parent` with the changes of `child`.

    Rows, configuration fields and reasons are changed one by one, ``false`` taking one away;
    every other key of `child` replaces the parent's as a whole.
    """
    merged = {**{key: value for key, value in parent.items() if key not in OWN}, **child}
    for key in (*MERGED, *MERGED_DEEPLY):
        if isinstance(child.get(key), dict) and isinstance(parent.get(key), dict):
            merged[key] = _merge(
                parent[key], child[key], key in MERGED_DEEPLY, f"{file}: [{key}]", problems
            )
    return merged


def _merge(
    parent: Mapping[str, Any],
    child: Mapping[str, Any],
    deeply: bool,
    place: str,
    problems: list[Problem],
) -> dict[str, Any]:
    merged = dict(parent)
    removable = not place.endswith("[config]")  # there, false is a value like any other
    for key, value in child.items():
        if value is False and removable:
            if merged.pop(key, None) is None:
                problems.append(Problem(f"takes away {key!r}, which is not there", file=place))
        elif deeply and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, False, f"{place[:-1]}.{key}]", problems)
        else:
            merged[key] = value
    return merged
