"""The registry of mapping tables: the bundled ones and a user's own."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Set
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from converter.architectures.decoding import Decoder, flat_fields, parse_toml, read_table
from converter.architectures.includes import INCLUDE, expand_includes
from converter.architectures.loader import load_architecture, load_composite, load_conventions
from converter.architectures.model_spec import ModelSpecBuilder
from converter.architectures.schema import Architecture, Composite, Conventions, ModelTypes, Role
from converter.errors import ConverterWarning, Problem, TableError, UnsupportedError
from converter.file_names import (
    TABLES_VARIABLE,
    tables_directory,
    tables_in,
    user_tables,
    user_tables_directory,
)

DIALECTS = "_dialects"
"""The table of what all others share."""

MODEL_TYPES = "_model_types"
"""The table of what transformers can do with model types, with or without a table."""

MERGED = (
    "config",
    "attributes",
    "tokens",
    "modules",
    "cross_attention_init",
    "models",
    "roles",
    "heads",
    "tied",
    "repeated",
    "unsupported",
)
"""Sections that a table which extends another changes entry by entry."""

MERGED_DEEPLY = ("parts", "ignore")
"""Sections whose tables it changes entry by entry."""

OWN = ("detection", "languages", "tokenizer", "note", "becomes")
"""Sections that it does not inherit."""

_MAX_PARSED = 1024
"""Bundled files whose content is kept; there are fewer, unless they change meanwhile."""

_LOADED: dict[str, tuple[str, Architecture]] = {}
"""Bundled table → SHA-256 of all that it is made of, and its architecture."""


@lru_cache(4)
def _load_conventions(text: bytes, file: str) -> Conventions:
    return load_conventions(parse_toml(text, file), file)


def _parse(text: bytes, file: str) -> Mapping[str, Any]:
    data = parse_toml(text, file)
    return {**data, "config": flat_fields(data["config"])} if "config" in data else data


@lru_cache(_MAX_PARSED)
def _parse_bundled(text: bytes, file: str) -> Mapping[str, Any]:
    """Parse a bundled table, once in a process as long as it does not change."""
    return _parse(text, file)


class ArchitectureRegistry:
    """All mapping tables, each loaded when it is first requested.

    A user's own table files, `extra`, take precedence over bundled ones of the same name. What was
    loaded from bundled tables is shared by all registries of a process.
    """

    def __init__(self, extra: Iterable[str | Path] = ()) -> None:
        self._sources: dict[str, tuple[str, bytes | None]] = {
            path.stem: (f"mappings/{path.name}", None) for path in tables_in(tables_directory())
        }
        self._replaced: dict[str, str] = {}  # name → the table that one found by itself replaces
        self._add(extra)
        self._architectures: dict[str, Architecture] = {}
        self._composites: dict[str, Composite] = {}

    @classmethod
    def for_user(cls, extra: Iterable[str | Path] = ()) -> ArchitectureRegistry:
        """Return the bundled tables and a user's own, of which later ones take precedence.

        They are in the user's directory, listed by the environment variable, and `extra`. A table
        in the directory that is not valid TOML is left out with a warning, so that it stops no
        command that does not need it. Raise TableError for others.
        """
        registry = cls()
        directory, stated = user_tables()
        for number, path in enumerate((*directory, *stated)):
            try:
                name, text = _read_own(path)
            except TableError as error:
                if number < len(directory):
                    left_out = f"{error.message}; it is left out"
                    warnings.warn(left_out, ConverterWarning, stacklevel=4)
                    continue
                remedy = f"{TABLES_VARIABLE} lists it."
                raise TableError(error.message, error.problems, remedy) from error
            if name in registry._sources:
                registry._replaced[name] = registry._sources[name][0]
            registry._sources[name] = (str(path), text)
        registry._add(extra)
        return registry

    def _add(self, files: Iterable[str | Path]) -> None:
        for path in map(Path, files):
            name, text = _read_own(path)
            self._sources[name] = (str(path), text)
            self._replaced.pop(name, None)

    @cached_property
    def conventions(self) -> Conventions:
        """The dialects and layer types that all tables share."""
        return _load_conventions(*self._text(DIALECTS)[:2])

    @cached_property
    def specs(self) -> ModelSpecBuilder:
        """Builds the specifications of models, and keeps the last few."""
        return ModelSpecBuilder(self.conventions)

    @cached_property
    def model_types(self) -> ModelTypes:
        """What transformers can do with model types, with or without a table."""
        data, file, _ = self._read(MODEL_TYPES)
        decoder = Decoder(file)
        model_types = decoder.struct(ModelTypes, data, "")
        decoder.raise_if_problems()
        return model_types

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tables: architectures and composites."""
        return tuple(name for name in self._sources if not name.startswith("_"))

    def with_table(self, path: Path) -> tuple[ArchitectureRegistry, str]:
        """Return these tables and a further one, which takes precedence, and its name.

        Raise TableError if the file cannot be read or has neither model_type nor composite.
        """
        name, text = _read_own(path)
        registry = ArchitectureRegistry()
        registry._sources = {**self._sources, name: (str(path), text)}
        registry._replaced = {**self._replaced}
        registry._replaced.pop(name, None)
        return registry, name

    def contents(self, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Return the content of a table's file, and of the table that it extends, if any.

        Raise UnsupportedError if there is no such table, TableError if a file breaks a rule.
        """
        data, _, _ = self._read(name)
        if "extends" not in data:
            return data, None
        parent = self._read(str(data["extends"]), (name,), self.own_file(name) is None)[0]
        return data, _inherited(parent, data)

    def own_file(self, name: str) -> str | None:
        """Return the file of a table of the user's own; ``None`` for a bundled one."""
        file, text = self._sources[name]
        return None if text is None else file

    def _warn_if_replaced(self, name: str) -> None:
        """Warn, once, that a table found without ``--mapping`` is used instead of another."""
        if other := self._replaced.pop(name, None):
            text = f"{name}: {self._sources[name][0]} is used instead of {other}"
            warnings.warn(text, ConverterWarning, stacklevel=3)

    def __contains__(self, name: str) -> bool:
        """Return whether there is a table of this name."""
        return name in self._sources

    def is_composite(self, name: str) -> bool:
        """Return whether `name` is a composite's table."""
        return name in self._sources and "composite" in self._read(name)[0]

    def is_part(self, name: str) -> bool:
        """Return whether an architecture has no checkpoints but as a submodel of one composite."""
        roles = self.architecture(name).roles.values()
        return bool(roles) and all(self.is_closed(role) for role in roles)

    def is_closed(self, role: Role) -> bool:
        """Return whether a role fits only the composite that it names."""
        return self.is_composite(role.composite) and self.composite(role.composite).closed

    def stand_alone_name(self, part: str, composite: Composite) -> str | None:
        """Return the architecture that becomes `part` in a closed composite, if there is one."""
        becomes = ((name, self._read(name)[0].get("becomes", {})) for name in self.names)
        return next((name for name, parts in becomes if parts.get(composite.name) == part), None)

    def takes(self, composite: Composite, decoder: Role) -> bool:
        """Return whether a composite takes a decoder of this role."""
        same = decoder.composite == composite.name
        return same or not (composite.closed or self.is_closed(decoder))

    def with_detection(self) -> list[Architecture]:
        """Return the architectures that have a ``[detection]`` section.

        Raise TableError if one of their tables breaks a rule.
        """
        return [
            self.architecture(name) for name in self.names if "detection" in self._read(name)[0]
        ]

    def names_by_class(self, classes: Set[str]) -> list[str]:
        """Return the names of the tables that have one of some classes of the frameworks.

        Raise TableError if a table breaks a rule.
        """
        composites = {name for name in self.names if self.is_composite(name)}
        own = {name: self.composite(name).class_names for name in composites}
        for name in {*self.names} - composites:
            models = self.architecture(name).models
            own[name] = {*models}.union(*(model.classes.values() for model in models.values()))
        return [name for name, each in own.items() if not classes.isdisjoint(each)]

    def current_name(self, model_type: str) -> str:
        """Return the table's name for a ``model_type`` with another separator, or another name.

        Old releases wrote ``encoder_decoder``; to transformers, ``gpt-sw3`` is GPT-2. A name that
        is unknown stays unchanged.
        """
        if model_type in self:
            return model_type
        model_type = self.model_types.aliases.get(model_type, model_type)
        plain = model_type.replace("_", "-")
        names = [name for name in self.names if name.replace("_", "-") == plain]
        return names[0] if len(names) == 1 else model_type

    def architecture(self, name: str, stated_in: str | Path | None = None) -> Architecture:
        """Return the architecture of the ``model_type`` `name`, which a configuration states.

        Raise UnsupportedError if there is no such table, TableError if it breaks a rule.
        """
        if name not in self._architectures:
            self._check_name(name, f"{stated_in}: " if stated_in else "")
            self._warn_if_replaced(name)
            data, file, sha256 = self._read(name, chain=())
            bundled = self._sources[name][1] is None
            everything = sha256 + _sha256(self._text(DIALECTS)[0])
            digest, architecture = _LOADED.get(name, ("", None))
            if architecture is None or digest != everything or not bundled:
                architecture = load_architecture(data, file, self.conventions, sha256)
            if bundled:
                _LOADED[name] = (everything, architecture)
            self._architectures[name] = architecture
        return self._architectures[name]

    def composite(self, name: str) -> Composite:
        """Return the composite of the ``model_type`` `name`; raise like `architecture`."""
        if name not in self._composites:
            self._check_name(name)
            self._warn_if_replaced(name)
            data, file, sha256 = self._read(name)
            self._composites[name] = load_composite(data, file, self.conventions, sha256)
        return self._composites[name]

    def _check_name(self, name: str, prefix: str = "") -> None:
        """Raise UnsupportedError, with `prefix`, if there is no such table."""
        if name in self._sources:
            return
        hint = ""
        if successor := self.model_types.successors.get(name):
            hint = (
                f"It is of code outside of transformers; {successor} has replaced it: use a "
                f"checkpoint or revision whose config.json states {successor}. "
            )
        elif close := get_close_matches(name, self.names, 1, 0.8):
            hint = f"Did you mean {close[0]}? "
        raise UnsupportedError(
            f"{prefix}there is no mapping table for model_type {name!r}",
            remedy=f"{hint}`converter families` lists what there is. A table of your own: "
            f"--mapping FILE, or a file in {user_tables_directory() or TABLES_VARIABLE}.",
        )

    def _text(self, name: str, bundled: bool = False) -> tuple[bytes, str, bool]:
        """Return the content of a table's file, its name, and whether it is the bundled one."""
        file, own = self._sources[name]
        if own is not None and not bundled:
            return own, file, False
        return (tables_directory() / f"{name}.toml").read_bytes(), f"mappings/{name}.toml", True

    def _read(
        self, name: str, chain: tuple[str, ...] | None = None, bundled: bool = False
    ) -> tuple[Any, str, str]:
        """Return content, file and SHA-256 of a table; of the bundled one if it is to be `bundled`.

        With a chain, ``extends`` and ``include`` are resolved, in bundled tables to bundled ones.
        The SHA-256 covers the other tables as well, since they affect the result as much.
        """
        self._check_name(name)
        text, file, bundled = self._text(name, bundled)
        digest = _sha256(text)
        parse = _parse_bundled if bundled else _parse
        data = dict(parse(text, file))
        if chain is None:
            return data, file, digest
        digests = [digest]

        def read(key: str, other: str) -> Any:
            if other not in self._sources:
                remedy = "Correct the name."
                problem = Problem("is not a table", file, key, ", ".join(self.names), other, remedy)
                raise TableError(f"{file}: {key} {other!r}, which is not a table", [problem])
            if other in (*chain, name):
                raise TableError(f"{file}: {key} itself by way of {' → '.join((*chain, name))}")
            content, _, other_digest = self._read(other, (*chain, name), bundled)
            digests.append(other_digest)
            return content

        def read_included(other: str) -> Any:
            content = read("includes", other)
            self.architecture(other)  # is it valid?
            return content

        if INCLUDE in text:
            data = expand_includes(data, file, read_included, lambda: self.conventions.dialects)
        if "extends" in data:
            parent = str(data.pop("extends"))
            problems: list[Problem] = []
            data = _extend(read("extends", parent), data, file, problems)
            if problems:
                raise TableError(f"{file}: cannot extend {parent!r}", problems)
        return data, file, digest if len(digests) == 1 else _sha256("".join(digests).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_own(path: Path) -> tuple[str, bytes]:
    text = read_table(path)
    data = parse_toml(text, str(path))
    name = data.get("model_type", data.get("composite"))
    if not isinstance(name, str) or not name:
        raise TableError(f"{path}: has neither model_type nor composite")
    return name, text


def _extend(
    parent: Mapping[str, Any], child: Mapping[str, Any], file: str, problems: list[Problem]
) -> dict[str, Any]:
    """Return `parent` with the changes of `child`.

    In the sections of `MERGED` and `MERGED_DEEPLY` entries are changed one by one, and ``false``
    removes one, unless ``replaces`` lists the section; every other key of `child` replaces the
    parent's.
    """
    child = dict(child)
    replaced = child.pop("replaces", [])
    if not isinstance(replaced, list) or not {*map(str, replaced)} <= {*MERGED, *MERGED_DEEPLY}:
        sections = ", ".join((*MERGED, *MERGED_DEEPLY))
        problems.append(Problem("is not valid", file, "replaces", f"a list of {sections}"))
        replaced = []
    inherited = {
        key: value
        for key, value in _inherited(parent, child).items()
        if key not in (*OWN, *replaced)
    }
    merged = {**inherited, **child}
    for key in (*MERGED, *MERGED_DEEPLY):
        if isinstance(child.get(key), dict) and isinstance(inherited.get(key), dict):
            merged[key] = _merge(
                inherited[key], child[key], key in MERGED_DEEPLY, f"{file}: [{key}]", problems
            )
    return merged


def _inherited(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Return `parent` with the class prefix of `child`."""
    inherited = dict(parent)
    if "class_prefix" in parent and "class_prefix" in child:
        old, new = str(parent["class_prefix"]), str(child["class_prefix"])
        for key in ("models", "roles"):
            if key in inherited:
                inherited[key] = _rename_classes(inherited[key], old, new)
    return inherited


def _rename_classes(value: Any, old: str, new: str) -> Any:
    """Return `value` with the prefix of every class name in it replaced."""
    if isinstance(value, dict):
        return {
            _rename_classes(key, old, new): item
            if key in ("frameworks", "reason", "note", "parts", "heads", "config")
            else _rename_classes(item, old, new)
            for key, item in value.items()
        }
    if isinstance(value, str):
        for framework in ("TF", "Flax", ""):
            if value.startswith(framework + old):
                return framework + new + value[len(framework + old) :]
    return value


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
                problems.append(Problem(f"removes {key!r}, which is not there", file=place))
        elif deeply and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, False, f"{place[:-1]}.{key}]", problems)
        else:
            merged[key] = value
    return merged
