"""An incremental msgpack parser that steps over arrays instead of reading them.

It understands what ``flax.serialization`` writes: maps, lists, plain values, and three extension
types (``ndarray`` 1, ``native_complex`` 2, ``npscalar`` 3). Every length is checked against the
bytes that are there before anything is read or allocated.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from converter.containers.files import FileHandle, damaged, shortened
from converter.errors import FormatError
from converter.tensors import itemsize
from converter.tensors.dtypes import NAMES

MAX_DEPTH = 64
"""Nested maps and lists; the deepest known model has 12."""
MAX_ENTRIES = 1 << 17
"""Map and list entries in a file; bounds time and memory where each costs the attacker 2 bytes."""
MAX_TEXT = 4096
"""Bytes of a key or of a text that is kept."""
MAX_DIMENSIONS = 32
_WINDOW = 4096
"""Bytes read at once: what describes an array is short and its values are skipped."""

NDARRAY, NATIVE_COMPLEX, NPSCALAR = 1, 2, 3

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
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True, slots=True)
class ArrayLeaf:
    """An array in the file: its values are `nbytes` C-order bytes from `offset`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


Scalar = None | bool | int | float | complex | str
Node = ArrayLeaf | Scalar | dict[str, "Node"]


class Parser:
    """Reads one msgpack document from a file.

    Args:
        handle: the file; only the few bytes around each array's description are read.
    """

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._window = b""
        self._start = 0
        self._place = 0
        self._entries = 0

    def document(self) -> dict[str, Node]:
        """The whole file as nested dicts; a list's items are called ``0``, ``1``, ….

        Raises:
            FormatError: if it is no msgpack map, ends early, goes on afterwards, or lies.
        """
        kind, count = self._token("")
        if kind != "map":
            raise self._wrong("", "not a map of parameters", expected="a msgpack map", found=kind)
        assert isinstance(count, int)
        root = self._map(count, "", 1)
        if self._place != self._handle.size:
            raise self._wrong(
                "",
                "bytes after the end of the document",
                expected=f"{self._place} bytes",
                found=f"{self._handle.size} bytes",
            )
        return root

    def _node(self, name: str, depth: int) -> Node:
        kind, value = self._token(name)
        if kind == "value":
            assert not isinstance(value, tuple)
            return value
        if kind == "ext":
            assert isinstance(value, tuple)
            return self._extension(value[0], value[1], name)
        assert isinstance(value, int)
        if kind == "map":
            return self._map(value, name, depth + 1)
        if kind == "array":
            return self._list(value, name, depth + 1)
        if kind == "str" and value <= MAX_TEXT:
            return self._text(value, name)
        self._skip(value, name)
        return None

    def _map(self, count: int, name: str, depth: int) -> dict[str, Node]:
        self._admit(2 * count, count, name, depth)
        result: dict[str, Node] = {}
        for _ in range(count):
            key = self._key(name)
            child = f"{name}/{key}" if name else key
            if key in result:
                raise self._wrong(child, "a key stands twice")
            if len(child) > MAX_TEXT:
                raise self._wrong(child, "a name is too long", f"at most {MAX_TEXT} characters")
            result[key] = self._node(child, depth)
        return result

    def _list(self, count: int, name: str, depth: int) -> dict[str, Node]:
        self._admit(count, count, name, depth)
        return {str(index): self._node(f"{name}/{index}", depth) for index in range(count)}

    def _admit(self, nbytes: int, entries: int, name: str, depth: int) -> None:
        """Raise unless a map or list of that many entries can be here."""
        left = self._handle.size - self._place
        if nbytes > left:
            raise self._wrong(
                name,
                "a map or list claims more entries than the file holds",
                expected=f"at most {left} bytes",
                found=f"{entries} entries",
            )
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise self._wrong(name, "too many entries", f"at most {MAX_ENTRIES}", self._entries)
        if depth > MAX_DEPTH:
            raise self._wrong(name, "nested too deeply", f"at most {MAX_DEPTH} levels")

    def _key(self, name: str) -> str:
        kind, value = self._token(name)
        if kind in ("str", "bin") and isinstance(value, int):
            if value > MAX_TEXT:
                raise self._wrong(name, "a key is too long", f"at most {MAX_TEXT} bytes", value)
            return self._text(value, name)
        if kind == "value" and isinstance(value, int):
            return str(value)
        raise self._wrong(name, "a key is neither text nor a number", found=kind)

    def _extension(self, code: int, nbytes: int, name: str) -> ArrayLeaf | complex:
        end = self._place + nbytes
        if code in (NDARRAY, NPSCALAR):
            leaf = self._array(name, end)
            self._place = leaf.offset + leaf.nbytes
        elif code == NATIVE_COMPLEX:
            if self._token(name) != ("array", 2):
                raise self._wrong(name, "a complex number is not a pair")
            parts = [self._token(name)[1] for _ in range(2)]
            if not all(isinstance(part, int | float) for part in parts):
                raise self._wrong(name, "a complex number is not a pair of numbers")
            leaf = complex(*parts)  # type: ignore[arg-type]
        else:
            raise self._wrong(
                name, "unknown msgpack extension type", expected="1, 2 or 3", found=code
            )
        if self._place != end:
            raise self._wrong(
                name,
                "an array's length contradicts its envelope",
                expected=f"its end at byte {end}",
                found=f"byte {self._place}",
            )
        return leaf

    def _array(self, name: str, end: int) -> ArrayLeaf:
        """Parse ``(shape, dtype name, C-order bytes)``, leaving the bytes unread."""
        kind, count = self._token(name)
        if (kind, count) != ("array", 3):
            raise self._wrong(name, "not an array", "(shape, dtype, bytes)", f"{kind} of {count}")
        kind, dimensions = self._token(name)
        if kind != "array" or not isinstance(dimensions, int) or dimensions > MAX_DIMENSIONS:
            raise self._wrong(
                name, "bad shape", f"at most {MAX_DIMENSIONS} lengths", f"{kind} {dimensions}"
            )
        shape = tuple(self._length(name) for _ in range(dimensions))
        dtype = self._dtype(name)
        kind, nbytes = self._token(name)
        if kind not in ("bin", "str") or not isinstance(nbytes, int):
            raise self._wrong(name, "the values are not bytes", "binary", kind)
        needed = math.prod(shape) * itemsize(dtype)
        if nbytes != needed:
            raise self._wrong(
                name,
                "shape and values disagree",
                expected=f"{needed} bytes for {dtype} {list(shape)}",
                found=f"{nbytes} bytes",
            )
        if self._place + nbytes > end:
            raise self._wrong(name, "an array's values are longer than its envelope")
        return ArrayLeaf(dtype, shape, self._place, nbytes)

    def _length(self, name: str) -> int:
        kind, value = self._token(name)
        if kind == "value" and type(value) is int and value >= 0:
            return value
        raise self._wrong(name, "bad shape", "lengths of 0 or more", f"{kind} {value}")

    def _dtype(self, name: str) -> str:
        kind, nbytes = self._token(name)
        if kind not in ("str", "bin") or not isinstance(nbytes, int) or nbytes > MAX_TEXT:
            raise self._wrong(name, "an array names no dtype", found=kind)
        dtype = self._text(nbytes, name)
        if dtype not in NAMES:
            raise self._wrong(
                name,
                "unknown dtype",
                expected="one of " + ", ".join(NAMES),
                found=repr(dtype),
                remedy="void types come from saving without ml_dtypes; save the model again"
                if dtype.startswith("void") or dtype[:1] == "V"
                else None,
            )
        return dtype

    def _token(self, name: str) -> tuple[str, Scalar | tuple[int, int]]:
        """Read one header.

        Returns:
            ``("value", value)``; or ``(kind, count)`` for ``map``, ``array``, ``str``, ``bin``,
            whose content follows; or ``("ext", (code, nbytes))``.
        """
        first = self._bytes(1, name)[0]
        if first < 0x80:
            return "value", first
        if first < 0x90:
            return "map", first & 0x0F
        if first < 0xA0:
            return "array", first & 0x0F
        if first < 0xC0:
            return "str", self._present(first & 0x1F, name)
        if first >= 0xE0:
            return "value", first - 0x100
        if first in _CONSTANTS:
            return "value", _CONSTANTS[first]
        if first in _FIXED:
            return "value", self._number(_FIXED[first], name)
        if 0xD4 <= first <= 0xD8:
            code = self._bytes(1, name)[0]
            return "ext", (code, self._present(1 << (first - 0xD4), name))
        if first not in _SIZED:
            raise self._wrong(name, "not msgpack", found=f"byte 0x{first:02x}")
        kind, form = _SIZED[first]
        size = int(self._number(form, name))
        if kind == "ext":
            code = self._bytes(1, name)[0]
            return kind, (code, self._present(size, name))
        return kind, size if kind in ("map", "array") else self._present(size, name)

    def _number(self, form: str, name: str) -> int | float:
        (value,) = struct.unpack(form, self._bytes(struct.calcsize(form), name))
        assert isinstance(value, int | float)
        return value

    def _present(self, nbytes: int, name: str) -> int:
        """`nbytes`, if the file holds as many from here."""
        if nbytes > self._handle.size - self._place:
            raise self._wrong(
                name,
                "the file ends early",
                expected=f"{nbytes} bytes from byte {self._place}",
                found=f"{self._handle.size - self._place} bytes",
                remedy="fetch or write the file again",
            )
        return nbytes

    def _bytes(self, nbytes: int, name: str) -> bytes:
        start = self._place - self._start
        if not 0 <= start <= len(self._window) - nbytes:
            self._present(nbytes, name)
            wanted = min(max(_WINDOW, nbytes), self._handle.size - self._place)
            self._window = self._handle.read(self._place, wanted, name or None)
            self._start, start = self._place, 0
        self._place += nbytes
        return self._window[start : start + nbytes]

    def _text(self, nbytes: int, name: str) -> str:
        raw = self._bytes(nbytes, name)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._wrong(name, "text is not UTF-8", found=ascii(raw[:40])) from None

    def _skip(self, nbytes: int, name: str) -> None:
        self._place += self._present(nbytes, name)

    def _wrong(
        self,
        name: str,
        what: str,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> FormatError:
        place = f"{what} (at byte {self._place})"
        return damaged(
            self._handle.path,
            place,
            tensor=shortened(name) if name else None,
            expected=expected,
            found=found,
            remedy=remedy,
        )
