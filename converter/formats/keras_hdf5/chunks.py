"""Chunked HDF5 datasets, checked before the HDF5 library's filters see them.

The library trusts chunks: with a stored size of 0, or a decoded size that is not the chunk's, it
reads and writes outside its buffers. Every chunk's place, extent and decoded size are checked here.

Sources: ``H5Dchunk.c`` and ``H5Zdeflate.c`` of HDF5 1.14, ``lzf_filter.c`` of h5py 3.16, and
``lzf_d.c`` of LibLZF 3.6.
"""

from __future__ import annotations

import math
import zlib
from array import array
from typing import Any

from converter.formats.file_handle import FETCH_AGAIN, FileHandle
from converter.tensors import TensorSpec, itemsize

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTERS = {DEFLATE: "deflate", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}
"""The filters that h5py includes; others would load plug-ins."""
MAX_RATIO = 1100
"""Deflate cannot compress further than 1032 to 1."""
LARGE, MAX_LARGE_RATIO = 8 << 20, 50
"""Weights hardly compress; a large dataset of a higher ratio is a bomb."""
MIN_BYTES_PER_CHUNK = 16
"""Bytes of a file with one chunk more; its entry in the index alone takes more in most files."""
_CHECKSUM = 4
"""Bytes that fletcher32 appends."""
_FED = 16 << 10
"""Stored bytes inflated at once, to at most 17 MB."""


