"""A bounded parser of Flax msgpack files that skips the arrays' values.

Supports what ``flax.serialization`` writes: maps, lists, plain values, and three extension types
(``ndarray`` 1, ``native_complex`` 2, ``npscalar`` 3).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from converter.errors import FormatError
from converter.formats.base import Reader, Segment, StoredTensor
from converter.formats.file_handle import (
    FETCH_AGAIN,
    MAX_RANK,
    FileHandle,
    checked_spec,
    closed_on_error,
)
from converter.formats.flax_msgpack.writer import CHUNKED
from converter.formats.stored_tensors import ContiguousTensor
from converter.tensors import NAMES, TensorSpec

MAX_STRING = 4096
"""Bytes of a key or of a string that is kept."""
_WINDOW = 4096
"""Bytes read at once: the header of an array is short, and its values are skipped."""

Scalar = None | bool | int | float

_FIXED = dict(zip(range(0xCA, 0xD4), ">f >d >B >H >I >Q >b >h >i >q".split(), strict=True))
"""First byte of a number → the form of its value."""
_SIZES = {0: ">B", 1: ">H", 2: ">I"}
_SIZED = {
    **{0xC4 + n: ("bin", form) for n, form in _SIZES.items()},
    **{0xC7 + n: ("ext", form) for n, form in _SIZES.items()},
    **{0xD9 + n: ("str", form) for n, form in _SIZES.items()},
    **{0xDB + n: ("array", _SIZES[n]) for n in (1, 2)},
    **{0xDD + n: ("map", _SIZES[n]) for n in (1, 2)},
}
"""First byte of what has a size → its kind, and the form of the size."""
_CONSTANTS: dict[int, Scalar] = {0xC0: None, 0xC2: False, 0xC3: True}


class Token(NamedTuple):
    """One msgpack header."""

    kind: str
    """``value``; or ``map``, ``array``, ``str``, ``bin``, ``ext``, whose content follows."""
    size: int = 0
    """Entries of a map or an array; bytes of a str, bin or ext."""
    value: Scalar = None
    """Of a ``value``."""
    code: int = 0
    """Type of an ``ext``."""

    def __str__(self) -> str:
        return repr(self.value) if self.kind == "value" else f"{self.kind} of {self.size}"


class MsgpackScanner:
    """A forward scanner of a msgpack file.

    All methods take the name of the current tensor, for messages, and raise `FormatError` if the
    file ends early or is not msgpack.
    """

    def __init__(self, handle: FileHandle) -> None:
        self.handle = handle
        self.position = 0
        """File offset of the next header."""
        self._window = b""
        self._start = 0

    @property
    def remaining(self) -> int:
        """Bytes up to the end of the file."""
        return self.handle.size - self.position

    def next(self, name: str) -> Token:
        """Read one header, and check that the file holds the str, bin or ext that follows."""
        first = self._bytes(1, name)[0]
        if first < 0x80:
            return Token("value", value=first)
        if first < 0x90:
            return Token("map", first & 0x0F)
        if first < 0xA0:
            return Token("array", first & 0x0F)
        if first < 0xC0:
            return self._checked(Token("str", first & 0x1F), name)
        if first >= 0xE0:
            return Token("value", value=first - 0x100)
        if first in _CONSTANTS:
            return Token("value", value=_CONSTANTS[first])
        if first in _FIXED:
            return Token("value", value=self._number(_FIXED[first], name))
        if 0xD4 <= first <= 0xD8:
            code = self._bytes(1, name)[0]
            return self._checked(Token("ext", 1 << (first - 0xD4), code=code), name)
        if first not in _SIZED:
            raise self.error(name, "not msgpack", found=f"byte 0x{first:02x}")
        kind, form = _SIZED[first]
        size = int(self._number(form, name))
        if kind in ("map", "array"):
            return Token(kind, size)
        code = self._bytes(1, name)[0] if kind == "ext" else 0
        return self._checked(Token(kind, size, code=code), name)

    def text(self, token: Token, name: str) -> str:
        """Read the content of `token`, a str or bin of at most `MAX_STRING` bytes."""
        if token.kind not in ("str", "bin") or token.size > MAX_STRING:
            raise self.error(name, "not a string", f"at most {MAX_STRING} bytes of text", token)
        raw = self._bytes(token.size, name)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error(name, "a string is not UTF-8", found=ascii(raw[:40])) from None

    def error(
        self,
        name: str,
        what: str,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> FormatError:
        """Return the error for a problem at this position."""
        return self.handle.error(
            f"{what} (before byte {self.position})", name or None, expected, found, remedy=remedy
        )

    def _number(self, form: str, name: str) -> int | float:
        (value,) = struct.unpack(form, self._bytes(struct.calcsize(form), name))
        assert isinstance(value, int | float)
        return value

    def _checked(self, token: Token, name: str) -> Token:
        """Return `token`, if the file holds its content."""
        if token.size > self.remaining:
            expected, found = f"{token.size} bytes", f"{self.remaining} bytes"
            raise self.error(name, "the file ends early", expected, found, FETCH_AGAIN)
        return token

    def _bytes(self, nbytes: int, name: str) -> bytes:
        start = self.position - self._start
        if not 0 <= start <= len(self._window) - nbytes:
            self._checked(Token("bytes", nbytes), name)
            size = min(max(_WINDOW, nbytes), self.remaining)
            self._window = self.handle.read(self.position, size, name or None)
            self._start, start = self.position, 0
        self.position += nbytes
        return self._window[start : start + nbytes]


MAX_DEPTH = 64
"""Nested maps and lists; the deepest known model has 12."""
MAX_ENTRIES = 1 << 17
"""Map and list entries in a file; each takes 2 bytes there and some hundred in memory."""
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
    """Return the file as nested dicts; a list's items have the keys ``0``, ``1``, ….

    Strings above `MAX_STRING` bytes are None. Reads only the few bytes around each array's header.
    """
    tree = _Tree(handle)
    first = tree.next("")
    if first.kind != "map":
        raise tree.error("", "not a map of parameters", "a msgpack map", first)
    root = tree.entries(first, "", 1)
    if tree.remaining:
        raise tree.error("", "bytes after the end of the document", found=tree.remaining)
    return root


class _Tree(MsgpackScanner):
    """The recursive descent of `parse`."""

    def __init__(self, handle: FileHandle) -> None:
        super().__init__(handle)
        self._entries = 0
        self._name_at = 0
        self._arrays: list[int] = []
        """Offsets of the names of arrays so far."""

    def entries(self, token: Token, name: str, depth: int) -> dict[str, Node]:
        """Return the content of a map or a list."""
        self._check_size(token, name, depth)
        result: dict[str, Node] = {}
        layer = None
        for index in range(token.size):
            start = self.position
            key = self._key(name) if token.kind == "map" else str(index)
            if layer is not None and key.isdecimal():
                self._prefetch_like(layer, start)
            layer = start if key.isdecimal() else None
            child = f"{name}/{key}" if name else key
            if key in result:
                raise self.error(child, "duplicate key")
            if len(child) > MAX_STRING:
                raise self.error(child, "a name is too long", f"{MAX_STRING} characters")
            result[key] = self._node(child, depth)
        return result

    def _prefetch_like(self, start: int, end: int) -> None:
        """Prefetch the headers of a layer at `end` that is like the one from `start` to `end`.

        The place of each is known only when the one before it was read.
        """
        if self.handle.is_remote:
            offsets = [*self._arrays[bisect_left(self._arrays, start) :], end]
            self.handle.prefetch((offset + end - start, _WINDOW) for offset in offsets)

    def _check_size(self, token: Token, name: str, depth: int) -> None:
        """Check that a map or list of that many entries fits file, limit and depth."""
        least = token.size * (2 if token.kind == "map" else 1)
        if least > self.remaining:
            expected, found = f"at least {least} bytes", f"{self.remaining} bytes"
            raise self.error(name, "more entries than the file can hold", expected, found)
        self._entries += token.size
        if self._entries > MAX_ENTRIES:
            raise self.error(name, "too many entries", f"up to {MAX_ENTRIES}")
        if depth > MAX_DEPTH:
            raise self.error(name, "nested too deeply", f"up to {MAX_DEPTH} levels")

    def _key(self, name: str) -> str:
        self._name_at = self.position
        token = self.next(name)
        if token.kind == "value" and type(token.value) is int:
            return str(token.value)
        return self.text(token, name)

    def _node(self, name: str, depth: int) -> Node:
        token = self.next(name)
        if token.kind == "value":
            return token.value
        if token.kind in ("map", "array"):
            return self.entries(token, name, depth + 1)
        if token.kind == "ext":
            self._arrays.append(self._name_at)
            return self._extension(token, name)
        if token.kind == "str" and token.size <= MAX_STRING:
            return self.text(token, name)
        self.position += token.size
        return None

    def _extension(self, token: Token, name: str) -> ArrayLeaf | complex:
        end = self.position + token.size
        leaf: ArrayLeaf | complex
        if token.code in (NDARRAY, NPSCALAR):
            leaf = self._array(name)
            self.position = leaf.offset + leaf.nbytes
        elif token.code == NATIVE_COMPLEX:
            leaf = self._complex(name)
        else:
            raise self.error(name, "unknown extension type", "1, 2 or 3", token.code)
        if self.position != end:
            raise self.error(
                name, "differs in size from its extension header", f"end at byte {end}"
            )
        return leaf

    def _complex(self, name: str) -> complex:
        pair = self.next(name)
        real, imaginary = (self.next(name).value for _ in range(2))
        match (pair.kind, pair.size, real, imaginary):
            case ("array", 2, int() | float(), int() | float()):
                return complex(real, imaginary)
        raise self.error(name, "a complex number is not a pair of numbers")

    def _array(self, name: str) -> ArrayLeaf:
        """Return the array of a packed triple (shape, dtype name, C-order bytes)."""
        triple = self.next(name)
        if triple[:2] != ("array", 3):
            raise self.error(name, "not an array", "(shape, dtype, bytes)", triple)
        rank = self.next(name)
        if rank.kind != "array" or rank.size > MAX_RANK:
            raise self.error(name, "impossible shape", f"up to {MAX_RANK} lengths", rank)
        shape = [self.next(name).value for _ in range(rank.size)]
        dtype = self._dtype(name)
        spec = checked_spec(self.handle.path, name, dtype, shape)
        values = self.next(name)
        if values.kind not in ("bin", "str") or values.size != spec.nbytes:
            expected, found = f"{spec.nbytes} bytes for {spec.describe()}", values
            raise self.error(name, "shape and values disagree", expected, found)
        return ArrayLeaf(dtype, spec.shape, self.position, values.size)

    def _dtype(self, name: str) -> str:
        dtype = self.text(self.next(name), name)
        if dtype not in NAMES:
            raise self.error(
                name,
                "unknown dtype",
                "one of " + ", ".join(NAMES),
                repr(dtype),
                remedy="'void' is a dtype that numpy did not know when saving; save the model again"
                if dtype.startswith(("void", "V", "|V"))
                else None,
            )
        return dtype


_T = TypeVar("_T")
MAX_NAME_CHARACTERS = 32 << 20
"""Characters of all names together: deep nesting multiplies what the file itself holds."""


def open_msgpack(file: FileHandle) -> Reader:
    """List the arrays of a Flax msgpack file; plain values become the reader's metadata."""
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    characters = 0
    with closed_on_error(file):
        file.has_scattered_headers = True
        for name, leaf in _leaves(parse(file), ""):
            characters += len(name)
            if characters > MAX_NAME_CHARACTERS:
                raise file.error("the names are too long", name)
            if name in tensors or name in metadata:
                raise file.error("duplicate name", name)
            if isinstance(leaf, ArrayLeaf):
                segment = Segment(0, leaf.offset, leaf.nbytes)
                spec = TensorSpec(name, leaf.dtype, leaf.shape)
                tensors[name] = ContiguousTensor(spec, file, [segment])
            elif isinstance(leaf, dict):
                tensors[name] = _chunked(file, name, leaf)
            elif leaf is not None:
                metadata[name] = str(leaf)
    return Reader(path=file.path, tensors=tensors, close=file.close, metadata=metadata)


