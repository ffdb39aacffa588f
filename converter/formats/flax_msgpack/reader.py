"""The tree in a Flax msgpack file, with arrays as places in the file instead of values.

Understood is what ``flax.serialization`` writes: maps, lists, plain values, and three extension
types (``ndarray`` 1, ``native_complex`` 2, ``npscalar`` 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from converter.errors import FormatError
from converter.formats.files import MAX_RANK, FileHandle, checked_spec, format_error
from converter.tensors.spec import NAMES

MAX_TEXT = 4096
"""Bytes of a key or of a text that is kept."""
_WINDOW = 4096
"""Bytes read at once: what describes an array is short, and its values are skipped."""

Scalar = None | bool | int | float

_FIXED = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_SIZED = {
    0xC4: ("bin", ">B"),
    0xC5: ("bin", ">H"),
    0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"),
    0xC8: ("ext", ">H"),
    0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"),
    0xDA: ("str", ">H"),
    0xDB: ("str", ">I"),
    0xDC: ("array", ">H"),
    0xDD: ("array", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
_CONSTANTS: dict[int, Scalar] = {0xC0: None, 0xC2: False, 0xC3: True}


class Token(NamedTuple):
    """One header."""

    kind: str
    """``value``; or ``map``, ``array``, ``str``, ``bin``, ``ext``, whose content follows."""
    size: int = 0
    """Entries of a map or an array; bytes of a str, bin or ext."""
    value: Scalar = None
    """A plain value."""
    code: int = 0
    """The type of an ext."""

    def __str__(self) -> str:
        return repr(self.value) if self.kind == "value" else f"{self.kind} of {self.size}"


class MsgpackScanner:
    """A place in a msgpack file that moves on as tokens are taken.

    All methods take the name of the tensor at hand, for messages, and raise `FormatError` where
    the file ends early or is no msgpack.
    """

    def __init__(self, handle: FileHandle) -> None:
        self.handle = handle
        self.place = 0
        """Offset in the file of what comes next."""
        self._window = b""
        self._start = 0

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return self.handle.size - self.place

    def next(self, name: str) -> Token:
        """Take one header; the content of a str, bin or ext, which follows, is in the file."""
        first = self._bytes(1, name)[0]
        if first < 0x80:
            return Token("value", value=first)
        if first < 0x90:
            return Token("map", first & 0x0F)
        if first < 0xA0:
            return Token("array", first & 0x0F)
        if first < 0xC0:
            return self._present(Token("str", first & 0x1F), name)
        if first >= 0xE0:
            return Token("value", value=first - 0x100)
        if first in _CONSTANTS:
            return Token("value", value=_CONSTANTS[first])
        if first in _FIXED:
            return Token("value", value=self._number(_FIXED[first], name))
        if 0xD4 <= first <= 0xD8:
            code = self._bytes(1, name)[0]
            return self._present(Token("ext", 1 << (first - 0xD4), code=code), name)
        if first not in _SIZED:
            raise self.wrong(name, "not msgpack", found=f"byte 0x{first:02x}")
        kind, form = _SIZED[first]
        size = int(self._number(form, name))
        if kind in ("map", "array"):
            return Token(kind, size)
        code = self._bytes(1, name)[0] if kind == "ext" else 0
        return self._present(Token(kind, size, code=code), name)

    def text(self, token: Token, name: str) -> str:
        """Take the content of `token`, a str or bin of at most `MAX_TEXT` bytes."""
        if token.kind not in ("str", "bin") or token.size > MAX_TEXT:
            raise self.wrong(name, "not a text", f"at most {MAX_TEXT} bytes of text", token)
        raw = self._bytes(token.size, name)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.wrong(name, "text is not UTF-8", found=ascii(raw[:40])) from None

    def wrong(
        self,
        name: str,
        what: str,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> FormatError:
        """The error for a finding at this place."""
        return format_error(
            self.handle.path,
            f"{what} (before byte {self.place})",
            tensor=name or None,
            expected=expected,
            found=found,
            remedy=remedy,
        )

    def _number(self, form: str, name: str) -> int | float:
        (value,) = struct.unpack(form, self._bytes(struct.calcsize(form), name))
        assert isinstance(value, int | float)
        return value

    def _present(self, token: Token, name: str) -> Token:
        """`token`, if the file holds its content."""
        self._check(token.size, name)
        return token

    def _check(self, nbytes: int, name: str) -> None:
        if nbytes > self.left:
            raise self.wrong(
                name,
                "the file ends early",
                expected=f"{nbytes} bytes",
                found=f"{self.left} bytes",
                remedy="fetch or write the file again",
            )

    def _bytes(self, nbytes: int, name: str) -> bytes:
        start = self.place - self._start
        if not 0 <= start <= len(self._window) - nbytes:
            self._check(nbytes, name)
            wanted = min(max(_WINDOW, nbytes), self.left)
            self._window = self.handle.read(self.place, wanted, name or None)
            self._start, start = self.place, 0
        self.place += nbytes
        return self._window[start : start + nbytes]


MAX_DEPTH = 64
"""Nested maps and lists; the deepest known model has 12."""
MAX_ENTRIES = 1 << 17
"""Map and list entries in a file; each costs its author 2 bytes and us some hundred."""

NDARRAY, NATIVE_COMPLEX, NPSCALAR = 1, 2, 3


@dataclass(frozen=True, slots=True)
class ArrayLeaf:
    """An array in the file: its values are `nbytes` C-order bytes from `offset`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


