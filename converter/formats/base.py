"""The interface of a file format: a lazy reader, and a writer that preallocates.

A format knows tensors by name, dtype, shape and offset. It knows no model and no framework's
naming. Readers list tensors without reading values. Writers create a complete file with a hole for
each tensor's bytes, which `converter.execution` fills by position, in any order, from any thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.system import read_at
from converter.tensors import TensorSpec, numpy_dtype

if TYPE_CHECKING:
    from converter.formats.file_handle import FileHandle

Array = np.ndarray[Any, np.dtype[Any]]


class StoredTensor(ABC):
    """One tensor in a file, not yet read. Safe to read from several threads at once."""

    spec: TensorSpec
    path: Path

    @property
    @abstractmethod
    def location(self) -> tuple[object, ...]:
        """Position of the values; two tensors with equal locations share the very same bytes.

        The first two items are the file and an offset in it: sorting by location gives the order
        in which a file is read fastest.
        """

    @abstractmethod
    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read the values with index ``start .. start + out.shape[axis]`` along `axis`.

        `out` is C-contiguous, of the stored dtype in native byte order, and of the stored shape
        except along `axis`. Raise FormatError if the file ends early or cannot be decoded.
        """

    def read_ahead(self, offset: int, nbytes: int) -> None:
        """Announce that some of the C-order bytes will soon be read, if they are on a disk."""
        del offset, nbytes

    def read(self, axis: int = 0, start: int = 0, stop: int | None = None) -> Array:
        """Return the values, or those with index ``start .. stop`` along `axis`, as a new array."""
        shape = list(self.spec.shape)
        if shape:
            shape[axis] = (shape[axis] if stop is None else stop) - start
        out = np.empty(shape, numpy_dtype(self.spec.dtype))
        self.read_into(out, axis, start)
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """An opened checkpoint file."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    """Every tensor by its stored name, in file order."""
    close: Callable[[], None]
    """Closes the file; its tensors can no longer be read."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The format's own metadata."""
    duplicates: Mapping[str, Sequence[StoredTensor]] = field(default_factory=dict)
    """Further copies of a tensor under the same name."""
    repeated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Layer of a Keras model → names of other layers' tensors that it lists as well."""
    wrapper: str = ""
    """Key of the state dict in a training checkpoint."""
    ignored: tuple[str, ...] = ()
    """Keys of a training checkpoint that hold tensors outside the state dict."""
    mappings: frozenset[str] = frozenset()
    """Paths of the mappings in a torch file that hold tensors, such as ``weights.``."""
    imports: tuple[str, ...] = ()
    """What a pickle would import that no state dict needs."""
    other_files: tuple[Path, ...] = ()
    """Files besides `path` that values come from."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that values come from, `path` first."""
        return (self.path, *self.other_files)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a tensor's C-order bytes that is contiguous in a file."""

    tensor_offset: int
    file_offset: int
    nbytes: int


@dataclass
class PreallocatedFile:
    """A file that lacks its tensors' bytes: little-endian and in C order at `segments`.

    Once they are written, `finalize` is to be called.
    """

    path: Path
    segments: Mapping[str, tuple[Segment, ...]]
    """For each tensor the runs of its bytes, by ascending `tensor_offset`, without gaps."""
    needs_crc32: bool = field(default=False)
    """Whether `finalize` takes the CRC-32 of each tensor's bytes."""
    packed: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """Tensors of which several elements are in a byte → bits of an element."""

    def finalize(self, crc32: Mapping[str, int]) -> None:
        """Write what depends on the tensors' bytes, once all are in place; usually nothing."""


@dataclass(frozen=True, slots=True)
class FileSpec:
    """What a new file will hold."""

    path: Path
    """A file that does not exist yet."""
    tensors: Sequence[TensorSpec]
    """In the order that the caller prefers."""
    metadata: Mapping[str, str] | None
    """Each format states which keys it understands."""
    aliases: Mapping[str, str]
    """Further names → the tensors of the same file whose bytes they share."""
    repeated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Layer of a Keras model → names of other layers' tensors that it lists as well."""


class FileFormat(ABC):
    """A file format, as listed in `converter.formats.registry`."""

    name: str
    """``safetensors``, ``torch``, ``keras-hdf5``, ``flax-msgpack`` …"""
    dtypes: frozenset[str]
    """The dtype names that the format can hold."""
    packed_dtypes: frozenset[str] = frozenset()
    """Those of `PACKED_BITS` that it can hold, in tensors of complete bytes."""
    supports_aliases: bool = False
    """Whether the format can express that two names share their bytes."""

    @abstractmethod
    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether `file`, which starts with `head` (up to 64 bytes), has this format.

        Decided by content alone, never by the file name.
        """

    @abstractmethod
    def open(self, file: FileHandle) -> Reader:
        """List the tensors of `file` without reading values.

        The file may be remote, where every read is a request: read as little as possible. The
        reader owns it from now on; it is closed, too, if this raises. Raise CheckpointError if a
        file that belongs to it is missing or not available; FormatError if the file is damaged,
        truncated, inconsistent or hostile.
        """

    def create(
        self,
        path: Path,
        tensors: Sequence[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
        repeated: Mapping[str, Sequence[str]] | None = None,
    ) -> PreallocatedFile:
        """Create the file at `path` with holes for `tensors`; for the arguments see `FileSpec`.

        Raise ValueError for a dtype, name, alias or metadata that the format cannot express, or if
        it is read-only (the plan should have prevented it); OSError if the file exists or cannot be
        created.
        """
        spec = FileSpec(path, tensors, metadata, aliases or {}, repeated or {})
        if aliases and not self.supports_aliases:
            raise ValueError(f"{self.name} cannot express that tensors share their bytes")
        names = {tensor.name for tensor in tensors}
        held = self.dtypes | self.packed_dtypes
        problems = [f"{t.name}: dtype {t.dtype}" for t in tensors if t.dtype not in held]
        problems += [
            f"{alias}: alias of {name}"
            for alias, name in spec.aliases.items()
            if name not in names or alias in names
        ]
        if len(names) != len(tensors):
            problems.append("duplicate names")
        if problems:
            raise ValueError(f"cannot write: {'; '.join(problems)}")
        return self.preallocate(spec)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create the file, as `create`, which has checked dtypes, names and aliases."""
        raise ValueError(f"{self.name} is read-only")


def read_exactly(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` from `offset` of the file; raise EOFError if the file ends first."""
    done = 0
    while done < len(buffer):
        count = read_at(fd, buffer[done:], offset + done)
        if count == 0:
            raise EOFError(offset + done)
        done += count
