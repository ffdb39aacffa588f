"""The tree in a Flax msgpack file, with arrays as places in the file instead of values.

Understood is what ``flax.serialization`` writes: maps, lists, plain values, and three extension
types (``ndarray`` 1, ``native_complex`` 2, ``npscalar`` 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from converter.containers.files import MAX_RANK, FileHandle, checked_spec
from converter.containers.msgpack_tokens import MAX_TEXT, Scalar, Token, Tokens
from converter.tensors.dtypes import NAMES

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
    tokens = Tokens(handle)
    first = tokens.next("")
    if first.kind != "map":
        raise tokens.wrong("", "not a map of parameters", "a msgpack map", first)
    root = _Tree(tokens).entries(first, "", 1)
    if tokens.left:
        raise tokens.wrong("", "bytes after the end of the document", found=tokens.left)
    return root


class _Tree:
    def __init__(self, tokens: Tokens) -> None:
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
