"""Which containers there are, and which one a file is."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from converter.containers.base import Container, Reader
from converter.errors import CheckpointError, FormatError

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


def recognise(path: Path) -> Container:
    """The container that the file at `path` is, decided by its content.

    Raises:
        CheckpointError: if the file cannot be read.
        FormatError: if it is of no known format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    for name in CONTAINERS:
        container = container_named(name)
        if container.recognises(path, head):
            return container
    raise FormatError(
        f"{path}: not a checkpoint file of a known format (it starts with {head[:8].hex(' ')})",
        remedy="Known formats: " + ", ".join(CONTAINERS) + ".",
    )


def open_container(path: Path) -> Reader:
    """Open the file at `path` with the container that it is.

    Raises:
        CheckpointError: if it cannot be read or is of no known format.
        FormatError: if it is damaged, truncated, lying or hostile.
    """
    return recognise(path).open(path)