class ChunkedDataset:
    """The chunks of the dataset at `path`; opening it checks all but what they decode to."""

    def __init__(
        self, handle: FileHandle, dataset: Any, path: str, spec: TensorSpec, budget: int
    ) -> None:
        self._handle = handle
        self._dataset = dataset
        self._path = path
        plist = dataset.get_create_plist()
        self._chunk = tuple(int(length) for length in plist.get_chunk())
        self._nbytes = math.prod(self._chunk) * itemsize(spec.dtype)
        self._grid = [-(-n // step) for n, step in zip(spec.shape, self._chunk, strict=True)]
        filters = [plist.get_filter(index) for index in range(plist.get_nfilters())]
        self._filters = [int(parts[0]) for parts in filters]
        unknown = not FILTERS.keys() >= set(self._filters) or {DEFLATE, LZF} <= set(self._filters)
        if unknown or len(set(self._filters)) != len(self._filters):
            raise handle.error(
                "unsupported filters",
                path,
                f"each at most once of {', '.join(FILTERS.values())}, and not both compressions",
                f"HDF5 filters {self._filters}",
                remedy="repack the file without filters (h5repack -f NONE)",
            )
        for code, _, options, _ in filters:  # LZF's third option is what it allocates
            if code == LZF and max(options[2:3], default=0) > self._nbytes + _CHECKSUM:
                raise handle.error("a filter asks for memory", path, self._nbytes, options[2])
        self.count = self._check_size(budget)
        self._seen = bytearray(self.count)
        self._chunks = array("q")
        """File offset, stored size and mask of skipped filters of each."""
        if hasattr(dataset, "chunk_iter"):
            dataset.chunk_iter(self._add)
        else:  # HDF5 before 1.10.10: quadratic
            for index in range(self.count):
                self._add(dataset.get_chunk_info(index))
        if not self.count or not all(self._seen):
            raise handle.error("chunks are missing", path)
        self.offset = min(self._chunks[::3])
        """File offset of the first chunk."""
        self._decodable = False

    def _check_size(self, budget: int) -> int:
        """Return the number of chunks, after checking that all are present and plausible."""
        expected = math.prod(self._grid)
        decoded = expected * self._nbytes
        stored = int(self._dataset.get_storage_size())
        limit = MAX_LARGE_RATIO if decoded > LARGE else MAX_RATIO
        if expected > budget or stored > self._handle.size or decoded > limit * stored:
            raise self._handle.error(
                "few bytes claim to be many",
                self._path,
                f"at most {limit} times what is stored",
                f"{expected} chunks with {stored} stored bytes for {decoded}",
            )
        present = int(self._dataset.get_num_chunks())
        if present != expected:
            raise self._handle.error("chunks are missing", self._path, expected, present)
        return expected

    def _add(self, info: Any) -> None:
        """Check the extent and the place of a chunk, and keep them."""
        start, place = list(info.chunk_offset), 0
        for step, count, at in zip(self._chunk, self._grid, start, strict=True):
            index, rest = divmod(at, step)
            if rest or not 0 <= index < count:
                raise self._error(start, "is not on the chunk grid")
            place = place * count + index
        if self._seen[place]:
            raise self._error(start, "is listed twice")
        self._seen[place] = 1
        offset, size, skipped = int(info.byte_offset), int(info.size), int(info.filter_mask)
        remaining = self._remaining(skipped)
        checksum = _CHECKSUM * (FLETCHER32 in remaining)
        if size <= checksum or not 0 <= offset <= offset + size <= self._handle.size:
            expected = f"over {checksum} bytes within {self._handle.size}"
            raise self._error(start, "has an invalid extent", expected, f"{size} from {offset}")
        exact = self._nbytes + checksum
        if not _DECODED_SIZES.keys() & set(remaining) and size != exact:
            raise self._error(start, "has the wrong size", exact, size)
        self._chunks.extend((offset, size, skipped))

    def check_decoded_sizes(self) -> None:
        """Check once that every chunk decodes to exactly its size; reads all of them."""
        if self._decodable:
            return
        for at in range(0, len(self._chunks), 3):
            offset, size, skipped = self._chunks[at : at + 3]
            remaining = self._remaining(skipped)
            for place, code in enumerate(remaining):  # at most one of them compresses
                if code not in _DECODED_SIZES:
                    continue
                after = _CHECKSUM * (FLETCHER32 in remaining[place:])
                expected = self._nbytes + _CHECKSUM * (FLETCHER32 in remaining[:place])
                data = memoryview(self._handle.read(offset, size, self._path))[: size - after]
                decoded = _DECODED_SIZES[code](data, expected)
                if decoded != expected:
                    found = "more, or damaged" if decoded is None else f"{decoded} bytes"
                    raise self._error(f"byte {offset}", "decodes wrongly", expected, found)
        self._decodable = True

    def _remaining(self, skipped: int) -> list[int]:
        """Return the filters that a chunk with this mask has passed."""
        return [code for index, code in enumerate(self._filters) if not skipped >> index & 1]

    def _error(
        self, where: object, what: str, expected: object = None, found: object = None
    ) -> Exception:
        what = f"the chunk at {where} {what}"
        return self._handle.error(what, self._path, expected, found, FETCH_AGAIN)


def _inflated(data: memoryview, limit: int) -> int | None:
    """Return the size of a zlib stream's content; None if it is damaged or above `limit`."""
    stream, size = zlib.decompressobj(), 0
    try:
        for start in range(0, len(data), _FED):
            size += len(stream.decompress(data[start : start + _FED]))
            if size > limit:
                return None
    except zlib.error:
        return None
    return size if stream.eof else None


def _lzf_size(data: memoryview, limit: int) -> int | None:
    """Return the size of an LZF stream's content; None if it is damaged or above `limit`."""
    at = size = 0
    end = len(data)
    while at < end:
        control = data[at]
        if control < 32:  # so many bytes + 1 follow
            at += control + 2
            size += control + 1
        else:  # a copy of earlier bytes
            length = control >> 5
            if length == 7 and at + 1 < end:
                at += 1
                length += data[at]
            at += 2
            if at > end or ((control & 31) << 8 | data[at - 1]) >= size:
                return None
            size += length + 2
        if size > limit:
            return None
    return size if at == end else None


_DECODED_SIZES = {DEFLATE: _inflated, LZF: _lzf_size}
