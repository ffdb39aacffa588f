"""The directory of a zip archive, checked against the archive itself.

Supports only what torch writes: one disk, no encryption, no data before the first record, no
duplicate names. Local headers must agree with the directory and records must not overlap, so that
no two readers can see different archives. Source: APPNOTE.TXT 6.3.10.

Not ``zipfile``: it reads a directory of any length and makes an object of every 46 bytes of it,
whatever count the archive declares; it accepts data before the archive, truncates names at NUL and
decodes them by a flag; and it neither compares sizes with the local headers nor gives the offset of
a record's data. What it could replace here is the unpacking of one struct.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

from converter.errors import FormatError
from converter.formats.file_handle import FETCH_AGAIN, MAX_TENSORS, FileHandle

STORED, DEFLATED = 0, 8
LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
DIRECTORY_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
END = struct.Struct("<4sHHHHIIH")
END64 = struct.Struct("<4sQHHIIQQQQ")
LOCATOR64 = struct.Struct("<4sIQI")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _DESCRIPTOR = 0x0001, 0x0008
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 64 << 20
"""Bytes; an entry of torch takes about 120."""
_TAIL = 256 << 10
"""Bytes at the end of a remote archive that are requested together, or 1/64 of a small one."""


@dataclass(frozen=True, slots=True)
class Record:
    """A file in the archive."""

    name: str
    method: int
    crc32: int | None
    """``None`` where torch was set to compute none."""
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes when decompressed."""
    header: int
    """Offset of the local header."""
    data: int = 0
    """Offset of the first byte, 0 while it is not located; see `locate`."""
    limit: int = 0
    """Offset of the next record or of the directory."""


