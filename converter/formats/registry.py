"""The list of file formats, and detection of the one that a file has."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import cast

from converter.errors import FormatError
from converter.formats.base import FileFormat, Reader
from converter.formats.file_handle import FileHandle, LocalFile, closed_on_error
from converter.recognition import HEAD_BYTES, recognize_file

FORMATS: dict[str, str] = {
    "safetensors": "converter.formats.safetensors",
    "torch": "converter.formats.torch",
    "keras-hdf5": "converter.formats.keras_hdf5",
    "flax-msgpack": "converter.formats.flax_msgpack",
    "tensorflow-checkpoint": "converter.formats.tensorflow_checkpoint",
    "orbax": "converter.formats.orbax",
}
"""Format name → the module or package that implements it as its ``FORMAT``, in detection order."""

_STARTS = {"torch": (b"PK", b"\x80", b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")}
"""Format that takes long to import → what each of its files starts with."""


def get_format(name: str) -> FileFormat:
    """Return the format called `name`, imported on first use; raise KeyError if not found."""
    return cast("FileFormat", import_module(FORMATS[name]).FORMAT)


def detect_format(source: Path | FileHandle) -> FileFormat:
    """Return the format of a file by its content.

    Raise FormatError if none matches, which says what the file is instead and what to do.
    """
    if isinstance(source, Path):
        with closing(LocalFile(source)) as file:
            return detect_format(file)
    head = source.read(0, min(64, source.size))
    for name in FORMATS:
        if head.startswith(_STARTS.get(name, b"")):
            file_format = get_format(name)
            if file_format.matches(source, head):
                return file_format
    head = source.read(0, min(HEAD_BYTES, source.size))
    if other := recognize_file(source.path, head, source.size):
        raise FormatError(f"{source.path}: {other.what}", remedy=other.step)
    raise FormatError(
        f"{source.path}: not a checkpoint file of a known format "
        f"(it starts with {head[:8].hex(' ')})",
        remedy="Known formats: " + ", ".join(FORMATS) + ".",
    )


def open_file(source: Path | FileHandle) -> Reader:
    """Open a file in the format that it has; the reader closes it.

    Raise CheckpointError if it cannot be read; FormatError as `detect_format` and the format.
    """
    file = LocalFile(source) if isinstance(source, Path) else source
    with closed_on_error(file):
        return detect_format(file).open(file)
