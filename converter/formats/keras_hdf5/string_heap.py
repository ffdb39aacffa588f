"""Attributes that list texts of variable length, read without the HDF5 library.

h5py stores Keras' lists of names so. A text is a reference into a "global heap", and the library
trusts what it finds there: a damaged heap makes it loop for ever, and a small one can be
referenced often enough to fill any memory.

Layout: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, III.E (global heap),
IV.A (object headers), IV.A.2.m (attribute message).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from converter.errors import FormatError
from converter.formats.files import FileHandle, format_error

MAX_TEXT = 4096
"""Bytes of one text."""
MAX_HEAP = 16 << 20
"""Bytes of all heap collections together; those of a 48-layer model take 40 KB."""
_MAX_BLOCKS = 256
"""Pieces of one object header."""
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10


class StringHeap:
    """The texts of variable length that attributes of one file refer to."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._collections: dict[int, dict[int, bytes]] = {}
        self._parsed = 0

    def texts(self, header: int, attribute: str, count: int, owner: str) -> list[str]:
        """The `count` texts of an attribute.

        Args:
            header: where in the file the object header lies that holds the attribute.
            attribute: its name.
            count: how many texts its dataspace has.
            owner: what to call the object in messages.

        Raises:
            FormatError: if they are not there as they should be.

        """
        place = f"{owner}@{attribute}"
        for message in self._messages(header, place):
            name, data = self._attribute(message, place)
            if name != attribute.encode():
                continue
            if len(data) < 16 * count:
                raise self._wrong(place, "a list is shorter than it says")
            references = struct.iter_unpack("<IQI", data[: 16 * count])
            return [self._text(size, heap, index, place) for size, heap, index in references]
        raise self._wrong(
            place,
            "a list of names is stored in a way that is not read",
            remedy="save the model again with h5py's default settings",
        )

    def _text(self, length: int, address: int, index: int, place: str) -> str:
        if length == 0:
            return ""
        if address not in self._collections:
            self._collections[address] = self._collection(address, place)
        stored = self._collections[address].get(index)
        if length > MAX_TEXT:
            raise self._wrong(place, "a name is too long", found=f"{length} bytes")
        if stored is None or length > len(stored):
            raise self._wrong(place, "a text is not in the heap", found=f"{length} bytes")
        try:
            return stored[:length].decode()
        except UnicodeDecodeError:
            raise self._wrong(place, "a name is not UTF-8", found=ascii(stored[:40])) from None

    def _collection(self, address: int, place: str) -> dict[int, bytes]:
        """The objects of one heap collection by their index."""
        head = self._handle.read(address, 16, place)
        (size,) = struct.unpack_from("<Q", head, 8)
        self._parsed += size
        if head[:5] != b"GCOL\x01" or size < 16 or self._parsed > MAX_HEAP:
            raise self._wrong(place, "damaged heap", found=f"{head[:5]!r} of {size} bytes")
        data = self._handle.read(address, size, place)
        objects: dict[int, bytes] = {}
        start = 16
        while start + 16 <= size:
            index, nbytes = struct.unpack_from("<H6xQ", data, start)
            if index == 0:  # the rest is free
                break
            if nbytes > size - start - 16 or index in objects:
                raise self._wrong(place, "damaged heap", found=f"an object of {nbytes} bytes")
            objects[index] = data[start + 16 : start + 16 + nbytes]
            start += 16 + -(-nbytes // 8) * 8
        return objects

    def _messages(self, header: int, place: str) -> Iterator[bytes]:
        """The unshared attribute messages of an object header of version 1 or 2."""
        head = self._handle.read(header, 16, place)
        prefix = 8  # type (2), size (2), flags (1), reserved (3)
        trailer = 0
        if head[:4] == b"OHDR":
            flags = head[5]
            prefix = 6 if flags & 0x04 else 4  # type (1), size (2), flags (1), order (2)
            trailer = 4  # checksum
            start = header + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self._handle.read(start, width, place), "little")
            blocks = [(start + width, size)]
        else:
            blocks = [(header + 16, int.from_bytes(head[8:12], "little"))]
        seen = 0
        while blocks:
            start, size = blocks.pop(0)
            seen += 1
            if size > MAX_HEAP or seen > _MAX_BLOCKS:
                raise self._wrong(place, "damaged object header")
            data = self._handle.read(start, size, place)
            at = 0
            while at + prefix <= size:
                kind, flags, nbytes = _message_head(data, at, trailer != 0)
                body = data[at + prefix : at + prefix + nbytes]
                at += prefix + nbytes
                if kind == _CONTINUATION and len(body) >= 16:
                    there, length = struct.unpack_from("<QQ", body)
                    skip = trailer  # the signature is as long as the checksum
                    blocks.append((there + skip, max(0, length - skip - trailer)))
                elif kind == _ATTRIBUTE and not flags & 2:
                    yield body

    def _attribute(self, message: bytes, place: str) -> tuple[bytes, bytes]:
        """Name and data of an attribute message of version 1, 2 or 3."""
        if len(message) < 9 or not 1 <= message[0] <= 3:
            raise self._wrong(place, "damaged attribute")
        sizes = struct.unpack_from("<HHH", message, 2)
        start = 9 if message[0] == 3 else 8
        name = message[start : start + sizes[0]].split(b"\0")[0]
        if message[0] == 1:
            sizes = tuple(-(-size // 8) * 8 for size in sizes)
        return name, message[start + sum(sizes) :]

    def _wrong(
        self, place: str, what: str, found: object = None, remedy: str | None = None
    ) -> FormatError:
        return format_error(self._handle.path, what, tensor=place, found=found, remedy=remedy)


def _message_head(data: bytes, at: int, new: bool) -> tuple[int, int, int]:
    """Type, flags and body length of the message at `at`, in a header of version 2 if `new`."""
    if new:
        kind, nbytes, flags = struct.unpack_from("<BHB", data, at)
    else:
        kind, nbytes, flags = struct.unpack_from("<HHB", data, at)
    return kind, flags, nbytes
