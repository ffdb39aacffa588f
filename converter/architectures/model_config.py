"""A model's configuration with the defaults of its architecture, checked on use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from converter.architectures.expressions import Expression, ExpressionError, Value, is_number
from converter.architectures.schema import Architecture, Init
from converter.errors import ConfigError, Problem, UsageError
from converter.file_names import CONFIG
from converter.safe_json import parse_json

Places: TypeAlias = Mapping[str, int | str]
"""Placeholder in a path → its value."""

MAX_LAYERS = 10_000
"""A configuration with more is damaged or hostile."""

MAX_SIZE = 2**40
"""No axis of a tensor is longer."""


_MAX_SETTING = 256 << 10
"""Bytes of memory that the value of a field that is set may take."""


def parse_settings(settings: Iterable[str], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return settings such as ``["encoder.dropout=0.1", "pad_token_id=0"]`` by target and field.

    A value is JSON, or else a string; the target of a key without prefix is ``""``. Raise
    UsageError for anything but ``KEY=VALUE`` and, with one of the `targets`, ``TARGET.KEY=VALUE``.
    """
    by_target: dict[str, dict[str, Any]] = {target: {} for target in ("", *targets)}
    for setting in settings:
        key, equals, text = setting.partition("=")
        target, dot, name = key.partition(".")
        if not dot:
            target, name = "", key
        if not equals or not name or target not in by_target:
            wrong = f"{target!r} in {setting!r} is not a submodel"
            raise UsageError(
                f"set: {wrong if equals and name else f'{setting!r} is not KEY=VALUE'}",
                remedy="With a submodel: " + " or ".join(f"{name}.KEY=VALUE" for name in targets)
                if targets
                else None,
            )
        try:
            value = parse_json(text, _MAX_SETTING)
        except json.JSONDecodeError:
            value = text
        except ValueError as error:
            raise UsageError(f"set: the value of {key[:80]!r} has {error}") from error
        by_target[target][name] = value
    return by_target


def apply_overrides(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with fields changed; a field set to null returns to its default."""
    merged = {**raw, **changes}
    return {key: value for key, value in merged.items() if value is not None or key not in changes}


def nest_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields such as ``vision_config.hidden_size`` as a configuration has them."""
    nested: dict[str, Any] = {}
    for field, value in fields.items():
        outer, _, inner = field.rpartition(".")
        (nested.setdefault(outer, {}) if outer else nested)[inner] = value
    return nested


class ModelConfig:
    """The content of ``config.json``, checked with the table of its architecture on use."""

    def __init__(
        self, architecture: Architecture, raw: Mapping[str, Any], file: str = CONFIG
    ) -> None:
        self.architecture = architecture
        self.raw = raw
        self.file = file

    def __getitem__(self, field: str) -> Value:
        """Return the value of `field`, or its default; where the default is a list, a table's keys.

        ``vision_config.hidden_size`` is a field of a nested configuration. Raise ConfigError if the
        table does not list the field, or its value has a wrong type.
        """
        known = self.architecture.config
        if field not in known:
            raise ConfigError(
                f"mappings/{self.architecture.name}.toml does not list field {field!r}"
            )
        outer, _, inner = field.rpartition(".")
        raw = (self.raw.get(outer) or {}) if outer else self.raw
        if not isinstance(raw, Mapping):
            raise self._error(outer, "a nested configuration", raw)
        value = raw.get(inner, known[field])
        if value is None and field not in self.architecture.nullable:
            value = known[field]
        if isinstance(value, list) and len(value) <= MAX_LAYERS:
            value = tuple(value)
        elif isinstance(value, dict) and isinstance(known[field], tuple):
            value = tuple(value)  # such as id2label, of which tables ask how many there are
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and not isinstance(item, int | float | bool | str):
                raise self._error(field, "plain values", value)
        if known[field] is not None and value is not None:
            wanted = type(known[field])
            fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
            if not fits or (isinstance(value, bool) and wanted is not bool):
                raise self._error(field, wanted.__name__, value)
        return value  # type: ignore[no-any-return]  # narrowed to Value above

    def attribute(self, name: str) -> Value:
        """Return the attribute `name` (``width``, ``vocabulary`` …); ``None`` if not defined."""
        expression = self.architecture.attributes.get(name)
        return None if expression is None else self.evaluate(expression)

    def index_values(self, expression: Expression, places: Places) -> Sequence[int | str]:
        """Return the numbers or names that a placeholder in a path takes.

        Raise ConfigError if `expression` gives neither a whole number from 0 to `MAX_LAYERS` nor a
        list of names and numbers.
        """
        value = self.evaluate(expression, places)
        if isinstance(value, tuple) and all(isinstance(item, int | str) for item in value):
            return [item for item in value if isinstance(item, int | str)]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LAYERS:
            expected = f"a whole number from 0 to {MAX_LAYERS}"
            raise self._error(str(expression), expected, value)
        return range(value)

    def index_combinations(self, names: Sequence[str], most: int) -> list[Places]:
        """Return every choice of indices for a path; later ones may depend on earlier ones.

        Raise ConfigError if there are more than `most`, or the number of a placeholder is not
        valid.
        """
        choices: list[dict[str, int | str]] = [{}]
        for name in names:
            steps = [
                self.index_values(self.architecture.layers[name], chosen) for chosen in choices
            ]
            if sum(map(len, steps)) > most:
                raise ConfigError(f"{self.file}: asks for more than {most} modules of one kind")
            choices = [
                {**chosen, name: step}
                for chosen, taken in zip(choices, steps, strict=True)
                for step in taken
            ]
        return list(choices)

    def number(self, expression: Expression, places: Places = MappingProxyType({})) -> float:
        """Return the value of `expression`; raise ConfigError if it is not a finite number."""
        value = self.evaluate(expression, places)
        if not is_number(value):
            raise self._error(str(expression), "a number", value)
        return value

    def size(
        self, expression: Expression, places: Places = MappingProxyType({}), least: int = 1
    ) -> int:
        """Return the length of an axis; raise ConfigError if it is not a whole number in range."""
        value = self.number(expression, places)
        if value != int(value) or not least <= value <= MAX_SIZE:
            raise self._error(str(expression), f"a whole number from {least} to {MAX_SIZE}", value)
        return int(value)

    def scale(self, init: Init, places: Places = MappingProxyType({})) -> float:
        """Return the scale of an initialization rule; raise ConfigError if it is not valid."""
        value = float(self.number(init.scale, places))
        if value < 0 and init.rule != "constant":
            raise self._error(str(init.scale), "a number from 0", value)
        return value

    def is_true(self, condition: Expression | None, places: Places = MappingProxyType({})) -> bool:
        """Return whether `condition` is true; ``None`` always is."""
        return condition is None or bool(self.evaluate(condition, places))

    def evaluate(self, expression: Expression, places: Places = MappingProxyType({})) -> Value:
        """Return the value of `expression`; raise ConfigError if it cannot be evaluated."""
        try:
            return expression.evaluate(lambda name: places[name] if name in places else self[name])
        except ExpressionError as error:
            raise ConfigError(f"{self.file}: {error}") from error

    def _error(self, field: str, expected: str, value: Any) -> ConfigError:
        try:
            found = repr(value)[:80]
        except (ValueError, RecursionError):  # thousands of digits, thousands of levels
            found = f"a {type(value).__name__} too large to print"
        problem = Problem(
            f"field {field!r} is not usable", file=self.file, expected=expected, found=found
        )
        return ConfigError(f"{self.file}: the configuration is not usable", [problem])
