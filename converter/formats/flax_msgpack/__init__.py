"""``flax_model.msgpack``: nested maps of arrays, as ``flax.serialization`` writes them.

An array is a msgpack extension of type 1 that holds the packed triple (shape, dtype name, C-order
bytes). Arrays above 2**30 bytes are split into flat chunks
(https://github.com/google/flax/blob/v0.11.2/flax/serialization.py). A tensor's name is the path of
keys to the array, joined by ``/``. Wrappers such as ``{"params": …}`` are part of the names.
"""

from __future__ import annotations

from converter.formats.base import FileFormat, FileSpec, PreallocatedFile, Reader
from converter.formats.file_handle import FileHandle
from converter.tensors import NAMES


class FlaxMsgpackFormat(FileFormat):
    """Flax's msgpack files; see `FileFormat`."""

    name = "flax-msgpack"
    dtypes = frozenset(NAMES)

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether the file starts with a map whose first key is text."""
        if head == b"\x80":  # an empty map; pickles start with this byte and go on
            return True
        if b"\x81" <= head[:1] <= b"\x8f":
            return _starts_with_text(head[1:])
        return head[:1] == b"\xde" and _starts_with_text(head[3:])

    def open(self, file: FileHandle) -> Reader:
        """List the arrays; plain values (steps, counters) become the reader's metadata."""
        from converter.formats.flax_msgpack.reader import open_msgpack

        return open_msgpack(file)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create the file: names are nested at ``/``; metadata are not stored."""
        from converter.formats.flax_msgpack.writer import create_msgpack

        return create_msgpack(spec)


def _starts_with_text(head: bytes) -> bool:
    """Return whether `head` starts with a short printable string, as far as it goes."""
    if len(head) < 2:
        return False
    if 0xA0 <= head[0] < 0xC0:
        length, start = head[0] & 0x1F, 1
    elif head[0] == 0xD9:
        length, start = head[1], 2
    else:
        return False
    return all(byte >= 0x20 for byte in head[start : start + length])


FORMAT: FileFormat = FlaxMsgpackFormat()
