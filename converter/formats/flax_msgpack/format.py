"""``flax_model.msgpack``: nested maps of arrays, as ``flax.serialization`` writes them.

An array is a msgpack extension of type 1 that holds the packed triple (shape, dtype name, C-order
bytes). Arrays above 2**30 bytes are cut into flat chunks
(https://github.com/google/flax/blob/v0.11.2/flax/serialization.py). Names are the keys on the way
to an array, joined by ``/``. Wrappers such as ``{"params": …}`` stay part of the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from converter.formats.base import FileFormat, FileSpec, PreallocatedFile, Reader, Segment
from converter.formats.files import FileHandle, checked_spec, create_file, format_error
from converter.formats.flax_msgpack.reader import ArrayLeaf, Node, parse
from converter.formats.flax_msgpack.writer import CHUNKED, LayoutFile, lay_out
from converter.formats.lazy_tensors import ContiguousTensor
from converter.tensors import TensorSpec
from converter.tensors.spec import NAMES

_T = TypeVar("_T")

MAX_NAME_CHARACTERS = 32 << 20
"""Characters of all names together: deep nesting multiplies what the file itself holds."""


class FlaxReader(Reader):
    """An opened Flax msgpack file. Plain values (steps, counters) are its `metadata`."""

    def __init__(self, file: FileHandle) -> None:
        self.path = file.path
        self.tensors: dict[str, ContiguousTensor] = {}
        self.duplicates: dict[str, Sequence[ContiguousTensor]] = {}
        self.metadata: dict[str, str] = {}
        self._handle = file
        try:
            self._list(parse(self._handle))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._handle.close()

    def _list(self, root: dict[str, Node]) -> None:
        characters = 0
        for name, leaf in _leaves(root, ""):
            characters += len(name)
            if characters > MAX_NAME_CHARACTERS:
                raise format_error(self.path, "the names are too long", tensor=name)
            if name in self.tensors or name in self.metadata:
                raise format_error(self.path, "a name stands twice", tensor=name)
            if isinstance(leaf, ArrayLeaf):
                segment = Segment(0, leaf.offset, leaf.nbytes)
                spec = TensorSpec(name, leaf.dtype, leaf.shape)
                self.tensors[name] = ContiguousTensor(spec, self._handle, [segment])
            elif isinstance(leaf, dict):
                self.tensors[name] = self._chunked(name, leaf)
            elif leaf is not None:
                self.metadata[name] = str(leaf)

    def _chunked(self, name: str, node: dict[str, Node]) -> ContiguousTensor:
        """Join the chunks of an array that was too large for one msgpack object."""
        shape = _numbered(node.get("shape"), int)
        chunks = _numbered(node.get("chunks"), ArrayLeaf)
        if shape is None or not chunks:
            raise format_error(
                self.path,
                "a chunked array lacks its shape or its chunks",
                tensor=name,
                expected="maps 'shape' and 'chunks' with the keys 0, 1, …",
            )
        if len({chunk.dtype for chunk in chunks}) > 1:
            raise format_error(self.path, "the chunks of an array differ in dtype", tensor=name)
        spec = checked_spec(self.path, name, chunks[0].dtype, shape)
        segments, done = [], 0
        for chunk in chunks:
            segments.append(Segment(done, chunk.offset, chunk.nbytes))
            done += chunk.nbytes
        if done != spec.nbytes:
            raise format_error(
                self.path,
                "the chunks of an array do not fill its shape",
                tensor=name,
                expected=f"{spec.nbytes} bytes for {spec.describe()}",
                found=f"{done} bytes",
            )
        return ContiguousTensor(spec, self._handle, segments)


def _leaves(node: dict[str, Node], prefix: str) -> Iterator[tuple[str, Node]]:
    """Every array, chunked array and plain value below `node`, by name and in file order."""
    for key, child in node.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(child, dict) and CHUNKED not in child:
            yield from _leaves(child, name)
        else:
            yield name, child


def _numbered(node: Node, kind: type[_T]) -> list[_T] | None:
    """The values under the keys 0, 1, … of `node`, if it is just such a map."""
    if not isinstance(node, dict):
        return None
    values = [node.get(str(index)) for index in range(len(node))]
    typed = [value for value in values if isinstance(value, kind)]
    return typed if len(typed) == len(values) else None


class FlaxMsgpack(FileFormat):
    """The container of Flax's msgpack files."""

    name = "flax-msgpack"
    dtypes = frozenset(NAMES)

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Whether the file starts as a map whose first key is text."""
        if head == b"\x80":  # an empty map; pickles start with this byte and go on
            return True
        if b"\x81" <= head[:1] <= b"\x8f":
            return _starts_with_text(head[1:])
        return head[:1] == b"\xde" and _starts_with_text(head[3:])

    def open(self, file: FileHandle) -> FlaxReader:
        """List the file without reading values; see `Container.open`."""
        return FlaxReader(file)

    def preallocate(self, wanted: FileSpec) -> PreallocatedFile:
        """Create the file; see `Container.lay_out`.

        Names are nested at ``/``, each map's keys in the order of their first appearance. Metadata
        are not stored.
        """
        layout = lay_out(wanted.tensors)
        create_file(wanted.path, layout.nbytes, layout.framing)
        return LayoutFile(wanted.path, layout.segments)


def _starts_with_text(head: bytes) -> bool:
    """Whether a short printable text stands there, as far as `head` shows it."""
    if len(head) < 2:
        return False
    if 0xA0 <= head[0] < 0xC0:
        length, start = head[0] & 0x1F, 1
    elif head[0] == 0xD9:
        length, start = head[1], 2
    else:
        return False
    return all(byte >= 0x20 for byte in head[start : start + length])


FORMAT: FileFormat = FlaxMsgpack()
