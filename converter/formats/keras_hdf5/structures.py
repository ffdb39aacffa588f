"""HDF5 structures parsed without the HDF5 library: the superblock, and strings in attributes.

h5py stores Keras' lists of names as variable-length strings. Each is a reference into a "global
heap", which the library trusts: a damaged heap makes it loop forever, and a small one can be
referenced often enough to fill any memory. Hence the bounded parser here.

Layout: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, II.A (superblock),
III.E (global heap), IV.A (object headers), IV.A.2.m (attribute message).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from converter.formats.file_handle import FileHandle

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DTYPES: frozenset[str] = frozenset(
    "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "complex64 complex128".split()
)
"""The dtypes of HDF5 by h5py's conventions; bfloat16 is not among them."""
_UNDEFINED = (1 << 64) - 1


def check_superblock(handle: FileHandle) -> None:
    """Check that the file is complete and self-contained.

    Raise FormatError if it is not an HDF5 file, shorter than its superblock says, embedded in a
    larger file, or split over several files.
    """
    head = handle.read(0, min(96, handle.size))
    if not head.startswith(SIGNATURE) or len(head) < 48:
        raise handle.error("not an HDF5 file", found=head[:8].hex(" "))
    version = head[8]
    driver = _UNDEFINED
    if version in (0, 1):
        sizes, start = head[13:15], 24 if version == 0 else 28
        if len(head) < start + 32:
            raise handle.ends_early(f"{start + 32} bytes", f"{handle.size} bytes")
        base, _, end, driver = struct.unpack_from("<QQQQ", head, start)
    elif version in (2, 3):
        sizes = head[9:11]
        base, _, end = struct.unpack_from("<QQQ", head, 12)
    else:
        raise handle.error("unknown HDF5 superblock", expected="version 0 to 3", found=version)
    if sizes != b"\x08\x08":
        raise handle.error("unusual HDF5 addresses", expected="8 bytes each", found=list(sizes))
    if base != 0 or driver != _UNDEFINED:
        raise handle.error("an HDF5 file that is embedded or split over several files")
    if end > handle.size:
        raise handle.ends_early(f"{end} bytes", f"{handle.size} bytes")


MAX_STRING = 4096
"""Bytes of one string."""
MAX_HEAP = 16 << 20
"""Bytes of all heap collections together; those of a 48-layer model take 40 KB."""
_MAX_BLOCKS = 256
"""Blocks of one object header."""
_LAYOUT, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x08, 0x0C, 0x10, 0x11
"""Message types in an object header."""
_FLAT_INDEXES = range(1, 5)
"""Indexes of chunks other than B-trees: single, implicit, fixed array, extensible array."""


