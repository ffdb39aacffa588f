"""Reading of a TensorFlow checkpoint's index, checked against itself and the data files."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from threading import Lock

import google_crc32c
import numpy as np

from converter.errors import CheckpointError, Problem
from converter.formats.base import Array, FileFormat, Reader, Segment, StoredTensor
from converter.formats.file_handle import FETCH_AGAIN, FileHandle, checked_spec
from converter.formats.stored_tensors import ContiguousTensor
from converter.formats.tensorflow_checkpoint.object_graph import (
    GRAPH_KEY,
    MAX_GRAPH_BYTES,
    VARIABLE_VALUE,
    ObjectGraph,
    decode_string,
    group_keys,
    parse_object_graph,
)
from converter.formats.tensorflow_checkpoint.partitioned import (
    PART_KEY_PREFIX,
    PartitionedTensor,
    grid_order,
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
from converter.formats.tensorflow_checkpoint.sstable import MAGIC, mask, read_table
from converter.tensors import TensorSpec

INDEX = ".index"
"""Suffix of every index file."""
DTYPES = {
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
"""TensorFlow's ``DataType`` numbers → dtype names."""
_STRING = 7
_NOT_NUMERIC = {_STRING, 20, 21}
"""Strings, resources and variants."""
_VERSION = 1
"""Of the format; there has been no other."""
_MAX_SHARDS = 10_000
MAX_ENTRIES = 1 << 15
"""Tensors, parts and lists of parts together, of which the largest models have a fifth."""
_SCRATCH = 1 << 20
"""Bytes read at once to verify a checksum."""


class ChecksummedTensor(ContiguousTensor):
    """A tensor in one run of bytes whose checksum is verified before any value is returned.

    Reading all of it checks the very bytes that are returned. The checksum covers the complete
    tensor, so that the first read of a part reads all of it once more.
    """

    def __init__(
        self, spec: TensorSpec, handle: FileHandle, segment: Segment, order: str, checksum: int
    ) -> None:
        super().__init__(spec, handle, (segment,), order)
        self._checksum = checksum
        self._verified = False
        self._lock = Lock()

    def _fill(self, target: Array, offset: int) -> None:
        complete = len(target) == self.spec.nbytes
        if not complete:
            self._verify()
        super()._fill(target, offset)
        if complete:
            self._check(google_crc32c.value(target))

    def _verify(self) -> None:
        """Read the tensor once in small blocks, and check it."""
        with self._lock:
            if self._verified:
                return
            crc, scratch = 0, np.empty(min(_SCRATCH, self.spec.nbytes), np.uint8)
            for start in range(0, self.spec.nbytes, _SCRATCH):
                block = scratch[: self.spec.nbytes - start]
                super()._fill(block, start)
                crc = google_crc32c.extend(crc, block)
            self._check(crc)

    def _check(self, crc: int) -> None:
        if mask(crc) != self._checksum:
            raise self._handle.error(
                "the values do not have the checksum that the index lists",
                self.spec.name,
                f"{self._checksum:#010x}",
                f"{mask(crc):#010x}",
                FETCH_AGAIN,
            )
        self._verified = True


class TensorflowCheckpointFormat(FileFormat):
    """TensorFlow checkpoints, opened by their index; see `FileFormat`."""

    name = "tensorflow-checkpoint"
    dtypes = frozenset(DTYPES.values())

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether the file ends like a sorted string table, which has no signature."""
        end = file.size - len(MAGIC)
        return end >= 0 and file.read(end, len(MAGIC)) == MAGIC

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the index, and the object graph if there is one."""
        with ExitStack() as stack:
            stack.callback(file.close)
            return _Index(file, stack).reader()


