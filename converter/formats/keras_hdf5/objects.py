"""Access to untrusted HDF5 files through h5py: groups, lists of names, datasets.

Groups and datasets are reached component by component through hard links only, so that a file
cannot refer to another one. Whatever h5py raises on a damaged file becomes a `FormatError`.
Contiguous datasets are read by offset; those that are chunked, compressed or inside a header
through h5py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t

from converter.errors import FormatError
from converter.formats.base import Array, Segment, StoredTensor
from converter.formats.file_handle import FETCH_AGAIN, FileHandle, checked_spec, format_error
from converter.formats.keras_hdf5.chunks import MIN_BYTES_PER_CHUNK, ChunkedDataset
from converter.formats.keras_hdf5.structures import (
    DTYPES,
    StringHeap,
    TreeChecker,
    check_superblock,
)
from converter.formats.stored_tensors import ContiguousTensor, check_target
from converter.system import call_after_fork
from converter.tensors import TensorSpec, numpy_dtype

MAX_PATH = 4096
"""Characters of a path inside the file."""
MAX_NAMES = 1 << 18
"""Items of one attribute that lists names."""
MODEL_LEVEL = "top_level_model_weights"
"""The group of variables that belong to the model itself, not to a layer."""


class Hdf5Objects:
    """The groups, name lists and datasets of an HDF5 file.

    Values of contiguous datasets are read through `handle`, not through h5py.
    """

    def __init__(self, handle: FileHandle) -> None:
        self.handle = handle
        self._error = handle.error
        handle.has_scattered_headers = True
        check_superblock(handle)
        self._trees = TreeChecker(handle)
        self._group_addresses: set[int] = set()
        with reported(handle.path):
            self._file = h5py.File(handle.as_file_argument(), "r", locking=False)
            self._groups: dict[str, Any] = {"": h5g.open(self._file.id, b"/")}
            self._checked_group(self._groups[""], "/")
        self._heap = StringHeap(handle)
        self._dtypes: dict[bytes, tuple[str, str] | None] = {}
        self._chunked: dict[int, ChunkedDataset] = {}
        self._chunk_budget = handle.size // MIN_BYTES_PER_CHUNK
        self.needs_h5py = False
        """Whether a returned tensor is read through h5py, so that the file must stay open."""

    def close(self) -> None:
        """Close h5py's file; tensors read by offset do not need it."""
        self._groups.clear()
        with reported(self.handle.path):
            self._file.close()

    def names(self, group: str, attribute: str) -> list[str] | None:
        """Return the strings of an attribute of `group`, or None if there is no such attribute.

        Keras splits a list above 64,512 bytes into ``attribute0``, ``attribute1``, … .
        """
        with reported(self.handle.path, group):
            owner = self._open(group)
            if h5a.exists(owner, attribute.encode()):
                return self._strings(owner, group, attribute)
            strings: list[str] | None = None
            index = 0
            while h5a.exists(owner, f"{attribute}{index}".encode()):
                strings = (strings or []) + self._strings(owner, group, f"{attribute}{index}")
                index += 1
            return strings

    def has(self, group: str, name: str) -> bool:
        """Return whether `group` has an object called `name`."""
        with reported(self.handle.path, group):
            return bool(self._open(group).links.exists(name.encode()))

    def is_dataset(self, path: str) -> bool:
        """Return whether `path` is a dataset, not a group."""
        with reported(self.handle.path, path):
            return isinstance(self._open(path), h5d.DatasetID)

    def tensor(self, path: str, name: str) -> StoredTensor:
        """Return the numeric dataset at `path` as a tensor called `name`, its values unread."""
        with reported(self.handle.path, path):
            dataset = self._open(path)
            if not isinstance(dataset, h5d.DatasetID):
                raise self._error("not a dataset", path)
            layout = self._checked_layout(dataset, path)
            dtype, byteorder = self._dtype(dataset, path)
            space = dataset.get_space()
            if space.get_simple_extent_type() == h5s.NULL:
                raise self._error("the dataset holds no values (null dataspace)", path)
            shape = tuple(int(length) for length in space.get_simple_extent_dims())
            spec = checked_spec(self.handle.path, name, dtype, shape)
            if spec.nbytes == 0:
                return ContiguousTensor(spec, self.handle, [], byteorder)
            if layout == h5d.CONTIGUOUS:
                segment = self._segment(dataset, path, spec.nbytes)
                return ContiguousTensor(spec, self.handle, [segment], byteorder)
            self.needs_h5py = True
            address = _address(dataset)
            if layout == h5d.COMPACT:
                if dataset.get_storage_size() != spec.nbytes:
                    raise self._error("of the wrong size", path, f"{spec.nbytes} bytes")
                return DecodedTensor(spec, self.handle.path, dataset, address)
            chunks = self._chunked.get(address)  # the same one by another hard link
            if chunks is None:
                self._trees.check(address, path, is_dataset=True)
                chunks = ChunkedDataset(self.handle, dataset, path, spec, self._chunk_budget)
                self._chunked[address] = chunks
                self._chunk_budget -= chunks.count
            return DecodedTensor(spec, self.handle.path, dataset, chunks.offset, chunks)

    def _open(self, path: str) -> Any:
        """Open the group or dataset at `path`, by hard links alone."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if len(path) > MAX_PATH or "\0" in path:
            raise self._error("impossible path", path, f"at most {MAX_PATH} characters")
        node, parent = self._groups[""], ""
        for part in parts:
            if not isinstance(node, h5g.GroupID):
                raise self._error(f"'{parent}' is not a group", path)
            parent = f"{parent}/{part}" if parent else part
            child = self._groups.get(parent)
            if child is None:
                child = self._child(node, part, path)
                if isinstance(child, h5g.GroupID):
                    self._groups[parent] = self._checked_group(child, path)
            node = child
        return node

    def _checked_group(self, group: Any, path: str) -> Any:
        """Return `group`, after checking the tree of its links."""
        address = _address(group)
        if address not in self._group_addresses:
            self._group_addresses.add(address)
            self._trees.check(address, path)
        return group

    def _child(self, group: Any, part: str, path: str) -> Any:
        link = part.encode()
        if not group.links.exists(link):
            raise self._error("listed, but not in the file", path, found=f"no '{part}'")
        if group.links.get_info(link).type != h5l.TYPE_HARD:
            raise self._error(
                f"'{part}' is a soft, external or user-defined link",
                path,
                "an object of this file",
                remedy="write the weights into one file without links",
            )
        return h5o.open(group, link)

    def _checked_layout(self, dataset: Any, path: str) -> int:
        """Return the layout of a dataset whose values are in this file."""
        plist = dataset.get_create_plist()
        layout = int(plist.get_layout())
        if layout == h5d.VIRTUAL:
            raise self._error("a virtual dataset, whose values are in other files", path)
        if plist.get_external_count():
            raise self._error("external storage: its values are in other files", path)
        if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
            raise self._error("unknown layout", path, found=layout)
        return layout

    def _segment(self, dataset: Any, path: str, nbytes: int) -> Segment:
        """Return the extent of a contiguous dataset."""
        offset = dataset.get_offset()
        if offset is None:
            raise self._error("no values were ever written to it", path)
        stored = int(dataset.get_storage_size())
        if stored != nbytes or not 0 <= offset <= offset + nbytes <= self.handle.size:
            raise self._error(
                "values outside the file or of the wrong size",
                path,
                f"{nbytes} bytes within {self.handle.size}",
                f"{stored} bytes from {offset}",
            )
        return Segment(0, int(offset), nbytes)

    def _dtype(self, dataset: Any, path: str) -> tuple[str, str]:
        """Return dtype name and byte order of a dataset's elements."""
        stored = dataset.get_type()
        kind = stored.get_class()
        if kind in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.COMPOUND):
            key = bytes(stored.encode())
            if key not in self._dtypes:
                self._dtypes[key] = _matching_dtype(stored)
            match = self._dtypes[key]
            if match is not None:
                return match
        classes = {h5t.STRING: "text", h5t.REFERENCE: "references", h5t.OPAQUE: "opaque bytes"}
        raise self._error(
            "not of a known numeric dtype",
            path,
            "IEEE floats, integers, bool or complex",
            f"{classes.get(kind, f'HDF5 type class {kind}')} of {stored.get_size()} bytes",
            remedy="bfloat16 cannot be stored in HDF5; save the model in float32"
            if kind == h5t.OPAQUE and stored.get_size() == 2
            else None,
        )

    def _strings(self, owner: Any, group: str, attribute: str) -> list[str]:
        """Return the items of one attribute, after bounding them by the size of the file."""
        stored = h5a.open(owner, attribute.encode())
        count = int(stored.get_space().get_simple_extent_npoints())
        if count == 0:  # Keras stores an empty list as float64
            return []
        kind = stored.get_type()
        if kind.get_class() != h5t.STRING or len(stored.shape) != 1:
            raise self._error("not a list of names", f"{group}@{attribute}")
        size = 16 if kind.is_variable_str() else int(kind.get_size())
        if count > MAX_NAMES or count * size > self.handle.size:
            raise self._error(
                "a list of names is longer than the file",
                f"{group}@{attribute}",
                found=f"{count} names of {size} bytes",
            )
        if kind.is_variable_str():
            header = _address(owner)
            return self._heap.strings(header, attribute, count, group)
        values = np.empty(stored.shape, stored.dtype)
        stored.read(values)
        return [value.decode() for value in values.tolist()]


