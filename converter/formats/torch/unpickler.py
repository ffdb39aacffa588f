"""An unpickler that builds inert descriptions and executes nothing.

Why it is safe: the loop below is the complete interpreter; Python's own ``pickle`` is not involved.
No opcode imports a module, calls an object or sets an attribute: ``GLOBAL`` gives a `Global` (two
strings), a call gives what `UnpicklerHooks.call` makes of it (a tensor's description for a handful
of names, an `Opaque` for all others), and ``BUILD`` only stores the state. Dictionaries stay lists
of pairs, so nothing is hashed either (nested tuples take exponential time to hash). Memory is
bounded by the number of operations and by `UnpicklerHooks.charge`, which counts every object that
an operation adds and every item that it copies. Opcodes: ``pickletools`` of Python 3.11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from converter.formats.file_handle import FETCH_AGAIN, format_error

MAX_BYTES = 64 << 20
"""Longest pickle that is read; one of 100,000 tensors takes about 20 MB."""
_MAX_LINE = 4096
"""Bytes of the longest line in the operations that take text."""
_CHUNK = 64 << 10
"""Bytes read at once."""
_WIDE = 4096
"""Bytes of the longest string whose characters are not looked at."""


class ByteSource:
    """A stream of the bytes ``start .. end``, at most `MAX_BYTES`, read only as far as needed.

    `fetch` returns a number of bytes (second argument) from an offset (first argument).
    """

    def __init__(
        self, path: Path, fetch: Callable[[int, int], bytes], start: int, end: int
    ) -> None:
        self.path = path
        self._fetch = fetch
        self._buffer = b""
        self._base = start
        self._at = 0
        self._end = min(end, start + MAX_BYTES)

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """Read `count` bytes; raise FormatError if there are fewer."""
        end = self._at + count
        if end > len(self._buffer):
            self._refill(count)
            end = count
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def line(self) -> bytes:
        """Read up to and including the next line feed, and return the bytes before it."""
        end = self._buffer.find(b"\n", self._at, self._at + _MAX_LINE)
        if end < 0:
            self._refill(min(_MAX_LINE, self._end - self.position))
            end = self._buffer.find(b"\n", 0, _MAX_LINE)
        if end < 0:
            raise format_error(self.path, f"malformed pickle at byte {self.position}: endless line")
        line = self._buffer[self._at : end]
        self._at = end + 1
        return line

    def _refill(self, count: int) -> None:
        """Fetch at least `count` bytes."""
        start = self.position
        if count > self._end - start:
            raise format_error(
                self.path,
                "the pickle ends early",
                expected=f"{count} bytes at {start}",
                found=f"{self._end - start}",
                remedy=FETCH_AGAIN,
            )
        size = min(max(count, _CHUNK), self._end - start)
        self._buffer, self._base, self._at = self._fetch(start, size), start, 0


class Global:
    """A class or function that the pickle would import; it is never looked up."""

    __slots__ = ("name",)

    def __init__(self, module: str, name: str) -> None:
        self.name = f"{module}.{name}"

    def __repr__(self) -> str:
        return self.name


class Opaque:
    """An object of an unknown class, with the arguments and state it would be built from."""

    __slots__ = ("kind", "parts")

    def __init__(self, kind: str, *parts: object) -> None:
        self.kind = kind
        self.parts = list(parts)


class Pairs:
    """A dictionary as a list of keys and values, in order."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[object, object]] = []


MAX_OPERATIONS = 2 << 20
"""Operations in one pickle; torch writes about 55 for a tensor."""
_MAX_INTEGER = 256
"""Bytes of the longest integer. torch's magic number has 10."""


class UnpicklerHooks(Protocol):
    """The meaning of the names in a pickle."""

    names: set[str]
    """Collects every name that the pickle would import."""

    def charge(self, count: int) -> None:
        """Count units of about 8 bytes; raise ValueError beyond the budget of the file."""

    def call(self, function: Global, arguments: tuple[object, ...]) -> object:
        """Return the representation of a call's result; raise ValueError if it is invalid."""

    def persistent(self, identity: object) -> object:
        """Return that of an object stored outside of the pickle; raise ValueError if invalid."""


def unpickle(source: ByteSource, hooks: UnpicklerHooks) -> object:
    """Read one pickle up to its ``STOP``.

    Return `Pairs`, list, tuple, str, bytes, int, float, bool, None, `Global`, `Opaque`, or what
    `hooks` return; possibly shared and cyclic. Raise FormatError if the pickle is malformed, too
    large, or has an unsupported operation.
    """
    machine = _Machine(source, hooks)
    try:
        return machine.run()
    except (ValueError, IndexError, KeyError, struct.error, RecursionError) as error:
        known = isinstance(error, ValueError | RecursionError)
        raise format_error(
            source.path,
            f"malformed pickle, operation {machine.operations} before byte {source.position}",
            found=error if known else "nothing on the stack or in the memo",
        ) from None