class _Index:
    """The content of an index file."""

    def __init__(self, handle: FileHandle, stack: ExitStack) -> None:
        self.path = handle.path
        self._index = handle
        self._error = handle.error
        self._stack = stack
        self._header = BundleHeader()
        self._entries: dict[str, BundleEntry] = {}
        self._parts: dict[bytes, BundleEntry] = {}
        self._graph: BundleEntry | None = None
        self.shards: list[FileHandle] = []
        self._ranges: list[tuple[int, int, int, str]] = []
        """Shard, begin, end and name of everything that takes bytes."""
        self._parse(handle)

    def reader(self) -> Reader:
        """Return the tensors by name, in the order of the data files, and what is ignored."""
        self._open_data_files()
        graph = self._object_graph()
        names = self._names(graph)
        stored: dict[str, list[StoredTensor]] = {}
        ignored = []
        for raw, entry in self._entries.items():
            key = raw.removesuffix(VARIABLE_VALUE)
            name = names.get(key, key)
            tensor = self._tensor(raw, name, entry)
            if key in graph.training:
                ignored.append(key)
            elif name in stored and key not in names:
                raise self._error("duplicate name", name)
            else:
                stored.setdefault(name, []).append(tensor)
        self._check_no_overlap()
        in_order = sorted(stored.items(), key=lambda item: item[1][0].location[:2])
        return Reader(
            path=self.path,
            tensors={name: tensors[0] for name, tensors in in_order},
            close=self._stack.pop_all().close,
            duplicates={name: tensors[1:] for name, tensors in in_order if tensors[1:]},
            ignored=group_keys(ignored),
            other_files=tuple(shard.path for shard in self.shards),
        )

    def _names(self, graph: ObjectGraph) -> dict[str, str]:
        """Return the name of each variable by its key, if the graph has a name that identifies it.

        Several variables with one name are copies if it has a scope and they have one dtype and
        shape: layers that share a weight, of which Keras keeps a second variable.
        """
        specs: dict[str, dict[str, tuple[object, ...]]] = {}
        keys = {raw.removesuffix(VARIABLE_VALUE): entry for raw, entry in self._entries.items()}
        for key, entry in keys.items():
            if (name := graph.names.get(key)) and key not in graph.training:
                specs.setdefault(name, {})[key] = (entry.dtype, *entry.shape)
        names: dict[str, str] = {}
        for name, variables in specs.items():
            if len(variables) == 1 or ("/" in name and len({*variables.values()}) == 1):
                names |= dict.fromkeys(variables, name)
        for name in {*names.values()} & keys.keys() - names.keys():
            raise self._error("duplicate name", name)
        return names

    def _object_graph(self) -> ObjectGraph:
        """Return the object graph, an empty one if the checkpoint has none."""
        entry = self._graph
        if entry is None:
            return ObjectGraph()
        name = GRAPH_KEY.decode()
        if entry.shape or entry.slices or not 0 < entry.size <= MAX_GRAPH_BYTES:
            expected = f"one string of up to {MAX_GRAPH_BYTES} bytes"
            raise self._error("impossible object graph", name, expected, f"{entry.size} bytes")
        data = self._data_file(name, entry).read(entry.offset, entry.size, name)
        try:
            return parse_object_graph(decode_string(data, entry.checksum))
        except WireError as error:
            raise self._error(
                "malformed object graph", name, found=error, remedy=FETCH_AGAIN
            ) from None

    def _check_no_overlap(self) -> None:
        """Raise if a byte belongs to two tensors, or a part to no variable."""
        for (shard, _, end, _), (other, begin, _, name) in pairwise(sorted(self._ranges)):
            if shard == other and begin < end:
                raise self._error(
                    "overlaps another tensor", name, f"an offset of at least {end}", begin
                )
        if any(part.dtype not in _NOT_NUMERIC for part in self._parts.values()):
            raise self._error(
                "a part of a variable that is not listed", found=next(iter(self._parts))
            )

    def _parse(self, handle: FileHandle) -> None:
        """Read header and entries."""
        count = 0
        for number, (key, value) in enumerate(read_table(handle)):
            if (number == 0) != (key == b""):
                raise self._error("the first entry is not the header", found=key[:80])
            try:
                if not number:
                    self._header = parse_header(value)
                    continue
                entry = parse_entry(value)
                count += 1 + len(entry.slices)
                if count > MAX_ENTRIES:
                    raise WireError(f"more than {MAX_ENTRIES} tensors and parts in all")
                if key.startswith(PART_KEY_PREFIX):
                    if entry.slices:
                        raise WireError("a part that consists of parts")
                    self._parts[key] = entry
                elif key == GRAPH_KEY and entry.dtype == _STRING:
                    self._graph = entry
                elif entry.dtype not in _NOT_NUMERIC:
                    name = key.decode()
                    self._check_dtype_and_rank(name, entry)
                    self._entries[name] = entry
            except (WireError, UnicodeDecodeError) as error:
                text = key.decode(errors="backslashreplace") or "the header"
                raise self._error("malformed entry", text, found=error) from None
        header = self._header
        if not 1 <= header.num_shards <= _MAX_SHARDS or header.min_consumer > _VERSION:
            raise self._error(
                "unsupported header",
                expected=f"1 to {_MAX_SHARDS} data files, for readers of version {_VERSION}",
                found=f"{header.num_shards}, for readers of version {header.min_consumer}",
            )

    def _check_dtype_and_rank(self, name: str, entry: BundleEntry) -> None:
        if entry.dtype not in DTYPES or entry.unknown_rank:
            raise self._error(
                "unknown dtype or shape",
                name,
                f"a DataType among {sorted(DTYPES)} and a known rank",
                f"DataType {entry.dtype}, {'no' if entry.unknown_rank else 'a'} known rank",
            )

    def _open_data_files(self) -> None:
        """Open the data files, next to the index."""
        stem, count = self.path.name.removesuffix(INDEX), self._header.num_shards
        missing = []
        for shard in range(count):
            name = f"{stem}.data-{shard:05}-of-{count:05}"
            handle = self._index.open_sibling(name)
            if handle is None:
                missing.append(str(self.path.with_name(name)))
            else:
                self._stack.callback(handle.close)
                self.shards.append(handle)
        if missing:
            raise CheckpointError(
                f"{self.path}: {len(missing)} of {count} data file(s) are missing",
                [Problem("the data file is missing", name) for name in missing[:10]],
                remedy="Put them next to the index, under their original names.",
            )

    def _tensor(self, key: str, name: str, entry: BundleEntry) -> StoredTensor:
        """Return the tensor that is stored under `key`, complete or in parts, as `name`."""
        spec = checked_spec(self.path, name, DTYPES[entry.dtype], entry.shape)
        if not entry.slices:
            return self._contiguous(spec, entry)
        try:
            slices = [parse_slice(data) for data in entry.slices]
            order = grid_order(spec.shape, slices)
        except ValueError as error:
            expected, found = "a grid of consecutive parts", error
            raise self._error(
                "the parts of a partitioned variable do not fit together", name, expected, found
            ) from None
        parts: list[tuple[list[int], StoredTensor]] = []
        for number in order:
            extents = slices[number]
            part = self._parts.pop(slice_key(key, extents), None)
            lengths = [length for _, length in extents]
            shape = [full if n == -1 else n for full, n in zip(spec.shape, lengths, strict=True)]
            if part is None or part.dtype != entry.dtype or part.shape != shape or part.slices:
                raise self._error(
                    "a part of a partitioned variable is missing or not as listed",
                    name,
                    f"{spec.dtype} {shape} for start and length {extents}",
                    "none" if part is None else f"DataType {part.dtype} {part.shape}",
                )
            part_spec = checked_spec(self.path, spec.name, spec.dtype, shape)
            begin = [start for start, _ in extents]
            parts.append((begin, self._contiguous(part_spec, part)))
        return parts[0][1] if len(parts) == 1 else PartitionedTensor(spec, parts)

    def _contiguous(self, spec: TensorSpec, entry: BundleEntry) -> StoredTensor:
        """Return a tensor whose bytes are one run in one data file."""
        if entry.size != spec.nbytes:
            raise self._error(
                "size and shape disagree",
                spec.name,
                f"{spec.nbytes} bytes for {spec.describe()}",
                f"{entry.size} bytes",
            )
        handle = self._data_file(spec.name, entry)
        end = entry.offset + entry.size
        if entry.size:
            self._ranges.append((entry.shard, entry.offset, end, spec.name))
        segment = Segment(0, entry.offset, entry.size)
        order = "big" if self._header.big_endian else "little"
        return ChecksummedTensor(spec, handle, segment, order, entry.checksum)

    def _data_file(self, name: str, entry: BundleEntry) -> FileHandle:
        """Return the data file that has the bytes of an entry."""
        if not 0 <= entry.shard < self._header.num_shards:
            raise self._error(
                "is in a data file that does not exist",
                name,
                f"one of {self._header.num_shards}",
                entry.shard,
            )
        handle = self.shards[entry.shard]
        end = entry.offset + entry.size
        if not 0 <= entry.offset <= end <= handle.size:
            expected = f"bytes {entry.offset} to {end} in {handle.path.name}"
            raise self._index.ends_early(expected, f"{handle.size} bytes", name)
        return handle


FORMAT: FileFormat = TensorflowCheckpointFormat()
