"""safetensors: a JSON header that says where each tensor lies, then the tensors.

The file starts with the header's length (8 bytes, little-endian). Offsets count from the end of
the header, whose trailing spaces align them to 8 bytes. The specification demands that the header
starts with ``{``, takes at most 100 MB, repeats no key, and that the tensors fill the rest of the
file without overlap or hole; all of that is checked here. Source: the README and ``tensor.rs`` of
huggingface/safetensors, version 0.8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.formats.base import (
    FileFormat,
    FileSpec,
    PreallocatedFile,
    Reader,
    Segment,
    StoredTensor,
)
from converter.formats.files import (
    MAX_TENSORS,
    FileHandle,
    FileReader,
    checked_spec,
    closed_on_error,
    create_file,
    format_error,
)
from converter.formats.lazy_tensors import ContiguousTensor
from converter.tensors import TensorSpec

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
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' dtype names and ours, in the order in which the library lays tensors out."""
_CODES = {name: code for code, name in _DTYPES.items()}
_RANKS = {name: rank for rank, name in enumerate(_CODES)}

_MAX_HEADER = 100_000_000
_MAX_ENTRY = 4096
"""Characters of one tensor's entry: dtype, shape and offsets."""
_METADATA = "__metadata__"
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class _Layout(PreallocatedFile):
    """A safetensors file depends on no tensor's bytes."""

    def finalize(self, crc32: Mapping[str, int]) -> None:
        """Nothing is left to write."""