_MARK = object()


class _Machine:
    """The stack machine that executes a pickle."""

    def __init__(self, source: ByteSource, hooks: UnpicklerHooks) -> None:
        self.operations = 0
        self._source = source
        self._take = source.take
        self._hooks = hooks
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Execute up to ``STOP``, and return the result."""
        take, table, charge = self._take, _OPERATIONS, self._hooks.charge
        while True:
            code = take(1)
            if code == b".":
                return self._pop()
            self.operations += 1
            if self.operations > MAX_OPERATIONS:
                raise ValueError(f"more than {MAX_OPERATIONS} operations")
            operation = table.get(code)
            if operation is None:
                raise ValueError(f"unsupported operation {code!r}")
            if code in _UNITS:
                charge(_UNITS[code])
            operation(self)

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is needed")
        return value

    def _pop_to_mark(self) -> list[object]:
        """Remove the topmost mark and the values above it, and return these."""
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        values = stack[at + 1 :]
        del stack[at:]
        return values

    def _top(self) -> object:
        value = self._pop()
        self._push(value)
        return value

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _sized(self, size: int) -> bytes:
        """Read a number of `size` bytes, and as many bytes as it says."""
        length = self._unsigned(size)
        if length <= _WIDE:
            self._hooks.charge(length // 4)
            return self._take(length)
        self._hooks.charge(length // 8)
        data = self._take(length)
        # As text, each character takes as many bytes as the widest; those of arrays take one.
        widest = int(np.frombuffer(data, np.uint8).max())
        self._hooks.charge(length // 8 * (0 if widest < 0xC4 else 1 if widest < 0xF0 else 3))
        return data

    # Numbers and strings

    def _int_line(self) -> None:
        text = self._source.line()
        constants = {b"00": False, b"01": True}
        self._push(constants[text] if text in constants else _integer_from_text(text))

    def _long_line(self) -> None:
        self._push(_integer_from_text(self._source.line().removesuffix(b"L")))

    def _long(self, size: int) -> None:
        length = self._unsigned(size)
        if length > _MAX_INTEGER:
            raise ValueError(f"an integer of {length} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _old_text(self, size: int) -> None:
        """Push a string of Python 2: text, as torch assumes, or else bytes."""
        data = self._sized(size)
        try:
            self._push(data.decode())
        except UnicodeDecodeError:
            self._push(data)

    # Collections

    def _pop_many(self, count: int) -> list[object]:
        return [self._pop() for _ in range(count)][::-1]

    def _extend(self, values: list[object]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Opaque):
            target.parts.extend(values)
        else:
            raise ValueError("items for an object that is not a list")

    def _set(self, values: list[object]) -> None:
        target = self._top()
        if len(values) % 2:
            raise ValueError("a key without a value")
        if isinstance(target, Pairs):
            target.items.extend(zip(values[::2], values[1::2], strict=True))
        elif isinstance(target, Opaque):
            target.parts.extend(values)
        else:
            raise ValueError("items for an object that is not a dictionary")

    def _dict(self) -> None:
        values = self._pop_to_mark()
        self._push(Pairs())
        self._set(values)

    # Memory

    def _put(self, index: int) -> None:
        if not 0 <= index < 1 << 32:
            raise ValueError(f"memo {index}")
        self._memo[index] = self._top()

    # What a real unpickler would import, call or load

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is not a string")
        self._hooks.charge(len(module) + len(name))
        self._name(module, name)

    def _global_lines(self) -> None:
        module = self._source.line().decode()
        self._name(module, self._source.line().decode())

    def _name(self, module: str, name: str) -> None:
        named = Global(module, name)
        self._hooks.names.add(named.name)
        self._push(named)

    def _call(self, function: object, arguments: tuple[object, ...]) -> None:
        if isinstance(function, Global):
            self._push(self._hooks.call(function, arguments))
        elif isinstance(function, Opaque):
            self._hooks.charge(len(arguments))
            self._push(Opaque(function.kind, function, *arguments))
        else:
            raise ValueError("a call of an object that is not a function")

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise ValueError("arguments that are not a tuple")
        self._call(function, arguments)

    def _newobj_ex(self) -> None:
        keywords, arguments, function = self._pop(), self._pop(), self._pop()
        kind = function.name if isinstance(function, Global) else "unknown"
        self._push(Opaque(kind, function, arguments, keywords))

    def _inst(self) -> None:
        arguments = self._pop_to_mark()
        self._global_lines()
        self._call(self._pop(), tuple(arguments))

    def _obj(self) -> None:
        function, *arguments = self._pop_to_mark()
        self._call(function, tuple(arguments))

    def _build(self) -> None:
        """Keep an unknown object's state; ignore attributes of dictionaries and tensors."""
        state, target = self._pop(), self._top()
        if isinstance(target, Opaque):
            target.parts.append(state)
        elif isinstance(target, Global | list | tuple | str | bytes | int | float | None):
            raise ValueError("state for an object that has none")