def read_directory(handle: FileHandle) -> dict[str, Record]:
    """Return all records by name, in archive order, after checking that torch could write them.

    Those of a remote archive are not located: the header of each would be a request.
    """
    tail = max(min(_TAIL, handle.size // 64), 4 << 10)
    handle.prefetch([(max(handle.size - tail, 0), min(tail, handle.size))])
    start, size, count = _find_directory(handle)
    listed = _parse_directory(handle, handle.read(start, size), count)
    # ``torch.serialization.set_crc32_options(False)`` writes zeros into every record.
    checked = any(record.crc32 for record in listed)
    ordered = sorted(listed, key=lambda record: record.header)
    records: dict[str, Record] = {}
    for record, limit in zip(ordered, [*(each.header for each in ordered[1:]), start], strict=True):
        if record.name in records:
            raise handle.error("duplicate record", record.name)
        if record.header + LOCAL_HEADER.size + record.packed > limit:
            raise _overlap(handle, record.name, limit)
        crc32 = record.crc32 if checked else None
        record = replace(record, crc32=crc32, limit=limit)
        records[record.name] = record if handle.is_remote else locate(handle, record)
    return records


def _overlap(handle: FileHandle, name: str, limit: int) -> FormatError:
    what = "record overlaps another, or the directory"
    return handle.error(what, name, f"end at {limit} or before")


def read_record(handle: FileHandle, record: Record, limit: int) -> bytes:
    """Return the decompressed bytes of a record; raise FormatError if there are over `limit`."""
    if max(record.size, record.packed) > limit:
        expected, found = f"at most {limit} bytes", max(record.size, record.packed)
        raise handle.error("record too long", record.name, expected, found)
    data = handle.read(locate(handle, record).data, record.packed, record.name)
    if record.method == DEFLATED:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = decompressor.decompress(data, record.size + 1)
        except zlib.error as error:
            raise handle.error("cannot be decompressed", record.name, found=error) from None
    if len(data) != record.size:
        expected, found = f"{record.size} bytes", len(data)
        raise handle.error(
            "record of another length than the directory says", record.name, expected, found
        )
    if record.crc32 is not None and zlib.crc32(data) != record.crc32:
        raise handle.error("record does not match its CRC-32", record.name)
    return data


def _find_directory(handle: FileHandle) -> tuple[int, int, int]:
    """Return offset, bytes and number of entries of the directory."""
    size = handle.size
    for comment in (0, _MAX_COMMENT):  # torch writes none
        tail_start = max(0, size - END.size - comment - LOCATOR64.size)
        tail = handle.read(tail_start, size - tail_start)
        at = tail.rfind(b"PK\x05\x06")
        if at >= 0:
            break
    if at < 0 or len(tail) - at < END.size:
        raise handle.error(
            "the zip archive has no directory at its end",
            remedy="it is probably truncated: fetch or write the file again",
        )
    _, disk, first_disk, disk_count, count, length, start, comment = END.unpack_from(tail, at)
    if at + END.size + comment != len(tail):
        raise handle.error("bytes after the end of the zip archive")
    end = tail_start + at
    saturated = _FULL16 in (disk_count, count) or _FULL32 in (length, start)
    if at >= LOCATOR64.size and tail[at - LOCATOR64.size :].startswith(b"PK\x06\x07"):
        _, disk64, offset64, disks = LOCATOR64.unpack_from(tail, at - LOCATOR64.size)
        limit = end - LOCATOR64.size
        if disk64 or disks > 1 or offset64 + END64.size > limit:
            raise handle.error("impossible zip64 directory", found=f"offset {offset64}")
        fields = END64.unpack(handle.read(offset64, END64.size))
        if fields[0] != b"PK\x06\x06" or offset64 + 12 + fields[1] != limit or any(fields[4:6]):
            raise handle.error("malformed zip64 directory", found=f"offset {offset64}")
        short = (disk_count, count, length, start)
        tops = (_FULL16, _FULL16, _FULL32, _FULL32)
        for given, long, top in zip(short, fields[6:], tops, strict=True):
            if given not in (long, top):
                raise handle.error("two zip directories that disagree", found=f"{given}, {long}")
        disk_count, count, length, start = fields[6:]
        end = offset64
    elif saturated:
        raise handle.error("the zip64 directory is missing")
    if disk or first_disk or disk_count != count:
        raise handle.error("a zip archive of several disks")
    fits = count * DIRECTORY_ENTRY.size <= length <= _MAX_DIRECTORY
    if start + length != end or count > MAX_TENSORS + 16 or not fits:
        raise handle.error(
            "impossible zip directory",
            expected=f"the directory to end at {end}",
            found=f"{count} entries in {length} bytes from {start}",
        )
    return start, length, count


def _parse_directory(handle: FileHandle, data: bytes, count: int) -> list[Record]:
    """Return the entries of the directory, not yet compared with the local headers."""
    at = 0
    records: list[Record] = []
    for _ in range(count):
        if len(data) - at < DIRECTORY_ENTRY.size or not data.startswith(b"PK\x01\x02", at):
            raise handle.error("malformed zip directory", found=f"entry {len(records)}")
        fields = DIRECTORY_ENTRY.unpack_from(data, at)
        flags, method, crc32 = fields[3], fields[4], fields[7]
        packed, size, name_length, extra_length, comment, disk = fields[8:14]
        header = fields[16]
        at += DIRECTORY_ENTRY.size
        name_bytes = data[at : at + name_length]
        extra = data[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment
        if at > len(data):
            raise handle.error("malformed zip directory", found=f"entry {len(records)}")
        name = _decode(handle, name_bytes)
        size, packed, header = _widen(handle, name, extra, [size, packed, header])
        if flags & _ENCRYPTED or disk not in (0, _FULL16) or method not in (STORED, DEFLATED):
            raise handle.error(
                "record that torch does not write",
                name,
                "stored, not encrypted, on one disk",
                f"method {method}, flags {flags:#x}",
            )
        if method == STORED and packed != size:
            raise handle.error("two sizes of a stored record", name, f"{size} bytes", packed)
        records.append(Record(name, method, crc32, packed, size, header))
    if at != len(data):
        raise handle.error("trailing bytes in the zip directory", found=len(data) - at)
    return records


def locate(handle: FileHandle, record: Record) -> Record:
    """Return the record with the offset of its data, after checking its local header."""
    if record.data:
        return record
    expected_name = record.name.encode()
    header = handle.read(record.header, LOCAL_HEADER.size + len(expected_name), record.name)
    signature, _, flags, method, _, _, crc32, packed, size, name_length, extra_length = (
        LOCAL_HEADER.unpack_from(header)
    )
    agrees = (
        signature == b"PK\x03\x04"
        and header[LOCAL_HEADER.size :] == expected_name
        and name_length == len(expected_name)
        and method == record.method
        and not flags & _ENCRYPTED
    )
    data = record.header + LOCAL_HEADER.size + name_length + extra_length
    if agrees and not (flags & _DESCRIPTOR and (crc32, packed, size) == (0, 0, 0)):
        if _FULL32 in (packed, size):
            extra = handle.read(data - extra_length, extra_length, record.name)
            size, packed = _widen(handle, record.name, extra, [size, packed])
        agrees = (crc32, packed, size) == (record.crc32 or 0, record.packed, record.size)
    if not agrees:
        raise handle.error(
            "a record's own header disagrees with the zip directory",
            record.name,
            remedy=FETCH_AGAIN,
        )
    if data + record.packed > record.limit:
        raise _overlap(handle, record.name, record.limit)
    return replace(record, data=data)


def _widen(handle: FileHandle, name: str, extra: bytes, values: list[int]) -> list[int]:
    """Return the values, saturated ones replaced by the zip64 field of `extra`."""
    if _FULL32 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        at += 4 + length
        count = values.count(_FULL32)
        if tag == 1 and len(body) == length >= 8 * count:
            longs = iter(struct.unpack_from(f"<{count}Q", body))
            return [next(longs) if value == _FULL32 else value for value in values]
    raise handle.error("a zip64 size is missing", name)


def _decode(handle: FileHandle, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise handle.error("a record's name is not UTF-8", ascii(name)) from None
