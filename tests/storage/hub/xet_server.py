"""The part of the stand-in Hub that speaks Xet: a store of chunks, enough for hf_xet 1.8.

Files are uploaded as xorbs, which hold chunks, and shards, which say of which chunks a file is
made. Here xorbs are kept as they come, and every file is put together again by hf_xet itself once
a commit names it, so that what arrives is judged by the real client.

Layouts: https://huggingface.co/docs/xet/en/index (shard and xorb formats, reconstruction).
"""

from __future__ import annotations

import bisect
import re
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any

Term = tuple[str, int, int, int]
"""Xorb, bytes when unpacked, first chunk, and one behind the last."""

_BLOCK = 48
"""Bytes of each part of a shard."""
_HEAD = 8
"""Bytes before each chunk of a xorb."""
_VERIFIED, _HASHED = 0x80000000, 0x40000000
"""Flags of a file in a shard: whether hashes of its terms and its SHA-256 follow."""


class Xet:
    """What was uploaded."""

    def __init__(self) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[Term]] = {}
        self.hashes: dict[str, str] = {}
        """SHA-256 of a file → what Xet calls it."""
        self.lock = threading.Lock()

    def add_shard(self, data: bytes) -> None:
        """Learn which chunks files are made of."""
        at = _BLOCK
        while data[at : at + 32] != b"\xff" * 32:
            name = _text(data[at : at + 32])
            flags, count = struct.unpack_from("<II", data, at + 32)
            offsets = range(at + _BLOCK, at + _BLOCK * (count + 1), _BLOCK)
            terms = [
                (_text(data[p : p + 32]), *struct.unpack_from("<III", data, p + 36))
                for p in offsets
            ]
            at += _BLOCK * (1 + count + (count if flags & _VERIFIED else 0))
            with self.lock:
                self.files[name] = terms
                if flags & _HASHED:
                    self.hashes[_text(data[at : at + 32])] = name
                    at += _BLOCK

    def content(self, digest: str, base: str) -> bytes | None:
        """Return the bytes of the file with this SHA-256, assembled by the real client."""
        name = self.hashes.get(digest)
        if name is None:
            return None
        import hf_xet

        size = sum(term[1] for term in self.files[name])
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "file"
            session = hf_xet.XetSession()
            with session.new_file_download_group(
                endpoint=f"{base}/_cas", token="xet", token_expiry_unix_secs=1 << 40
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(name, size), str(target))
            return target.read_bytes()

    def reconstruction(self, name: str, base: str, asked: str) -> dict[str, Any] | None:
        """Return the chunks of a part of a file, ``None`` if it starts after the end."""
        terms = self.files[name]
        total = sum(term[1] for term in terms)
        first, end = 0, total
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
            first, end = int(found[1]), min(int(found[2] or total - 1) + 1, total)
            if first >= total:
                return None
        position, skipped = 0, None
        listed: list[dict[str, Any]] = []
        fetch: dict[str, list[dict[str, Any]]] = {}
        for xorb, nbytes, chunk, _ in terms:
            low, high = max(first - position, 0), min(end - position, nbytes)
            position += nbytes
            if low >= high:
                continue
            packed, plain = self._chunks(xorb)
            start = bisect.bisect_right(plain, plain[chunk] + low) - 1
            stop = bisect.bisect_left(plain, plain[chunk] + high)
            if skipped is None:
                skipped = low - (plain[start] - plain[chunk])
            chunks = {"start": start, "end": stop}
            listed.append(
                {"hash": xorb, "unpacked_length": plain[stop] - plain[start], "range": chunks}
            )
            fetch.setdefault(xorb, []).append(
                {
                    "range": chunks,
                    "url": f"{base}/_xorb/{xorb}",
                    "url_range": {"start": packed[start], "end": packed[stop] - 1},
                }
            )
        return {"offset_into_first_range": skipped or 0, "terms": listed, "fetch_info": fetch}

    def _chunks(self, xorb: str) -> tuple[list[int], list[int]]:
        """Return the start of each chunk in the xorb and unpacked, and the ends."""
        data = self.xorbs[xorb]
        at, packed, plain = 0, [0], [0]
        while at + _HEAD <= len(data) and data[at] == 0 and data[at : at + 7] != b"XETBLOB":
            plain.append(plain[-1] + int.from_bytes(data[at + 5 : at + 8], "little"))
            at += _HEAD + int.from_bytes(data[at + 1 : at + 4], "little")
            packed.append(at)
        return packed, plain


def _text(raw: bytes) -> str:
    """Return a hash as Xet spells it: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))
