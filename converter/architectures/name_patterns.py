"""Names with places for numbers, such as ``encoder.layer.{layer}.output``.

A place matches one whole number without leading zeros, the whole name must match, and formatting
inverts matching exactly. A template that begins or ends in ``*`` matches whatever is there; it can
only be matched. There are no regular expressions for authors to get wrong.
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
    """A name with places.

    Raises:
        ValueError: if a place's name is no identifier or stands twice, braces do not pair, or it
            could not be told from a name where a number ends.

    """

    text: str

    def __post_init__(self) -> None:
        places = self.places
        if len(set(places)) != len(places) or not all(place.isidentifier() for place in places):
            raise ValueError(f"{self.text!r}: places must have distinct names")
        if set(_PLACE.sub("", self.text)) & {"{", "}"}:
            raise ValueError(f"{self.text!r}: braces do not pair")
        if _TOUCHING.search(self.text):
            raise ValueError(f"{self.text!r}: places must not touch one another or a digit")

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The names of the places, from left to right."""
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
        """Whether it matches whatever stands before or behind it."""
        return self.text.startswith("*") or self.text.endswith("*")

    def format(self, numbers: Mapping[str, int | str]) -> str:
        """The name with its places filled."""
        return _PLACE.sub(lambda place: str(numbers[place[1]]), self.text)

    def match(self, name: str) -> dict[str, int] | None:
        """The numbers in `name`, or ``None`` if it is not of this form."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        return dict(zip(self.places, map(int, found.groups()), strict=True))

    def __str__(self) -> str:
        return self.text
