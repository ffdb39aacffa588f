"""Preallocation of Flax msgpack files.

The bytes between the arrays' values equal those of
``flax.serialization.msgpack_serialize(tree, in_place=True)``, which is what ``save_pretrained`` of
transformers calls.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgpack

from converter.formats.base import FileSpec, PreallocatedFile, Segment
from converter.formats.file_handle import create_file
from converter.tensors import TensorSpec, itemsize

MAX_CHUNK_SIZE = 1 << 30
"""Bytes of values above which flax splits an array into chunks (``flax.serialization``)."""
CHUNKED = "__msgpack_chunked_array__"
"""The key that marks a map as a chunked array."""

Tree = dict[str, "TensorSpec | Tree"]


@dataclass
class Layout:
    """The framing of a file, the holes in it, and its length."""

    framing: list[tuple[int, bytes]] = field(default_factory=list)
    """What is between the values: (file offset, bytes)."""
    segments: dict[str, tuple[Segment, ...]] = field(default_factory=dict)
    """The holes of each tensor."""
    nbytes: int = 0

    def put(self, data: bytes) -> None:
        """Append framing."""
        start, last = self.framing[-1] if self.framing else (0, b"")
        if self.framing and start + len(last) == self.nbytes:
            self.framing[-1] = (start, last + data)
        else:
            self.framing.append((self.nbytes, data))
        self.nbytes += len(data)

    def array(self, dtype: str, shape: tuple[int, ...], nbytes: int) -> int:
        """Append an array's framing and hole; return the offset of the hole."""
        packed = b"".join(map(msgpack.packb, (*shape, dtype)))
        inner = _array_header(3) + _array_header(len(shape)) + packed + _bin_header(nbytes)
        self.put(_ext_header(1, len(inner) + nbytes) + inner)
        start = self.nbytes
        self.nbytes += nbytes
        return start


def create_msgpack(spec: FileSpec) -> PreallocatedFile:
    """Create the file; names are nested at ``/``; raise ValueError as `nest`."""
    layout = Layout()
    _put_tree(layout, nest(spec.tensors))
    create_file(spec.path, layout.nbytes, layout.framing)
    return PreallocatedFile(spec.path, layout.segments)


def nest(tensors: Sequence[TensorSpec]) -> Tree:
    """Return the tensors as a tree, nested at ``/``; keys in the order of first appearance.

    Raise ValueError if a name is a duplicate, another's prefix, or flax's marker of chunks.
    """
    root: Tree = {}
    for tensor in tensors:
        *path, leaf = tensor.name.split("/")
        if CHUNKED in (*path, leaf):
            raise ValueError(f"{tensor.name}: {CHUNKED} cannot be part of a name")
        node = root
        for key in path:
            child = node.setdefault(key, {})
            if isinstance(child, TensorSpec):
                raise ValueError(f"{tensor.name}: {child.name} is an array, not a map")
            node = child
        if leaf in node:
            raise ValueError(f"{tensor.name}: the name is a duplicate or another's prefix")
        node[leaf] = tensor
    return root


def _put_tree(layout: Layout, tree: Tree) -> None:
    layout.put(_map_header(len(tree)))
    for key, node in tree.items():
        layout.put(msgpack.packb(key))
        if isinstance(node, TensorSpec):
            _put_tensor(layout, node)
        else:
            _put_tree(layout, node)


def _put_tensor(layout: Layout, spec: TensorSpec) -> None:
    if spec.nbytes <= MAX_CHUNK_SIZE:
        start = layout.array(spec.dtype, spec.shape, spec.nbytes)
        layout.segments[spec.name] = (Segment(0, start, spec.nbytes),)
        return
    item = itemsize(spec.dtype)
    step = max(1, MAX_CHUNK_SIZE // item) * item
    offsets = range(0, spec.nbytes, step)
    shape = {str(axis): length for axis, length in enumerate(spec.shape)}
    layout.put(_map_header(3) + msgpack.packb(CHUNKED) + msgpack.packb(True))
    layout.put(msgpack.packb("shape") + msgpack.packb(shape))
    layout.put(msgpack.packb("chunks") + _map_header(len(offsets)))
    segments = []
    for index, offset in enumerate(offsets):
        nbytes = min(step, spec.nbytes - offset)
        layout.put(msgpack.packb(str(index)))
        start = layout.array(spec.dtype, (nbytes // item,), nbytes)
        segments.append(Segment(offset, start, nbytes))
    layout.segments[spec.name] = tuple(segments)


def _header(size: int, fixed: int, fixed_limit: int, codes: Sequence[tuple[int, str]]) -> bytes:
    """Return the shortest msgpack header for a size: one byte, or a code and 1, 2 or 4 bytes."""
    if size < fixed_limit:
        return bytes([fixed | size])
    for code, form in codes:
        if size < 1 << (8 * struct.calcsize(form)):
            return bytes([code]) + struct.pack(form, size)
    raise ValueError(f"{size} is too large for msgpack")


def _map_header(count: int) -> bytes:
    return _header(count, 0x80, 16, ((0xDE, ">H"), (0xDF, ">I")))


def _array_header(count: int) -> bytes:
    return _header(count, 0x90, 16, ((0xDC, ">H"), (0xDD, ">I")))


def _bin_header(nbytes: int) -> bytes:
    return _header(nbytes, 0, 0, ((0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I")))


def _ext_header(code: int, nbytes: int) -> bytes:
    if nbytes in (1, 2, 4, 8, 16):
        return bytes([0xD4 + nbytes.bit_length() - 1, code])
    return _header(nbytes, 0, 0, ((0xC7, ">B"), (0xC8, ">H"), (0xC9, ">I"))) + bytes([code])
