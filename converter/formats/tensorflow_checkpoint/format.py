"""TensorFlow bundles: ``NAME.index`` and its ``NAME.data-00000-of-00001``; read, never written.

``tf.compat.v1.train.Saver`` (V2, the default since 2016) and ``tf.train.Checkpoint`` write them.
The index is a sorted table of where each tensor lies; the data files hold the tensors' bytes.
Checkpoints of objects name a variable by the attributes that lead to it and end the name in
``/.ATTRIBUTES/VARIABLE_VALUE``, which is taken off; their graph of objects is a string and, as all
that is no numbers, passed over. Source: ``tensor_bundle.cc`` and ``types.proto`` of tensorflow
2.20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from converter.errors import CheckpointError, Problem
from converter.formats.base import FileFormat, Reader, Segment, StoredTensor
from converter.formats.files import MAX_TENSORS, FileHandle, checked_spec, format_error
from converter.formats.lazy_tensors import ContiguousTensor
from converter.formats.tensorflow_checkpoint.partitioned import (
    PIECE,
    PartitionedTensor,
    partition,
    slice_key,
)
from converter.formats.tensorflow_checkpoint.protobuf import (
    BundleEntry,
    BundleHeader,
    WireError,
    parse_entry,
    parse_header,
    parse_slice,
)
from converter.formats.tensorflow_checkpoint.sstable import MAGIC, read_table
from converter.tensors import TensorSpec

INDEX = ".index"
"""What the name of every bundle's index ends in."""

_DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    28: "float8_e5m2fnuz",
}
"""Numbers of TensorFlow's ``DataType`` and our names."""
_NO_NUMBERS = {7, 20, 21}
"""Strings, resources and variants."""
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_VERSION = 1
"""Of the format, the only one there has been."""
_MAX_SHARDS = 10_000


