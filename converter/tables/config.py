"""A model's configuration as tables see it: fields with a family's defaults, checked on use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.errors import ConfigError, Problem
from converter.tables.expressions import Expression, ExpressionError, Value
from converter.tables.schema import Family

MAX_LAYERS = 10_000
"""No model has more layers; a configuration that claims so is damaged or hostile."""

MAX_SIZE = 2**40
"""No axis of a tensor is longer."""


class FamilyConfig:
    """The content of ``config.json``, read through a family's table.

    Args:
        family: the table that knows the fields and their defaults.
        raw: the content of ``config.json``.
        file: what messages call the file.
    """

    def __init__(self, family: Family, raw: Mapping[str, Any], file: str = "config.json") -> None:
        self.family = family
        self.raw = raw
        self.file = file

    def __getitem__(self, field: str) -> Value:
        """The value of `field`, or the family's default.

        Raises:
            ConfigError: if the table does not know the field, or its value is of no plain type.
        """
        known = self.family.config
        if field not in known:
            raise ConfigError(f"mappings/{self.family.name}.toml does not list field {field!r}")
        value = self.raw.get(field, known[field])
        if value is None and known[field] is not None:
            value = known[field]
        if value is not None and not isinstance(value, int | float | bool | str):
            raise self._error(field, type(known[field]).__name__, repr(value)[:80])
        if known[field] is not None and value is not None:
            wanted = type(known[field])
            fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
            if not fits or (isinstance(value, bool) and wanted is not bool):
                raise self._error(field, wanted.__name__, repr(value)[:80])
        return value  # type: ignore[no-any-return]  # narrowed to Value above

    def measure(self, name: str) -> Value:
        """The field that the table calls `name` (``width``, ``vocabulary`` …)."""
        return self[self.family.measures[name]]

    def count(self, field: str) -> int:
        """A number of layers.

        Raises:
            ConfigError: if it is no whole number from 0 to `MAX_LAYERS`.
        """
        value = self[field]
        if not isinstance(value, int) or not 0 <= value <= MAX_LAYERS:
            raise self._error(field, f"a whole number from 0 to {MAX_LAYERS}", repr(value)[:80])
        return value

    def size(self, expression: Expression) -> int:
        """The length of an axis.

        Raises:
            ConfigError: if it comes out as no whole number from 1 to `MAX_SIZE`.
        """
        try:
            value = expression.number(self.__getitem__)
        except ExpressionError as error:
            raise ConfigError(f"{self.file}: {error}") from error
        if value != int(value) or not 1 <= value <= MAX_SIZE:
            raise self._error(str(expression), "a whole number of at least 1", repr(value))
        return int(value)

    def holds(self, condition: Expression | None) -> bool:
        """Whether `condition` is true; no condition always is."""
        return condition is None or bool(self.evaluate(condition))

    def evaluate(self, expression: Expression) -> Value:
        """The value of `expression`.

        Raises:
            ConfigError: if it cannot be worked out.
        """
        try:
            return expression.evaluate(self.__getitem__)
        except ExpressionError as error:
            raise ConfigError(f"{self.file}: {error}") from error

    def _error(self, field: str, expected: str, found: str) -> ConfigError:
        problem = Problem(
            f"field {field!r} is not usable", file=self.file, expected=expected, found=found
        )
        return ConfigError(f"{self.file}: the configuration is not usable", [problem])