class StringHeap:
    """The variable-length strings that attributes of one file refer to."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._error = handle.error
        self._collections: dict[int, dict[int, bytes]] = {}
        self._parsed = 0

    def strings(self, header: int, attribute: str, count: int, owner: str) -> list[str]:
        """Return the `count` strings of an attribute in the object header at offset `header`.

        Raise FormatError, which names `owner`, if header, attribute or heap are damaged.
        """
        label = f"{owner}@{attribute}"
        for kind, flags, message in messages(self._handle, header, label):
            if kind != _ATTRIBUTE or flags & 2:
                continue
            name, data = self._attribute(message, label)
            if name != attribute.encode():
                continue
            if len(data) < 16 * count:
                raise self._error("a list is shorter than its dataspace", label)
            references = struct.iter_unpack("<IQI", data[: 16 * count])
            return [self._string(size, heap, index, label) for size, heap, index in references]
        raise self._error(
            "a list of names is stored in an unsupported way",
            label,
            remedy="save the model again with h5py's default settings",
        )

    def _string(self, length: int, address: int, index: int, label: str) -> str:
        if length == 0:
            return ""
        if address not in self._collections:
            self._collections[address] = self._collection(address, label)
        stored = self._collections[address].get(index)
        if length > MAX_STRING:
            raise self._error("a name is too long", label, found=f"{length} bytes")
        if stored is None or length > len(stored):
            raise self._error("a string is not in the heap", label, found=f"{length} bytes")
        try:
            return stored[:length].decode()
        except UnicodeDecodeError:
            raise self._error("a name is not UTF-8", label, found=ascii(stored[:40])) from None

    def _collection(self, address: int, label: str) -> dict[int, bytes]:
        """Return the objects of one heap collection by index."""
        head = self._handle.read(address, 16, label)
        (size,) = struct.unpack_from("<Q", head, 8)
        self._parsed += size
        if head[:5] != b"GCOL\x01" or size < 16 or self._parsed > MAX_HEAP:
            raise self._error("damaged heap", label, found=f"{head[:5]!r} of {size} bytes")
        data = self._handle.read(address, size, label)
        objects: dict[int, bytes] = {}
        start = 16
        while start + 16 <= size:
            index, nbytes = struct.unpack_from("<H6xQ", data, start)
            if index == 0:  # the rest is free
                break
            if nbytes > size - start - 16 or index in objects:
                raise self._error("damaged heap", label, found=f"an object of {nbytes} bytes")
            objects[index] = data[start + 16 : start + 16 + nbytes]
            start += 16 + -(-nbytes // 8) * 8
        return objects

    def _attribute(self, message: bytes, label: str) -> tuple[bytes, bytes]:
        """Return name and data of an attribute message of version 1, 2 or 3."""
        if len(message) < 9 or not 1 <= message[0] <= 3:
            raise self._error("damaged attribute", label)
        sizes = struct.unpack_from("<HHH", message, 2)
        start = 9 if message[0] == 3 else 8
        name = message[start : start + sizes[0]].split(b"\0")[0]
        if message[0] == 1:
            sizes = tuple(-(-size // 8) * 8 for size in sizes)
        return name, message[start + sum(sizes) :]


def messages(handle: FileHandle, header: int, label: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and body of the messages of an object header of version 1 or 2."""
    head = handle.read(header, 16, label)
    prefix = 8  # type (2), size (2), flags (1), reserved (3)
    trailer = 0
    if head[:4] == b"OHDR":
        flags = head[5]
        prefix = 6 if flags & 0x04 else 4  # type (1), size (2), flags (1), order (2)
        trailer = 4  # checksum
        start = header + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(handle.read(start, width, label), "little")
        blocks = [(start + width, size)]
    else:
        blocks = [(header + 16, int.from_bytes(head[8:12], "little"))]
    seen = 0
    while blocks:
        start, size = blocks.pop(0)
        seen += 1
        if size > MAX_HEAP or seen > _MAX_BLOCKS:
            raise handle.error("damaged object header", label)
        data = handle.read(start, size, label)
        at = 0
        while at + prefix <= size:
            kind, flags, nbytes = _message_head(data, at, trailer != 0)
            body = data[at + prefix : at + prefix + nbytes]
            at += prefix + nbytes
            if kind == _CONTINUATION and len(body) >= 16:
                address, length = struct.unpack_from("<QQ", body)
                skip = trailer  # the signature is as long as the checksum
                blocks.append((address + skip, max(0, length - skip - trailer)))
            else:
                yield kind, flags, body


def _message_head(data: bytes, at: int, new: bool) -> tuple[int, int, int]:
    """Return type, flags and length of the message at `at`, in a version 2 header if `new`."""
    if new:
        kind, nbytes, flags = struct.unpack_from("<BHB", data, at)
    else:
        kind, nbytes, flags = struct.unpack_from("<HHB", data, at)
    return kind, flags, nbytes


class TreeChecker:
    """Checks B-trees of version 1, which the library follows without end if they have a cycle."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._seen: set[int] = set()

    def check(self, header: int, label: str, is_dataset: bool = False) -> None:
        """Check the trees of the group or chunked dataset whose header is at offset `header`.

        Raise FormatError if a node is damaged, or in two places.
        """
        has_layout = not is_dataset
        for kind, flags, body in messages(self._handle, header, label):
            if kind not in (_LAYOUT, _SYMBOL_TABLE):
                continue
            has_layout = True
            if flags & 2 or len(body) < 16:
                raise self._handle.error("damaged object header", label)
            if kind == _SYMBOL_TABLE:
                self._check_nodes(int.from_bytes(body[:8], "little"), 0, 8, label)
            elif body[:2] == b"\3\2":  # version 3, chunked
                root = int.from_bytes(body[3:11], "little")
                self._check_nodes(root, 1, 8 * (body[2] + 1), label)
            elif body[0] not in (4, 5) or body[5 + body[3] * body[4]] not in _FLAT_INDEXES:
                remedy = "save it without unlimited axes and without libver='latest'"
                raise self._handle.error("unsupported index of chunks", label, remedy=remedy)
        if not has_layout:
            raise self._handle.error("damaged object header", label)

    def _check_nodes(self, root: int, kind: int, key: int, label: str) -> None:
        """Check that nodes below `root` are of this kind, one level lower each, and distinct."""
        pending: list[tuple[int, int | None]] = [] if root == _UNDEFINED else [(root, None)]
        while pending:
            address, level = pending.pop()
            head = self._handle.read(address, 24, label)
            is_node = head[:5] == b"TREE" + bytes([kind]) and level in (None, head[5])
            if not is_node or address in self._seen:
                raise self._handle.error("damaged B-tree", label, found=f"at byte {address}")
            self._seen.add(address)
            if head[5] > 0:
                count = int.from_bytes(head[6:8], "little")
                data = self._handle.read(address + 24, count * (key + 8), label)
                for at in range(key, len(data), key + 8):
                    child = int.from_bytes(data[at : at + 8], "little")
                    pending.append((child, head[5] - 1))
