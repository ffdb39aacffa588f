"""Reading of torch files: the zip archive, and the stream that torch wrote before version 1.6.

The legacy stream is five pickles (a magic number, a protocol version, a description of the writing
system, the object, the list of storage keys), then for each key the number of elements (8 bytes)
and the elements, always little-endian. Source: ``_legacy_save`` and ``_legacy_load`` in
``torch/serialization.py``, ``torch/csrc/serialization.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from converter.errors import FormatError
from converter.formats.base import (
    Array,
    FileFormat,
    FileSpec,
    PreallocatedFile,
    Reader,
    Segment,
    StoredTensor,
)
from converter.formats.file_handle import FileHandle, checked_spec, closed_on_error, sanitize
from converter.formats.stored_tensors import (
    ContiguousTensor,
    StridedTensor,
    byte_view,
    is_contiguous,
)
from converter.formats.torch.numpy_arrays import NumpyArray, NumpyTensor
from converter.formats.torch.state_dict import NamedTensors, name_tensors
from converter.formats.torch.storages import Storage, Tensor, TorchUnpicklerHooks
from converter.formats.torch.unpickler import MAX_BYTES, ByteSource, unpickle
from converter.formats.torch.zip_archive import STORED, Record, locate, read_directory, read_record
from converter.tensors import NAMES, itemsize

_MAGIC_OPCODE = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The opcode that pushes the magic number, near the start of every legacy file."""
_TAR_RECORDS = (b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ALWAYS_ALLOWED = 1 << 20
"""Bytes that a tensor may always take, even if it repeats the elements of a smaller file."""
_MAX_RATIO = 64
"""Bytes of a compressed listing to a byte of the file."""

_NEGATED_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_NEGATED_INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8"})
_COMPLEX = frozenset({"complex64", "complex128"})
"""The dtypes, with those above, for which torch implements the negative."""

Extents = Mapping[str, tuple[int, int]]
"""Storage key → offset in the file, and bytes. Offsets in a remote file are estimates, in the right
order: the header next to each storage would be a request, and is read with the values."""
Locate = Callable[[str], int]
"""Return the offset of the storage of a key, after checking the header next to it."""


class TorchFormat(FileFormat):
    """Reads every form of ``torch.save`` except the tar of 2016, writes the zip form.

    The readers' metadata hold ``form`` (``zip`` or ``legacy``), and of a training checkpoint
    ``wrapper`` (the key of the state dict) and ``ignored`` (other keys that hold tensors);
    ``imports`` are names that a real unpickler would import, and no state dict needs.
    """

    name = "torch"
    dtypes = frozenset(NAMES)  # torch has a dtype of the same name for each
    supports_aliases = True

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether it is a zip archive of a pickle, or starts with torch's magic number."""
        if not head.startswith(b"PK"):
            return (head[:1] == b"\x80" and _MAGIC_OPCODE in head[:32]) or _is_tar(file, head)
        try:
            return any(name.endswith("/data.pkl") for name in read_directory(file))
        except FormatError:
            return True  # it may be torch's: opening it reports the damage

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the zip directory and the pickle, or the legacy headers."""
        with closed_on_error(file):
            head = file.read(0, min(64, file.size))
            if head.startswith(b"PK"):
                return _open_zip(file)
            if _is_tar(file, head):
                raise file.error(
                    "the tar form that torch wrote in 2016 is not supported",
                    remedy="load it with torch.load(…, weights_only=False) where you trust it, "
                    "and save it again with torch.save",
                )
            return _open_legacy(file)

    def preallocate(self, spec: FileSpec) -> PreallocatedFile:
        """Create a zip archive of a state dict; aliases share a storage, metadata are not kept."""
        from converter.formats.torch.writer import create_archive

        return create_archive(spec)


def _open_zip(handle: FileHandle) -> Reader:
    path = handle.path
    records = read_directory(handle)
    prefix = next(iter(records), "").partition("/")[0]
    pickle_record = records.get(f"{prefix}/data.pkl")
    if f"{prefix}/constants.pkl" in records:
        raise handle.error(
            "a TorchScript program, not a checkpoint",
            remedy="load it with torch.jit.load and save its state_dict()",
        )
    if pickle_record is None:
        raise handle.error("a zip archive that torch did not write", expected="data.pkl")
    byteorder = _byteorder(handle, records.get(f"{prefix}/byteorder"))
    # Compressed listings, which torch does not write, take about a tenth of their bytes.
    limit = min(MAX_BYTES, _ALWAYS_ALLOWED + _MAX_RATIO * handle.size)
    if MAX_BYTES < pickle_record.size <= handle.size:
        raise handle.error(
            "the pickle is too long: it has values in it, as those of numpy arrays are",
            expected=f"at most {MAX_BYTES} bytes",
            found=pickle_record.size,
            remedy="save tensors, as torch.from_numpy(array) makes them",
        )
    data = read_record(handle, pickle_record, limit)
    hooks = TorchUnpicklerHooks(min(len(data), handle.size))
    root = unpickle(ByteSource(path, lambda at, n: data[at : at + n], 0, len(data)), hooks)
    extents: dict[str, tuple[int, int]] = {}
    for key in hooks.storages:
        record = records.get(f"{prefix}/data/{key}")
        if record is None:
            raise handle.error("a storage is missing", f"storage {key}")
        if record.method != STORED:
            raise handle.error(
                "a compressed storage",
                record.name,
                "uncompressed records, as torch writes them",
                remedy="unpack the archive and load it with torch, then save it again",
            )
        extents[key] = (record.data or record.header, record.size)

    def located(key: str) -> int:
        return locate(handle, records[f"{prefix}/data/{key}"]).data

    return _reader(handle, name_tensors(path, root), hooks, extents, located, byteorder, "zip")


def _byteorder(handle: FileHandle, record: Record | None) -> str:
    """Return the declared byte order; archives before torch 2.1 are little-endian."""
    if record is None:
        return "little"
    order = read_record(handle, record, 64)
    if order not in (b"little", b"big"):
        raise handle.error("unknown byte order", expected="little or big", found=order)
    return order.decode()


def _open_legacy(handle: FileHandle) -> Reader:
    hooks = TorchUnpicklerHooks(handle.size)
    source = ByteSource(handle.path, handle.read, 0, handle.size)
    magic, protocol = unpickle(source, hooks), unpickle(source, hooks)
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise handle.error("not a torch file of a known version")
    unpickle(source, hooks)  # sizes of C types on the machine that wrote the file
    root = unpickle(source, hooks)
    named = name_tensors(handle.path, root)
    listed = unpickle(source, hooks)
    items = listed if isinstance(listed, list) else [None]
    keys = [str(key) for key in items if isinstance(key, str | int)]
    if len(keys) != len(items) or len(set(keys)) != len(keys):
        raise handle.error("the list of storages is malformed")
    extents = _locate_storages(handle, keys, hooks.storages, source.position)

    def located(key: str) -> int:
        offset, count = extents[key][0], hooks.storages[key].total
        if (actual := _count(handle, key, offset - 8)) != count:
            what = "a storage of another length"
            raise handle.error(what, f"storage {key}", f"{count} elements", f"{actual} elements")
        return offset

    return _reader(handle, named, hooks, extents, located, "little", "legacy")


def _count(handle: FileHandle, key: str, offset: int) -> int:
    """Return the number of elements that is stored before those of a storage."""
    return int.from_bytes(handle.read(offset, 8, f"storage {key}"), "little")


def _locate_storages(
    handle: FileHandle, keys: list[str], storages: Mapping[str, Storage], position: int
) -> Extents:
    """Return the extents of the storages `keys`, in file order from `position`."""
    extents: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in storages:
            raise handle.error("a storage that no tensor uses", f"storage {key}")
        count = storages[key].total if handle.is_remote else _count(handle, key, position)
        nbytes = count * itemsize(storages[key].dtype)
        if position + 8 + nbytes > handle.size:
            expected = f"{count} elements of {storages[key].dtype} from {position + 8}"
            raise handle.ends_early(expected, f"{handle.size} bytes", f"storage {key}")
        extents[key] = (position + 8, nbytes)
        position += 8 + nbytes
    return extents


def _reader(
    handle: FileHandle,
    named: NamedTensors,
    hooks: TorchUnpicklerHooks,
    extents: Extents,
    located: Locate,
    byteorder: str,
    form: str,
) -> Reader:
    """Return the reader, after checking that every storage is as long as the pickle says."""
    for key, storage in hooks.storages.items():
        nbytes = storage.total * itemsize(storage.dtype)
        actual = extents[key][1] if key in extents else None
        if nbytes != actual:
            raise handle.error(
                "a storage of another length" if actual is not None else "a storage is missing",
                f"storage {key}",
                f"{nbytes} bytes for {storage.total} of {storage.dtype}",
                f"{actual} bytes" if actual is not None else None,
            )
    tensors: dict[str, StoredTensor] = {}
    numbers: dict[int, int] = {}
    for name, tensor in named.tensors.items():
        if isinstance(tensor, NumpyArray):
            number = numbers.setdefault(id(tensor.data), len(numbers))
            tensors[name] = NumpyTensor(handle.path, name, tensor, number)
        else:
            key = tensor.storage.key
            make = partial(_signed_tensor, handle, name, tensor, byteorder)
            tensors[name] = make(extents[key][0])
            if handle.is_remote:
                tensors[name] = _UnlocatedTensor(tensors[name], make, partial(located, key))
    return Reader(
        path=handle.path,
        tensors=tensors,
        close=handle.close,
        metadata={"form": form},
        wrapper=named.wrapper or "",
        mappings=named.mappings,
        ignored=tuple(named.ignored),
        imports=tuple(map(sanitize, hooks.unusual_imports)),
    )


class _SignedTensor(StoredTensor):
    """A tensor of which torch stored the negative (``neg``) or the conjugate (``conj``)."""

    def __init__(self, stored: StoredTensor, metadata: frozenset[str]) -> None:
        self.spec = stored.spec
        self.path = stored.path
        self._stored = stored
        self._metadata = metadata

    @property
    def location(self) -> tuple[object, ...]:
        """That of the stored values, then what is done to them."""
        return (*self._stored.location, *sorted(self._metadata))

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis` and change their signs; see `StoredTensor.read_into`."""
        self._stored.read_into(out, axis, start)
        negative = "neg" in self._metadata
        if self.spec.dtype in _NEGATED_INTEGERS:
            np.negative(out, out=out)
            return
        # Signs are bits, so that zeros and NaNs change theirs as well.
        signs = [negative]
        if self.spec.dtype in _COMPLEX:
            signs.append(negative != ("conj" in self._metadata))
        unit = out.dtype.itemsize // len(signs)
        numbers = byte_view(out).view(f"u{unit}").reshape(-1, len(signs))
        numbers ^= np.array([sign << (8 * unit - 1) for sign in signs], numbers.dtype)


class _UnlocatedTensor(StoredTensor):
    """A tensor of a remote file: the header next to its values is read with them."""

    def __init__(
        self,
        estimated: StoredTensor,
        make: Callable[[int], StoredTensor],
        located: Callable[[], int],
    ) -> None:
        self.spec, self.path = estimated.spec, estimated.path
        self._estimated, self._make, self._located = estimated, make, located

    @property
    def location(self) -> tuple[object, ...]:
        """That with the estimated offset."""
        return self._estimated.location

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Read values along `axis`; see `StoredTensor.read_into`."""
        self._make(self._located()).read_into(out, axis, start)


def _signed_tensor(
    handle: FileHandle, name: str, tensor: Tensor, byteorder: str, storage_offset: int
) -> StoredTensor:
    """Return the tensor with its metadata, if torch supports them for its dtype."""
    stored = _stored_tensor(handle, name, tensor, storage_offset, byteorder)
    if not tensor.metadata:
        return stored
    supported = {"neg"} if tensor.dtype in _NEGATED_INTEGERS | _NEGATED_FLOATS else set()
    if tensor.dtype in _COMPLEX:
        supported = {"neg", "conj"}
    if not tensor.metadata <= supported:
        raise handle.error(
            "metadata of the tensor that are not supported for its dtype",
            name,
            " and ".join(sorted(supported)) or f"no metadata for {tensor.dtype}",
            ", ".join(sorted(tensor.metadata)),
            remedy="load it with torch and save tensor.resolve_neg().resolve_conj()",
        )
    return _SignedTensor(stored, tensor.metadata)


def _stored_tensor(
    handle: FileHandle, name: str, tensor: Tensor, storage_offset: int, byteorder: str
) -> StoredTensor:
    """Return the stored values of the tensor, if its view is within its storage."""
    spec = checked_spec(handle.path, name, tensor.dtype, tensor.shape)
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    item = itemsize(tensor.dtype)
    if len(strides) != len(shape):
        raise handle.error("shape and strides disagree", name)
    if spec.nbytes == 0:
        return ContiguousTensor(spec, handle, (), byteorder)
    extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    capacity = storage.numel * itemsize(storage.dtype)
    if (tensor.offset + extent) * item > capacity:
        expected, found = f"at most {capacity} bytes", f"{(tensor.offset + extent) * item}"
        raise handle.error("the tensor reaches beyond its storage", name, expected, found)
    if spec.nbytes > max(_ALWAYS_ALLOWED, handle.size):
        raise handle.error(
            "a small storage repeated beyond the size of the file",
            name,
            found=spec.describe(),
            remedy="save it again with tensor.contiguous()",
        )
    start = storage_offset + storage.start * itemsize(storage.dtype) + tensor.offset * item
    if is_contiguous(shape, strides):
        return ContiguousTensor(spec, handle, (Segment(0, start, spec.nbytes),), byteorder)
    return StridedTensor(spec, handle, start, strides, byteorder)


def _is_tar(file: FileHandle, head: bytes) -> bool:
    """Return whether it is the tar archive that torch wrote before version 0.1.10."""
    return head.startswith(_TAR_RECORDS) and file.size >= 512 and file.read(257, 5) == b"ustar"


FORMAT: FileFormat = TorchFormat()
