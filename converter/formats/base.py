"""What every container format offers: a lazy reader and a writer that lays out first.

A container knows tensors by name, dtype, shape and place. It knows no model and no framework's
naming. Readers list without reading values. Writers create the complete file around holes of known
place, which the engine then fills by position, in any order, from several threads.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tensors import TensorSpec, numpy_dtype

if TYPE_CHECKING:
    from converter.formats.files import FileHandle

Array = np.ndarray[Any, np.dtype[Any]]


class StoredTensor(ABC):
    """One tensor in a file, not yet read. Safe to read from several threads at once."""

    spec: TensorSpec
    path: Path

    @property
    @abstractmethod
    def location(self) -> tuple[object, ...]:
        """Where the values lie; two tensors with equal locations share the very same bytes.

        The first two items are the file and an offset in it, so that sorting by location gives
        the order in which a file is best read.
        """

    @abstractmethod
    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read the values with index ``start .. start + out.shape[axis]`` along `axis`.

        Args:
            out: C-contiguous, of the stored dtype in native byte order, and of the stored shape
                except along `axis`. For a scalar, shape ``()``.
            axis: the axis along which only a part is read.
            start: index of the first part read.

        Raises:
            FormatError: if the file ends early or its bytes cannot be decoded.

        """

    def read(self, axis: int = 0, start: int = 0, stop: int | None = None) -> Array:
        """The values, or those with index ``start .. stop`` along `axis`, as a new array."""
        shape = list(self.spec.shape)
        if shape:
            shape[axis] = (shape[axis] if stop is None else stop) - start
        out = np.empty(shape, numpy_dtype(self.spec.dtype))
        self.read_into(out, axis, start)
        return out


class Reader(ABC):
    """An opened checkpoint file."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    """Every tensor by its stored name, in file order."""
    duplicates: Mapping[str, Sequence[StoredTensor]]
    """Further copies of a tensor that the file holds under the same name."""
    metadata: Mapping[str, str]
    """What else the file says of itself."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the values come from, `path` first."""
        return (self.path,)

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; its tensors cannot be read any more."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a tensor's C-order bytes that lies in one piece in a file."""

    tensor_offset: int
    file_offset: int
    nbytes: int


@dataclass
class PreallocatedFile(ABC):
    """A file that is complete but for its tensors' bytes.

    The engine writes those by position at `segments`, little-endian and in C order, and then calls
    `seal` once.
    """

    path: Path
    segments: Mapping[str, tuple[Segment, ...]]
    """For each tensor the runs of its bytes, by ascending `tensor_offset`, without gaps."""
    needs_crc32: bool = field(default=False)
    """Whether `seal` wants the CRC-32 of each tensor's bytes."""

    @abstractmethod
    def finalize(self, crc32: Mapping[str, int]) -> None:
        """Write what depends on the tensors' bytes, once all of them are in place."""


@dataclass(frozen=True, slots=True)
class FileSpec:
    """What a new file is to hold."""

    path: Path
    """The file, which does not exist yet."""
    tensors: Sequence[TensorSpec]
    """In the order that the caller prefers."""
    metadata: Mapping[str, str] | None
    """What the file says of itself, if anything; each format states what it understands."""
    aliases: Mapping[str, str]
    """Further names → the tensors of the same file whose bytes they share."""


class FileFormat(ABC):
    """A file format, as `converter.formats` registers it."""

    name: str
    """What users call it: ``safetensors``, ``torch``, ``keras-hdf5``, ``flax-msgpack`` …"""
    dtypes: frozenset[str]
    """The dtype names that the format can hold."""
    shares: bool = False
    """Whether the format can say that two names share their bytes."""

    @abstractmethod
    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Whether `file`, which starts with `head` (up to 64 bytes), is of the format.

        Decided by content alone; the file name is no evidence.
        """

    @abstractmethod
    def open(self, file: FileHandle) -> Reader:
        """List `file` without reading values.

        It may lie on another machine, where every read is a request: as little as can be is read.

        Args:
            file: is the reader's from now on, which closes it; closed, too, if this raises.

        Raises:
            CheckpointError: if a file that belongs to it is missing or cannot be had.
            FormatError: if the file is damaged, truncated, lying or hostile.

        """

    def create(
        self,
        path: Path,
        tensors: Sequence[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> PreallocatedFile:
        """Create the file at `path` (which must not exist) with holes for `tensors`.

        Args:
            path: the file to create.
            tensors: what the file will hold, in the order the caller prefers.
            metadata: what the file says of itself; each format states what it understands.
            aliases: further names for tensors of the same file that share their bytes
                (``alias → name``), for formats that can.

        Raises:
            ValueError: for a dtype that the format cannot hold, a name twice, or aliases that it
                cannot express, or if it is only read: the plan should have prevented it.
            OSError: if the file cannot be created.

        """
        if aliases and not self.shares:
            raise ValueError(f"{self.name} cannot express that tensors share their bytes")
        wanted = FileSpec(path, tensors, metadata, aliases or {})
        _check(wanted, self.dtypes)
        return self.preallocate(wanted)

    def preallocate(self, wanted: FileSpec) -> PreallocatedFile:
        """Create the file; `wanted` is sound, and of dtypes that the format holds.

        Raises:
            ValueError: for names or metadata that the format cannot express, or if it is only read.
            OSError: if the file cannot be created.

        """
        raise ValueError(f"{self.name} is read, not written")


def _check(wanted: FileSpec, dtypes: frozenset[str]) -> None:
    """Raise `ValueError` for a dtype not in `dtypes`, a name twice, or an alias of nothing."""
    tensors, aliases = wanted.tensors, wanted.aliases
    names = {spec.name for spec in tensors}
    wrong = [f"{spec.name}: dtype {spec.dtype}" for spec in tensors if spec.dtype not in dtypes]
    wrong += [
        f"{alias}: alias of {name}"
        for alias, name in aliases.items()
        if name not in names or alias in names
    ]
    if wrong or len(names) != len(tensors):
        raise ValueError(f"cannot be written: {'; '.join(wrong) or 'a name stands twice'}")


def read_exactly(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` from `offset` of the file, in as many reads as it takes.

    Raises:
        EOFError: if the file ends first.

    """
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            raise EOFError(offset + done)
        done += count