def _integer_from_text(text: bytes) -> int:
    if len(text) > 2 * _MAX_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _proto(machine: _Machine) -> None:
    version = machine._unsigned(1)
    if version > 5:
        raise ValueError(f"pickle protocol {version}")


_OPERATIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": _proto,
    b"\x95": lambda m: m._take(8),  # the frame length, a hint for prefetching
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._stack.pop(),
    b"1": lambda m: m._pop_to_mark(),
    b"2": lambda m: m._push(m._top()),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"F": lambda m: m._push(float(m._source.line())),
    b"G": lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    b"I": _Machine._int_line,
    b"L": _Machine._long_line,
    b"K": lambda m: m._push(m._unsigned(1)),
    b"M": lambda m: m._push(m._unsigned(2)),
    b"J": lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    b"\x8a": lambda m: m._long(1),
    b"\x8b": lambda m: m._long(4),
    b"V": lambda m: m._push(m._source.line().decode("raw-unicode-escape")),
    b"\x8c": lambda m: m._push(m._sized(1).decode()),
    b"X": lambda m: m._push(m._sized(4).decode()),
    b"\x8d": lambda m: m._push(m._sized(8).decode()),
    b"U": lambda m: m._old_text(1),
    b"T": lambda m: m._old_text(4),
    b"C": lambda m: m._push(m._sized(1)),
    b"B": lambda m: m._push(m._sized(4)),
    b"\x8e": lambda m: m._push(m._sized(8)),
    b"\x96": lambda m: m._push(m._sized(8)),
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m._push(tuple(m._pop_many(1))),
    b"\x86": lambda m: m._push(tuple(m._pop_many(2))),
    b"\x87": lambda m: m._push(tuple(m._pop_many(3))),
    b"t": lambda m: m._push(tuple(m._pop_to_mark())),
    b"]": lambda m: m._push([]),
    b"l": lambda m: m._push(m._pop_to_mark()),
    b"a": lambda m: m._extend(m._pop_many(1)),
    b"e": lambda m: m._extend(m._pop_to_mark()),
    b"}": lambda m: m._push(Pairs()),
    b"d": _Machine._dict,
    b"s": lambda m: m._set(m._pop_many(2)),
    b"u": lambda m: m._set(m._pop_to_mark()),
    b"\x8f": lambda m: m._push(Opaque("set")),
    b"\x90": lambda m: m._extend(m._pop_to_mark()),
    b"\x91": lambda m: m._push(Opaque("frozenset", *m._pop_to_mark())),
    b"p": lambda m: m._put(_integer_from_text(m._source.line())),
    b"q": lambda m: m._put(m._unsigned(1)),
    b"r": lambda m: m._put(m._unsigned(4)),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"g": lambda m: m._push(m._memo[_integer_from_text(m._source.line())]),
    b"h": lambda m: m._push(m._memo[m._unsigned(1)]),
    b"j": lambda m: m._push(m._memo[m._unsigned(4)]),
    b"c": _Machine._global_lines,
    b"\x93": _Machine._stack_global,
    b"R": _Machine._reduce,
    b"\x81": _Machine._reduce,
    b"\x92": _Machine._newobj_ex,
    b"i": _Machine._inst,
    b"o": _Machine._obj,
    b"b": _Machine._build,
    b"Q": lambda m: m._push(m._hooks.persistent(m._pop())),
}
"""All operations but ``STOP``, text ``STRING`` and ``PERSID``, extensions and out-of-band buffers,
none of which torch writes."""

_UNITS = {
    code.to_bytes(1, "big"): units
    for codes, units in (
        (b"FGIJKLM\x8a\x8b", 1),
        (b"VX\x8c\x8dUTCB\x8e\x96", 2),
        (b"\x85\x86\x87t]l", 7),
        (b"}d\x8f\x91c\x93R\x81\x92ioQ", 12),
    )
    for code in codes
}
"""Operations that add an object → its size in units of about 8 bytes."""
