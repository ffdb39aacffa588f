"""Small expressions over configuration fields: sizes and conditions.

They are parsed into Python's syntax tree, checked against an allow-list, and walked; nothing is
ever evaluated by Python itself. Allowed: numbers, strings, ``true``, ``false``, ``null``, field
names (``hidden_size``, ``encoder.width``), ``+ - * / // ** %``, comparisons, ``in``,
``and or not``, ``sqrt(…)``, and of lists ``depths[stage]``, ``len(depths)``, ``min(depths)``,
``max(depths)``. ``/`` between whole numbers must have no remainder.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
    def _tree(self) -> ast.expr:
        if len(self.text) > _MAX_LENGTH:
            raise ExpressionError(f"expression is longer than {_MAX_LENGTH} characters")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ExpressionError(f"{self.text!r} is not an expression") from error
        level: list[ast.AST] = [tree]
        for _ in range(_MAX_DEPTH):
            level = [child for node in level for child in ast.iter_child_nodes(node)]
        if level:
            raise ExpressionError(f"{self.text!r} is nested more than {_MAX_DEPTH} deep")
        return tree

    @cached_property
    def fields(self) -> frozenset[str]:
        """Names of the fields it refers to."""
        return frozenset(_fields(self._tree, self.text))

    def evaluate(self, lookup: Callable[[str], Value]) -> Value:
        """Return the value, with fields looked up by `lookup`.

        Raise ExpressionError if values have the wrong type, or a division has a remainder.
        """
        return _evaluate(self._tree, lookup, self.text)

    def number(self, lookup: Callable[[str], Value]) -> float:
        """Return the value as a number; raise ExpressionError if it is not a number."""
        value = self.evaluate(lookup)
        if not is_number(value):
            raise ExpressionError(f"{self.text!r} is {value!r}, not a number")
        return value

    def __str__(self) -> str:
        return self.text


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
        case ast.Subscript(value=ast.Name(id=name), slice=index) if (
            name not in _CONSTANTS and not name.startswith("_")
        ):
            return {name} | _fields(index, text)
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