class TfBundleContainer(FileFormat):
    """Reads bundles; see `converter.formats.base.Container`."""

    name = "tf-bundle"
    dtypes = frozenset(_DTYPES.values())

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Whether the file ends as a sorted table does; it begins with nothing of its own."""
        end = file.size - len(MAGIC)
        return end >= 0 and file.read(end, len(MAGIC)) == MAGIC

    def open(self, file: FileHandle) -> Reader:
        """List the tensors of the bundle whose index is `file`; reads the index alone.

        Raises:
            CheckpointError: if a data file is missing.
            FormatError: if a file is damaged, truncated, lying or hostile.

        """
        with ExitStack() as stack:
            stack.callback(file.close)
            reader = _Listing(file, stack).read()
            reader.stack = stack.pop_all()
            return reader


class BundleReader(Reader):
    """An opened bundle."""

    def __init__(self, path: Path, files: tuple[Path, ...]) -> None:
        self.path = path
        self._files = files
        self.tensors: dict[str, StoredTensor] = {}
        self.duplicates: Mapping[str, Sequence[StoredTensor]] = {}
        self.metadata: Mapping[str, str] = {}
        self.stack = ExitStack()

    @property
    def files(self) -> tuple[Path, ...]:
        """The index and all data files."""
        return self._files

    def close(self) -> None:
        """Let go of the files."""
        self.stack.close()


class _Listing:
    """What an index says, checked against itself and the data files."""

    def __init__(self, handle: FileHandle, stack: ExitStack) -> None:
        self.path = handle.path
        self._index = handle
        self._stack = stack
        self._header = BundleHeader()
        self._entries: dict[str, BundleEntry] = {}
        self._pieces: dict[bytes, BundleEntry] = {}
        self._shards: list[FileHandle] = []
        self._runs: list[tuple[int, int, int, str]] = []
        """Shard, begin, end and name of everything that takes bytes."""
        self._parse(handle)

    def read(self) -> BundleReader:
        """The reader, its tensors in the order in which they lie in the data files."""
        self._open_data_files()
        data = (handle.path for handle in self._shards)
        reader = BundleReader(self.path, (self.path, *data))
        tensors = {name: self._tensor(name, entry) for name, entry in self._entries.items()}
        self._check_nothing_is_shared()
        for raw, tensor in sorted(tensors.items(), key=lambda item: item[1].location[:2]):
            name = raw.removesuffix(_VALUE)
            if name in reader.tensors:
                raise format_error(self.path, "a name stands twice", tensor=name)
            reader.tensors[name] = tensor
        return reader

    def _check_nothing_is_shared(self) -> None:
        """No byte is of two tensors, and no piece of none."""
        for (shard, _, end, _), (other, begin, _, name) in pairwise(sorted(self._runs)):
            if shard == other and begin < end:
                raise format_error(
                    self.path,
                    "overlaps another tensor",
                    tensor=name,
                    expected=f"an offset of at least {end}",
                    found=begin,
                )
        if any(piece.dtype not in _NO_NUMBERS for piece in self._pieces.values()):
            raise format_error(
                self.path, "a piece of no listed variable", found=next(iter(self._pieces))
            )

    def _parse(self, handle: FileHandle) -> None:
        """Fill header and entries."""
        listed = 0
        for number, (key, value) in enumerate(read_table(handle)):
            if (number == 0) != (key == b""):
                raise format_error(
                    self.path, "does not begin with the bundle's header", found=key[:80]
                )
            if number > MAX_TENSORS:
                raise format_error(self.path, "too many tensors", expected=f"at most {MAX_TENSORS}")
            try:
                name = key.decode() if not key.startswith(PIECE) else ""
                if not number:
                    self._header = parse_header(value)
                elif name:
                    entry = parse_entry(value)
                    listed += len(entry.slices)
                    if listed > MAX_TENSORS:
                        raise WireError(f"more than {MAX_TENSORS} pieces in all")
                    if entry.dtype not in _NO_NUMBERS:
                        self._entries[name] = self._with_sound_fields(name, entry)
                else:
                    self._pieces[key] = parse_entry(value)
            except (WireError, UnicodeDecodeError) as error:
                text = key.decode(errors="backslashreplace") or "the header"
                raise format_error(self.path, "malformed entry", tensor=text, found=error) from None
        header = self._header
        if not 1 <= header.num_shards <= _MAX_SHARDS or header.min_consumer > _VERSION:
            raise format_error(
                self.path,
                "no bundle that can be read",
                expected=f"1 to {_MAX_SHARDS} data files, for readers of version {_VERSION}",
                found=f"{header.num_shards}, for readers of version {header.min_consumer}",
            )

    def _with_sound_fields(self, name: str, entry: BundleEntry) -> BundleEntry:
        if entry.dtype not in _DTYPES or entry.unknown_rank:
            raise format_error(
                self.path,
                "unknown dtype or shape",
                tensor=name,
                expected=f"a DataType among {sorted(_DTYPES)} and a known rank",
                found=f"DataType {entry.dtype}, {'no' if entry.unknown_rank else 'a'} known rank",
            )
        return entry

    def _open_data_files(self) -> None:
        """Open the data files, beside the index."""
        stem, count = self.path.name.removesuffix(INDEX), self._header.num_shards
        missing = []
        for shard in range(count):
            name = f"{stem}.data-{shard:05}-of-{count:05}"
            handle = self._index.beside(name)
            if handle is None:
                missing.append(str(self.path.with_name(name)))
            else:
                self._stack.callback(handle.close)
                self._shards.append(handle)
        if missing:
            raise CheckpointError(
                f"{self.path}: {len(missing)} of {count} data file(s) are missing",
                [Problem("the data file is missing", name) for name in missing[:10]],
                remedy="Put them beside the index, under the names they had there.",
            )

    def _tensor(self, name: str, entry: BundleEntry) -> StoredTensor:
        spec = checked_spec(self.path, name.removesuffix(_VALUE), _DTYPES[entry.dtype], entry.shape)
        if not entry.slices:
            return self._stored(spec, entry)
        try:
            slices = [parse_slice(piece) for piece in entry.slices]
            axis, order = partition(spec.shape, slices)
        except ValueError as error:
            raise format_error(
                self.path,
                "a partitioned variable that cannot be put together",
                tensor=name,
                expected="pieces that follow one another along one axis",
                found=error,
            ) from None
        pieces = []
        for number in order:
            extents = slices[number]
            piece = self._pieces.pop(slice_key(name, extents), None)
            shape = [
                whole if length == -1 else length
                for whole, (_, length) in zip(spec.shape, extents, strict=True)
            ]
            if piece is None or piece.dtype != entry.dtype or piece.shape != shape or piece.slices:
                raise format_error(
                    self.path,
                    "a piece of a partitioned variable is missing or another than listed",
                    tensor=name,
                    expected=f"{spec.dtype} {shape} for start and length {extents}",
                    found="none" if piece is None else f"DataType {piece.dtype} {piece.shape}",
                )
            part = checked_spec(self.path, spec.name, spec.dtype, shape)
            pieces.append(self._stored(part, piece))
        return pieces[0] if len(pieces) == 1 else PartitionedTensor(spec, pieces, axis)

    def _stored(self, spec: TensorSpec, entry: BundleEntry) -> StoredTensor:
        """A tensor whose bytes lie in one data file in one run."""
        if not 0 <= entry.shard < self._header.num_shards:
            raise format_error(
                self.path,
                "lies in a data file that there is not",
                tensor=spec.name,
                expected=f"one of {self._header.num_shards}",
                found=entry.shard,
            )
        if entry.size != spec.nbytes:
            raise format_error(
                self.path,
                "size and shape disagree",
                tensor=spec.name,
                expected=f"{spec.nbytes} bytes for {spec.describe()}",
                found=f"{entry.size} bytes",
            )
        handle = self._shards[entry.shard]
        end = entry.offset + entry.size
        if not 0 <= entry.offset <= end <= handle.size:
            raise format_error(
                self.path,
                "the data file ends early",
                tensor=spec.name,
                expected=f"bytes {entry.offset} to {end} in {handle.path.name}",
                found=f"{handle.size} bytes",
                remedy="fetch or write the file again",
            )
        if entry.size:
            self._runs.append((entry.shard, entry.offset, end, spec.name))
        segment = Segment(0, entry.offset, entry.size)
        order = "big" if self._header.big_endian else "little"
        return ContiguousTensor(spec, handle, (segment,), order)


FORMAT: FileFormat = TfBundleContainer()
