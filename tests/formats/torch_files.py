"""Torch files of pickles that are put together by hand."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

from converter.formats.torch.storages import TorchUnpicklerHooks
from converter.formats.torch.unpickler import ByteSource, unpickle

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
    b"X\1\0\0\0000X\3\0\0\0cpuK\4tQK\0(K\4t(K\1t\x89NtR"
)
"""Operations that push four numbers of storage 0."""
KEY = b"X\1\0\0\0w"


def archive(path: Path, listing: bytes, **storages: bytes) -> Path:
    """Write a torch archive of that pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", listing)
        for key, data in (storages or {"0": bytes(16)}).items():
            file.writestr(f"archive/data/{key.strip('_')}", data)
    return path


def legacy(path: Path, listing: bytes, tail: bytes | None = None) -> Path:
    """Write a stream of torch's legacy form."""
    items: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
    head = b"".join(pickle.dumps(item, 2) for item in items)
    if tail is None:
        tail = pickle.dumps(["0"], 2) + struct.pack("<q4f", 4, 1, 2, 3, 4)
    path.write_bytes(head + listing + tail)
    return path


def state(*operations: bytes) -> bytes:
    """Return a pickled dictionary with the tensor ``w`` and what `operations` push as values."""
    items = b"".join(b"X\1\0\0\0" + bytes([97 + n]) + code for n, code in enumerate(operations))
    return b"\x80\2}(" + items + KEY + TENSOR + b"u."


def load(data: bytes) -> object:
    source = ByteSource(Path("file"), lambda at, n: data[at : at + n], 0, len(data))
    return unpickle(source, TorchUnpicklerHooks(len(data)))


def long(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
