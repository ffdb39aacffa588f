"""Reading TOML strictly: every key is asked for, has a type, and none is left over."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from converter.architectures.expressions import Expression, ExpressionError
from converter.architectures.name_patterns import NamePattern
from converter.errors import Problem, TableError

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


T = TypeVar("T")

_TYPES = {str: "a string", dict: "a table", list: "a list", bool: "true or false", int: "a number"}


class TomlSection:
    """One table of a TOML file, from which keys are taken one by one.

    Problems are collected in `problems`, which all sections of a file share; reading goes on, so
    that an author sees everything at once.
    """

    def __init__(self, data: Mapping[str, Any], place: str, problems: list[Problem], file: str):
        self._data = dict(data)
        self._place = place
        self.problems = problems
        self._file = file

    def add_problem(self, what: str, key: str = "", remedy: str | None = None) -> None:
        """Record a problem with `key`, or with the section itself."""
        place = _short(".".join(part for part in (self._place, key) if part))
        what = _short(what)
        self.problems.append(Problem(what, file=self._file, tensor=place or None, remedy=remedy))

    def take(self, key: str, kind: type[T], default: T) -> T:
        """Take `key` away; `default` if it is missing or of another type (then a problem)."""
        if key not in self._data:
            return default
        value = self._data.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.add_problem(f"must be {_TYPES[kind]}, not {value!r}", key)
            return default
        return value

    def require(self, key: str, kind: type[T], default: T) -> T:
        """Like `take`, but a missing key is a problem."""
        if key not in self._data:
            self.add_problem(f"lacks {key!r}")
        return self.take(key, kind, default)

    def names(self, key: str, allowed: Mapping[str, Any] | tuple[str, ...] = ()) -> tuple[str, ...]:
        """Take a list of names, each one of `allowed` if that is given."""
        values = self.take(key, list, [])
        for value in values:
            if not isinstance(value, str) or (allowed and value not in allowed):
                self.add_problem(f"{value!r} is none of {', '.join(allowed) or 'the names'}", key)
        return tuple(
            value
            for value in values
            if isinstance(value, str) and (not allowed or value in allowed)
        )

    def section(self, key: str) -> TomlSection:
        """Take a table, empty if it is missing."""
        place = f"{self._place}.{key}" if self._place else key
        return TomlSection(self.take(key, dict, {}), place, self.problems, self._file)

    def alternatives(self, key: str) -> list[TomlSection]:
        """Take a table, or a list of tables of which conditions choose one."""
        if not self.holds(key, list):
            return [self.section(key)]
        found = []
        for data in self.take(key, list, []):
            if isinstance(data, dict):
                found.append(TomlSection(data, self.section(key)._place, self.problems, self._file))
            else:
                self.add_problem(f"must be tables, not {data!r}", key)
        return found

    def expression(self, key: str) -> Expression | None:
        """Take an expression."""
        text = self.take(key, str, "")
        return self.parsed(key, Expression, text) if text else None

    def parsed(self, key: str, parse: Callable[[str], T], text: str) -> T | None:
        """What `parse` makes of `text`; its ValueError becomes a problem at `key`."""
        try:
            return parse(text)
        except (ExpressionError, ValueError) as error:
            self.add_problem(str(error), key)
            return None

    def reasons(self) -> dict[NamePattern, str]:
        """Take everything: templates of names that are left out, each with the reason."""
        found = {}
        for name in self:
            template = self.parsed(name, NamePattern, name)
            reason = self.take(name, str, "")
            if not reason:
                self.add_problem("must give the reason", name)
            if template:
                found[template] = reason
        return found

    def texts(self) -> dict[str, str]:
        """Everything in this section, which must all be text."""
        return {name: self.take(name, str, "") for name in self}

    def holds(self, key: str, kind: type) -> bool:
        """Whether `key` is there with a value of type `kind`."""
        return isinstance(self._data.get(key), kind)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        """The keys not yet taken."""
        return iter(list(self._data))

    def finish(self, known: str = "") -> None:
        """Everything not taken is unknown."""
        for key in self._data:
            self.add_problem(f"unknown key {key!r}", remedy=f"known: {known}" if known else None)


def _short(text: str, limit: int = 1000) -> str:
    """`text` fit for a message, whatever a hostile table put into it."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def raise_if_problems(table: T, problems: list[Problem], file: str) -> T:
    """`table`, or a TableError with `problems` if there are any."""
    if problems:
        raise TableError(f"{file}: the mapping table breaks {len(problems)} rule(s)", problems)
    return table


def split_sizes(text: str) -> list[str]:
    """The sizes in ``"in -> out"``."""
    return [part.strip() for part in re.split(r"->|,", text)]
