"""Which containers there are, and which one a file is."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import cast

from converter.containers.base import Container, Reader
from converter.containers.files import FileHandle, LocalFile, closed_on_error
from converter.errors import FormatError

CONTAINERS: dict[str, str] = {
    "safetensors": "converter.containers.safetensors",
    "torch": "converter.containers.torch",
    "keras-hdf5": "converter.containers.keras_hdf5",
    "flax-msgpack": "converter.containers.flax_msgpack",
    "tf-bundle": "converter.containers.tf_bundle",
    "orbax": "converter.containers.orbax",
}
"""Container name → the module that implements it as its ``CONTAINER``, in the order of asking."""


def container_named(name: str) -> Container:
    """The container called `name`, imported on first use.

    Raises:
        KeyError: if there is none of that name.
    """
    return cast("Container", import_module(CONTAINERS[name]).CONTAINER)


def recognise(place: Path | FileHandle) -> Container:
    """The container that a file is, decided by its content.

    Raises:
        CheckpointError: if the file cannot be read.
        FormatError: if it is of no known format.
    """
    if isinstance(place, Path):
        with closing(LocalFile(place)) as opened:
            return recognise(opened)
    head = place.read(0, min(64, place.size))
    for name in CONTAINERS:
        container = container_named(name)
        if container.recognises(place, head):
            return container
    raise FormatError(
        f"{place.path}: not a checkpoint file of a known format "
        f"(it starts with {head[:8].hex(' ')})",
        remedy="Known formats: " + ", ".join(CONTAINERS) + ".",
    )


def open_container(place: Path | FileHandle) -> Reader:
    """Open a file with the container that it is.

    Args:
        place: where it lies, or the file itself, which the reader closes.

    Raises:
        CheckpointError: if it cannot be read or is of no known format.
        FormatError: if it is damaged, truncated, lying or hostile.
    """
    file = LocalFile(place) if isinstance(place, Path) else place
    with closed_on_error(file):
        return recognise(file).open(file)
