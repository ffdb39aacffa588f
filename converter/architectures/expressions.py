"""The small languages of tables: expressions over configuration fields, and name patterns.

Expressions, for sizes and conditions, are parsed into Python's syntax tree, checked against an
allow-list, and walked; nothing is ever evaluated by Python itself. Allowed: numbers, strings,
``true``, ``false``, ``null``, fields (``hidden_size``, ``encoder.width``), ``+ - * / // ** %``,
comparisons, ``in``, ``and or not``, ``sqrt(…)``, and of lists ``depths[stage]``, ``len(depths)``,
``min(depths)``, ``max(depths)``. ``/`` between whole numbers must have no remainder.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias, TypeGuard

Scalar: TypeAlias = int | float | bool | str | None
Value: TypeAlias = Scalar | tuple[Scalar, ...]

_CONSTANTS: Mapping[str, Value] = {"true": True, "false": False, "null": None}
_FUNCTIONS = ("sqrt", "len", "min", "max")
_MAX_LENGTH = 300
_MAX_NUMBER = 2**53
_MAX_EXPONENT = 64
_MAX_DEPTH = 64

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_ORDER: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number of at most `2**53`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MAX_NUMBER


class ExpressionError(ValueError):
    """An expression that cannot be parsed, or not be evaluated with the values given."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression; equal when its text is equal."""

    text: str

    def __post_init__(self) -> None:
        self.fields  # noqa: B018 - parses and checks now, not at the first use

    @cached_property
    def _parsed(self) -> tuple[ast.expr, frozenset[str]]:
        if len(self.text) > _MAX_LENGTH:
            raise ExpressionError(f"expression is longer than {_MAX_LENGTH} characters")
        return _parse(self.text)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields it refers to."""
        return self._parsed[1]

    def evaluate(self, lookup: Callable[[str], Value]) -> Value:
        """Return the value, with fields looked up by `lookup`.

        Raise ExpressionError if values have the wrong type, or a division has a remainder.
        """
        return _evaluate(self._parsed[0], lookup, self.text)

    def number(self, lookup: Callable[[str], Value]) -> float:
        """Return the value as a number; raise ExpressionError if it is not a number."""
        value = self.evaluate(lookup)
        if not is_number(value):
            raise ExpressionError(f"{self.text!r} is {value!r}, not a number")
        return value

    def __str__(self) -> str:
        return self.text


@lru_cache(1024)  # tables repeat most of their expressions
def _parse(text: str) -> tuple[ast.expr, frozenset[str]]:
    """Return the syntax tree of an expression and its fields; refuse what is not in the grammar."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is not an expression") from error
    level: list[ast.AST] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise ExpressionError(f"{text!r} is nested more than {_MAX_DEPTH} deep")
    return tree, frozenset(_fields(tree, text))


def _fields(node: ast.expr, text: str) -> set[str]:
    """Return the fields under `node`; refuse what is not in the grammar."""
    match node:
        case ast.Constant(value=int() | float() | str() as value) if not isinstance(value, bool):
            return set()
        case ast.Name(id=name) if not name.startswith("__"):
            return set() if name in _CONSTANTS else {name}
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if (
            owner not in _CONSTANTS and not owner.startswith("_") and not name.startswith("_")
        ):
            return {f"{owner}.{name}"}
        case ast.BinOp(left=left, op=op, right=right) if isinstance(
            op, ast.Div | ast.FloorDiv | ast.Add | ast.Sub | ast.Mult | ast.Pow | ast.Mod
        ):
            return _fields(left, text) | _fields(right, text)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            return _fields(operand, text)
        case ast.BoolOp(values=values):
            return set().union(*(_fields(value, text) for value in values))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(
            op, ast.Eq | ast.NotEq | ast.Lt | ast.LtE | ast.Gt | ast.GtE | ast.In | ast.NotIn
        ):
            return _fields(left, text) | _fields(right, text)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _fields(argument, text)
        case ast.Subscript(value=ast.Name() | ast.Attribute() as owner, slice=index):
            return _fields(owner, text) | _fields(index, text)
        case _:
            raise ExpressionError(
                f"{text!r}: {ast.unparse(node)!r} is not allowed in an expression"
            )


