"""safetensors: a JSON header with the offsets of each tensor, then the tensors.

The file starts with the header's length (8 bytes, little-endian). Offsets count from the end of
the header, whose trailing spaces align them to 8 bytes. The specification requires that the header
takes at most 100 MB, repeats no key, and that the tensors fill the rest of the file without overlap
or hole; all of that is checked here. It also requires a ``{`` first, which the library does not:
white space before it and metadata of ``null`` are read, too. Source: the README and ``tensor.rs``
of huggingface/safetensors, version 0.8.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from converter.formats.base import (
    FileFormat,
    FileSpec,
    PreallocatedFile,
    Reader,
    Segment,
    StoredTensor,
)
from converter.formats.file_handle import (
    MAX_TENSORS,
    FileHandle,
    checked_spec,
    closed_on_error,
    create_file,
)
from converter.formats.stored_tensors import ContiguousTensor, PackedTensor
from converter.tensors import PACKED_BITS, TensorSpec

_DTYPES = {
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F32": "float32",
    "U32": "uint32",
    "I32": "int32",
    "BF16": "bfloat16",
    "F16": "float16",
    "U16": "uint16",
    "I16": "int16",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "F6_E3M2": "float6_e3m2fn",
    "F6_E2M3": "float6_e2m3fn",
    "F4": "float4_e2m1fn",
    "BOOL": "bool",
}
"""safetensors' dtype names → numpy's, in the order in which the library stores tensors."""
_CODES = {name: code for code, name in _DTYPES.items()}
_RANKS = {name: rank for rank, name in enumerate(_CODES)}

_MAX_HEADER = 100_000_000
_MAX_ENTRY = 4096
"""Bytes of one tensor's entry: dtype, shape and offsets."""
_MAX_STRING = 8 << 20
"""Bytes of the longest name or value of the metadata; training tools write up to 2 MB."""
_WINDOW = 4 << 20
"""Bytes of the header that are read at once."""
_METADATA = "__metadata__"
_MAX_SPACE = 64 << 10
"""Bytes of a file in which the header must start."""
_WHITE = b" \t\n\r"
_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class SafetensorsFormat(FileFormat):
    """``.safetensors`` files; see `FileFormat`."""

    name = "safetensors"
    dtypes = frozenset(_CODES) - PACKED_BITS.keys()
    packed_dtypes = frozenset(PACKED_BITS)

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether a plausible header length and a ``{`` are at its start, or white space."""
        length = int.from_bytes(head[:8], "little")
        if length > _MAX_HEADER:
            return False
        if not head[8 : 8 + length].strip(_WHITE):  # the library skips any amount
            head = file.read(0, min(file.size, 8 + length, _MAX_SPACE))
        return head[8:].lstrip(_WHITE).startswith(b"{")

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the header alone, whose metadata become the reader's."""
        with closed_on_error(file):
            return _read_header(file)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create the file with the library's layout: by dtype, then by name.

        The metadata go into the header by ascending key; transformers requires
        ``{"format": "pt"}``.
        """
        header: dict[str, object] = {}
        if spec.metadata is not None:
            header[_METADATA] = dict(sorted(spec.metadata.items()))
        offsets: dict[str, int] = {}
        end = 0
        ordered = sorted(spec.tensors, key=lambda tensor: (_RANKS[tensor.dtype], tensor.name))
        for tensor in ordered:
            if tensor.name == _METADATA:
                raise ValueError(f"no tensor can be called {_METADATA}")
            offsets[tensor.name], end = end, end + tensor.nbytes
            header[tensor.name] = {
                "dtype": _CODES[tensor.dtype],
                "shape": tensor.shape,
                "data_offsets": (offsets[tensor.name], end),
            }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > _MAX_HEADER:
            raise ValueError(f"the header takes {len(text)} bytes of at most {_MAX_HEADER}")
        data = 8 + len(text)
        create_file(spec.path, data + end, [(0, len(text).to_bytes(8, "little") + text)])
        segments = {t.name: (Segment(0, data + offsets[t.name], t.nbytes),) for t in ordered}
        packed = {t.name: PACKED_BITS[t.dtype] for t in ordered if t.dtype in PACKED_BITS}
        return PreallocatedFile(spec.path, segments, packed=packed)


def _read_header(handle: FileHandle) -> Reader:
    """Check the complete header and list its tensors by offset."""
    length = int.from_bytes(handle.read(0, 8), "little")
    if length > _MAX_HEADER:
        raise handle.error("header too long", expected=f"at most {_MAX_HEADER}", found=length)
    if 8 + length > handle.size:
        raise handle.ends_early(f"bytes 8 to {8 + length}", f"{handle.size} bytes")
    header = _Header(handle, length)
    header.parse()

    data = 8 + length
    tensors: dict[str, StoredTensor] = {}
    position = 0
    for begin, end, spec in sorted(header.entries, key=lambda entry: entry[:2]):
        if end - begin != spec.nbytes:
            raise handle.error(
                "size and offsets disagree",
                spec.name,
                f"{spec.nbytes} bytes for {spec.describe()}",
                f"{end - begin} bytes from {begin} to {end}",
            )
        if begin != position:
            what = "overlaps another tensor" if begin < position else "a hole before the tensor"
            raise handle.error(what, spec.name, f"offset {position}", begin)
        position = end
        if spec.size * PACKED_BITS.get(spec.dtype, 8) % 8:
            raise handle.error("does not end with a byte", spec.name, found=spec.describe())
        segment = Segment(0, data + begin, spec.nbytes)
        tensors[spec.name] = (
            PackedTensor(spec, handle, segment.file_offset)
            if spec.dtype in PACKED_BITS
            else ContiguousTensor(spec, handle, (segment,))
        )
    expected, found = f"{data + position} bytes", f"{handle.size} bytes"
    if data + position > handle.size:
        raise handle.ends_early(expected, found, next(reversed(tensors), None))
    if data + position < handle.size:
        raise handle.error("trailing bytes", expected=expected, found=found)
    return Reader(path=handle.path, tensors=tensors, close=handle.close, metadata=header.metadata)


class _Header:
    """The header's JSON, parsed entry by entry so that no other structure can take memory."""

    def __init__(self, handle: FileHandle, length: int) -> None:
        self._handle = handle
        self._length = length
        self._start = 0
        self._text = b""
        """The bytes of the header that are in memory, from `_start`."""
        self._strings = 0
        self.entries: list[tuple[int, int, TensorSpec]] = []
        """Begin, end and specification of each tensor."""
        self.metadata: dict[str, str] = {}
        self._at = 0

    def parse(self) -> None:
        """Fill `entries` and `metadata`."""
        seen: set[str] = set()
        for name in self._members():
            if name in seen:
                raise self._handle.error("duplicate name in the header", name)
            seen.add(name)
            if (
                name == _METADATA
                and self._peek() == "n"
                and self._text[self._at :].startswith(b"null")
            ):
                self._at += 4
            elif name == _METADATA:
                for key in self._members():
                    if key in self.metadata:
                        raise self._handle.error("duplicate key in the metadata", found=key)
                    self.metadata[key] = self._string()
            else:
                self.entries.append(self._entry(name))
            if len(seen) > MAX_TENSORS:
                raise self._handle.error("too many tensors", expected=f"at most {MAX_TENSORS}")
        self._skip_space()
        if self._text[self._at :]:
            raise self._wrong("the end of the header")

    def _members(self) -> Iterator[str]:
        """Yield the keys of the object at this position; the caller reads the value in between."""
        self._take("{")
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            key = self._string()
            self._take(":")
            yield key
            if self._peek() == "}":
                self._at += 1
                return
            self._take(",")

    def _entry(self, name: str) -> tuple[int, int, TensorSpec]:
        """Read the value of a tensor's key."""
        self._peek()
        self._need(_MAX_ENTRY)
        end = self._text.find(b"}", self._at, self._at + _MAX_ENTRY) + 1
        try:
            entry = json.loads(self._decode(end), object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            entry = self._text[self._at : self._at + 80].decode(errors="replace")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._handle.error(
                "malformed entry in the header",
                name,
                '{"dtype", "shape", "data_offsets"}',
                sorted(entry) if isinstance(entry, dict) else entry,
            )
        self._at = end
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in _DTYPES:
            raise self._handle.error("unknown dtype", name, ", ".join(_DTYPES), code)
        if not isinstance(shape, list):
            raise self._handle.error("shape is not a list", name, found=shape)
        if (
            not isinstance(offsets, list)
            or [type(offset) for offset in offsets] != [int, int]
            or not 0 <= offsets[0] <= offsets[1]
        ):
            raise self._handle.error("impossible offsets", name, "[begin, end]", offsets)
        return offsets[0], offsets[1], checked_spec(self._handle.path, name, _DTYPES[code], shape)

    def _string(self) -> str:
        """Read a string."""
        if self._peek() != '"':
            raise self._wrong("a string")
        match = _STRING.match(self._text, self._at)
        if match is None:
            self._need(_MAX_STRING)
            match = _STRING.match(self._text, self._at, self._at + _MAX_STRING)
        if match is None:
            raise self._wrong(f"a string of at most {_MAX_STRING} bytes")
        try:
            value = str(json.loads(self._decode(match.end())))
            value.encode()  # JSON can express a lone surrogate, UTF-8 cannot
        except ValueError:
            raise self._wrong("a string") from None
        self._strings += sys.getsizeof(value)
        if self._strings > _MAX_HEADER:  # of ASCII, a header holds less
            raise self._handle.error("the names and metadata in the header are too long")
        self._at = match.end()
        return value

    def _decode(self, end: int) -> str:
        """Return the text up to `end`."""
        try:
            return self._text[self._at : end].decode()
        except UnicodeDecodeError as error:
            place = self._start + self._at + error.start
            raise self._handle.error("header is not UTF-8", found=f"byte {place}") from None

    def _need(self, count: int) -> None:
        """Read on, unless `count` bytes from this position, or the header's end, are in memory."""
        end = self._start + len(self._text)
        count = min(count, self._length - self._start - self._at)
        if len(self._text) - self._at < count:
            self._start += self._at
            size = min(max(self._start + count, end + _WINDOW), self._length) - end
            self._text = self._text[self._at :] + self._handle.read(8 + end, size)
            self._at = 0

    def _peek(self) -> str:
        """Return the next character after white space, or an empty string."""
        self._skip_space()
        return self._text[self._at : self._at + 1].decode("latin-1")

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._wrong(repr(character))
        self._at += 1

    def _skip_space(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # it matches the empty string, too
            self._at = space.end()
            if self._at < len(self._text) or self._start + self._at == self._length:
                return
            self._need(1)

    def _wrong(self, expected: str) -> Exception:
        return self._handle.error(
            f"malformed header at byte {self._start + self._at}",
            expected=expected,
            found=self._text[self._at : self._at + 40].decode(errors="replace")
            or "the end of the header",
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, after checking for duplicate keys."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


FORMAT: FileFormat = SafetensorsFormat()
