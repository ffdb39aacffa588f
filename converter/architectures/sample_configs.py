"""Small configurations that bring out every row of a table: each condition true and false."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, count, islice, product

from converter.architectures.cross_references import expressions, groups
from converter.architectures.expressions import Expression, ExpressionError, Scalar, Value
from converter.architectures.model_config import ModelConfig, Places, nest_fields
from converter.architectures.schema import Architecture
from converter.errors import ConfigError, Problem

_MAX_TRIALS = 5_000
_MAX_PAIRS = 150
_MAX_CHOICES = 12

Fields = dict[str, Value]


@dataclass(frozen=True)
class Condition:
    """One condition of a table, and the key path of its first use."""

    place: str
    expression: Expression
    path: tuple[str, ...] = ()


def base_config(architecture: Architecture) -> ModelConfig | None:
    """Return the first of `sample_configs`, without the search for all others."""
    base = _Finder(architecture).base()
    return None if base is None else _config(architecture, base)


def sample_configs(
    architecture: Architecture, file: str
) -> tuple[list[ModelConfig], list[Problem]]:
    """Return configurations that bring out every row, and the problems of finding them.

    Sizes are tiny and distinct, so that a mistaken size shows as a mistaken shape. There is one
    configuration for each condition and truth value, and for each pair of both. The table must have
    no reference problems.
    """
    finder = _Finder(architecture)
    base = finder.base()
    if base is None:
        return [], [
            Problem(
                "the sizes cannot be evaluated, neither with small numbers nor with the defaults",
                file,
                "config",
                expected="defaults that make every size of every row a whole number",
                found=finder.obstacle,
                remedy="Correct the defaults or the sizes.",
            )
        ]
    configs, problems, both = [base], [], []
    for condition in _conditions(architecture):
        for truth in (True, False):
            solution = finder.solve(base, [(condition, truth)])
            if solution is None:
                problems.append(
                    Problem(
                        f"{str(condition.expression)!r} is {'never' if truth else 'always'} true",
                        file,
                        condition.place,
                        expected="a condition that is true for some configurations, not for all",
                        remedy="What depends on it is dead: remove it."
                        if truth
                        else "Remove the condition.",
                    )
                )
            else:
                configs.append(solution)
                both.append((condition, truth))
    pairs = [pair for pair in combinations(both, 2) if pair[0][0] != pair[1][0]]
    for pair in pairs[:_MAX_PAIRS]:
        solution = finder.solve(base, pair)
        if solution is not None:
            configs.append(solution)
    distinct = {repr(sorted(fields.items())): fields for fields in configs}
    return [_config(architecture, fields) for fields in distinct.values()], problems


def _conditions(architecture: Architecture) -> list[Condition]:
    """Return each condition once, and for each nullable field whether it is null."""
    conditions: dict[str, Condition] = {}
    for place, expression, path in expressions(architecture):
        if place.endswith(".when"):
            conditions.setdefault(expression.text, Condition(place, expression, path))
    for name in architecture.nullable:
        text = f"{name} == null"
        conditions.setdefault(text, Condition(f"config.{name}.when", Expression(text)))
    return list(conditions.values())


def _config(architecture: Architecture, fields: Fields) -> ModelConfig:
    return ModelConfig(architecture, nest_fields(fields), "a sample configuration")


class _Finder:
    """Finds configurations of one architecture."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._texts = [expression for _, expression, _ in expressions(architecture)]
        divisors, numbers = _divisors(self._texts)
        counts = {name for layer in architecture.layers.values() for name in layer.fields}
        primes = (n for n in count(2) if all(n % k for k in range(2, math.isqrt(n) + 1)))
        small = {
            name: next(primes) for name in sorted({*counts, *divisors} & {*architecture.config})
        }
        self._unit = math.prod([*(small[name] for name in divisors if name in small), *numbers])
        self._counts, self._small = counts, small
        self._containers = _containers(self._texts)
        self._tiny = {
            name: self._shrunk(name, default, primes)
            for name, default in architecture.config.items()
        }
        self.obstacle = ""

    def _shrunk(self, name: str, default: Value, primes: Iterator[int]) -> Value:
        def number() -> int:
            return self._small[name] if name in self._small else self._unit * next(primes)

        if isinstance(default, tuple):
            if not all(type(item) is int for item in default):
                return default
            steps = range(1, 1 + len(default))
            return tuple(1 + n % 2 if name in self._counts else number() * n for n in steps)
        if default is None and name in self._containers:
            return None
        if default is None or (isinstance(default, int) and not isinstance(default, bool)):
            return number()
        return default

    def base(self) -> Fields | None:
        """Return tiny distinct sizes, or else the table's defaults."""
        defaults = dict(self._architecture.config)
        shallow = {
            name: self._tiny[name] if name in self._counts else default
            for name, default in defaults.items()
        }
        deeper = {
            name: value + 2 if name in self._counts and type(value) is int else value
            for name, value in self._tiny.items()
        }
        for fields in (self._tiny, deeper, shallow, defaults):
            if self._is_valid(fields) and (fields is defaults or self._fills_layers(fields)):
                return fields
        return None

    def solve(self, base: Fields, goals: Sequence[tuple[Condition, bool]]) -> Fields | None:
        """Return a configuration in which every condition of `goals` has its truth value."""
        names = sorted({name for condition, _ in goals for name in condition.expression.fields})
        names = [name for name in names if name in base]
        choices = [self._choices(name, names, base) for name in names]
        for values in islice(product(*choices), _MAX_TRIALS):
            fields = {**base, **dict(zip(names, values, strict=True))}
            config = _config(self._architecture, fields)
            if all(self._is_true(condition, config, truth) for condition, truth in goals) and (
                self._is_valid(fields)
            ):
                return fields
        return None

    def _choices(self, name: str, names: Sequence[str], base: Fields) -> list[Value]:
        """Return values for a field that may make a difference, its own first."""
        default = self._architecture.config[name]
        literals = [item for text in self._texts if name in text.fields for item in _literals(text)]
        options: list[Value] = [base[name], default]
        numeric = isinstance(default, int | float) and not isinstance(default, bool)
        if default is None:
            options += [None, True, False, "another", *literals]
        elif isinstance(default, bool):
            options += [True, False]
        elif isinstance(default, str):
            options += [*(item for item in literals if isinstance(item, str)), "another"]
        elif isinstance(default, tuple):
            next_ones = [item + 1 for item in literals if type(item) is int]
            items = [*literals, *next_ones, True, False, "another"]
            fitting = [item for item in items if {type(item)} == {type(each) for each in default}]
            options += [default[:1], (), *((item,) * len(default) for item in fitting)]
        elif numeric:
            for literal in literals:
                if isinstance(literal, int | float) and not isinstance(literal, bool):
                    near = literal // self._unit * self._unit
                    options += [near + self._unit, near, literal, literal + 1, literal - 1]
        others = [base[other] for other in names if other != name]
        if numeric or default is None:
            options += [item for item in others if isinstance(item, int | float)]
        elif isinstance(default, tuple) and all(isinstance(item, int) for item in default):
            options += [(item,) * len(default) for item in others if isinstance(item, int)]
        options = [item for item in options if _fits(item, default)]
        options[1:1] = [None] if name in self._architecture.nullable else []
        return list({repr(item): item for item in options}.values())[:_MAX_CHOICES]

    def _is_true(self, condition: Condition, config: ModelConfig, truth: bool) -> bool:
        rows = [row for _, rows in groups(self._architecture) for row in rows]
        depends = {*condition.path} & condition.expression.fields
        choices: Iterator[Places] = iter([{}])
        try:
            if depends:
                row = next(row for row in rows if row.when == condition.expression)
                choices = iter(config.index_combinations(row.path.places, _MAX_TRIALS))
            return any(config.is_true(condition.expression, places) == truth for places in choices)
        except (ConfigError, ExpressionError):
            return False

    def _fills_layers(self, fields: Fields) -> bool:
        """Return whether every path has a layer, as one with ``depth - 2`` layers may not."""
        config = _config(self._architecture, fields)
        paths = [row.path for _, rows in groups(self._architecture) for row in rows]
        return all(config.index_combinations(path.places, _MAX_TRIALS) for path in paths)

    def _is_valid(self, fields: Fields) -> bool:
        """Return whether every size can be evaluated."""
        config = _config(self._architecture, fields)
        try:
            for _, rows in groups(self._architecture):
                for row in rows:
                    sizes = dict.fromkeys(row.sizes)
                    for places in config.index_combinations(row.path.places, _MAX_TRIALS):
                        if config.is_true(row.when, places) and sizes:
                            for size in sizes:
                                config.size(size, places, 0 if row.empty else 1)
                            sizes = dict.fromkeys(
                                size for size in sizes if size.fields.intersection(places)
                            )
        except ConfigError as error:
            self.obstacle = str(error)
            return False
        return True


