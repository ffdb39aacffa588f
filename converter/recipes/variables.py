"""Variables of a recipe: ``${name}``, filled in where a value is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template
from typing import Any

from converter.recipes.schema import fits

_WHOLE = re.compile(r"\$(?:\{([_a-zA-Z][_a-zA-Z0-9]*)\}|([_a-zA-Z][_a-zA-Z0-9]*))")


class Variables:
    """The variables of one recipe.

    Args:
        own: those of the recipe.
        given: those of the command line, which win.
    """

    def __init__(self, own: Mapping[Any, Any], given: Mapping[str, str]) -> None:
        self._values: dict[str, Any] = {**{str(key): value for key, value in own.items()}, **given}
        self.used: set[str] = set(map(str, own))
        """Names that the recipe declares or uses."""

    def fill(self, value: Any, schema: Mapping[str, Any]) -> Any:
        """A value with its variables filled in; where it is one variable, of the type asked for.

        Args:
            value: as it stands in the recipe.
            schema: what the option wants to be.

        Raises:
            KeyError: with the name of a variable that there is not.
            ValueError: for a ``$`` that begins no name; ``$$`` stands for itself.
        """
        if isinstance(value, list):
            return [self._text(item) if isinstance(item, str) else item for item in value]
        if not isinstance(value, str):
            return value
        filled = self._text(value)
        if (whole := _WHOLE.fullmatch(value)) and not fits(filled, schema):
            return _typed(self._values[whole[1] or whole[2]])
        return filled

    def _text(self, text: str) -> str:
        template = Template(text)
        self.used |= set(template.get_identifiers())
        return template.substitute(self._values)


def _typed(value: Any) -> Any:
    """The number or truth value that a text writes, else the text."""
    if not isinstance(value, str):
        return value
    if value in ("true", "false"):
        return value == "true"
    return int(value) if re.fullmatch(r"[+-]?\d{1,30}", value) else value
