"""Strict decoding of TOML into the schema's structs, collecting every problem."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from converter.architectures.expressions import Expression, NamePattern
from converter.architectures.schema import FRAMEWORKS, Entry, Init
from converter.errors import Problem, TableError
from converter.safe_json import read_small_file
from converter.tensors import Axes

_MAX_BYTES = 256 << 10
_MAX_LINE = 1024
"""Bytes of a line: for the parts of a key, `tomllib` takes quadratic time."""
_MAX_PROBLEMS = 200
_MAX_TEXT = 1000

T = TypeVar("T")
S = TypeVar("S", bound=Entry)

INIT_RULES = (
    "normal",
    "truncated-normal",
    "uniform",
    "constant",
    "sinusoidal",
    "frequencies",
    "window-distances",
    "count",
)


def read_table(path: Path) -> bytes:
    """Read a table's file; raise TableError if it cannot be read or is too large."""
    return read_small_file(path, _MAX_BYTES, TableError)


def parse_toml(text: bytes, file: str) -> dict[str, Any]:
    """Parse a TOML file.

    Raise TableError if it is too large, has too long a line, is not UTF-8, not TOML (duplicate keys
    included), or holds a number of more than 64 bits.
    """
    if len(text) > _MAX_BYTES:
        raise TableError(f"{file}: a mapping table of more than {_MAX_BYTES} bytes")
    if max(map(len, text.splitlines()), default=0) > _MAX_LINE:
        raise TableError(f"{file}: a line of more than {_MAX_LINE} bytes")
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


def flat_fields(config: Any) -> Any:
    """Return ``[config]`` with the fields of nested ones as ``vision_config.hidden_size``."""
    if not isinstance(config, dict):
        return config
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, dict)
        flat |= {f"{key}.{name}": item for name, item in value.items()} if nested else {key: value}
    return flat


def parse_init(text: str) -> Init:
    """Parse a rule such as ``normal(initializer_range)``; raise ValueError if it is not one."""
    rule, _, scale = text.partition("(")
    if rule not in INIT_RULES or not scale.endswith(")"):
        rules = ", ".join(f"{rule}(…)" for rule in INIT_RULES)
        raise ValueError(f"{text!r} is none of {rules}")
    return Init(rule, Expression(scale[:-1]))


def split_sizes(text: str) -> list[str]:
    """Return the sizes in ``"in -> out"``."""
    return [part.strip() for part in text.replace("->", ",").split(",")] if text else []


_PARSERS: Mapping[Any, Callable[[str], Any]] = {
    Expression: Expression,
    NamePattern: NamePattern,
    Axes: Axes.parse,
    Init: parse_init,
}
_PLACEHOLDERS: Mapping[Any, Any] = {
    str: "",
    int: 0,
    Expression: Expression("false"),
    NamePattern: NamePattern("?"),
}
"""Values for required keys that are missing or invalid, so that checks can go on."""

_DESCRIPTIONS = {str: "a string", int: "a whole number", bool: "true or false", float: "a number"}


