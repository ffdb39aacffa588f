"""Name patterns with placeholders for numbers, such as ``encoder.layer.{layer}.output``.

A placeholder matches one whole number without leading zeros, the complete name must match, and
formatting is the exact inverse of matching. A pattern that begins or ends in ``*`` matches anything
there; it can only be matched. There are no regular expressions in tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_PLACE = re.compile(r"\{([^{}]*)\}")
_NUMBER = "(0|[1-9][0-9]{0,8})"
_TOUCHING = re.compile(r"\}[{0-9]")


@dataclass(frozen=True)
class NamePattern:
    """A name with placeholders.

    Raise ValueError if a placeholder is not an identifier or is repeated, braces do not pair, or
    the end of a number would be ambiguous.
    """

    text: str

    def __post_init__(self) -> None:
        places = self.places
        if len(set(places)) != len(places) or not all(place.isidentifier() for place in places):
            raise ValueError(f"{self.text!r}: placeholders must have distinct names")
        if set(_PLACE.sub("", self.text)) & {"{", "}"}:
            raise ValueError(f"{self.text!r}: braces do not pair")
        if _TOUCHING.search(self.text):
            raise ValueError(f"{self.text!r}: placeholders must not touch one another or a digit")

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The names of the placeholders, from left to right."""
        return tuple(_PLACE.findall(self.text))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        text = self.text.removesuffix("*").removeprefix("*")
        before = ".+" if self.text.startswith("*") else ""
        after = ".+" if self.text.endswith("*") else ""
        literals = [re.escape(part) for part in _PLACE.split(text)[::2]]
        return re.compile(before + _NUMBER.join(literals) + after, re.DOTALL)

    @property
    def open_ended(self) -> bool:
        """True if it matches anything before or after it."""
        return self.text.startswith("*") or self.text.endswith("*")

    def format(self, numbers: Mapping[str, int | str]) -> str:
        """Return the name with its placeholders filled."""
        return _PLACE.sub(lambda place: str(numbers[place[1]]), self.text)

    def match(self, name: str) -> dict[str, int] | None:
        """Return the numbers in `name`, or ``None`` if it does not match."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        return dict(zip(self.places, map(int, found.groups()), strict=True))

    def __str__(self) -> str:
        return self.text