def _fits(value: Value, default: Value) -> bool:
    """Return whether a configuration may have `value` where a table has `default`."""
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default) and (not isinstance(value, int) or value >= 0)


def _divisors(texts: Sequence[Expression]) -> tuple[set[str], set[int]]:
    """Return the fields and the whole numbers that something is divided by."""
    fields, numbers = set(), set()
    for text in texts:
        for node in ast.walk(ast.parse(text.text.strip(), mode="eval")):
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Div | ast.Mod)
                and not isinstance(node.right, ast.Call)  # a root, which leaves no remainder
            ):
                for part in ast.walk(node.right):
                    if isinstance(part, ast.Name | ast.Attribute):
                        fields.add(ast.unparse(part))
                    elif isinstance(part, ast.Constant) and isinstance(part.value, int):
                        numbers.add(part.value or 1)
    return fields, numbers


def _containers(texts: Sequence[Expression]) -> set[str]:
    """Return the fields on the right of ``in``: lists and strings."""
    return {
        ast.unparse(node.comparators[0])
        for text in texts
        for node in ast.walk(ast.parse(text.text.strip(), mode="eval"))
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn)
        if isinstance(node.comparators[0], ast.Name | ast.Attribute)
    }


def _literals(text: Expression) -> list[Scalar]:
    """Return the numbers and strings in an expression."""
    return [
        node.value
        for node in ast.walk(ast.parse(text.text.strip(), mode="eval"))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str)
    ]
