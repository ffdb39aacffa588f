"""Creation of ``tf_model.h5`` around holes, with the bytes of every tensor at a known offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from converter.formats.base import PreallocatedFile, Segment
from converter.tensors import TensorSpec, numpy_dtype

ATTRIBUTE_LIMIT = 64512
"""Bytes of an attribute above which Keras splits it (``HDF5_OBJECT_HEADER_LIMIT``)."""
_METADATA_PER_TENSOR = 2048
"""About what group, link and header of a tensor take; keeps them together before the values."""
_MAX_METADATA_BLOCK = 16 << 20


class Hdf5Output(PreallocatedFile):
    """An HDF5 file whose structure is in place."""

    def finalize(self, crc32: Mapping[str, int]) -> None:
        """Nothing depends on the values."""


class Hdf5Builder:
    """An HDF5 file being laid out. Version 1.8 reads it; the same calls give the same bytes."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._datasets = h5p.create(h5p.DATASET_CREATE)
        self._datasets.set_layout(h5d.CONTIGUOUS)
        self._datasets.set_alloc_time(h5d.ALLOC_TIME_EARLY)  # the offset is known at once
        self._datasets.set_fill_time(h5d.FILL_TIME_NEVER)  # and no zeros are written
        self._datasets.set_obj_track_times(False)
        self._links = h5p.create(h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)
        self._links.set_char_encoding(h5t.CSET_UTF8)

    def group(self, path: str) -> None:
        """Create an empty group."""
        self._file.require_group(path)

    def dataset(self, path: str, spec: TensorSpec) -> tuple[Segment, ...]:
        """Create a dataset; returns where its bytes go."""
        dtype = h5t.py_create(numpy_dtype(spec.dtype).newbyteorder("<"), logical=True)
        space = h5s.create_simple(spec.shape) if spec.shape else h5s.create(h5s.SCALAR)
        dataset = h5d.create(
            self._file.id, path.encode(), dtype, space, self._datasets, self._links
        )
        if spec.nbytes == 0:
            return ()
        return (Segment(0, int(dataset.get_offset()), spec.nbytes),)

    def link(self, path: str, target: str) -> None:
        """Let the dataset at `target` appear at `path`, too."""
        here = self._file.id
        here.links.create_hard(path.encode(), here, target.encode(), lcpl=self._links)

    def names(self, group: str, attribute: str, names: Sequence[str]) -> None:
        """Store a list of names as Keras does: in one attribute, or evenly over as few as fit."""
        values: Any = np.asarray([name.encode() for name in names])
        owner = self._file[group].attrs
        count = 1
        parts = [values]
        while any(part.nbytes > ATTRIBUTE_LIMIT for part in parts):
            count += 1
            parts = np.array_split(values, count)
        if count == 1:
            owner.create(attribute, values)
            return
        for index, part in enumerate(parts):
            owner.create(f"{attribute}{index}", part)

    def text(self, attribute: str, value: str) -> None:
        """Store a text at the root."""
        self._file.attrs.create(attribute, np.bytes_(value))


@contextmanager
def new_file(path: Path, tensors: int) -> Iterator[Hdf5Builder]:
    """Create the file at `path`, which must not exist, and lay it out in the ``with`` block.

    Args:
        path: the file.
        tensors: how many it will hold, about.

    Raises:
        OSError: if it cannot be created; nothing is left behind then.

    """
    path.open("xb").close()
    try:
        block = min(_METADATA_PER_TENSOR * (tensors + 1), _MAX_METADATA_BLOCK)
        with h5py.File(str(path), "w", libver=("earliest", "v108"), meta_block_size=block) as file:
            yield Hdf5Builder(file)
    except BaseException:
        path.unlink()
        raise


def check_paths(paths: Iterable[str]) -> None:
    """Check that all paths can stand in one file.

    Raises:
        ValueError: if one is another's prefix, stands twice, or cannot be written.

    """
    seen: set[str] = set()
    parents: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if any(part in ("", ".") for part in parts) or "\0" in path:
            raise ValueError(f"{path!r} cannot be a path in HDF5")
        if len(path.encode()) > ATTRIBUTE_LIMIT:
            raise ValueError(f"{path[:100]!r}… is too long for an attribute")
        if path in seen:
            raise ValueError(f"{path} stands twice")
        seen.add(path)
        parents.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for path in sorted(seen & parents):
        raise ValueError(f"{path} is both a tensor and a part of another's name")
