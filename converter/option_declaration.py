"""How options are declared and checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from converter.errors import UsageError
from converter.system import is_path

GROUPS = OUTPUT, COMPOSITION, TOKENS, SOURCES, HUB, EXECUTION, OTHER = (
    "Output",
    "Composition",
    "Tokens and embeddings",
    "Sources",
    "Hub",
    "Execution",
    "Other options",
)
"""Headings of a command's help, in this order."""

Kind = Literal[
    "", "checkpoint", "directory", "output", "file", "size", "list", "preset", "table", "callback"
]
"""What a value denotes, where its type does not say it.

A ``checkpoint`` is a path, a Hub id or a URL; an ``output`` a path or a URL; a ``file`` exists; a
``size`` is a number of bytes such as ``5GB``; a ``list`` has commas on the command line; a
``table`` is the name of a mapping table; a ``callback`` is a function, given in Python only.
"""

_PATHS = ("checkpoint", "directory", "output", "file")

_T = TypeVar("_T")
_OPTION = "option"
_FEW = 8
"""The largest number of names that a remedy lists."""


@dataclass(frozen=True)
class Declaration:
    """What a field's type and default do not say about an option."""

    help: str
    """One or two sentences."""
    details: str = ""
    """Further sentences for the reference of the Python interface and for the recipe schema."""
    group: str = OTHER
    metavar: str | None = None
    flag: str | None = None
    """The command-line name, if it is not that of the field."""
    kind: Kind = ""
    absent: str = ""
    """What holds if the default is ``None``."""
    minimum: int | None = None
    maximum: int | None = None
    envvar: str | None = None
    cli: bool = True
    recipe: bool = True


def option(default: _T, help: str, details: str = "", **declared: Any) -> _T:
    """Return the dataclass field of an option; see `Declaration` for `declared`."""
    declaration = Declaration(help, details, **declared)
    made: _T = field(default=default, metadata={_OPTION: declaration})
    return made


def argument(help: str, **declared: Any) -> Mapping[str, Declaration]:
    """Return the metadata of the field of an argument, which has no default."""
    return {_OPTION: Declaration(help, **declared)}