def _address(node: Any) -> int:
    """Return the offset of an object's header; ``h5o.get_info`` would walk all its B-trees."""
    low, high = h5g.get_objinfo(node).objno
    return int(low | high << 32)  # two numbers where C has 32-bit longs


def _matching_dtype(stored: Any) -> tuple[str, str] | None:
    """Return dtype name and byte order that equal `stored` exactly, if any."""
    for name in sorted(DTYPES):
        for order, byteorder in (("<", "little"), (">", "big")):
            dtype = numpy_dtype(name).newbyteorder(order)  # type: ignore[arg-type]
            if stored.equal(h5t.py_create(dtype, logical=True)):
                return name, byteorder
    return None


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
"""What h5py raises on damaged files."""
_LOCK = threading.Lock()
# Another thread may hold it at the moment of a fork.
call_after_fork(lambda: globals().update(_LOCK=threading.Lock()))


@contextmanager
def reported(path: Path, name: str | None = None, what: str = "damaged HDF5") -> Iterator[None]:
    """Turn what h5py raises in the ``with`` block into a `FormatError`."""
    try:
        yield
    except FormatError:
        raise
    except H5_ERRORS as error:
        found = str(error) or type(error).__name__
        raise format_error(path, what, name, found=found, remedy=FETCH_AGAIN) from error


@dataclass(frozen=True, eq=False)
class DecodedTensor(StoredTensor):
    """A dataset that is read through h5py, one thread at a time."""

    spec: TensorSpec
    path: Path
    dataset: Any
    """h5py's low-level dataset, open as long as the tensor is read."""
    offset: int
    """File offset of its first bytes."""
    chunks: ChunkedDataset | None = None
    """To be checked before the first read."""

    @property
    def location(self) -> tuple[object, ...]:
        """File and offset; no two datasets share their first chunk."""
        return (str(self.path), self.offset, "decoded", self.spec.dtype, self.spec.shape)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        check_target(self.spec, out, axis, start)
        if out.size == 0:
            return
        with reported(self.path, self.spec.name, "values cannot be decoded"), _LOCK:
            if self.chunks is not None:
                self.chunks.check_decoded_sizes()
            if not self.spec.shape:
                self.dataset.read(h5s.ALL, h5s.ALL, out)
                return
            first = tuple(start if index == axis else 0 for index in range(out.ndim))
            space = self.dataset.get_space()
            space.select_hyperslab(first, out.shape)
            self.dataset.read(h5s.create_simple(out.shape), space, out)