Node = ArrayLeaf | Scalar | complex | str | dict[str, "Node"]


def parse(handle: FileHandle) -> dict[str, Node]:
    """The whole file as nested dicts; a list's items are called ``0``, ``1``, ….

    Texts too long to be kept are None. Only the few bytes around each array's description are
    read.

    Raises:
        FormatError: if it is no msgpack map, ends early, goes on afterwards, or lies.

    """
    tokens = MsgpackScanner(handle)
    first = tokens.next("")
    if first.kind != "map":
        raise tokens.wrong("", "not a map of parameters", "a msgpack map", first)
    root = _Tree(tokens).entries(first, "", 1)
    if tokens.left:
        raise tokens.wrong("", "bytes after the end of the document", found=tokens.left)
    return root


class _Tree:
    def __init__(self, tokens: MsgpackScanner) -> None:
        self._tokens = tokens
        self._entries = 0

    def entries(self, token: Token, name: str, depth: int) -> dict[str, Node]:
        """The content of a map or a list."""
        self._admit(token, name, depth)
        result: dict[str, Node] = {}
        for index in range(token.size):
            key = self._key(name) if token.kind == "map" else str(index)
            child = f"{name}/{key}" if name else key
            if key in result:
                raise self._tokens.wrong(child, "a key stands twice")
            if len(child) > MAX_TEXT:
                raise self._tokens.wrong(child, "a name is too long", f"{MAX_TEXT} characters")
            result[key] = self._node(child, depth)
        return result

    def _admit(self, token: Token, name: str, depth: int) -> None:
        """Raise unless a map or list of that many entries can be here."""
        least = token.size * (2 if token.kind == "map" else 1)
        if least > self._tokens.left:
            raise self._tokens.wrong(
                name,
                "more entries than the file can hold",
                expected=f"at least {least} bytes",
                found=f"{self._tokens.left} bytes",
            )
        self._entries += token.size
        if self._entries > MAX_ENTRIES:
            raise self._tokens.wrong(name, "too many entries", f"up to {MAX_ENTRIES}")
        if depth > MAX_DEPTH:
            raise self._tokens.wrong(name, "nested too deeply", f"up to {MAX_DEPTH} levels")

    def _key(self, name: str) -> str:
        token = self._tokens.next(name)
        if token.kind == "value" and type(token.value) is int:
            return str(token.value)
        return self._tokens.text(token, name)

    def _node(self, name: str, depth: int) -> Node:
        token = self._tokens.next(name)
        if token.kind == "value":
            return token.value
        if token.kind in ("map", "array"):
            return self.entries(token, name, depth + 1)
        if token.kind == "ext":
            return self._extension(token, name)
        if token.kind == "str" and token.size <= MAX_TEXT:
            return self._tokens.text(token, name)
        self._tokens.place += token.size
        return None

    def _extension(self, token: Token, name: str) -> ArrayLeaf | complex:
        end = self._tokens.place + token.size
        leaf: ArrayLeaf | complex
        if token.code in (NDARRAY, NPSCALAR):
            leaf = self._array(name)
            self._tokens.place = leaf.offset + leaf.nbytes
        elif token.code == NATIVE_COMPLEX:
            leaf = self._complex(name)
        else:
            raise self._tokens.wrong(name, "unknown extension type", "1, 2 or 3", token.code)
        if self._tokens.place != end:
            raise self._tokens.wrong(name, "contradicts its envelope", f"end at byte {end}")
        return leaf

    def _complex(self, name: str) -> complex:
        pair = self._tokens.next(name)
        parts = [self._tokens.next(name).value for _ in range(2)]
        real, imaginary = parts
        if (
            pair[:2] != ("array", 2)
            or not isinstance(real, int | float)
            or not isinstance(imaginary, int | float)
        ):
            raise self._tokens.wrong(name, "a complex number is not a pair of numbers")
        return complex(real, imaginary)

    def _array(self, name: str) -> ArrayLeaf:
        """The packed triple (shape, dtype name, C-order bytes), whose bytes stay unread."""
        triple = self._tokens.next(name)
        if triple[:2] != ("array", 3):
            raise self._tokens.wrong(name, "not an array", "(shape, dtype, bytes)", triple)
        rank = self._tokens.next(name)
        if rank.kind != "array" or rank.size > MAX_RANK:
            raise self._tokens.wrong(name, "impossible shape", f"up to {MAX_RANK} lengths", rank)
        shape = [self._tokens.next(name).value for _ in range(rank.size)]
        dtype = self._dtype(name)
        spec = checked_spec(self._tokens.handle.path, name, dtype, shape)
        values = self._tokens.next(name)
        if values.kind not in ("bin", "str") or values.size != spec.nbytes:
            raise self._tokens.wrong(
                name,
                "shape and values disagree",
                expected=f"{spec.nbytes} bytes for {spec.describe()}",
                found=values,
            )
        return ArrayLeaf(dtype, spec.shape, self._tokens.place, values.size)

    def _dtype(self, name: str) -> str:
        dtype = self._tokens.text(self._tokens.next(name), name)
        if dtype not in NAMES:
            raise self._tokens.wrong(
                name,
                "unknown dtype",
                expected="one of " + ", ".join(NAMES),
                found=repr(dtype),
                remedy="'void' is what a dtype becomes that numpy did not know; save it again"
                if dtype.startswith(("void", "V", "|V"))
                else None,
            )
        return dtype