class SafetensorsContainer(FileFormat):
    """Reads and writes ``.safetensors``; see `converter.formats.base.Container`."""

    name = "safetensors"
    dtypes = frozenset(_CODES)

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Whether a plausible header length and a ``{`` come first."""
        return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the header alone.

        The reader's metadata are the header's, such as ``{"format": "pt"}``.
        """
        with closed_on_error(file):
            return _read_listing(file)

    def preallocate(self, wanted: FileSpec) -> PreallocatedFile:
        """Lay the file out as the library does: by dtype, then by name.

        The metadata go into the header by ascending key; transformers demands
        ``{"format": "pt"}``.
        """
        header: dict[str, object] = {}
        if wanted.metadata is not None:
            header[_METADATA] = dict(sorted(wanted.metadata.items()))
        places: dict[str, int] = {}
        end = 0
        ordered = sorted(wanted.tensors, key=lambda spec: (_RANKS[spec.dtype], spec.name))
        for spec in ordered:
            if spec.name == _METADATA:
                raise ValueError(f"no tensor can be called {_METADATA}")
            places[spec.name], end = end, end + spec.nbytes
            header[spec.name] = {
                "dtype": _CODES[spec.dtype],
                "shape": spec.shape,
                "data_offsets": (places[spec.name], end),
            }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > _MAX_HEADER:
            raise ValueError(f"the header would take {len(text)} bytes of at most {_MAX_HEADER}")
        data = 8 + len(text)
        create_file(wanted.path, data + end, [(0, len(text).to_bytes(8, "little") + text)])
        segments = {
            spec.name: (Segment(0, data + places[spec.name], spec.nbytes),) for spec in ordered
        }
        return _Layout(wanted.path, segments)


def _read_listing(handle: FileHandle) -> Reader:
    """Check the whole header and list its tensors by offset."""
    path = handle.path
    length = int.from_bytes(handle.read(0, 8), "little")
    if length > _MAX_HEADER:
        raise format_error(path, "header too long", expected=f"at most {_MAX_HEADER}", found=length)
    try:
        header = _Header(path, handle.read(8, length).decode())
    except UnicodeDecodeError as error:
        raise format_error(path, "header is not UTF-8", found=f"byte {error.start}") from None
    header.parse()

    data = 8 + length
    tensors: dict[str, StoredTensor] = {}
    position = 0
    for begin, end, spec in sorted(header.entries, key=lambda entry: entry[:2]):
        if end - begin != spec.nbytes:
            raise format_error(
                path,
                "size and offsets disagree",
                tensor=spec.name,
                expected=f"{spec.nbytes} bytes for {spec.describe()}",
                found=f"{end - begin} bytes from {begin} to {end}",
            )
        if begin != position:
            what = "overlaps another tensor" if begin < position else "bytes of no tensor before it"
            raise format_error(
                path, what, tensor=spec.name, expected=f"offset {position}", found=begin
            )
        position = end
        segment = Segment(0, data + begin, spec.nbytes)
        tensors[spec.name] = ContiguousTensor(spec, handle, (segment,))
    if data + position != handle.size:
        raise format_error(
            path,
            "the file ends early" if data + position > handle.size else "bytes of no tensor at end",
            tensor=next(reversed(tensors), None),
            expected=f"{data + position} bytes",
            found=f"{handle.size} bytes",
            remedy="fetch or write the file again",
        )
    return FileReader(handle, tensors, header.metadata)


class _Header:
    """The header's JSON, read entry by entry so that no other structure can take memory."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.entries: list[tuple[int, int, TensorSpec]] = []
        """For each tensor its begin, its end, and what it is."""
        self.metadata: dict[str, str] = {}
        self._at = 0

    def parse(self) -> None:
        """Fill `entries` and `metadata`."""
        if not self.text.startswith("{"):
            raise self._wrong("'{'")
        seen: set[str] = set()
        for name in self._members():
            if name in seen:
                raise format_error(self.path, "a name stands twice in the header", tensor=name)
            seen.add(name)
            if name == _METADATA:
                for key in self._members():
                    if key in self.metadata:
                        raise format_error(
                            self.path, "a key stands twice in the metadata", found=key
                        )
                    self.metadata[key] = self._string()
            else:
                self.entries.append(self._entry(name))
            if len(seen) > MAX_TENSORS:
                raise format_error(self.path, "too many tensors", expected=f"at most {MAX_TENSORS}")
        self._skip_space()
        if self._at != len(self.text):
            raise self._wrong("the end of the header")

    def _members(self) -> Iterator[str]:
        """The keys of the object that starts here; whoever asks reads the value in between."""
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
        """The value of a tensor's key."""
        self._peek()
        end = self.text.find("}", self._at, self._at + _MAX_ENTRY) + 1
        try:
            entry = json.loads(self.text[self._at : end], object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise format_error(
                self.path,
                "malformed entry in the header",
                tensor=name,
                expected='{"dtype", "shape", "data_offsets"}',
                found=self.text[self._at : self._at + 80],
            ) from None
        self._at = end
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            keys = sorted(entry) if isinstance(entry, dict) else entry
            raise format_error(
                self.path,
                "malformed entry in the header",
                tensor=name,
                expected='{"dtype", "shape", "data_offsets"}',
                found=keys,
            )
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise format_error(self.path, "unknown dtype", tensor=name, expected=known, found=code)
        if not isinstance(shape, list):
            raise format_error(
                self.path, "shape is no list", tensor=name, expected="a list", found=shape
            )
        if (
            not isinstance(offsets, list)
            or [type(offset) for offset in offsets] != [int, int]
            or not 0 <= offsets[0] <= offsets[1]
        ):
            raise format_error(
                self.path,
                "impossible offsets",
                tensor=name,
                expected="[begin, end]",
                found=offsets,
            )
        return offsets[0], offsets[1], checked_spec(self.path, name, _DTYPES[code], shape)

    def _string(self) -> str:
        """The string that starts here."""
        if self._peek() != '"':
            raise self._wrong("a string")
        try:
            value, end = _DECODER.raw_decode(self.text, self._at)
            value.encode()  # JSON can spell half a surrogate pair, UTF-8 cannot
        except ValueError:
            raise self._wrong("a string") from None
        self._at = end
        return str(value)

    def _peek(self) -> str:
        """The next character that is no white space, or nothing."""
        self._skip_space()
        return self.text[self._at : self._at + 1]

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise self._wrong(repr(wanted))
        self._at += 1

    def _skip_space(self) -> None:
        space = _SPACE.match(self.text, self._at)
        assert space is not None  # it matches nothing, too
        self._at = space.end()

    def _wrong(self, expected: str) -> Exception:
        found = self.text[self._at : self._at + 40] or "the end of the header"
        return format_error(
            self.path,
            f"malformed header at character {self._at}",
            expected=expected,
            found=found,
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice")
    return members


FORMAT: FileFormat = SafetensorsContainer()
