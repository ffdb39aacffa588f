"""``pytorch_model.bin`` and its kin: what ``torch.save`` writes, in its zip and its older form."""

from __future__ import annotations

from collections.abc import Mapping

from converter.errors import FormatError
from converter.formats.base import (
    FileFormat,
    FileSpec,
    PreallocatedFile,
    Reader,
    Segment,
    StoredTensor,
)
from converter.formats.files import (
    FileHandle,
    FileReader,
    checked_spec,
    closed_on_error,
    format_error,
    sanitize,
)
from converter.formats.lazy_tensors import ContiguousTensor, StridedTensor, is_contiguous
from converter.formats.torch.legacy import MAGIC_BYTES, locate_storages, read_objects
from converter.formats.torch.pickle import MAX_BYTES, ByteSource, unpickle
from converter.formats.torch.state_dict import NamedTensors, name_tensors
from converter.formats.torch.storages import DTYPES, Storage, Tensor, TorchUnpicklerHooks
from converter.formats.torch.writer import create_archive
from converter.formats.torch.zip import STORED, Record, read_directory, read_record
from converter.tensors import itemsize

_TAR_RECORDS = (b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")
_SMALL = 1 << 20
"""Bytes that a tensor may always take, even if it repeats the elements of a smaller file."""


class TorchContainer(FileFormat):
    """Reads every form of ``torch.save`` but the tar of 2016, writes the zip form.

    See `converter.formats.base.Container`. The readers' metadata hold ``form`` (``zip`` or
    ``legacy``), and of a training checkpoint ``wrapper`` (the key of the state dict) and
    ``ignored`` (other keys that hold tensors); ``imports`` are names that a real unpickler would
    import, and no state dict needs.
    """

    name = "torch"
    dtypes = DTYPES
    shares = True

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Whether it is a zip archive with a pickle in it, or starts with torch's magic number."""
        if head.startswith(b"PK"):
            return _holds_pickle(file)
        return (head[:1] == b"\x80" and MAGIC_BYTES in head[:32]) or _is_tar(file, head)

    def open(self, file: FileHandle) -> Reader:
        """List the tensors; reads the zip directory and the pickle, or the legacy headers."""
        with closed_on_error(file):
            head = file.read(0, min(64, file.size))
            if head.startswith(b"PK"):
                return _open_zip(file)
            if _is_tar(file, head):
                raise format_error(
                    file.path,
                    "the tar form that torch wrote in 2016 is not supported",
                    remedy="load it with torch.load(…, weights_only=False) where you trust it, "
                    "and save it again with torch.save",
                )
            return _open_legacy(file)

    def preallocate(self, wanted: FileSpec) -> PreallocatedFile:
        """Lay out a zip archive with a state dict; aliases share their tensor's storage.

        The form has no place for metadata, which are left out.
        """
        return create_archive(wanted)


def _open_zip(handle: FileHandle) -> Reader:
    """List a zip archive."""
    path = handle.path
    records = read_directory(handle)
    prefix = next(iter(records), "").partition("/")[0]
    listing = records.get(f"{prefix}/data.pkl")
    if f"{prefix}/constants.pkl" in records:
        raise format_error(
            path,
            "a TorchScript program, not a checkpoint",
            remedy="load it with torch.jit.load and save its state_dict()",
        )
    if listing is None:
        raise format_error(path, "a zip archive that torch did not write", expected="data.pkl")
    byteorder = _byteorder(handle, records.get(f"{prefix}/byteorder"))
    data = read_record(handle, listing, MAX_BYTES)
    builder = TorchUnpicklerHooks()
    root = unpickle(ByteSource(path, lambda at, n: data[at : at + n], 0, len(data)), builder)
    places: dict[str, tuple[int, int]] = {}
    for key in builder.storages:
        record = records.get(f"{prefix}/data/{key}")
        if record is None:
            raise format_error(path, "a storage is missing", tensor=f"storage {key}")
        if record.method != STORED:
            raise format_error(
                path,
                "a compressed storage",
                tensor=record.name,
                expected="records stored as they are, as torch writes them",
                remedy="unpack the archive and load it with torch, then save it again",
            )
        places[key] = (record.data, record.size)
    return _reader(handle, name_tensors(path, root), builder, places, byteorder, "zip")


def _open_legacy(handle: FileHandle) -> Reader:
    """List a stream of pickles and storages."""
    builder = TorchUnpicklerHooks()
    root, keys, position = read_objects(handle, builder)
    places = locate_storages(handle, keys, builder.storages, position)
    return _reader(handle, name_tensors(handle.path, root), builder, places, "little", "legacy")


def _reader(
    handle: FileHandle,
    named: NamedTensors,
    builder: TorchUnpicklerHooks,
    places: Mapping[str, tuple[int, int]],
    byteorder: str,
    form: str,
) -> Reader:
    """The reader of the tensors, after a check that every storage is as long as it should be."""
    for key, storage in builder.storages.items():
        nbytes = storage.total * itemsize(storage.dtype)
        found = places[key][1] if key in places else None
        if nbytes != found:
            raise format_error(
                handle.path,
                "a storage of another length" if found is not None else "a storage is missing",
                tensor=f"storage {key}",
                expected=f"{nbytes} bytes for {storage.total} of {storage.dtype}",
                found=f"{found} bytes" if found is not None else None,
            )
    tensors = {
        name: _stored(handle, name, tensor, places[tensor.storage.key][0], byteorder)
        for name, tensor in named.tensors.items()
    }
    metadata = {"form": form}
    if named.wrapper is not None:
        metadata["wrapper"] = named.wrapper
    if named.ignored:
        metadata["ignored"] = ", ".join(named.ignored)
    if builder.strange:
        metadata["imports"] = sanitize(", ".join(builder.strange))
    return FileReader(handle, tensors, metadata)


def _stored(
    handle: FileHandle, name: str, tensor: Tensor, place: int, byteorder: str
) -> StoredTensor:
    """The tensor at its place, if its view lies within its storage."""
    spec = checked_spec(handle.path, name, tensor.dtype, tensor.shape)
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    item = itemsize(tensor.dtype)
    if len(strides) != len(shape):
        raise format_error(handle.path, "shape and strides disagree", tensor=name)
    if spec.nbytes == 0:
        return ContiguousTensor(spec, handle, (), byteorder)
    extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    capacity = storage.numel * itemsize(storage.dtype)
    if (tensor.offset + extent) * item > capacity:
        raise format_error(
            handle.path,
            "the tensor reaches beyond its storage",
            tensor=name,
            expected=f"at most {capacity} bytes",
            found=f"{(tensor.offset + extent) * item}",
        )
    if spec.nbytes > max(_SMALL, handle.size):
        raise format_error(
            handle.path,
            "a small storage repeated beyond the size of the file",
            tensor=name,
            found=spec.describe(),
            remedy="save it again with tensor.contiguous()",
        )
    start = place + _first(storage) + tensor.offset * item
    if is_contiguous(shape, strides):
        return ContiguousTensor(spec, handle, (Segment(0, start, spec.nbytes),), byteorder)
    return StridedTensor(spec, handle, start, strides, byteorder)


def _first(storage: Storage) -> int:
    """Bytes from the start of a storage to the view of it."""
    return storage.start * itemsize(storage.dtype)


def _byteorder(handle: FileHandle, record: Record | None) -> str:
    """The order of bytes that the archive declares; archives before torch 2.1 are little-endian."""
    if record is None:
        return "little"
    order = read_record(handle, record, 64)
    if order not in (b"little", b"big"):
        raise format_error(handle.path, "unknown byte order", expected="little or big", found=order)
    return order.decode()


def _holds_pickle(file: FileHandle) -> bool:
    """Whether a zip archive is torch's; a damaged one may be, so that `open` says what is wrong."""
    try:
        return any(name.endswith("/data.pkl") for name in read_directory(file))
    except FormatError:
        return True


def _is_tar(file: FileHandle, head: bytes) -> bool:
    """Whether it is the tar archive that torch wrote before version 0.1.10."""
    return head.startswith(_TAR_RECORDS) and file.size >= 512 and file.read(257, 5) == b"ustar"


FORMAT: FileFormat = TorchContainer()
