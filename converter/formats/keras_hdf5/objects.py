"""HDF5 files opened with suspicion: no link is followed, nothing large is read unasked.

Groups and datasets are reached component by component through hard links only, so that a file
cannot lead to another one. Whatever h5py raises on a damaged file becomes a `FormatError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t

from converter.errors import FormatError
from converter.formats.base import Segment, StoredTensor
from converter.formats.files import FileHandle, checked_spec, format_error
from converter.formats.keras_hdf5.chunked import H5_ERRORS, DecodedTensor, check_chunks
from converter.formats.keras_hdf5.string_heap import StringHeap
from converter.formats.keras_hdf5.structures import DTYPES, check_superblock
from converter.formats.lazy_tensors import ContiguousTensor
from converter.tensors import numpy_dtype

MAX_PATH = 4096
"""Characters of a path inside the file."""
MAX_NAMES = 1 << 18
"""Items of one attribute that lists names."""


class Hdf5Objects:
    """The groups, name lists and datasets of an HDF5 file.

    Args:
        handle: the file; values of contiguous datasets are read through it, not through h5py.

    Raises:
        FormatError: if the file is damaged or reaches beyond itself.

    """

    def __init__(self, handle: FileHandle) -> None:
        self.handle = handle
        check_superblock(handle)
        with self._guarded():
            self._file = h5py.File(handle.as_file_argument(), "r", locking=False)
            self._groups: dict[str, Any] = {"": h5g.open(self._file.id, b"/")}
        self._heap = StringHeap(handle)
        self._dtypes: dict[bytes, tuple[str, str] | None] = {}
        self.needs_h5py = False
        """Whether a tensor handed out is read through h5py, so that the file must stay open."""

    def close(self) -> None:
        """Let go of h5py's view of the file; tensors read by position do not need it."""
        self._groups.clear()
        with self._guarded():
            self._file.close()

    def names(self, group: str, attribute: str) -> list[str] | None:
        """The texts that an attribute of `group` lists, or None if there is no such attribute.

        Keras splits a list above 64,512 bytes into ``attribute0``, ``attribute1``, … .
        """
        with self._guarded(group):
            owner = self._open(group)
            if h5a.exists(owner, attribute.encode()):
                return self._texts(owner, group, attribute)
            texts: list[str] | None = None
            index = 0
            while h5a.exists(owner, f"{attribute}{index}".encode()):
                texts = (texts or []) + self._texts(owner, group, f"{attribute}{index}")
                index += 1
            return texts

    def is_dataset(self, path: str) -> bool:
        """Whether a dataset lies at `path`, and not a group.

        Raises:
            FormatError: if nothing does, or a link on the way is not a hard one.

        """
        with self._guarded(path):
            return isinstance(self._open(path), h5d.DatasetID)

    def tensor(self, path: str, name: str) -> StoredTensor:
        """The dataset at `path` as a tensor called `name`, its values unread.

        Raises:
            FormatError: if it is no dataset of numbers that lie in this file.

        """
        with self._guarded(path):
            dataset = self._open(path)
            if not isinstance(dataset, h5d.DatasetID):
                raise self._wrong(path, "not a dataset")
            layout = self._checked_layout(dataset, path)
            dtype, byteorder = self._dtype(dataset, path)
            space = dataset.get_space()
            if space.get_simple_extent_type() == h5s.NULL:
                raise self._wrong(path, "the dataset holds no values (null dataspace)")
            shape = tuple(int(length) for length in space.get_simple_extent_dims())
            spec = checked_spec(self.handle.path, name, dtype, shape)
            if spec.nbytes == 0:
                return ContiguousTensor(spec, self.handle, [], byteorder)
            if layout == h5d.CONTIGUOUS:
                segment = self._segment(dataset, path, spec.nbytes)
                return ContiguousTensor(spec, self.handle, [segment], byteorder)
            first = int(h5o.get_info(dataset).addr)
            if layout == h5d.CHUNKED:
                first = check_chunks(self.handle, dataset, path, spec)
            self.needs_h5py = True
            return DecodedTensor(spec, self.handle.path, dataset, first)

    def _open(self, path: str) -> Any:
        """The group or dataset at `path`, by hard links alone.

        Raises:
            FormatError: if there is none, or a link on the way is of another kind.

        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if len(path) > MAX_PATH or "\0" in path:
            raise self._wrong(path, "impossible path", f"at most {MAX_PATH} characters")
        node, here = self._groups[""], ""
        for part in parts:
            if not isinstance(node, h5g.GroupID):
                raise self._wrong(path, f"'{here}' is not a group")
            here = f"{here}/{part}" if here else part
            child = self._groups.get(here)
            if child is None:
                child = self._child(node, part, path)
                if isinstance(child, h5g.GroupID):
                    self._groups[here] = child
            node = child
        return node

    def _child(self, group: Any, part: str, path: str) -> Any:
        link = part.encode()
        if not group.links.exists(link):
            raise self._wrong(path, "listed, but not in the file", found=f"no '{part}'")
        if group.links.get_info(link).type != h5l.TYPE_HARD:
            raise self._wrong(
                path,
                f"'{part}' is a soft, external or user-defined link",
                expected="an object of this file",
                remedy="write the weights into one file without links",
            )
        return h5o.open(group, link)

    def _checked_layout(self, dataset: Any, path: str) -> int:
        """The layout of a dataset whose values lie in this file."""
        plist = dataset.get_create_plist()
        layout = int(plist.get_layout())
        if layout == h5d.VIRTUAL:
            raise self._wrong(path, "a virtual dataset, whose values lie in other files")
        if plist.get_external_count():
            raise self._wrong(path, "external storage: its values lie in other files")
        if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
            raise self._wrong(path, "unknown layout", found=layout)
        return layout

    def _segment(self, dataset: Any, path: str, nbytes: int) -> Segment:
        """Where a contiguous dataset lies."""
        offset = dataset.get_offset()
        if offset is None:
            raise self._wrong(path, "no values were ever written to it")
        stored = int(dataset.get_storage_size())
        if stored != nbytes or not 0 <= offset <= offset + nbytes <= self.handle.size:
            raise self._wrong(
                path,
                "values outside the file or of the wrong size",
                expected=f"{nbytes} bytes within {self.handle.size}",
                found=f"{stored} bytes from {offset}",
            )
        return Segment(0, int(offset), nbytes)

    def _dtype(self, dataset: Any, path: str) -> tuple[str, str]:
        """Dtype name and byte order of a dataset's elements."""
        stored = dataset.get_type()
        kind = stored.get_class()
        if kind in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.COMPOUND):
            key = bytes(stored.encode())
            if key not in self._dtypes:
                self._dtypes[key] = _known_dtype(stored)
            known = self._dtypes[key]
            if known is not None:
                return known
        classes = {h5t.STRING: "text", h5t.REFERENCE: "references", h5t.OPAQUE: "opaque bytes"}
        raise self._wrong(
            path,
            "not of a numeric dtype that is known",
            expected="IEEE floats, integers, bool or complex",
            found=f"{classes.get(kind, f'HDF5 type class {kind}')} of {stored.get_size()} bytes",
            remedy="bfloat16 cannot be stored in HDF5; save the model in float32"
            if kind == h5t.OPAQUE and stored.get_size() == 2
            else None,
        )

    def _texts(self, owner: Any, group: str, attribute: str) -> list[str]:
        """The items of one attribute, if they can be what the file holds."""
        stored = h5a.open(owner, attribute.encode())
        count = int(stored.get_space().get_simple_extent_npoints())
        if count == 0:  # Keras stores an empty list as float64
            return []
        kind = stored.get_type()
        if kind.get_class() != h5t.STRING or len(stored.shape) != 1:
            raise self._wrong(f"{group}@{attribute}", "not a list of names")
        size = 16 if kind.is_variable_str() else int(kind.get_size())
        if count > MAX_NAMES or count * size > self.handle.size:
            raise self._wrong(
                f"{group}@{attribute}",
                "a list of names is longer than the file",
                found=f"{count} names of {size} bytes",
            )
        if kind.is_variable_str():
            header = int(h5o.get_info(owner).addr)
            return self._heap.texts(header, attribute, count, group)
        values = np.empty(stored.shape, stored.dtype)
        stored.read(values)
        return [value.decode() for value in values.tolist()]

    @contextmanager
    def _guarded(self, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except FormatError:
            raise
        except H5_ERRORS as error:
            found = str(error) or type(error).__name__
            raise format_error(
                self.handle.path,
                "damaged HDF5",
                tensor=name,
                found=found,
                remedy="fetch or write the file again",
            ) from error

    def _wrong(
        self,
        name: str,
        what: str,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> FormatError:
        return format_error(
            self.handle.path, what, tensor=name, expected=expected, found=found, remedy=remedy
        )


def _known_dtype(stored: Any) -> tuple[str, str] | None:
    """The dtype name and byte order that `stored` is exactly, if any."""
    for name in sorted(DTYPES):
        for order, byteorder in (("<", "little"), (">", "big")):
            dtype = numpy_dtype(name).newbyteorder(order)  # type: ignore[arg-type]
            if stored.equal(h5t.py_create(dtype, logical=True)):
                return name, byteorder
    return None
