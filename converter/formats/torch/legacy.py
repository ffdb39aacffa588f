"""The stream that torch wrote before version 1.6: five pickles, then the storages.

The pickles are a magic number, a protocol version, a description of the writing system, the object
and the list of storage keys. Then follows for each key the number of elements (8 bytes) and the
elements, always little-endian. Source: ``_legacy_save`` and ``_legacy_load`` in
``torch/serialization.py``, ``torch/csrc/serialization.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping

from converter.formats.files import FileHandle, format_error
from converter.formats.torch.pickle import ByteSource, unpickle
from converter.formats.torch.storages import Storage, TorchUnpicklerHooks
from converter.tensors import itemsize

MAGIC_BYTES = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The opcode that pushes the magic number, near the start of every such file."""
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_objects(handle: FileHandle, builder: TorchUnpicklerHooks) -> tuple[object, list[str], int]:
    """The object, the storages' keys in file order, and where the storages begin.

    Raises:
        FormatError: if the stream is not of this format.

    """
    source = ByteSource(handle.path, handle.read, 0, handle.size)
    magic, protocol = unpickle(source, builder), unpickle(source, builder)
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise format_error(handle.path, "not a torch file of a known version")
    unpickle(source, builder)  # sizes of C types on the machine that wrote the file
    root = unpickle(source, builder)
    listed = unpickle(source, builder)
    keys = (
        [str(key) for key in listed if isinstance(key, str | int)]
        if isinstance(listed, list)
        else []
    )
    if not isinstance(listed, list) or len(keys) != len(listed) or len(set(keys)) != len(keys):
        raise format_error(handle.path, "the list of storages is malformed")
    return root, keys, source.position


def locate_storages(
    handle: FileHandle, keys: list[str], storages: Mapping[str, Storage], position: int
) -> dict[str, tuple[int, int]]:
    """For each key the offset and the bytes of its storage.

    Args:
        handle: the file.
        keys: the storages in file order.
        storages: what the object pickle says of them, by key.
        position: where the storages begin.

    Raises:
        FormatError: if a storage has no dtype, or the file is too short.

    """
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in storages:
            raise format_error(
                handle.path, "a storage that no tensor uses", tensor=f"storage {key}"
            )
        count = int.from_bytes(handle.read(position, 8, f"storage {key}"), "little")
        nbytes = count * itemsize(storages[key].dtype)
        if position + 8 + nbytes > handle.size:
            raise format_error(
                handle.path,
                "the file ends early",
                tensor=f"storage {key}",
                expected=f"{count} elements of {storages[key].dtype} from {position + 8}",
                found=f"{handle.size} bytes",
                remedy="fetch or write the file again",
            )
        places[key] = (position + 8, nbytes)
        position += 8 + nbytes
    return places