class Decoder:
    """Decodes the sections of one file, whose keys may name `dialects`; collects their problems."""

    def __init__(self, file: str, dialects: Collection[str] = ()) -> None:
        self.file = file
        self.dialects = dialects
        self.problems: list[Problem] = []

    def add_problem(
        self,
        place: str,
        what: str,
        expected: str | None = None,
        found: Any = None,
        remedy: str | None = None,
    ) -> None:
        """Record a problem at `place`, the path of a key."""
        shown = None if found is None else _shorten(repr(found))
        self.problems.append(
            Problem(_shorten(what), self.file, _shorten(place) or None, expected, shown, remedy)
        )
        if len(self.problems) == _MAX_PROBLEMS:
            message = f"{self.file}: the mapping table has {_MAX_PROBLEMS} problems or more"
            raise TableError(message, self.problems)

    def raise_if_problems(self) -> None:
        """Raise a `TableError` if there are any problems."""
        if self.problems:
            message = f"{self.file}: the mapping table has {len(self.problems)} problem(s)"
            raise TableError(message, self.problems)

    def struct(self, cls: type[S], data: Any, place: str) -> S:
        """Decode a table into `cls`; keys that are missing or invalid take their default."""
        values: dict[str, Any] = {}
        data = self.table(data, place)
        for key in data.keys() - _fields(cls).keys():
            self.unknown_key(place, key, _fields(cls))
        for name, (kind, default) in _fields(cls).items():
            inner = f"{place}.{name}" if place else name
            value = msgspec.NODEFAULT
            if name in data:
                value = self.value(kind, data[name], inner)
            elif default is msgspec.NODEFAULT:
                self.add_problem(place, f"lacks {name!r}", expected=_describe(kind))
            if value is msgspec.NODEFAULT:
                value = _placeholder(kind) if default is msgspec.NODEFAULT else default
            values[name] = value
        return cls(**values)

    def unknown_key(self, place: str, key: str, allowed: Collection[str]) -> None:
        """Record an unknown key, with the closest of the allowed ones."""
        near = get_close_matches(key, allowed, 1)
        self.add_problem(
            f"{place}.{key}" if place else key,
            f"unknown key {key!r}",
            expected=", ".join(allowed),
            remedy=f"Did you mean {near[0]}?" if near else None,
        )

    def table(self, value: Any, place: str) -> dict[str, Any]:
        """Return `value` if it is a table; else record a problem and return an empty one."""
        if isinstance(value, dict):
            return value
        self.add_problem(place, "has the wrong type", "a table", value)
        return {}

    def value(self, kind: Any, value: Any, place: str) -> Any:
        """Decode `value` as `kind`; ``NODEFAULT`` if it is not valid, which is then recorded."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            return self.value(next(arg for arg in args if arg is not NoneType), value, place)
        if kind is Any:
            return tuple(value) if isinstance(value, list) else value
        if isinstance(kind, type) and issubclass(kind, Entry):
            return self.struct(kind, value, place)
        if origin in (tuple, frozenset):
            if not isinstance(value, list):
                self.add_problem(place, "has the wrong type", "a list", value)
                return msgspec.NODEFAULT
            items = [self.value(args[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
            return origin(item for item in items if item is not msgspec.NODEFAULT)
        if origin is Mapping:
            return self._mapping(args[0], args[1], value, place)
        if origin is Annotated:
            names = self.dialects if args[1] == "dialect" else FRAMEWORKS
            if isinstance(value, str) and value in names:
                return value
            self.add_problem(place, f"is not a {args[1]}", " or ".join(names), value)
            return msgspec.NODEFAULT
        return self._scalar(kind, value, place)

    def _mapping(self, key_kind: Any, kind: Any, value: Any, place: str) -> dict[Any, Any]:
        decoded = {}
        for name, item in self.table(value, place).items():
            key = self.value(key_kind, name, f"{place}.{name}")
            item = self.value(kind, item, f"{place}.{name}")
            if key is not msgspec.NODEFAULT and item is not msgspec.NODEFAULT:
                decoded[key] = item
        return decoded

    def _scalar(self, kind: Any, value: Any, place: str) -> Any:
        try:
            if kind not in _PARSERS:
                return msgspec.convert(value, kind)
            return self.parse(kind, msgspec.convert(value, str), place)
        except msgspec.ValidationError:
            self.add_problem(place, "is not valid", _describe(kind), value)
            return msgspec.NODEFAULT

    def parse(self, kind: type[T], text: str, place: str) -> T | Any:
        """Parse an expression, name pattern, initialization rule or list of axes."""
        try:
            return _PARSERS[kind](text)
        except ValueError as error:
            self.add_problem(place, str(error))
            return msgspec.NODEFAULT


@cache
def _fields(cls: type[Entry]) -> Mapping[str, tuple[Any, Any]]:
    """Return field → type and default."""
    return {
        each.name: (
            each.type,
            each.default_factory() if callable(each.default_factory) else each.default,
        )
        for each in msgspec.structs.fields(cls)
    }


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(repr(each) for each in args)
    if origin in (Union, UnionType):
        return _describe(args[0])
    if origin in (tuple, frozenset):
        return "a list"
    return "a string" if kind in _PARSERS else _DESCRIPTIONS.get(kind, "a table")


def _placeholder(kind: Any) -> Any:
    origin = get_origin(kind)
    if origin is Literal:
        return get_args(kind)[0]
    return {} if origin is Mapping else origin() if origin else _PLACEHOLDERS[kind]


def _shorten(text: str) -> str:
    """Return `text` at a length fit for a message, whatever a hostile table contains."""
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