@dataclass(frozen=True)
class Option:
    """An argument or option of a command: its declaration, with what its field says."""

    name: str
    type: Any
    """The resolved annotation."""
    default: Any
    """``MISSING`` for an argument."""
    declared: Declaration
    is_argument: bool
    """If true, it is given by position."""

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return self.declared.flag or "--" + self.name.replace("_", "-")

    @property
    def in_cli(self) -> bool:
        """If true, the command line has it."""
        return self.declared.cli and self.declared.kind != "callback"

    @property
    def in_recipes(self) -> bool:
        """If true, recipes have it."""
        return self.declared.recipe and self.declared.kind != "callback"

    @property
    def is_required(self) -> bool:
        """If true, it has no default."""
        return self.default is MISSING

    @property
    def members(self) -> tuple[Any, ...]:
        """The types of a union but for ``None``, or the one type."""
        union = get_origin(self.type) in (Union, UnionType)
        members = get_args(self.type) if union else (self.type,)
        return tuple(member for member in members if member is not NoneType)

    @property
    def is_optional(self) -> bool:
        """If true, it may be ``None``."""
        return NoneType in get_args(self.type)

    @property
    def repeats(self) -> bool:
        """If true, it takes a sequence."""
        return any(get_origin(member) is Sequence for member in self.members)

    @property
    def items(self) -> tuple[Any, ...]:
        """The types of a single value; of one in the sequence, if it takes a sequence."""
        sequence = next((each for each in self.members if get_origin(each) is Sequence), None)
        if sequence is None:
            return self.members
        (item,) = get_args(sequence)
        return get_args(item) if get_origin(item) in (Union, UnionType) else (item,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values to choose from, if there are only few."""
        literals = (get_args(item) for item in self.items if get_origin(item) is Literal)
        return next(literals, ())

    @property
    def description(self) -> str:
        """The complete description, with the default in words where it is ``None``."""
        parts = [self.declared.help, self.declared.details]
        if self.declared.absent:
            parts.append(f"Default: {self.declared.absent}.")
        return " ".join(part for part in parts if part)

    def check(self, value: Any) -> None:
        """Raise a `UsageError` for a value that the option cannot take."""
        if (value is None and self.is_optional) or self.declared.kind == "callback":
            return
        is_single = not self.repeats or isinstance(value, str | Path)
        if is_single and self.repeats and str not in self.members:
            raise UsageError(f"{self.name}: must be a list, such as [{str(value)!r}]")
        if not is_single and not isinstance(value, Collection):
            raise UsageError(f"{self.name}: must be a list, not {value!r}")
        for each in (value,) if is_single else value:
            try:
                self._check_item(each)
            except (TypeError, AttributeError) as error:
                raise UsageError(f"{self.name}: {each!r} has the wrong type") from error

    def _check_item(self, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise UsageError(
                f"{self.name}: {value!r} is not one of {', '.join(self.choices)}",
                remedy=closest_name(value, self.choices),
            )
        if self.declared.kind == "size":
            parse_size(value)
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise UsageError(f"{self.name}: a number of more than 64 bits")
        if self.declared.kind in _PATHS and not is_path(value):
            raise UsageError(f"{self.name}: {str(value)!r} is not a name that a file can have")
        least, most = self.declared.minimum, self.declared.maximum
        if least is not None and not value >= least:
            raise UsageError(f"{self.name}: must be at least {least}, not {value}")
        if most is not None and not value <= most:
            raise UsageError(f"{self.name}: must be at most {most}, not {value}")


@functools.cache
def _options_of(command: Any) -> Mapping[str, Option]:
    types = get_type_hints(command)
    declared = {
        each.name: Option(
            each.name,
            types[each.name],
            each.default,
            each.metadata[_OPTION],
            is_argument=not each.kw_only,
        )
        for each in fields(command)
        if _OPTION in each.metadata
    }
    first = {name: each for name, each in declared.items() if each.is_argument}
    return first | declared


def options_of(command: type[Any]) -> Mapping[str, Option]:
    """Return the arguments and options that a command's dataclass declares, by name."""
    return _options_of(command)  # type: ignore[arg-type]  # a class is hashable


class CheckedOptions:
    """Base of the dataclasses, which refuse values that an option cannot take."""

    def __post_init__(self) -> None:
        for name, each in options_of(type(self)).items():
            each.check(getattr(self, name))


def did_you_mean(name: str, names: Collection[str]) -> str | None:
    """Return a remedy that names the closest of some names, or all if they are few."""
    if close := closest_name(name, names):
        return close
    return "One of: " + ", ".join(names) if len(names) <= _FEW else None


def closest_name(name: object, names: Collection[str]) -> str | None:
    """Return a remedy that names the closest of some names, if one is close."""
    begun = [each for each in names if each.startswith(str(name))] if name else []
    close = begun or get_close_matches(str(name), names, 1, 0.5 if len(names) <= _FEW else 0.6)
    return f"Did you mean {close[0]!r}?" if close else None


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_size(text: int | str) -> int:
    """Return the bytes of a size such as ``512MB``, ``1.5GiB`` or ``1000``, which is above zero."""
    if isinstance(text, int):
        size = text
    else:
        match = _SIZE.fullmatch(text.strip())
        if not match:
            raise UsageError(f"{text!r} is not a size", remedy="Write it like 512MB or 2GiB.")
        prefix = match[2].lower()
        unit = 1024 ** ("kmgt".find(prefix) + 1 if prefix else 0) if match[3] else _UNITS[prefix]
        size = int(float(match[1]) * unit)
    if size <= 0:
        raise UsageError(f"{text!r} is not a size above zero")
    return size