def _evaluate(node: ast.expr, lookup: Callable[[str], Value], text: str) -> Value:
    def number(part: ast.expr) -> float:
        value = _evaluate(part, lookup, text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ExpressionError(f"{text!r}: {ast.unparse(part)} is {value!r}, not a number")
        if not is_number(value):
            raise ExpressionError(f"{text!r}: {ast.unparse(part)} is out of range")
        return value

    def sequence(part: ast.expr) -> tuple[Scalar, ...]:
        value = _evaluate(part, lookup, text)
        if not isinstance(value, tuple):
            raise ExpressionError(f"{text!r}: {ast.unparse(part)} is {value!r}, not a list")
        return value

    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            return _CONSTANTS[name] if name in _CONSTANTS else lookup(name)
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return lookup(f"{owner}.{name}")
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _divide(number(left), number(right), text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            exponent = number(right)
            if not isinstance(exponent, int) or not 0 <= exponent <= _MAX_EXPONENT:
                raise ExpressionError(f"{text!r}: exponent {exponent} is not allowed")
            return _power(number(left), exponent, text)
        case ast.BinOp(left=left, op=ast.Mod() | ast.FloorDiv() as op, right=right):
            divisor = number(right)
            if divisor == 0:
                raise ExpressionError(f"{text!r}: division by zero")
            return number(left) % divisor if isinstance(op, ast.Mod) else number(left) // divisor
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](number(left), number(right))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, lookup, text)
        case ast.UnaryOp(operand=operand):
            return -number(operand)
        case ast.BoolOp(op=op, values=values):
            outcome: Value = None
            for part in values:
                outcome = _evaluate(part, lookup, text)
                if bool(outcome) == isinstance(op, ast.Or):
                    break
            return outcome
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            if isinstance(op, ast.Eq | ast.NotEq):
                same = _evaluate(left, lookup, text) == _evaluate(right, lookup, text)
                return same == isinstance(op, ast.Eq)
            if isinstance(op, ast.In | ast.NotIn):
                one, many = _evaluate(left, lookup, text), _evaluate(right, lookup, text)
                if isinstance(one, str) and isinstance(many, str):
                    return (one in many) == isinstance(op, ast.In)
                return (one in sequence(right)) == isinstance(op, ast.In)
            return _ORDER[type(op)](number(left), number(right))
        case ast.Subscript(value=owner, slice=index):
            items, place = sequence(owner), number(index)
            if not isinstance(place, int) or not 0 <= place < len(items):
                raise ExpressionError(f"{text!r}: {ast.unparse(owner)} has no item {place}")
            return items[place]
        case ast.Call(func=ast.Name(id="len"), args=[argument]):
            return len(sequence(argument))
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=[argument]):
            items = sequence(argument)
            numbers = [item for item in items if isinstance(item, int | float)]
            if not numbers or len(numbers) != len(items):
                raise ExpressionError(f"{text!r}: {ast.unparse(argument)} is no list of numbers")
            return min(numbers) if name == "min" else max(numbers)
        case ast.Call(args=[argument]):
            value = number(argument)
            if value < 0:
                raise ExpressionError(f"{text!r}: square root of {value}")
            return math.sqrt(value)
    raise AssertionError(ast.dump(node))  # _fields refused everything else


def _power(base: float, exponent: int, text: str) -> float:
    try:
        return base**exponent
    except OverflowError as error:
        raise ExpressionError(f"{text!r} is out of range") from error


def _divide(left: float, right: float, text: str) -> float:
    if right == 0:
        raise ExpressionError(f"{text!r}: division by zero")
    if isinstance(left, int) and isinstance(right, int):
        quotient, rest = divmod(left, right)
        if rest:
            raise ExpressionError(f"{text!r}: {left} is not a multiple of {right}")
        return quotient
    return left / right


_PLACE = re.compile(r"\{([^{}]*)\}")
_NUMBER = "(0|[1-9][0-9]{0,8})"
_TOUCHING = re.compile(r"\}[{0-9]")


@dataclass(frozen=True)
class NamePattern:
    """A name with placeholders for numbers, such as ``encoder.layer.{layer}.output``.

    A placeholder matches one whole number without leading zeros, the complete name must match, and
    formatting is the exact inverse of matching. A pattern that begins or ends in ``*`` matches
    anything there; it can only be matched. There are no regular expressions in tables.

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
    def _parts(self) -> tuple[str, ...]:
        return tuple(_PLACE.split(self.text))

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The names of the placeholders, from left to right."""
        return self._parts[1::2]

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
        parts = list(self._parts)
        parts[1::2] = [str(numbers[place]) for place in self.places]
        return "".join(parts)

    def match(self, name: str) -> dict[str, int] | None:
        """Return the numbers in `name`, or ``None`` if it does not match."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        return dict(zip(self.places, map(int, found.groups()), strict=True))

    def __str__(self) -> str:
        return self.text
