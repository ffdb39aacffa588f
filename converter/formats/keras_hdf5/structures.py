"""What is known of HDF5 without loading its library, and the check before it sees a file.

Layout: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, section II.A.
"""

from __future__ import annotations

import struct

from converter.formats.files import FileHandle, format_error

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DTYPES: frozenset[str] = frozenset(
    "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "complex64 complex128".split()
)
"""What HDF5 holds by h5py's conventions; bfloat16 is not among them."""
_UNDEFINED = (1 << 64) - 1


def check_superblock(handle: FileHandle) -> None:
    """Raise unless the file is whole and of one piece.

    Raises:
        FormatError: if it is no HDF5 file, shorter than it says, offset inside a larger file, or
            part of a family of files.

    """
    head = handle.read(0, min(96, handle.size))
    if not head.startswith(SIGNATURE) or len(head) < 48:
        raise format_error(handle.path, "not an HDF5 file", found=head[:8].hex(" "))
    version = head[8]
    driver = _UNDEFINED
    if version in (0, 1):
        sizes, start = head[13:15], 24 if version == 0 else 28
        if len(head) < start + 32:
            raise format_error(handle.path, "the file ends early", found=f"{handle.size} bytes")
        base, _, end, driver = struct.unpack_from("<QQQQ", head, start)
    elif version in (2, 3):
        sizes = head[9:11]
        base, _, end = struct.unpack_from("<QQQ", head, 12)
    else:
        raise format_error(
            handle.path, "unknown HDF5 superblock", expected="version 0 to 3", found=version
        )
    if sizes != b"\x08\x08":
        raise format_error(
            handle.path, "unusual HDF5 addresses", expected="8 bytes each", found=list(sizes)
        )
    if base != 0 or driver != _UNDEFINED:
        raise format_error(handle.path, "an HDF5 file that is embedded or split over several files")
    if end > handle.size:
        raise format_error(
            handle.path,
            "the file ends early",
            expected=f"{end} bytes",
            found=f"{handle.size} bytes",
            remedy="fetch or write the file again",
        )
