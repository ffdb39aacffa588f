"""Which containers there are, and which one a file is."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import cast

from converter.errors import FormatError
from converter.formats.base import FileFormat, Reader
from converter.formats.files import FileHandle, LocalFile, closed_on_error

FORMATS: dict[str, str] = {
    "safetensors": "converter.formats.safetensors",
    "torch": "converter.formats.torch.format",
    "keras-hdf5": "converter.formats.keras_hdf5.format",
    "flax-msgpack": "converter.formats.flax_msgpack.format",
    "tf-bundle": "converter.formats.tensorflow_checkpoint.format",
    "orbax": "converter.formats.orbax",
}
"""Container name → the module that implements it as its ``FORMAT``, in the order of asking."""


def get_format(name: str) -> FileFormat:
    """The container called `name`, imported on first use.

    Raises:
        KeyError: if there is none of that name.

    """
    return cast("FileFormat", import_module(FORMATS[name]).FORMAT)


def detect_format(place: Path | FileHandle) -> FileFormat:
    """The container that a file is, decided by its content.

    Raises:
        CheckpointError: if the file cannot be read.
        FormatError: if it is of no known format.

    """
    if isinstance(place, Path):
        with closing(LocalFile(place)) as opened:
            return detect_format(opened)
    head = place.read(0, min(64, place.size))
    for name in FORMATS:
        file_format = get_format(name)
        if file_format.matches(place, head):
            return file_format
    raise FormatError(
        f"{place.path}: not a checkpoint file of a known format "
        f"(it starts with {head[:8].hex(' ')})",
        remedy="Known formats: " + ", ".join(FORMATS) + ".",
    )


def open_file(place: Path | FileHandle) -> Reader:
    """Open a file with the container that it is.

    Args:
        place: where it lies, or the file itself, which the reader closes.

    Raises:
        CheckpointError: if it cannot be read or is of no known format.
        FormatError: if it is damaged, truncated, lying or hostile.

    """
    file = LocalFile(place) if isinstance(place, Path) else place
    with closed_on_error(file):
        return detect_format(file).open(file)
