"""The tokens of a msgpack file, read through a small window that steps over what is not wanted.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md. Every length is checked against the
bytes that are there before anything is read or allocated.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from converter.containers.files import FileHandle, damaged
from converter.errors import FormatError

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


class Tokens:
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
        return damaged(
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