def _chunked(file: FileHandle, name: str, node: dict[str, Node]) -> StoredTensor:
    """Return an array that is stored in chunks, too large for one msgpack object."""
    shape = _numbered(node.get("shape"), int)
    chunks = _numbered(node.get("chunks"), ArrayLeaf)
    if shape is None or not chunks:
        raise file.error(
            "a chunked array lacks its shape or its chunks",
            name,
            "maps 'shape' and 'chunks' with the keys 0, 1, …",
        )
    if len({chunk.dtype for chunk in chunks}) > 1:
        raise file.error("the chunks of an array differ in dtype", name)
    spec = checked_spec(file.path, name, chunks[0].dtype, shape)
    segments, done = [], 0
    for chunk in chunks:
        segments.append(Segment(done, chunk.offset, chunk.nbytes))
        done += chunk.nbytes
    if done != spec.nbytes:
        expected, found = f"{spec.nbytes} bytes for {spec.describe()}", f"{done} bytes"
        raise file.error("the chunks of an array do not fill its shape", name, expected, found)
    return ContiguousTensor(spec, file, segments)


def _leaves(node: dict[str, Node], prefix: str) -> Iterator[tuple[str, Node]]:
    """Yield every array, chunked array and plain value below `node` by name, in file order."""
    for key, child in node.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(child, dict) and CHUNKED not in child:
            yield from _leaves(child, name)
        else:
            yield name, child


def _numbered(node: Node, kind: type[_T]) -> list[_T] | None:
    """Return the values of the keys 0, 1, … of `node`, if it is such a map."""
    if not isinstance(node, dict):
        return None
    values = [node.get(str(index)) for index in range(len(node))]
    typed = [value for value in values if isinstance(value, kind)]
    return typed if len(typed) == len(values) else None
