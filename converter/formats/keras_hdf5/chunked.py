"""Datasets that only the HDF5 library can decode: chunked, compressed, or inside a header."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

from h5py import h5s

from converter.formats.base import Array, StoredTensor
from converter.formats.files import FileHandle, format_error
from converter.formats.lazy_tensors import check_target
from converter.tensors import TensorSpec, itemsize

H5_ERRORS = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
"""What h5py raises when the library below it finds a file damaged."""
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""The filters that h5py brings along; others would load plug-ins."""
MAX_RATIO = 1100
"""Deflate cannot shrink by more than 1032."""
LARGE, MAX_LARGE_RATIO = 8 << 20, 50
"""Weights hardly compress; a large dataset that shrinks further than this is a bomb."""

_LOCK = threading.Lock()


class DecodedTensor(StoredTensor):
    """A dataset that is read through h5py, one thread at a time.

    Args:
        spec: name, dtype and shape.
        path: the file.
        dataset: h5py's low-level dataset, open as long as the tensor is read.
        offset: where in the file its first bytes lie.

    """

    def __init__(self, spec: TensorSpec, path: Path, dataset: Any, offset: int) -> None:
        self.spec = spec
        self.path = path
        self._dataset = dataset
        self._offset = offset

    @property
    def location(self) -> tuple[object, ...]:
        """File and offset; no two datasets share their first chunk."""
        return (str(self.path), self._offset, "decoded", self.spec.dtype, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read a part along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if out.size == 0:
            return
        try:
            with _LOCK:
                if not self.spec.shape:
                    self._dataset.read(h5s.ALL, h5s.ALL, out)
                    return
                first = tuple(start if index == axis else 0 for index in range(out.ndim))
                space = self._dataset.get_space()
                space.select_hyperslab(first, out.shape)
                self._dataset.read(h5s.create_simple(out.shape), space, out)
        except H5_ERRORS as error:
            raise format_error(
                self.path,
                "its values cannot be decoded",
                tensor=self.spec.name,
                found=str(error) or type(error).__name__,
                remedy="fetch or write the file again",
            ) from error


def check_chunks(handle: FileHandle, dataset: Any, path: str, spec: TensorSpec) -> int:
    """Check that a chunked dataset is there as a whole and no bomb.

    Returns:
        The file offset of its first chunk.

    Raises:
        FormatError: if a filter is unknown, chunks are missing, or few bytes claim to be many.

    """
    plist = dataset.get_create_plist()
    filters = [int(plist.get_filter(index)[0]) for index in range(plist.get_nfilters())]
    unknown = [code for code in filters if code not in FILTERS]
    if unknown or len(set(filters)) != len(filters):
        raise format_error(
            handle.path,
            "filters that are not decoded",
            tensor=path,
            expected="each at most once of " + ", ".join(FILTERS.values()),
            found=f"HDF5 filters {filters}",
            remedy="repack the file without filters (h5repack -f NONE)",
        )
    chunk = tuple(int(length) for length in plist.get_chunk())
    expected = math.prod(-(-length // step) for length, step in zip(spec.shape, chunk, strict=True))
    decoded = expected * math.prod(chunk) * itemsize(spec.dtype)
    stored = int(dataset.get_storage_size())
    limit = MAX_LARGE_RATIO if decoded > LARGE else MAX_RATIO
    if stored > handle.size or decoded > limit * stored:
        raise format_error(
            handle.path,
            "few bytes claim to be many",
            tensor=path,
            expected=f"at most {limit} times what is stored",
            found=f"{stored} stored bytes for {decoded}",
        )
    present = int(dataset.get_num_chunks())
    if present != expected:
        raise format_error(
            handle.path,
            "chunks are missing",
            tensor=path,
            expected=f"{expected} chunks",
            found=str(present),
        )
    return int(dataset.get_chunk_info(0).byte_offset)
